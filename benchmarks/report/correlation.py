"""Does what a model draws go with what it knows? Frechet distance against the primary metric.

Models stand in one panel only if their domain, data, labels, alignment, probe options and the options
of their Frechet distance are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cell import NO_INTRINSIC, canonical
from benchmarks.metrics import Metric, primary_metric
from benchmarks.metrics.evidence import given, needed, without_each
from benchmarks.metrics.statistics import Correlation, Interval, correlation
from probes.methods import METHODS

from .formats import markdown_grid, markdown_text
from .gather import Facts, Group, Question, context, main_settings, plain
from .measures import summary
from .picture import COLORS, INK, MARKERS, Box, axis_title, panels, save, spread, style
from .table import frechet_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X = primary_metric(NO_INTRINSIC)


@dataclass(frozen=True)
class Point:
    """A model: its Frechet distance and its error, each a mean over seeds, and its parameters."""

    facts: Facts
    x: Interval
    y: Interval
    parameters: int | None = None


@dataclass(frozen=True)
class Checks:
    """What Spearman's coefficient of some models rests on.

    Attributes:
        weakest: the family without which it is least, and the coefficient then; None with one family.
        given: the coefficient given the models' numbers of parameters; None where that is not defined.
        needed: models at which a coefficient of this size would be significant.
    """

    weakest: tuple[str, float] | None = None
    given: float | None = None
    needed: int | None = None

    @property
    def texts(self) -> list[str]:
        """As tables write them."""
        without = f"{self.weakest[1]:+.2f} ({self.weakest[0]})" if self.weakest else "-"
        given_text = "-" if self.given is None else f"{self.given:+.2f}"
        return [without, given_text, "-" if self.needed is None else str(self.needed)]


def _checks(points: Sequence[Point], found: Correlation | None) -> Checks:
    if found is None or found.spearman is None:
        return Checks()
    x, y = [p.x.value for p in points], [p.y.value for p in points]
    left = without_each(x, y, [p.facts.family for p in points])
    value = found.spearman.value
    weakest = min(left.items(), key=lambda item: item[1] * (1 if value >= 0 else -1), default=None)
    sizes = [p.parameters for p in points if p.parameters]
    partial = given(x, y, sizes) if len(sizes) == len(points) else None
    return Checks(weakest, partial, needed(value))


@dataclass(frozen=True)
class Panel:
    """Models that may be compared, and how their two numbers go together.

    Attributes:
        quality: how the Frechet distance was measured, in words.
        every: correlation over all models.
        trained: the same without those that were never trained; None where there are none of them.
        checks: what each of the two rests on.
    """

    question: Question
    method: str
    domain: str
    quality: str
    points: tuple[Point, ...]
    every: Correlation
    trained: Correlation | None
    checks: tuple[Checks, Checks] = (Checks(), Checks())

    @property
    def metric(self) -> Metric:
        """What stands on the y axis."""
        return self.question.metric

    @property
    def title(self) -> str:
        """Method and domain."""
        return f"{METHODS[self.method].title}, domain {self.domain}"


def find_panels(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Panel]:
    """Panels in the order of the plan, those of one question together, methods in their own order."""
    main = main_settings(groups, facts)
    together: dict[tuple[Any, ...], list[Point]] = {}
    for group in groups:
        cell = group.cell
        if not plain(cell):
            continue
        told, value = facts[cell.model], summary(group, group.question.metric.name)
        if value is None or main[(group.question, cell.method, told.family)] != group.setting:
            continue
        for quality in frechet_groups(cell.model, groups):
            x = summary(quality, X.name)
            if x is not None:
                key = (group.question, cell.method, group.setting, told.domain, _quality_key(quality))
                size = group.done[0].parameters.get("total")
                together.setdefault(key, []).append(Point(told, x, value, size))
    order, asked = list(METHODS), list(dict.fromkeys(key[0] for key in together))
    keys = sorted(together, key=lambda k: (asked.index(k[0]), order.index(k[1]), k[3], k[4], k[2]))
    return [_panel(key, together[key]) for key in keys]


def _quality_key(group: Group) -> str:
    """How a Frechet distance was measured: its options, its data and what the record says of both sides."""
    cell, details = group.cell, group.done[0].details
    said = {k: v for k, v in details.items() if k in ("samples", "extractor", "real", "reference")}
    return canonical({"options": dict(cell.options), "details": said, "data": context(cell)._asdict()})


def _panel(key: tuple[Any, ...], points: list[Point]) -> Panel:
    import json

    question, method, _, domain, quality = key
    options = json.loads(quality)
    words = ", ".join(f"{k} {v}" for k, v in sorted((options["options"] | options["details"]).items()))
    trained = [p for p in points if p.facts.trained != 0]
    fewer = _correlation(trained) if len(trained) < len(points) else None
    every = _correlation(points)
    checks = (_checks(points, every), _checks(trained, fewer))
    return Panel(question, method, domain, words, tuple(points), every, fewer, checks)


def _correlation(points: Sequence[Point]) -> Correlation:
    return correlation([p.x.value for p in points], [p.y.value for p in points])


CORRELATION = [
    "intrinsic",
    "alignment",
    "data",
    "labels",
    "method",
    "domain",
    "frechet",
    "models",
    "metric",
    "n",
    "coefficient",
    "value",
    "low",
    "high",
    "p",
    "permutation",
    "resamples",
    "reason",
    "without",
    "without_value",
    "given_parameters",
    "n_needed",
]


def correlation_lines(found: Sequence[Panel]) -> list[dict[str, Any]]:
    """One line per panel, set of models and coefficient; where none is defined, one with the reason."""
    lines = []
    for panel in found:
        for models, value, checks in _sets(panel):
            about = _about(panel, models, value)
            more = (
                {"without": checks.weakest[0], "without_value": checks.weakest[1]} if checks.weakest else {}
            )
            more |= {"given_parameters": checks.given, "n_needed": checks.needed}
            for numbers in _coefficients(value):
                lines.append(about | numbers | (more if numbers["coefficient"] == "spearman" else {}))
    return lines


def _sets(panel: Panel) -> list[tuple[str, Correlation, Checks]]:
    """All models, and those that were trained where that is another set."""
    named = (("all", panel.every, panel.checks[0]), ("trained", panel.trained, panel.checks[1]))
    return [(models, value, checks) for models, value, checks in named if value is not None]


def _about(panel: Panel, models: str, value: Correlation) -> dict[str, Any]:
    question = panel.question
    about = {"intrinsic": question.intrinsic, "alignment": question.alignment, "data": question.context.data}
    told = {
        "labels": question.context.labels,
        "method": panel.method,
        "domain": panel.domain,
        "models": models,
    }
    more = {
        "n": value.n,
        "permutation": value.permutation,
        "resamples": value.resamples,
        "reason": value.reason,
    }
    return about | told | more | {"frechet": panel.quality, "metric": panel.metric.name}


def _coefficients(value: Correlation) -> list[dict[str, Any]]:
    named = {"spearman": value.spearman, "pearson": value.pearson, "kendall": value.kendall}
    found = {name: c for name, c in named.items() if c is not None}
    return [
        {"coefficient": n, "value": c.value, "low": c.low, "high": c.high, "p": c.p} for n, c in found.items()
    ] or [{"coefficient": "", "value": None}]


HEAD = ["intrinsic", "method", "domain", "models", "n", "Spearman", "Pearson", "Kendall", "permutation"]
HEAD += ["without one family", "given parameters", "n needed"]


def correlation_markdown(found: Sequence[Panel]) -> str:
    """All panels as one Markdown table."""
    rows = [[markdown_text(t) for t in line] for panel in found for line in correlation_rows(panel)]
    note = (
        "Coefficient [95 % bootstrap interval over models], two-sided permutation p. Of Spearman's: the "
        "least where one family is left out, the partial one given the number of parameters, and the number "
        "of models at which one of this size would have p = 0.05."
    )
    return f"{markdown_grid(HEAD, rows)}\n\n{note}" if rows else "No model has both numbers."


def correlation_rows(panel: Panel) -> list[list[str]]:
    """Lines of a panel under HEAD, unescaped."""
    lines = []
    for models, value, checks in _sets(panel):
        each = [value.spearman, value.pearson, value.kendall]
        texts = [
            f"{c.value:+.2f} [{c.low:+.2f}, {c.high:+.2f}], p {c.p:.2g}" if c else "not defined" for c in each
        ]
        front = [panel.question.title, METHODS[panel.method].title, panel.domain, models, str(value.n)]
        lines.append([*front, *texts, value.permutation or value.reason, *checks.texts])
    return lines


def write_scatter(out: Path, found: Sequence[Panel]) -> dict[str, list[Path]]:
    """`scatter-INTRINSIC.png` and `.svg`, one panel per method and comparable models: title -> files."""
    written = {}
    several = [panel for panel in found if len(panel.points) > 1]
    for title in dict.fromkeys(panel.question.title for panel in several):
        own = [panel for panel in several if panel.question.title == title]
        question = own[0].question
        aligned = "" if question.alignment == "none" else f"-{question.alignment}"
        with style():
            figure, axes = panels(len(own))
            for ax, panel in zip(axes, own, strict=True):
                _draw(ax, panel)
            figure.canvas.draw()
            for ax, panel in zip(axes, own, strict=True):
                _label(ax, panel)
            written[title] = save(figure, out / f"scatter-{question.intrinsic}{aligned}")
    return written


def _draw(ax: Axes, panel: Panel) -> None:
    import seaborn as sns

    families = list(dict.fromkeys(p.facts.family for p in panel.points))
    for number, family in enumerate(families):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        for point in (p for p in panel.points if p.facts.family == family):
            x, y = point.x.value, point.y.value
            ax.errorbar(
                x, y, xerr=_arms(point.x), yerr=_arms(point.y), color=color, lw=1, capsize=2, zorder=2
            )
            face = "white" if point.facts.trained == 0 else color
            sns.scatterplot(
                x=[x], y=[y], ax=ax, s=42, marker=marker, color=face, edgecolor=color, lw=1.2, zorder=3
            )
    if max(p.x.value for p in panel.points) > 40 * max(min(p.x.value for p in panel.points), 1e-12):
        ax.set_xscale("log")
    ax.margins(x=0.18, y=0.16)
    unit = panel.metric.unit_of(panel.question.intrinsic, panel.question.alignment)
    ax.set_title(panel.title)
    ax.set_xlabel(f"{X.title} {X.arrow}\n{_caption(panel.every)}", linespacing=1.5)
    ax.set_ylabel(f"{panel.question.title}: {axis_title(panel.metric.title)}{f' ({unit})' if unit else ''}")
    sns.despine(ax=ax)


def _arms(interval: Interval) -> list[list[float]] | None:
    if interval.low is None or interval.high is None:
        return None
    return [[max(interval.value - interval.low, 0)], [max(interval.high - interval.value, 0)]]


def _caption(value: Correlation) -> str:
    """The coefficients on lines of their own."""
    if not value.defined:
        return f"n = {value.n}; correlation not defined: {value.reason}"
    return "\n".join([*str(value).split("; ")[:3], f"n = {value.n}; {value.permutation}"])


def _label(ax: Axes, panel: Panel) -> None:
    """Names beside the points, moved apart until they neither cross each other, a point nor a bar."""
    names = short_names([p.facts.title for p in panel.points])
    texts = [ax.text(p.x.value, p.y.value, n, fontsize=7) for p, n in zip(panel.points, names, strict=True)]
    boxes = [text.get_window_extent() for text in texts]
    points = [_display(ax, p.x.value, p.y.value) for p in panel.points]
    frame = ax.get_window_extent()
    obstacles = [box for p in panel.points for box in _occupied(ax, p)]
    sizes = [(b.width + 2, b.height + 2) for b in boxes]
    places = spread(points, sizes, obstacles, (frame.x0, frame.y0, frame.x1, frame.y1))
    for text, place, box, point in zip(texts, places, boxes, points, strict=True):
        x, y = ax.transData.inverted().transform(place)
        text.set(x=x, y=y, ha="center", va="center", color=INK, zorder=4)
        if abs(place[1] - point[1]) > 1.5 * box.height:
            start = ax.transData.inverted().transform(point)
            ax.plot([start[0], x], [start[1], y], color="#c0c5cc", lw=0.6, zorder=1)


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
