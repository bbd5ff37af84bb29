"""Error against rank, pictures, noise in the weights, stage, timestep, sampler, adapted layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from benchmarks.metrics.statistics import Interval
from benchmarks.needs import EXACT
from probes.methods import METHODS

from .gather import Facts, Group, Question, difference, main_settings, noise, plain, setting, shuffled
from .measures import summary
from .picture import COLORS, MARKERS, axis_title, panels, save, squeeze, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", "--", "-.")
WIDEST = 44  # letters of a line in the legend, which has two columns
NEAR = 0.1  # of the axis: ticks that are nearer would overlap
LINES = 12  # curves in one panel: of more the rest is counted there, its numbers are in expanded.csv
TARGETS = ("up", "mid", "down", "cross", "self", "all")  # in the order of the paper's figure 15


@dataclass(frozen=True)
class Kind:
    """One way of turning a knob.

    Attributes:
        name: of the file; key: in the setting of a cell, "" for the stage of training.
        title: of the figure; label: of the x axis.
        scale: of the x axis: "linear", "log" or "root" (square root, so that early stages are apart).
        names: values of a knob that is no number, in their order on the x axis.
    """

    name: str
    key: str
    title: str
    label: str
    scale: str
    names: tuple[str, ...] = ()


KINDS = (
    Kind("stage", "", "Stage of training", "share of the generator's training", "root"),
    Kind("noise", "noise", "Noise in the weights", "share of random weights blended in", "linear"),
    Kind("labels", "train", "Label efficiency", "training pictures", "log"),
    Kind("rank", "rank", "Rank", "LoRA rank", "log"),
    Kind("timestep", "timestep", "Timestep", "diffusion timestep", "linear"),
    Kind("steps", "sampler_steps", "Diffusion steps", "steps of the sampler", "log"),
    Kind("guidance", "guidance", "Classifier-free guidance", "guidance scale", "linear"),
    Kind("strength", "strength", "SDEdit", "strength", "linear"),
    Kind("targets", "targets", "Adapted layers", "layers that LoRA adapts", "names", TARGETS),
)


@dataclass(frozen=True)
class Curve:
    """Points (x, mean with interval) of one model and method.

    Attributes:
        subject: what is asked: a family, or a model.
        level: the mean of the family's random-init model by the same method, where it is known.
        usual: whether all but the knob is as in the tables.
    """

    kind: Kind
    question: Question
    method: str
    subject: str
    label: str
    points: tuple[tuple[float, Interval], ...]
    level: float | None = None
    usual: bool = True


def find_curves(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Curve]:
    """Every knob that the suite turns to at least two values, in the order of KINDS."""
    main = main_settings(groups, facts)
    return [curve for kind in KINDS for curve in _curves(kind, groups, facts, main)]


def _curves(
    kind: Kind,
    groups: Sequence[Group],
    facts: Mapping[str, Facts],
    main: Mapping[tuple[Question, str, str], str],
) -> Iterator[Curve]:
    together: dict[tuple[Any, ...], list[tuple[float, Group]]] = {}
    place = _stage if kind.name == "stage" else _knob
    for group in groups:
        found = place(kind, group, facts, main)
        if found is not None:
            together.setdefault((group.question, group.cell.method, *found[0]), []).append((found[1], group))
    levels = _random_levels(groups, facts, main) if kind.name == "noise" else {}
    for (question, method, *_), members in together.items():
        points = _points(members, question)
        if len({x for x, _ in points}) > 1:
            label, usual = _label(kind, members[0][1], facts, main)
            told = facts[members[0][1].cell.model]
            level = levels.get((question, method, told.family, told.domain))
            subject = told.family if kind.name == "stage" else told.title
            yield Curve(kind, question, method, subject, label, points, level, usual)


_Place = tuple[tuple[str, ...], float] | None


def _stage(
    kind: Kind, group: Group, facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]
) -> _Place:
    """(family and domain, share of training) of a model in the setting that tables show."""
    told = facts.get(group.cell.model)
    if told is None or told.control or not plain(group.cell):
        return None  # one trained on scrambled pictures is no stage of the others
    usual = main[(group.question, group.cell.method, told.family)] == group.setting
    return ((told.family, told.domain), float(told.trained)) if usual and told.trained is not None else None


def _knob(
    kind: Kind, group: Group, facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]
) -> _Place:
    """(model and the rest of its setting, value of the knob) of a probe with true labels."""
    cell = group.cell
    known = cell.model in facts and not METHODS[cell.method].control and not shuffled(cell)
    if not known or (noise(cell) and kind.key != "noise"):
        return None
    every = setting(cell)
    value = every.pop(kind.key, None)
    if value in kind.names:
        value = kind.names.index(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return ((cell.model, repr(sorted(every.items()))), float(value)) if number else None


def _points(members: Sequence[tuple[float, Group]], question: Question) -> tuple[tuple[float, Interval], ...]:
    metric = question.metric.name
    found = [(x, summary(group, metric)) for x, group in members]
    return tuple(
        sorted(((x, v) for x, v in found if v is not None), key=lambda point: (point[0], point[1].value))
    )


def _label(
    kind: Kind, group: Group, facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]
) -> tuple[str, bool]:
    """What the legend calls a curve, and whether all but its knob is as in the tables."""
    cell, told = group.cell, facts[group.cell.model]
    method = METHODS[cell.method].title
    if kind.name == "stage":
        return f"{told.family}, {method}", True
    import json

    usual = json.loads(main.get((group.question, cell.method, told.family), "{}"))
    more = difference(cell, usual, (kind.key,)) if usual else ""
    return ", ".join([told.title, method, *([more] if more else [])]), not more


def _random_levels(
    groups: Sequence[Group], facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]
) -> dict[tuple[Question, str, str, str], float]:
    """(question, method, family, domain) -> mean of its random-init model, in the setting of the tables."""
    found: dict[tuple[Question, str, str, str], float] = {}
    for group in groups:
        told, method = facts.get(group.cell.model), group.cell.method
        if told is None or told.trained != 0 or not plain(group.cell):
            continue
        value = summary(group, group.question.metric.name)
        if value is not None and main[group.question, method, told.family] == group.setting:
            found.setdefault((group.question, method, told.family, told.domain), value.value)
    return found


def write_curves(out: Path, found: Sequence[Curve]) -> dict[str, list[Path]]:
    """`curve-KIND.png` and `.svg` with one panel per question: kind's title -> files."""
    written = {}
    for kind in KINDS:
        own = [curve for curve in found if curve.kind == kind]
        asked = list(dict.fromkeys(curve.question for curve in own))
        each = list({(curve.subject, curve.method): curve for curve in own}.values())
        if not own:
            continue
        with style():
            figure, axes = panels(len(asked), width=4.8, height=3.6, columns=2)
            for ax, question in zip(axes, asked, strict=True):
                drawn, left = _ordered(own, question)
                _draw(ax, kind, question, drawn, left, each)
            written[kind.title] = save(figure, out / f"curve-{kind.name}", whole=True)
    return written


