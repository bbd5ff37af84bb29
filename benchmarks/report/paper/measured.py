"""The cells a number is asked of, and the number: its mean over seeds, or the mark that stands for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell, Record, canonical
from benchmarks.metrics.statistics import Interval
from benchmarks.report.gather import BLANK, MISSING, Group, gather, model_facts
from benchmarks.report.gather import Facts as ModelFacts
from benchmarks.report.measures import summary
from benchmarks.report.reading import Results, read_store
from benchmarks.suite import load_suite
from generators.errors import UserError

from .layout import ANY, PLAIN, Artifact, Column, Layout, Pick, Subject, option
from .published import to_number

NO_NUMBER = "n/a"
MARKS = {
    MISSING: "not measured here",
    "!": "failed",
    "-": "cannot be probed",
    NO_NUMBER: "the record holds no such number",
    BLANK: "no number is published, or nothing measures it",
}
Counted = Mapping[str, float]  # Subject.counts
Facts = Mapping[str, Callable[[Record, Counted], float | None]]


def _share(record: Record, counted: Counted) -> float | None:
    """Of the counted parameters where there are any: a record has those of the adapted network alone."""
    trainable = record.parameters.get("trainable")
    total = counted.get("parameters", record.parameters.get("total"))
    return 100 * trainable / total if trainable is not None and total else None


def _million(name: str) -> Callable[[Record, Counted], float | None]:
    return lambda r, _: r.parameters[name] / 1e6 if name in r.parameters else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


FACTS: Facts = {  # what a record says beside its scores
    "trainable_percent": _share,
    "trainable_m": _million("trainable"),
    "total_m": _million("total"),
    "steps_per_second": lambda r, _: _number(r.environment.get("steps_per_second")),
}
SETTINGS: Mapping[str, Callable[[Cell], Any]] = {  # what a cell says before it is measured
    "size": lambda c: c.size,
    "rank": lambda c: c.options.get("rank"),
    "rate": lambda c: c.options.get("rate"),
    "batch": lambda c: c.options.get("batch"),
    "steps": lambda c: c.options.get("steps"),
}
WHOLE = "total_m"  # as counted wherever it was: a record has the parameters of the adapted network alone


@dataclass(frozen=True)
class Slot:
    """A number of a table: as published and as found here.

    Attributes:
        published: text as printed, "" where the paper gives none.
        here: ours, None where there is none; mark says why. In table 1 a number has a mark, too: the rule's.
        seeds: measured, "2/3" where some are missing; "" for what is counted or set.
        kind: "measured", "counted" (on the architecture, no weights) or "set" (a cell's own).
        group: the cells it comes from.
    """

    published: str
    here: Interval | None
    mark: str
    seeds: str = ""
    kind: str = "measured"
    group: Group | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the published one, None where one of them is missing."""
        number = to_number(self.published)
        return None if number is None or self.here is None else self.here.value - number


@dataclass(frozen=True)
class Grid:
    """A layout with its numbers: one row of slots per subject, one slot per column."""

    layout: Layout
    slots: tuple[tuple[Slot, ...], ...]
    store: Path | None = None

    def count(self, kind: str = "") -> int:
        """Published numbers; with a kind, ours of this kind."""
        every = [slot for row in self.slots for slot in row]
        if not kind:
            return sum(bool(slot.published) for slot in every)
        return sum(slot.here is not None and slot.kind == kind for slot in every)

    def planned(self) -> Grid:
        """Without the columns and subjects that nothing is planned for."""
        rows = [k for k, row in enumerate(self.slots) if any(s.group is not None for s in row)]
        columns = [
            k
            for k in range(len(self.layout.columns))
            if any(self.slots[r][k].group is not None for r in rows)
        ]
        layout = replace(
            self.layout,
            subjects=tuple(self.layout.subjects[k] for k in rows),
            columns=tuple(self.layout.columns[k] for k in columns),
        )
        return Grid(layout, tuple(tuple(self.slots[r][k] for k in columns) for r in rows), self.store)

    @property
    def groups(self) -> list[Group]:
        """Cells of the table, each once."""
        found = {id(s.group): s.group for row in self.slots for s in row if s.group is not None}
        return list(found.values())


class Stores:
    """The stores below a results folder, each read once."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._read: dict[str, tuple[Group, ...]] = {}
        self._facts: dict[str, dict[str, ModelFacts]] = {}

    def __call__(self, name: str) -> tuple[Group, ...]:
        """Groups of a store; none where there is no store of this name. Raises as read_store does."""
        if name not in self._read:
            found = read_store(self.folder(name)) if self._there(name) else None
            self._read[name] = tuple(gather(found)) if found else ()
            self._facts[name] = model_facts(found) if found else {}
        return self._read[name]

    def facts(self, name: str) -> dict[str, ModelFacts]:
        """What is told of a store's models; raises as read_store does."""
        self(name)
        return self._facts[name]

    def planned(self, name: str) -> tuple[Group, ...]:
        """Groups of a store; where there is none, those its suite plans, all of them unmeasured."""
        return self(name) or suite_groups(name)

    def folder(self, name: str) -> Path:
        """Where the store is."""
        return self.results / name

    def _there(self, name: str) -> bool:
        folder = self.folder(name)
        return bool(name) and ((folder / "suite.json").is_file() or (folder / "records").is_dir())


def suite_groups(name: str) -> tuple[Group, ...]:
    """Groups a shipped suite plans, without records; raises UserError as load_suite does."""
    suite = load_suite(name)
    told = Results(Path(name), suite.name, suite.title, suite.question, suite.cells, {}, {}, ())
    return tuple(gather(told))


def matches(pick: Pick, method: str, cell: Cell) -> bool:
    """Whether a cell is one the pick asks for, by one of its methods."""
    larger = cell.test_size not in (0, cell.size)
    return (
        cell.method == method
        and cell.intrinsic == pick.intrinsic
        and fnmatchcase(cell.model, pick.model)
        and fnmatchcase(cell.data, pick.data)
        and fnmatchcase(cell.labels, pick.labels)
        and (not pick.alignments or cell.intrinsic != "depth" or cell.alignment in pick.alignments)
        and (pick.train is None or cell.train == pick.train)
        and (pick.larger is None or larger == pick.larger)
        and _options_match(pick, cell)
    )


def _options_match(pick: Pick, cell: Cell) -> bool:
    wanted = {**pick.options, **pick.each.get(cell.intrinsic, {})}
    usual = {key: value for key, value in PLAIN.items() if key not in wanted and key in cell.options}
    has = all(key in cell.options and value in (ANY, cell.options[key]) for key, value in wanted.items())
    return has and all(cell.options[key] == value for key, value in usual.items())


def matching(groups: Sequence[Group], pick: Pick) -> list[Group]:
    """Groups the pick asks for, by the first of its methods that has any."""
    for method in pick.methods:
        found = [group for group in groups if matches(pick, method, group.cell)]
        if found:
            return found
    return []


def swept(groups: Sequence[Group], pick: Pick, key: str) -> list[Any]:
    """Values of a knob among the cells a pick asks for, each once, in the order of the plan."""
    free = pick if key == "train" else pick.with_(options={key: ANY})
    return list(dict.fromkeys(option(g.cell, key) for g in matching(groups, free)))


def find(groups: Sequence[Group], pick: Pick, where: str) -> Group | None:
    """The one group a pick asks for, None where there is none.

    Raises:
        UserError: two groups; both are named.
    """
    found = matching(groups, pick)
    if len(found) > 1:
        said = [f"{g.cell} ({g.cell.hash})" for g in found]
        raise UserError(
            where,
            f"{len(found)} cells that differ in more than their seed stand for one number: "
            + " and ".join(said),
            f"they differ in {_differences(found[0].cell, found[1].cell)}",
            "keep one of them in the suite, or tell them apart in benchmarks/report/paper/artifacts.py",
        )
    return found[0] if found else None


def _differences(a: Cell, b: Cell) -> str:
    first, second = ({**c.facts(), **c.options, "seed": None} for c in (a, b))
    keys = [k for k in first if k != "options" and canonical(first[k]) != canonical(second.get(k))]
    return ", ".join(f"{key}: {first[key]} and {second.get(key)}" for key in keys)


def fill(artifact: Artifact, layout: Layout, groups: Sequence[Group], store: Path | None) -> Grid:
    """The layout with its numbers from the groups of one store."""
    rows = [
        tuple(_slot(artifact, subject, column, groups) for column in layout.columns)
        for subject in layout.subjects
    ]
    return Grid(layout, tuple(rows), store)


def _slot(artifact: Artifact, subject: Subject, column: Column, groups: Sequence[Group]) -> Slot:
    published = subject.published.get(column.key, "")
    if not column.metric or (subject.pick is None and column.metric not in subject.counts):
        return Slot(published, None, BLANK)
    pick = subject.pick.with_(**column.picks) if subject.pick is not None else None
    where = f"{artifact.title}, {' / '.join(subject.labels)}, {column.name}"
    group = find(groups, pick, where) if pick is not None else None
    if column.metric == WHOLE and WHOLE in subject.counts:
        return Slot(published, _alone(subject.counts[column.metric]), "", kind="counted", group=group)
    if group is not None and (value := _value(group, column.metric, subject.counts)) is not None:
        kind = "set" if column.metric in SETTINGS else "measured"
        return Slot(published, value, "", "" if kind == "set" else group.seeds, kind, group)
    if column.metric in subject.counts:
        return Slot(published, _alone(subject.counts[column.metric]), "", kind="counted", group=group)
    mark = MISSING if group is None else (group.mark or NO_NUMBER)
    return Slot(published, None, mark, group=group)


def _value(group: Group, metric: str, counted: Counted) -> Interval | None:
    if metric in SETTINGS:
        value = _number(SETTINGS[metric](group.cell))
        return None if value is None else _alone(value)
    if metric in FACTS:
        found = [FACTS[metric](record, counted) for record in group.done]
        numbers = [v for v in found if v is not None]
        return _alone(sum(numbers) / len(numbers)) if numbers else None
    return summary(group, metric)


def _alone(value: float) -> Interval:
    return Interval(value, None, None, 0.95, 1, "", "one number has no interval")
