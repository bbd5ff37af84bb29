"""Cells that differ in their seed only, and what a table calls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from benchmarks.cell import NO_INTRINSIC, NO_MODEL, Cell, Record, canonical
from benchmarks.data import own_pictures
from benchmarks.metrics import METRICS, Metric, primary_metric
from benchmarks.metrics.statistics import Interval
from probes.methods import METHODS, RELATIVE

from .reading import Results

QUALITY = "frechet"
BLANK, IMPOSSIBLE, MISSING, FAILED = "", "-", ".", "!"
MARKS = {
    BLANK: "not part of this suite",
    IMPOSSIBLE: "cannot be probed",
    MISSING: "not measured yet",
    FAILED: "failed; the reason is listed below",
}


class Context(NamedTuple):
    """What must agree before two numbers stand in one table."""

    data: str
    world: str
    size: int
    labels: str
    trained: str = ""


class Question(NamedTuple):
    """An intrinsic and how it is aligned before it is scored."""

    context: Context
    intrinsic: str
    alignment: str

    @property
    def metric(self) -> Metric:
        """What stands for it where one number must do: the skill where every model has its own pictures."""
        return METRICS["skill"] if own_pictures(self.context.data) else primary_metric(self.intrinsic)

    @property
    def unit(self) -> str:
        """Of its metric: relative depth has none."""
        return self.metric.unit_of(self.intrinsic, self.alignment)

    @property
    def short(self) -> str:
        """Title where the metric is not told: it says so where that is not the intrinsic's usual one."""
        return self.title if self.metric.primary else f"{self.title} ({self.metric.name}, {self.metric.unit})"

    @property
    def title(self) -> str:
        """As headings call it."""
        if self.alignment == RELATIVE:
            return f"{self.intrinsic} (relative)"
        return self.intrinsic if self.alignment == "none" else f"{self.intrinsic} ({self.alignment} aligned)"


@dataclass(frozen=True)
class Group:
    """Cells that are equal but for their seed, with what came of them.

    Attributes:
        cells: planned, by seed.
        done: records with scores, by seed.
        failed: records without.
        impossible: why none of it can be probed, or "".
    """

    cells: tuple[Cell, ...]
    done: tuple[Record, ...]
    failed: tuple[Record, ...]
    impossible: str = ""

    @cached_property
    def cell(self) -> Cell:
        """The first of the cells; all but its seed holds for the group."""
        return self.cells[0]

    @property
    def mark(self) -> str:
        """What stands for the number where there is none; "" where there is one."""
        if self.done:
            return ""
        if self.impossible:
            return IMPOSSIBLE
        return FAILED if self.failed else MISSING

    @property
    def seeds(self) -> str:
        """Seeds measured, "2/3" where some are missing."""
        n, of = len(self.done), len(self.cells)
        return str(n) if n == of else f"{n}/{of}"

    @cached_property
    def question(self) -> Question:
        """The intrinsic with its data."""
        return Question(context(self.cell), self.cell.intrinsic, self.cell.alignment)

    @cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """Metric -> its mean over the seeds, as far as measures.summary was asked for it."""
        return {}

    @cached_property
    def setting(self) -> str:
        """Canonical text of what is neither model, question nor seed: method, options, counts."""
        return canonical(setting(self.cell))


def context(cell: Cell) -> Context:
    """Data and labels of a cell."""
    trained = " ".join(filter(None, (cell.train_data, cell.train_labels and f"labels {cell.train_labels}")))
    return Context(cell.data, cell.world, cell.test_size or cell.size, cell.labels, trained)


def setting(cell: Cell) -> dict[str, Any]:
    """What is neither model, question nor seed, flat: the options beside the counts."""
    counts = {"train": cell.train, "validation": cell.validation, "test": cell.test}
    return {"method": cell.method} | counts | dict(cell.options)


def gather(results: Results) -> list[Group]:
    """Groups in the order of the plan."""
    together: dict[str, list[Cell]] = {}
    for cell in results.planned:
        alike = cell.facts() | {"seed": None, "options": sorted(cell.options.items())}
        together.setdefault(repr(alike), []).append(cell)
    return [_group(sorted(cells, key=lambda c: c.seed), results) for cells in together.values()]