def _ordered(curves: Sequence[Curve], question: Question) -> tuple[list[Curve], int]:
    """Those that are drawn, by method, and how many more there are.

    Of more than LINES the ones that are otherwise as in the tables come first, then those of most points.
    """
    own = [curve for curve in curves if curve.question == question]
    first = sorted(own, key=lambda curve: (not curve.usual, -len(curve.points)))[:LINES]
    kept = {id(curve) for curve in first}
    drawn = [curve for curve in own if id(curve) in kept]  # in the order of the plan
    return sorted(drawn, key=lambda curve: list(METHODS).index(curve.method)), len(own) - len(drawn)


def _draw(
    ax: Axes, kind: Kind, question: Question, curves: Sequence[Curve], left: int, figure: Sequence[Curve]
) -> None:
    import seaborn as sns

    for curve, (color, dashes, marker) in zip(curves, _looks(curves, figure), strict=True):
        x, y = [p[0] for p in curve.points], [p[1].value for p in curve.points]
        low = [v.value if v.low is None else v.low for _, v in curve.points]
        high = [v.value if v.high is None else v.high for _, v in curve.points]
        look: dict[str, Any] = {"color": color, "marker": marker, "label": fill(curve.label, WIDEST)}
        if kind.names:  # names have no order: nothing leads from one to the next
            ends = [
                [v - a for v, a in zip(y, low, strict=True)],
                [b - v for v, b in zip(y, high, strict=True)],
            ]
            ax.errorbar(x, y, yerr=ends, ls="", capsize=3, **look)
        else:
            sns.lineplot(x=x, y=y, ax=ax, errorbar=None, linestyle=dashes, **look)
            ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        if curve.level is not None:
            ax.axhline(curve.level, color=color, lw=1, ls=":")
    every = sorted({p[0] for curve in curves for p in curve.points})
    if kind.names:
        ax.set_xticks(every, [kind.names[int(v)] for v in every])
    else:
        _scale(ax, kind.scale, every)
    squeeze(ax, (value.value for curve in curves for _, value in curve.points))
    metric = question.metric
    unit = question.unit
    more = f"\n{left:,} more curves are not drawn, see expanded.csv" if left else ""
    truth = "" if question.context.labels == EXACT else f"\ntruth by {question.context.labels}"
    ax.set_title(f"{question.title}, data {question.context.data}{truth}{more}")
    dotted = "\ndotted: the same probe of a randomly initialized model" * any(c.level for c in curves)
    ax.set_xlabel(kind.label + dotted)
    ax.set_ylabel(f"{axis_title(metric.title)}{f' ({unit})' if unit else ''}")
    below = (-0.02, -0.26 if dotted else -0.19)
    ax.legend(fontsize=7, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=below, handlelength=4.5)
    sns.despine(ax=ax)


