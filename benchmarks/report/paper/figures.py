"""Curves, points by name, and scatter plots: published beside here, rooms in panels of their own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.metrics.statistics import Interval
from benchmarks.report.picture import COLORS, INK, MARKERS, Box, panels, save, spread, style

from .correlate import Panel, Point
from .layout import Artifact, Subject
from .measured import Grid
from .published import to_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PUBLISHED, HERE = "published", "here"
LOOKS = {
    PUBLISHED: {"color": INK, "marker": "s", "ls": "--"},
    HERE: {"color": COLORS[0], "marker": "o", "ls": "-"},
}
ERRORS = ("mean_angular_error", "l1_x100")  # what a figure draws of its table


@dataclass(frozen=True)
class Series:
    """Points (place, name, number) of one kind; an interval's ends are missing where there is none."""

    kind: str
    points: tuple[tuple[float, str, Interval], ...]


@dataclass(frozen=True)
class Plot:
    """One panel: an error of a grid, published and here."""

    title: str
    label: str
    axis: str
    series: tuple[Series, ...]
    names: tuple[str, ...]


def write_figure(artifact: Artifact, paper: Grid, twins: Sequence[Grid], out: Path) -> list[Path]:
    """`NAME.png` and `.svg`: the paper's errors above, those on rooms below; none without a number."""
    plots = _plots(paper, artifact.title)
    for grid in twins:
        plots += _plots(grid, f"rooms twin ({_name(grid)})")
    if not plots:
        return []
    with style():
        figure, axes = panels(len(plots), width=4.8, height=3.4, columns=2)
        for ax, plot in zip(axes, plots, strict=True):
            _draw(ax, plot)
        return save(figure, out / f"{artifact.name}")


def _name(grid: Grid) -> str:
    return grid.store.name if grid.store is not None else ""


def _plots(grid: Grid, title: str) -> list[Plot]:
    found = []
    for k, column in enumerate(grid.layout.columns):
        if column.metric in ERRORS:
            series = tuple(s for kind in (PUBLISHED, HERE) if (s := _series(grid, k, kind)).points)
            names = tuple(" ".join(subject.labels) for subject in grid.layout.subjects)
            missing = "" if any(s.kind == HERE for s in series) else ": published, not measured here"
            if series:
                found.append(Plot(f"{title}{missing}", column.name, grid.layout.axis, series, names))
    return found


def _series(grid: Grid, k: int, kind: str) -> Series:
    points = []
    for place, (subject, slots) in enumerate(zip(grid.layout.subjects, grid.slots, strict=True)):
        slot = slots[k]
        value = slot.here if kind == HERE else _alone(slot.published)
        if value is not None:
            points.append((_place(grid, subject, place), " ".join(subject.labels), value))
    return Series(kind, tuple(points))


def _alone(text: str) -> Interval | None:
    number = to_number(text)
    return None if number is None else Interval(number, None, None, 0.95, 1, "", "published")


def _place(grid: Grid, subject: Subject, place: int) -> float:
    """Its value on a curve; a name has its place in the row, or left of a curve it stands beside."""
    if subject.x is not None:
        return subject.x
    return -1.0 if grid.layout.axis else float(place)


def _draw(ax: Axes, plot: Plot) -> None:
    import seaborn as sns

    for series in plot.series:
        look: dict[str, Any] = dict(LOOKS[series.kind])
        points = [p for p in series.points if not plot.axis or p[0] >= 0]
        x, values = [p[0] for p in points], [p[2] for p in points]
        if not plot.axis:
            look["ls"] = ""
        face = "white" if series.kind == PUBLISHED else look["color"]
        ax.errorbar(
            x, [v.value for v in values], yerr=_arms(values), capsize=3, lw=1.4, ms=5.5,
            markerfacecolor=face, label=series.kind, zorder=3 if series.kind == HERE else 2, **look,
        )  # fmt: skip
        for _, name, value in series.points if plot.axis else ():
            if name not in [p[1] for p in points]:
                ax.axhline(value.value, color=look["color"], lw=0.9, ls=":", label=f"{name}, {series.kind}")
    _ticks(ax, plot)
    ax.set_title(plot.title)
    ax.set_ylabel(plot.label)
    if len(ax.get_legend_handles_labels()[0]) > 1:  # alone, the title says what it is
        ax.legend(fontsize=7)
    sns.despine(ax=ax)


