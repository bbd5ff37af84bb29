"""What the models draw: one sheet for each family, its stages below renders with the same captions."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.pictures import decoding
from generators.errors import UserError

from .formats import FRECHET
from .gather import QUALITY, Facts, Group
from .picture import DPI, INK, save, style
from .reading import RERUN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEFT, GAP, SCALE = 240, 4, 2  # canvas pixels; canvas pixels of one pixel


class Strip(NamedTuple):
    """One row of a sheet: what stands beside it, and pictures side by side (h kw 3), 8 bit."""

    label: str
    pixels: NDArray[np.uint8]


def sheets(store: Path, groups: Sequence[Group], facts: Mapping[str, Facts]) -> dict[str, list[Strip]]:
    """Family to its rows: renders, then its models in the order of the plan; none without samples."""
    found: dict[str, list[Strip]] = {}
    seen: set[str] = set()
    for group in groups:
        model = group.cell.model
        record = next((r for r in group.done if r.samples), None)
        if group.cell.method != QUALITY or record is None or not record.samples or model in seen:
            continue
        seen.add(model)
        drawn, renders = _halves(store / record.samples)
        rows = found.setdefault(facts[model].family, [Strip("renders", renders)])
        distance = f"{record.scores[FRECHET.name]:.{FRECHET.decimals}f}"
        rows.append(Strip(f"{facts[model].title}\nFrechet distance {distance}", drawn))
    return found


def _halves(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Drawn pictures and renders of a samples file; raises UserError if it is missing or broken."""
    import numpy as np

    try:
        with decoding(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        wrong = f"it cannot be read: {type(error).__name__}: {error}"
        todo = f"{RERUN} (the record {path.stem}.json with it)"
        raise UserError(f"the samples {path}", wrong, "a png, two rows of pictures", todo) from error
    half = len(pixels) // 2
    return pixels[:half], pixels[half:]


def write_sheets(out: Path, found: Mapping[str, Sequence[Strip]]) -> dict[str, Path]:
    """`samples-FAMILY.png` for each family; family to file."""
    written = {}
    with style():
        for family, rows in found.items():
            name = re.sub(r"[^a-z0-9]+", "-", family.lower()).strip("-")
            (written[family],) = _write(rows, out / f"samples-{name}.png")
    return written


def _write(rows: Sequence[Strip], path: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    high = SCALE * max(len(row.pixels) for row in rows) + GAP
    width = LEFT + SCALE * max(row.pixels.shape[1] for row in rows)
    figure = plt.figure(figsize=(width / DPI, len(rows) * high / DPI), facecolor="white")
    axes: Any = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(len(rows) * high, 0))
    axes.axis("off")
    for number, (label, pixels) in enumerate(rows):
        top, (tall, wide) = number * high, pixels.shape[:2]
        box = (LEFT, LEFT + SCALE * wide, top + SCALE * tall, top)
        axes.imshow(pixels, extent=box, interpolation="nearest", aspect="auto")
        text = "\n".join(line for part in label.split("\n") for line in textwrap.wrap(part, 24))
        axes.text(LEFT - 10, top + high / 2, text, ha="right", va="center", fontsize=6.5, color=INK)
    return save(figure, path, vector=False)
