"""Maps of an artifact as one picture: the picture, the truth, and what every subject says."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report.picture import DPI, INK, save, style
from benchmarks.report.qualitative import map_image, read_maps

from .measured import Grid, Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE, GAP, HEAD = 104, 4, 34  # canvas pixels
PICTURES = 2  # test pictures of each intrinsic

Tiles = list["NDArray[np.uint8] | None"]


def write_maps(grid: Grid, path: Path) -> list[Path]:
    """Writes the maps of a grid's cells; nothing where no record has any.

    Subjects whose test pictures differ from the first ones' stand in rows of their own. Raises UserError
    on a broken maps file.
    """
    headings = ["picture", "truth", *(" ".join(subject.labels) for subject in grid.layout.subjects)]
    rows = [row for intrinsic in _intrinsics(grid) for row in _rows(grid, intrinsic)]
    if not rows:
        return []
    used = [k for k in range(len(headings)) if any(row[k] is not None for row in rows)]
    with style():
        return _draw([headings[k] for k in used], [[row[k] for k in used] for row in rows], path)


def _intrinsics(grid: Grid) -> list[str]:
    return list(dict.fromkeys(column.intrinsic for column in grid.layout.columns))


def _rows(grid: Grid, intrinsic: str) -> list[Tiles]:
    """Rows of tiles: picture, truth, one per subject."""
    found: dict[bytes, list[tuple[int, dict[str, NDArray[Any]]]]] = {}
    for place, slots in enumerate(grid.slots):
        relative = _file(grid, slots, intrinsic)
        if relative is not None and grid.store is not None:
            maps = read_maps(grid.store, relative)
            found.setdefault(maps["picture"][:PICTURES].tobytes(), []).append((place, maps))
    return [row for same in found.values() for row in _tiles(same, intrinsic, len(grid.slots))]


def _file(grid: Grid, slots: Sequence[Slot], intrinsic: str) -> str | None:
    """The maps file of a subject's cell of an intrinsic."""
    for slot, column in zip(slots, grid.layout.columns, strict=True):
        if column.intrinsic == intrinsic and slot.group is not None:
            return next((record.maps for record in slot.group.done if record.maps), None)
    return None


def _tiles(same: Sequence[tuple[int, dict[str, NDArray[Any]]]], intrinsic: str, subjects: int) -> list[Tiles]:
    first = same[0][1]
    truth = first["truth"].astype(np.float64)
    rows = []
    for number in range(min(PICTURES, len(first["picture"]))):
        limits = (float(np.nanmin(truth[number])), float(np.nanmax(truth[number])))
        row: Tiles = [None] * (subjects + 2)
        row[0] = first["picture"][number].transpose(1, 2, 0)
        row[1] = map_image(intrinsic, first["truth"][number], limits)
        for place, maps in same:
            row[place + 2] = map_image(intrinsic, maps["prediction"][number], limits)
        rows.append(row)
    return rows


def _draw(headings: Sequence[str], rows: Sequence[Tiles], path: Path) -> list[Path]:
    """One figure pixel per canvas pixel."""
    import matplotlib.pyplot as plt

    width, height = GAP + len(headings) * (TILE + GAP), HEAD + len(rows) * (TILE + GAP)
    figure = plt.figure(figsize=(width / DPI, height / DPI), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for column, text in enumerate(headings):
        words = "\n".join(textwrap.wrap(text, 16, max_lines=2, placeholder="…"))
        x = GAP + column * (TILE + GAP) + TILE / 2
        axes.text(x, HEAD - 5, words, ha="center", va="bottom", fontsize=5.2, color=INK, linespacing=1.05)
    for line, row in enumerate(rows):
        for column, tile in enumerate(row):
            if tile is not None:
                x, y = GAP + column * (TILE + GAP), HEAD + line * (TILE + GAP)
                axes.imshow(tile, extent=(x, x + TILE, y + TILE, y), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    return save(figure, path, vector=False)