def _looks(curves: Sequence[Curve], figure: Sequence[Curve] = ()) -> list[tuple[str, str, str]]:
    """Color, dashes and marker of each curve: by subject, method and subject, where that tells them apart.

    Args:
        figure: a curve of every subject and method in it, so that one color is one subject in all panels.
    """
    subjects = list(dict.fromkeys(curve.subject for curve in [*figure, *curves]))
    methods = list(dict.fromkeys(curve.method for curve in [*figure, *curves]))
    apart = len({(curve.subject, curve.method) for curve in curves}) == len(curves)
    if not apart or len(subjects) == 1 or len(methods) > len(DASHES) or len(subjects) > len(COLORS):
        return [(COLORS[n % len(COLORS)], "-", MARKERS[n % len(MARKERS)]) for n in range(len(curves))]
    places = [(subjects.index(curve.subject), methods.index(curve.method)) for curve in curves]
    return [(COLORS[subject], DASHES[method], MARKERS[subject]) for subject, method in places]


def _scale(ax: Axes, scale: str, every: Sequence[float]) -> None:
    """Ticks at the values that were measured, but for those too near to the one before."""
    place: Callable[[float], float] = float
    if scale == "log" and min(every) > 0:
        ax.set_xscale("log", base=2)
        place = math.log2
    elif scale == "root":
        forward: Callable[[Any], Any] = _root
        ax.set_xscale("function", functions=(forward, _square))
        place = _root
    gap = NEAR * (place(every[-1]) - place(every[0]))
    shown: list[float] = []
    for value in reversed(every):  # the last value is what most is asked of
        if not shown or place(shown[-1]) - place(value) >= gap:
            shown.append(value)
    percent = max(every) <= 1 and scale != "log"
    ax.set_xticks(shown, [f"{v:.0%}" if percent else f"{v:g}" for v in shown])
    ax.minorticks_off()


def _root(values: Any) -> Any:
    import numpy as np

    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Any) -> Any:
    import numpy as np

    return np.sign(values) * np.square(values)