def _arms(values: Sequence[Interval]) -> list[list[float]]:
    low = [max(v.value - v.low, 0) if v.low is not None else 0.0 for v in values]
    high = [max(v.high - v.value, 0) if v.high is not None else 0.0 for v in values]
    return [low, high]


def _ticks(ax: Axes, plot: Plot) -> None:
    if not plot.axis:
        names = [textwrap.fill(name, 11) for name in plot.names]
        ax.set_xticks(range(len(names)), names, fontsize=7 if len(names) > 4 else 8)
        ax.set_xlim(-0.5, len(names) - 0.5)
        return
    places = sorted({p[0] for series in plot.series for p in series.points if p[0] >= 0})
    if places and min(places) > 0 and max(places) > 8 * min(places):
        ax.set_xscale("log", base=2)
    ax.set_xticks(places, [f"{v:g}" for v in places], fontsize=8)
    ax.minorticks_off()
    ax.set_xlabel(plot.axis)


def write_scatter(name: str, found: Sequence[Panel], out: Path) -> list[Path]:
    """`NAME.png` and `.svg`, one panel per error: hollow squares published, filled dots here."""
    if not found:
        return []
    titles = list(dict.fromkeys(panel.column.name for panel in found))
    with style():
        figure, axes = panels(len(titles), width=3.9, height=3.7, columns=3)
        for ax, title in zip(axes, titles, strict=True):
            _scatter(ax, [panel for panel in found if panel.column.name == title])
        figure.canvas.draw()
        for ax, title in zip(axes, titles, strict=True):
            _name_points(ax, [panel for panel in found if panel.column.name == title])
        return save(figure, out / name)


def _scatter(ax: Axes, own: Sequence[Panel]) -> None:
    import seaborn as sns

    for panel in own:
        kind = PUBLISHED if panel.numbers == PUBLISHED else HERE
        color, face = LOOKS[kind]["color"], "white" if kind == PUBLISHED else LOOKS[kind]["color"]
        ends = [Interval(p.y, p.low, p.high, 0.95, 1, "") for p in panel.points]
        ax.errorbar(
            [p.x for p in panel.points], [p.y for p in panel.points], yerr=_arms(ends), ls="", capsize=2,
            color=color, marker=MARKERS[kind == PUBLISHED], markerfacecolor=face, ms=6, label=panel.numbers,
            zorder=3,
        )  # fmt: skip
    first = own[0]
    ax.margins(x=0.25, y=0.2)
    ax.set_title(first.column.name)
    ax.set_xlabel("\n".join([first.quality, *(_caption(panel) for panel in own)]), linespacing=1.5)
    ax.set_ylabel(first.column.title)
    if len(own) > 1:
        ax.legend(fontsize=7, frameon=False)
    sns.despine(ax=ax)


def _caption(panel: Panel) -> str:
    value = panel.value
    if value.spearman is None:
        return f"{panel.numbers}: n = {value.n}; {value.reason}"
    return f"{panel.numbers}: Spearman {value.spearman.value:+.2f}, p = {value.spearman.p:.2g}, n = {value.n}"


def _name_points(ax: Axes, own: Sequence[Panel]) -> None:
    """Names beside the points, apart from each other."""
    points = [point for panel in own for point in panel.points]
    texts = [ax.text(p.x, p.y, p.name, fontsize=7, color=INK, zorder=4) for p in points]
    boxes = [text.get_window_extent() for text in texts]
    places = [tuple(float(v) for v in ax.transData.transform((p.x, p.y))) for p in points]
    frame = ax.get_window_extent()
    spots = spread(
        [(x, y) for x, y in places],
        [(box.width + 2, box.height + 2) for box in boxes],
        [box for point, place in zip(points, places, strict=True) for box in _occupied(ax, point, place)],
        (frame.x0, frame.y0, frame.x1, frame.y1),
    )
    for text, spot in zip(texts, spots, strict=True):
        x, y = ax.transData.inverted().transform(spot)
        text.set(x=x, y=y, ha="center", va="center")


def _occupied(ax: Axes, point: Point, place: tuple[float, ...]) -> list[Box]:
    """Boxes of a marker and its error bar, in display units."""
    x, y = place
    low, high = (
        y if end is None else ax.transData.transform((point.x, end))[1] for end in (point.low, point.high)
    )
    return [(x - 8, y - 8, x + 8, y + 8), (x - 4, float(low), x + 4, float(high))]