def _group(cells: list[Cell], results: Results) -> Group:
    records = [results.records[c.hash] for c in cells if c.hash in results.records]
    done = tuple(r for r in records if r.status == "done")
    failed = tuple(r for r in records if r.status != "done")
    why = [results.impossible[c.hash] for c in cells if c.hash in results.impossible]
    return Group(tuple(cells), done, failed, why[0] if why else "")


@dataclass(frozen=True)
class Facts:
    """What reports say of a model; from its records, or its name alone where it has none.

    Attributes:
        trained: share of its training, 0 for random initialization, None if unknown.
        control: what was done so that it cannot know a scene ("scrambled"), "" for a model as it is meant.
    """

    name: str
    title: str
    family: str
    domain: str
    trained: float | None
    control: str = ""


def model_facts(results: Results) -> dict[str, Facts]:
    """Facts by model name, in the order of the plan, without NO_MODEL; every title is told once."""
    told: dict[str, Mapping[str, Any]] = {}
    for record in results.records.values():
        if record.generator:
            told.setdefault(record.cell.model, record.generator)
    names = dict.fromkeys(c.model for c in results.planned if c.model != NO_MODEL)
    facts = {name: _facts(name, told.get(name, {})) for name in names}
    titles = Counter(f.title for f in facts.values())
    return {n: f if titles[f.title] < 2 else replace(f, title=f"{f.title} [{n}]") for n, f in facts.items()}


def _facts(name: str, told: Mapping[str, Any]) -> Facts:
    family = str(told.get("family") or name.split(".")[0])
    title, domain = str(told.get("title") or name), str(told.get("domain") or "unknown")
    return Facts(name, title, family, domain, told.get("trained"), str(told.get("control") or ""))


def noise(cell: Cell) -> float:
    """Share of random weights blended into the model's."""
    return float(cell.options.get("noise") or 0.0)


def shuffled(cell: Cell) -> bool:
    """Whether it was trained on maps of other pictures."""
    return cell.options.get("labels", "true") != "true"


def plain(cell: Cell) -> bool:
    """A probe of a model as it is: no control, nothing destroyed, the labels its own."""
    probes = cell.method in METHODS and not METHODS[cell.method].control and cell.method != QUALITY
    return probes and cell.model != NO_MODEL and not noise(cell) and not shuffled(cell)


def questions(groups: Iterable[Group]) -> list[Question]:
    """Questions in the order of the plan."""
    return list(dict.fromkeys(g.question for g in groups if g.cell.intrinsic != NO_INTRINSIC))


def probe_methods(groups: Iterable[Group]) -> list[str]:
    """Probes among the groups, in the order methods are listed in."""
    used = {g.cell.method for g in groups if plain(g.cell)}
    return [name for name in METHODS if name in used]


def main_settings(
    groups: Iterable[Group], facts: Mapping[str, Facts]
) -> dict[tuple[Question, str, str], str]:
    """(question, method, family) -> the setting that tables show.

    It is the one most models of the family are planned with; among equals, the one with most seeds,
    then the one nearest to the method's defaults, then the first by its text.
    """
    votes: dict[tuple[Question, str, str], Counter[str]] = {}
    seeds: Counter[tuple[tuple[Question, str, str], str]] = Counter()
    far: dict[str, int] = {}
    for group in groups:
        if plain(group.cell):
            key = (group.question, group.cell.method, facts[group.cell.model].family)
            votes.setdefault(key, Counter())[group.setting] += 1
            seeds[key, group.setting] += len(group.cells)
            if group.setting not in far:
                far[group.setting] = _distance(group.cell)

    def best(key: tuple[Question, str, str], count: Counter[str]) -> str:
        return min(count, key=lambda text: (-count[text], -seeds[key, text], far[text], text))

    return {key: best(key, count) for key, count in votes.items()}


def _distance(cell: Cell) -> int:
    defaults = METHODS[cell.method].options
    return sum(cell.options.get(key) != value for key, value in defaults.items())


def difference(cell: Cell, main: Mapping[str, Any], ignore: Iterable[str] = ()) -> str:
    """In what a cell differs from a main setting, as "rank 2, steps 100"."""
    own, skip = setting(cell), {"method", *ignore}
    return ", ".join(f"{k} {own[k]}" for k in own if k not in skip and own[k] != main.get(k))
