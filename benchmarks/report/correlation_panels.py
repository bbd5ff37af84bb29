"""Models that may be compared, and how what they draw goes with what they know.

Models stand in one panel only if their domain, data, truth, alignment, probe options and the options of
their Frechet distance are the same. How long, at which rate and in which layers a probe is trained (FREE),
how a model samples and in which precision it computes belong to the family: each is asked at its own main
setting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.cell import NO_INTRINSIC, Record, canonical
from benchmarks.compare import what_must_agree
from benchmarks.data import own_pictures
from benchmarks.metrics import Metric, primary_metric
from benchmarks.metrics.evidence import given, needed, without_each
from benchmarks.metrics.statistics import Correlation, Interval, Noise, correlation
from generators.errors import UserError
from probes.methods import METHODS

from .correlation_noise import draws
from .gather import Facts, Group, Question, context, main_settings, plain, setting
from .measures import summary
from .table import quality_groups

X = primary_metric(NO_INTRINSIC)
FRECHET = "frechet"
QUALITIES = {  # measure of pictures -> its score in a record of the method "frechet"
    FRECHET: X.name,
    "kernel": "kernel_distance",
    "frechet_2": "frechet_distance_2",
    "kernel_2": "kernel_distance_2",
}
FREE = ("rate", "steps", "batch", "targets")
REAL = ", real"  # ends the name of a family's set without its scrambled control
MEASURED = ("samples", "extractor", "extractor_2", "real", "reference")  # details that tell how
_FOUND: dict[bytes, Correlation] = {}  # tables, pages and READMEs ask for the same numbers again


@dataclass(frozen=True)
class Point:
    """A model: its Frechet distance and its error, each a mean over seeds, and its parameters.

    Attributes:
        probe, quality: the cells both numbers are from.
    """

    facts: Facts
    x: Interval
    y: Interval
    parameters: int | None
    probe: Group = field(repr=False)
    quality: Group = field(repr=False)

    @property
    def title(self) -> str:
        """The model's; it says so where the model is a scrambled control."""
        control = self.facts.control
        return self.facts.title + (f", {control}" if control and control not in self.facts.title else "")


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


@dataclass(frozen=True)
class ModelSet:
    """Some models of a panel and the correlation over them: "all", "trained", "real", "family: ..."."""

    name: str
    points: tuple[Point, ...]
    value: Correlation
    checks: Checks = Checks()


@dataclass(frozen=True)
class Panel:
    """Models that may be compared, and how their two numbers go together.

    Attributes:
        quality: how the Frechet distance was measured, in words.
        sets: all models; "trained", without random initializations and scrambled controls; "real", all
            but scrambled controls. The last two only where they are others than those before.
        families: the models of each family, with its scrambled control ("family: F") and without
            ("family: F, real").
        others: `sets` by the other measures of QUALITIES the records hold.
    """

    question: Question
    method: str
    domain: str
    quality: str
    points: tuple[Point, ...]
    sets: tuple[ModelSet, ...]
    families: tuple[ModelSet, ...] = ()
    others: Mapping[str, tuple[ModelSet, ...]] = field(default_factory=dict)

    @property
    def every(self) -> Correlation:
        """Correlation over all models."""
        return self.sets[0].value

    @property
    def trained(self) -> Correlation | None:
        """The same without those that were never trained and controls; None where there are none."""
        return next((s.value for s in self.sets if s.name == "trained"), None)

    @property
    def checks(self) -> tuple[Checks, Checks]:
        """What the correlation over all models rests on, and that over the trained ones."""
        found = {s.name: s.checks for s in self.sets}
        return self.sets[0].checks, found.get("trained", Checks())

    @property
    def metric(self) -> Metric:
        """What stands on the y axis."""
        return self.question.metric

    @property
    def truth(self) -> str:
        """How truth was obtained, in words."""
        about = self.question.context
        parts = ["exact truth" if about.labels == "exact" else f"truth by {about.labels}"]
        parts += ["own pictures"] if own_pictures(about.data) else []
        return ", ".join(parts + ([f"taught by {about.trained}"] if about.trained else []))

    @property
    def title(self) -> str:
        """Method, domain and truth."""
        return f"{METHODS[self.method].title}, domain {self.domain}, {self.truth}"


def find_panels(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Panel]:
    """Panels in the order of the plan, those of one question together, methods in their own order."""
    together: dict[tuple[Any, ...], list[Point]] = {}
    for key, point in _points(groups, facts):
        together.setdefault(key, []).append(point)
    order, asked = list(METHODS), list(dict.fromkeys(key[0] for key in together))
    keys = sorted(together, key=lambda k: (asked.index(k[0]), order.index(k[1]), k[3], k[4], k[2]))
    return [_panel(key, together[key]) for key in keys]


def _points(groups: Sequence[Group], facts: Mapping[str, Facts]) -> Iterator[tuple[tuple[Any, ...], Point]]:
    """Every model with both numbers, and the panel it stands in."""
    main, drawn = main_settings(groups, facts), quality_groups(groups)
    for group in groups:
        cell = group.cell
        if not plain(cell) or main[group.question, cell.method, facts[cell.model].family] != group.setting:
            continue
        told, value = facts[cell.model], summary(group, group.question.metric.name)
        if value is None:
            continue
        for quality in (g for g in drawn if g.cell.model == cell.model):
            x = summary(quality, X.name)
            if x is not None:
                size = group.done[0].parameters.get("total")
                key = (group.question, cell.method, _asked(group), told.domain, _measured(quality))
                yield key, Point(told, x, value, size, group, quality)


