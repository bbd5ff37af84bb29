"""How figures look and how they are saved: the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
COLORS = ("#3266a8", "#c8553d", "#3c8d53", "#8a5aa8", "#b08a1e", "#4a9aa5", "#7a6a5d", "#c25b8f")
MARKERS = "osD^vPX*"
INK = "#22272e"
FAR = -200.0  # a skill (%) below which the axis is logarithmic
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@contextmanager
def style() -> Iterator[None]:
    """Fonts, grid and colors of every figure; independent of the user's own matplotlibrc."""
    import matplotlib as mpl
    import seaborn as sns

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.use("agg")
        sns.set_theme(
            context="paper", style="ticks", palette=list(COLORS), font="DejaVu Sans", rc=_settings()
        )
        yield


def _settings() -> dict[str, Any]:
    return {
        "svg.hashsalt": "intrinsic-bench",
        "svg.fonttype": "path",
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
        "axes.edgecolor": "#8b949e",
        "axes.labelcolor": INK,
        "text.color": INK,
        "text.parse_math": False,  # a dollar in a model's title is a dollar
        "axes.grid": True,
        "grid.color": "#e6e8eb",
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
    }


def save(figure: Figure, path: Path, vector: bool = True, whole: bool = False) -> list[Path]:
    """Writes `path`.png, and .svg where it is made of lines; no date, no name of a program in them.

    Args:
        whole: whether the file grows until all text is in it: legends below axes may be wider than they are.
    """
    import matplotlib.pyplot as plt

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not once per format
    kinds = {".png": {"Software": None}, **({".svg": {"Date": None, "Creator": None}} if vector else {})}
    written = [_write(figure, path.with_suffix(end), metadata, whole) for end, metadata in kinds.items()]
    plt.close(figure)
    return written


def _write(figure: Figure, path: Path, metadata: dict[str, None], whole: bool) -> Path:
    buffer = io.BytesIO()
    box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.1} if whole else {}
    figure.savefig(buffer, format=path.suffix[1:], metadata=metadata, **box)
    path.write_bytes(buffer.getvalue())
    return path


def panels(
    number: int, width: float = 4.6, height: float = 4.0, columns: int = 3
) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes, row by row; those that are not needed are taken away."""
    import matplotlib.pyplot as plt

    across = min(number, columns)
    down = -(-number // across)
    figure, grid = plt.subplots(
        down, across, figsize=(width * across, height * down), squeeze=False, layout="constrained"
    )
    every: list[Axes] = list(grid.flat)
    for spare in every[number:]:
        spare.remove()
    return figure, every[:number]


def squeeze(ax: Axes, values: Iterable[float]) -> None:
    """Let no value far below zero press all others together: there the scale is logarithmic, as it says."""
    if min(values) < FAR:
        ax.set_yscale("symlog", linthresh=-FAR / 2, linscale=3)
        low, high = ax.get_ylim()
        every = (*(-(10.0**k) for k in range(8, 2, -1)), -100, -50, -25, 0, 25, 50, 100)
        ticks = [tick for tick in every if low <= tick <= high]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.annotate(
            f"logarithmic below {FAR / 2:g}", (0.99, 0.02), xycoords="axes fraction", ha="right", fontsize=7
        )
        ax.minorticks_off()


def spread(
    points: Sequence[Point], sizes: Sequence[Point], obstacles: Sequence[Box], frame: Box
) -> list[Point]:
    """Centers for labels near their points that cross neither each other nor an obstacle.

    Args:
        points: (x, y) in display units.
        sizes: (width, height) of each label in the same units.
        obstacles: boxes (x0, y0, x1, y1) to keep free: points, error bars.
        frame: box that labels should stay in.
    """
    taken, placed = list(obstacles), []
    for point, size in zip(points, sizes, strict=True):
        boxes = [_around(x, y, *size) for x, y in _places(point, size)]
        area = size[0] * size[1]
        best = min(boxes, key=lambda b: sum(_overlap(b, o) for o in taken) + 3 * (area - _overlap(b, frame)))
        taken.append(best)
        placed.append(((best[0] + best[2]) / 2, (best[1] + best[3]) / 2))
    return placed


def _places(point: Point, size: Point) -> list[Point]:
    """Centers a label may have, the best first: right, left, then further and further away."""
    (x, y), (w, h) = point, size
    beside = [(x + side * (w / 2 + 11), y + lift * h) for lift in (0, 1, -1, 0.5, -0.5) for side in (1, -1)]
    away = [(x + side * w / 2, y + lift * h) for lift in (2, -2, 3, -3, 4, -4) for side in (1, -1)]
    return [*beside, *away]


def _around(x: float, y: float, w: float, h: float) -> Box:
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _overlap(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0.0) * max(high, 0.0)


def axis_title(title: str) -> str:
    """A metric's title inside a line: lower case unless it is an abbreviation."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]
