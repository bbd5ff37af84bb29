"""Grids of maps: picture, truth, what each model says by each method, and where it errs."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.arrays import read_npz
from benchmarks.cell import NO_MODEL
from benchmarks.color import srgb
from generators.errors import UserError
from probes.methods import METHODS

from .gather import Facts, Group, Question, main_settings, plain, probe_methods
from .picture import DPI, INK, save, style
from .reading import RERUN

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARRAYS = ("picture", "truth", "prediction", "error")
TILE, GAP, LEFT, HEAD, FOOT = 128, 4, 56, 40, 64  # canvas pixels
PICTURES = 2  # test pictures in a grid
ERROR_UNIT = {"normal": "°", "depth": " m"}
CONTROLS = ("constant", "pixels", "supervised")


@dataclass
class Grid:
    """Maps of one question on the same test pictures.

    Attributes:
        maps: (model, method) -> arrays of the store's npz file, with the keys ARRAYS.
    """

    question: Question
    maps: dict[tuple[str, str], Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def any(self) -> Mapping[str, NDArray[Any]]:
        """The first maps: picture and truth are the same in all of them."""
        return next(iter(self.maps.values()))


@dataclass(frozen=True)
class Block:
    """Rows of tiles (h w 3) with a name for the rows and, where it is new, one for each column."""

    label: str
    headings: Sequence[str]
    rows: Sequence[Sequence[NDArray[np.uint8] | str]]


def read_maps(store: Path, relative: str) -> dict[str, NDArray[Any]]:
    """Arrays (k c h w) of one maps file; raises UserError if it is missing or broken."""
    path = store / relative
    try:
        arrays = read_npz(path)
        found = {name: arrays[name] for name in ARRAYS}
        if any(array.ndim != 4 or array.dtype.kind not in "fiub" for array in found.values()):
            raise ValueError("its arrays are no pictures (k c h w)")
    except (OSError, KeyError, ValueError) as error:
        wrong = f"it cannot be read: {type(error).__name__}: {error}"
        known = f"a maps file holds the arrays {', '.join(ARRAYS)}"
        raise UserError(
            f"the maps {path}", wrong, known, f"{RERUN} (the record {path.stem}.json with it)"
        ) from error
    return found


def grids(store: Path, groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Grid]:
    """One grid per question and set of test pictures, in the order of the plan."""
    main = main_settings(groups, facts)
    found: dict[tuple[Question, str], Grid] = {}
    for group in groups:
        path = next((r.maps for r in group.done if r.maps), None)
        if path and _shown(group, facts, main):
            maps = read_maps(store, path)
            key = (group.question, hashlib.sha256(maps["picture"].tobytes()).hexdigest())
            found.setdefault(key, Grid(group.question)).maps[(group.cell.model, group.cell.method)] = maps
    return list(found.values())


def _truth(question: Question) -> str:
    """What the maps beside the pictures are: the truth, or what a predictor takes for it."""
    labels = question.context.labels
    return "truth" if labels == "exact" else f"label ({labels})"


def _shown(group: Group, facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]) -> bool:
    cell = group.cell
    if cell.method in CONTROLS:
        return cell.model == NO_MODEL
    return plain(cell) and main.get((group.question, cell.method, facts[cell.model].family)) == group.setting


def map_image(intrinsic: str, values: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """A map (c h w) in natural units as a picture (h w 3).

    Args:
        values: unit normals, shown as (n + 1) / 2; depth in meters, colored between `limits`; linear
            RGB, shown with the sRGB curve (IEC 61966-2-1).
    """
    wide = np.nan_to_num(values.astype(np.float64))
    if intrinsic == "depth":
        return _colored(wide[0], limits, "viridis_r")
    picture = (wide + 1) / 2 if intrinsic == "normal" else srgb(wide)
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def _colored(values: NDArray[Any], limits: tuple[float, float], name: str) -> NDArray[np.uint8]:
    import matplotlib as mpl

    low, high = limits
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    colored: NDArray[np.uint8] = mpl.colormaps[name](share, bytes=True)[..., :3]
    return colored


def write_grids(
    out: Path, found: Sequence[Grid], groups: Sequence[Group], facts: Mapping[str, Facts]
) -> list[Path]:
    """`qualitative-INTRINSIC.png` for each grid, and `qualitative.png` with one picture of each."""
    if not found:
        return []
    paths, methods = [], probe_methods(groups)
    with style():
        for number, grid in enumerate(found):
            again = sum(g.question.intrinsic == grid.question.intrinsic for g in found[:number])
            suffix = f"-{again + 1}" if again else ""
            path = out / f"qualitative-{grid.question.intrinsic}{suffix}.png"
            paths += _sheet(_blocks(grid, methods, facts), _scales(grid), path)
        paths += _sheet(_overview(found, methods, facts), [], out / "qualitative.png")
    return paths


def _limits(grid: Grid) -> tuple[tuple[float, float], float]:
    """Range of the truth, and the error at which the scale ends: the 98th percentile of all."""
    shown = grid.any["truth"][:PICTURES].astype(np.float64)
    errors = np.concatenate([m["error"][:PICTURES].astype(np.float64).ravel() for m in grid.maps.values()])
    top = float(np.percentile(np.nan_to_num(errors), 98))
    return (float(shown.min()), float(shown.max())), top or 1.0


def _blocks(grid: Grid, methods: Sequence[str], facts: Mapping[str, Facts]) -> list[Block]:
    models = [name for name in facts if any(model == name for model, _ in grid.maps)]
    used = [m for m in methods if any(method == m for _, method in grid.maps)]
    controls = [m for m in CONTROLS if (NO_MODEL, m) in grid.maps]
    blocks = []
    for number in range(min(PICTURES, len(grid.any["picture"]))):
        for method in used:
            first = method == used[0]
            heads = ["picture", _truth(grid.question), *(facts[m].title for m in models)] if first else []
            keys = [(model, method) for model in models]
            blocks.append(Block(METHODS[method].title, heads, _rows(grid, number, keys, first)))
        if controls:
            heads = ["", "", *(METHODS[m].title for m in controls)]
            rows = _rows(grid, number, [(NO_MODEL, m) for m in controls], not used)
            blocks.append(Block("controls", heads, rows))
    return blocks


def _rows(
    grid: Grid, number: int, keys: Iterable[tuple[str, str]], lead: bool
) -> list[list[NDArray[np.uint8] | str]]:
    """A row of maps over a row of their errors; picture and truth stand in front where `lead`."""
    limits, top = _limits(grid)
    intrinsic, first = grid.question.intrinsic, grid.any
    above: list[NDArray[np.uint8] | str] = ["", ""]
    if lead:
        picture = first["picture"][number].transpose(1, 2, 0)
        above = [picture, map_image(intrinsic, first["truth"][number], limits)]
    below: list[NDArray[np.uint8] | str] = ["", ""]
    for key in keys:
        maps = grid.maps.get(key)
        above.append(map_image(intrinsic, maps["prediction"][number], limits) if maps else "no map")
        below.append(_colored(maps["error"][number, 0].astype(np.float64), (0, top), "magma") if maps else "")
    return [above, below]


def _overview(found: Sequence[Grid], methods: Sequence[str], facts: Mapping[str, Facts]) -> list[Block]:
    """The first picture of every grid of the first question's data, by the first method."""
    context = found[0].question.context
    same = [g for g in found if g.question.context == context]
    if len({grid.any["picture"].tobytes() for grid in same}) > 1:  # every model has its own: the last ones
        whole = [g for g in same if any(m in facts and facts[m].trained in (None, 1) for m, _ in g.maps)]
        same = whole or same
    blocks: list[Block] = []
    said: list[str] = []
    for grid in same:
        method = next((m for m in methods if any(key[1] == m for key in grid.maps)), None)
        models = [name for name in facts if any(model == name for model, _ in grid.maps)]
        heads = ["picture", _truth(grid.question), *(facts[m].title for m in models)]
        if method and models:
            rows = _rows(grid, 0, [(model, method) for model in models], True)
            label = f"{grid.question.title}, {METHODS[method].title}"
            blocks.append(Block(label, heads if heads != said else [], rows))
            said = heads
    return blocks