def _asked(group: Group) -> str:
    """Counts and options of a probe, but those every family has of its own."""
    cell = group.cell
    own = {*FREE, *(name for name in cell.options if name not in METHODS[cell.method].options)}
    return canonical({k: v for k, v in setting(cell).items() if k not in own})


def _measured(group: Group) -> str:
    """How a Frechet distance was measured: its options, its data and what the record says of both sides."""
    cell, details = group.cell, group.done[0].details
    said = {name: details[name] for name in MEASURED if name in details}
    options = {k: v for k, v in cell.options.items() if k != "precision"}
    return canonical({"options": options, "details": said, "data": context(cell)._asdict()})


def check_comparable(groups: Sequence[Group]) -> None:
    """Raises UserError, naming the difference, unless all of these may stand in one table or correlation.

    Protocol, intrinsic, data, pixels, truth, alignment, domain and, of Frechet distances, how they were
    measured must be the same; models, methods and their options may differ.
    """
    records = [record for group in groups for record in group.done]
    for record in records[1:]:
        a, b = _must_agree(records[0]), _must_agree(record)
        apart = {name: (a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)}
        if apart:
            raise UserError(
                f"{records[0].cell} and {record.cell} in one table or correlation",
                "they do not compare: they differ in " + ", ".join(apart),
                "; ".join(f"{name}: {x!r} and {y!r}" for name, (x, y) in apart.items()),
                "show them apart, as facets",
            )


def _must_agree(record: Record) -> dict[str, Any]:
    cell, agree = record.cell, what_must_agree(record)
    # Models that draw their own pictures are set side by side by their skill over each one's mean map.
    agree.pop("pictures drawn by", None)
    agree |= {"domain": record.generator.get("domain"), "training pictures": cell.train_data}
    agree |= {"training labels": cell.train_labels}
    if cell.intrinsic == NO_INTRINSIC:
        agree |= {"second extractor": record.details.get("extractor_2")}
    return agree


def _panel(key: tuple[Any, ...], points: list[Point]) -> Panel:
    question, method, _, domain, quality = key
    check_comparable([point.probe for point in points])
    check_comparable([point.quality for point in points])
    options = json.loads(quality)
    words = ", ".join(f"{k} {v}" for k, v in sorted((options["options"] | options["details"]).items()))
    others = {name: _sets(points, name) for name in QUALITIES if name != FRECHET}
    # Where another measure says nothing (old records, two models) there is nothing to show.
    shown = {name: sets for name, sets in others.items() if any(s.value.defined for s in sets)}
    sets = _sets(points, FRECHET)
    return Panel(question, method, domain, words, tuple(points), sets, _families(points), shown)


def _sets(points: Sequence[Point], quality: str) -> tuple[ModelSet, ...]:
    """Correlations over all models, the trained and the real ones, each set of models once."""
    have = [p for p in points if summary(p.quality, QUALITIES[quality]) is not None]
    real = [p for p in have if not p.facts.control]
    named = {"all": have, "trained": [p for p in real if p.facts.trained != 0], "real": real}
    found: dict[tuple[str, ...], ModelSet] = {}
    for name, chosen in named.items():
        models = tuple(p.facts.name for p in chosen)
        if models not in found:
            found[models] = _model_set(name, chosen, quality)
    return tuple(found.values())


def _families(points: Sequence[Point]) -> tuple[ModelSet, ...]:
    """Every family's own correlation, with its scrambled control and without; none where there is but one."""
    names = list(dict.fromkeys(p.facts.family for p in points))
    found = []
    for name in names if len(names) > 1 else []:
        own = [p for p in points if p.facts.family == name]
        real = [p for p in own if not p.facts.control]
        found.append(_model_set(f"family: {name}", own, FRECHET))
        if 0 < len(real) < len(own):
            found.append(_model_set(f"family: {name}{REAL}", real, FRECHET))
    return tuple(found)


def _model_set(name: str, points: Sequence[Point], quality: str) -> ModelSet:
    value = _correlation(points, quality)
    return ModelSet(name, tuple(points), value, _checks(points, value, quality))


def values(points: Sequence[Point], quality: str = FRECHET) -> tuple[list[float], list[float]]:
    """A measure of the models' pictures and their errors."""
    x = [summary(p.quality, QUALITIES[quality]) for p in points]
    return [v.value for v in x if v is not None], [p.y.value for p in points]


def noise(points: Sequence[Point], quality: str = FRECHET) -> Noise:
    """Draws (resamples, n) of both, for `correlation`; of one model at least."""
    x = [draws(p.quality, QUALITIES[quality]) for p in points]
    y = [draws(p.probe, p.probe.question.metric.name) for p in points]
    return np.stack(x, 1), np.stack(y, 1)


def _correlation(points: Sequence[Point], quality: str) -> Correlation:
    x, y = values(points, quality)
    if len(points) < 3:
        return correlation(x, y)
    drawn = noise(points, quality)
    parts = [np.array(x), np.array(y), *drawn]
    key = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()
    if key not in _FOUND:
        _FOUND[key] = correlation(x, y, noise=drawn)
    return _FOUND[key]


def _checks(points: Sequence[Point], found: Correlation, quality: str) -> Checks:
    if found.spearman is None:
        return Checks()
    x, y = values(points, quality)
    left = without_each(x, y, [p.facts.family for p in points])
    value = found.spearman.value
    weakest = min(left.items(), key=lambda item: item[1] * (1 if value >= 0 else -1), default=None)
    sizes = [p.parameters for p in points if p.parameters]
    partial = given(x, y, sizes) if len(sizes) == len(points) else None
    return Checks(weakest, partial, needed(value))
