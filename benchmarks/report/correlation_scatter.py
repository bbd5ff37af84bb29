"""Scatter plots: what models draw against what they know, facets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.metrics.statistics import Correlation, Interval
from probes.methods import METHODS

from .correlation_panels import Panel, Point, X
from .picture import COLORS, INK, MARKERS, Box, axis_title, panels, save, spread, squeeze, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROWDED = 12  # points from which on an axes is larger
Looks = dict[str, tuple[str, str]]  # family -> color and marker


def write_scatter(out: Path, found: Sequence[Panel]) -> dict[str, list[Path]]:
    """`scatter-INTRINSIC.png` and `.svg`, one panel per method and comparable models: title -> files."""
    written = {}
    several = [panel for panel in found if len(panel.points) > 1]
    for title in dict.fromkeys(panel.question.title for panel in several):
        own = [panel for panel in several if panel.question.title == title]
        question = own[0].question
        aligned = "" if question.alignment == "none" else f"-{question.alignment}"
        with style():
            figure = _figure(own)
            written[title] = save(figure, out / f"scatter-{question.intrinsic}{aligned}")
    return written


def _figure(own: Sequence[Panel]) -> Figure:
    crowded = max(len(panel.points) for panel in own) > CROWDED
    facets = [(panel.question, panel.domain) for panel in own]
    columns = min(facets.count(facets[0]), 3) if len(set(facets)) > 1 else 3
    figure, axes = panels(len(own), *((6.4, 5.2) if crowded else (4.6, 4.0)), columns)
    families = dict.fromkeys(p.facts.family for panel in own for p in panel.points)
    looks = {f: (COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)]) for n, f in enumerate(families)}
    for ax, panel in zip(axes, own, strict=True):
        _draw(ax, panel, looks)
    if len(looks) > 1:
        _legend(figure, looks, own)
    figure.canvas.draw()
    for ax, panel in zip(axes, own, strict=True):
        _label(ax, panel, looks)
    return figure


def _draw(ax: Axes, panel: Panel, looks: Looks) -> None:
    import seaborn as sns

    caps, dim = (0, 0.35) if len(panel.points) > CROWDED else (2, 1.0)
    for point in panel.points:
        x, y, (color, marker) = point.x.value, point.y.value, looks[point.facts.family]
        across, up = _arms(point.x), _arms(point.y)
        ax.errorbar(x, y, xerr=across, yerr=up, color=color, lw=1, capsize=caps, alpha=dim, zorder=2)
        face = "white" if point.facts.trained == 0 or point.facts.control else color
        sns.scatterplot(
            x=[x], y=[y], ax=ax, s=42, marker=marker, color=face, edgecolor=color, lw=1.2, zorder=3
        )
        if point.facts.control:
            ax.plot(x, y, marker="x", color=color, ms=4, mew=1, zorder=4)
    _scale(ax, panel)
    ax.margins(x=0.18, y=0.16)
    unit = panel.metric.unit_of(panel.question.intrinsic, panel.question.alignment)
    ax.set_title(f"{METHODS[panel.method].title}, domain {panel.domain}\n{panel.truth}", linespacing=1.4)
    ax.set_xlabel(f"{X.title} {X.arrow}\n{_caption(panel.every)}", linespacing=1.5)
    ax.set_ylabel(f"{panel.question.title}: {axis_title(panel.metric.title)}{f' ({unit})' if unit else ''}")
    sns.despine(ax=ax)


def _scale(ax: Axes, panel: Panel) -> None:
    """Logarithmic axes where one model would press all others together, with plain numbers beside them."""
    distances, errors = (
        [v.value for v in each] for each in zip(*((p.x, p.y) for p in panel.points), strict=True)
    )
    if max(distances) > 40 * max(min(distances), 1e-12):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    squeeze(ax, errors)


def _legend(figure: Figure, looks: Looks, own: Sequence[Panel]) -> None:
    """Families, and what hollow points are, once for all axes."""
    from matplotlib.lines import Line2D

    def handle(marker: str, color: str, face: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, ls="", color=color, mfc=face, label=label)

    facts = [p.facts for panel in own for p in panel.points]
    handles = [handle(marker, color, color, family) for family, (color, marker) in looks.items()]
    if any(f.trained == 0 for f in facts):
        handles.append(handle("o", INK, "white", "hollow: never trained"))
    if any(f.control for f in facts):
        handles.append(handle("x", INK, INK, "hollow, crossed: trained on scrambled pictures"))
    for columns in (4, 3, 2, 1):  # as many as there is room for
        legend = figure.legend(
            handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=8
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _arms(interval: Interval) -> list[list[float]] | None:
    if interval.low is None or interval.high is None:
        return None
    return [[max(interval.value - interval.low, 0)], [max(interval.high - interval.value, 0)]]


def _caption(value: Correlation) -> str:
    """The coefficients on lines of their own."""
    if not value.defined:
        return f"n = {value.n}; correlation not defined: {value.reason}"
    return "\n".join([*str(value).split("; ")[:3], f"n = {value.n}; {value.permutation}"])


def _label(ax: Axes, panel: Panel, looks: Looks) -> None:
    """Names beside the points, moved apart until they neither cross each other, a point nor a bar."""
    names = _names(panel.points)
    texts = [
        ax.text(p.x.value, p.y.value, name, fontsize=7) for p, name in zip(panel.points, names, strict=True)
    ]
    boxes = [text.get_window_extent() for text in texts]
    points = [_display(ax, p.x.value, p.y.value) for p in panel.points]
    frame = ax.get_window_extent()
    obstacles = [box for p in panel.points for box in _occupied(ax, p)]
    sizes = [(b.width + 2, b.height + 2) for b in boxes]
    places = spread(points, sizes, obstacles, (frame.x0, frame.y0, frame.x1, frame.y1))
    several = len({p.facts.family for p in panel.points}) > 1
    for text, place, box, point, model in zip(texts, places, boxes, points, panel.points, strict=True):
        x, y = ax.transData.inverted().transform(place)
        color = looks[model.facts.family][0] if several else INK
        text.set(x=x, y=y, ha="center", va="center", color=color, zorder=4)
        if abs(place[1] - point[1]) > 1.5 * box.height:
            start = ax.transData.inverted().transform(point)
            ax.plot([start[0], x], [start[1], y], color="#c0c5cc", lw=0.6, zorder=1)


def _names(points: Sequence[Point]) -> list[str]:
    """Short names: families are left to the legend, where there is one."""
    families = {p.facts.family: [q for q in points if q.facts.family == p.facts.family] for p in points}
    if len(families) == 1:
        return short_names([p.title for p in points])
    named: dict[str, str] = {}
    for own in families.values():
        stages = [_stage(p) for p in own]
        names = stages if len(set(stages)) == len(own) else short_names([p.title for p in own])
        named |= {p.facts.name: name for p, name in zip(own, names, strict=True)}
    return [named[p.facts.name] for p in points]


def _stage(point: Point) -> str:
    """What a model is within its family: how far it was trained, or which control it is."""
    facts = point.facts
    if facts.control or facts.trained is None:
        return facts.control or facts.title
    return f"{100 * facts.trained:.0f} %" if facts.trained else "untrained"


def _display(ax: Axes, x: float, y: float) -> tuple[float, float]:
    found = ax.transData.transform((x, y))
    return float(found[0]), float(found[1])


def _occupied(ax: Axes, point: Point) -> list[Box]:
    """Boxes of a marker and its two error bars, in display units."""
    x, y = _display(ax, point.x.value, point.y.value)
    found = [(x - 8, y - 8, x + 8, y + 8)]
    if point.y.low is not None and point.y.high is not None:
        found.append((x - 4, _display(ax, 1, point.y.low)[1], x + 4, _display(ax, 1, point.y.high)[1]))
    if point.x.low is not None and point.x.high is not None:
        found.append((_display(ax, point.x.low, 1)[0], y - 4, _display(ax, point.x.high, 1)[0], y + 4))
    return found


def short_names(titles: Sequence[str]) -> list[str]:
    """Titles without the words all of them begin with, if they are two or more and something is left."""
    words = [title.split() for title in titles]
    common = 0
    while len(words) > 1 and all(len(w) > common + 1 for w in words) and len({w[common] for w in words}) == 1:
        common += 1
    return [" ".join(w[common if common > 1 else 0 :]) for w in words]