def _scales(grid: Grid) -> list[tuple[str, str, str, str]]:
    """Color scales below the grid: (title, colormap, text at its start, text at its end)."""
    (low, high), top = _limits(grid)
    unit = ERROR_UNIT.get(grid.question.intrinsic, "")
    end = f"{top:.0f}{unit}" if unit == "°" else f"{top:.2g}{unit}"
    scales = [("error", "magma", f"0{unit}", f"{end} or more")]
    if grid.question.intrinsic == "depth":
        scales.append(("depth", "viridis_r", f"{low:.1f} m", f"{high:.1f} m"))
    return scales


def _sheet(blocks: Sequence[Block], scales: Sequence[tuple[str, str, str, str]], path: Path) -> list[Path]:
    """Tiles on a white canvas, one figure pixel per canvas pixel, and the words around them."""
    import matplotlib.pyplot as plt

    if not blocks:
        return []
    across = max(len(row) for block in blocks for row in block.rows)
    width = LEFT + across * (TILE + GAP)
    height = sum(_height(b) for b in blocks) + (FOOT if scales else GAP)
    figure = plt.figure(figsize=(width / DPI, height / DPI), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    y = 0
    for block in blocks:
        y = _draw(axes, block, y)
    for number, scale in enumerate(scales):
        _draw_scale(axes, scale, LEFT + number * 4 * TILE, y + 12)
    return save(figure, path, vector=False)


def _height(block: Block) -> int:
    return (HEAD if block.headings else 3 * GAP) + len(block.rows) * (TILE + GAP)


def _draw(axes: Any, block: Block, top: int) -> int:
    """Draws a block from `top` on and says where it ends."""
    y = top + (HEAD if block.headings else 3 * GAP)
    for column, text in enumerate(block.headings):
        x = LEFT + column * (TILE + GAP) + TILE / 2
        words = "\n".join(textwrap.wrap(text, 17, max_lines=2, placeholder="…"))
        axes.text(x, y - 5, words, ha="center", va="bottom", fontsize=5.6, color=INK, linespacing=1.05)
    middle = y + len(block.rows) * (TILE + GAP) / 2
    label = "\n".join(textwrap.wrap(block.label, 26))
    axes.text(16, middle, label, ha="center", va="center", rotation=90, fontsize=7, weight="bold")
    for number, (name, row) in enumerate(zip(("map", "error"), block.rows, strict=False)):
        base = y + number * (TILE + GAP)
        axes.text(
            42, base + TILE / 2, name, ha="center", va="center", rotation=90, fontsize=5.6, color="#57606a"
        )
        for column, tile in enumerate(row):
            _draw_tile(axes, tile, LEFT + column * (TILE + GAP), base)
    return y + len(block.rows) * (TILE + GAP)


def _draw_tile(axes: Any, tile: NDArray[np.uint8] | str, x: int, y: int) -> None:
    extent = (x, x + TILE, y + TILE, y)
    if not isinstance(tile, str):
        axes.imshow(tile, extent=extent, interpolation="nearest", aspect="auto")
    elif tile:
        axes.imshow(np.full((1, 1, 3), 238, np.uint8), extent=extent, aspect="auto")
        axes.text(x + TILE / 2, y + TILE / 2, tile, ha="center", va="center", fontsize=5.6, color="#57606a")


def _draw_scale(axes: Any, scale: tuple[str, str, str, str], x: int, y: int) -> None:
    title, colors, start, end = scale
    ramp = _colored(np.linspace(0, 1, 256)[None], (0, 1), colors)
    axes.imshow(ramp, extent=(x, x + 3 * TILE, y + 14, y), aspect="auto")
    for text, place, side in (
        (start, x, "left"),
        (title, x + 1.5 * TILE, "center"),
        (end, x + 3 * TILE, "right"),
    ):
        axes.text(place, y + 18, text, ha=side, va="top", fontsize=5.6)
