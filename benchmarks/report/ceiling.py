"""How far off a predictor is itself, beside every number whose truth it is.

What a predictor says of a picture nobody has measured is taken for the truth; on renders, where the truth
is exact, the predictor is scored as everything else is (methods `supervised` and `predictor`). No probe can
be shown to know more than that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell, Record
from benchmarks.data import own_pictures
from benchmarks.methods import PREDICTOR
from benchmarks.metrics import primary_metric
from benchmarks.metrics.statistics import Interval
from benchmarks.needs import EXACT

from .gather import Group, Question
from .measures import summary
from .reading import Results
from .table import Section

METHODS = ("supervised", "predictor", "constant")
SCORED = re.compile(rf'"method":\s*"({"|".join(METHODS)})"')  # spares reading thousands of others
END = re.compile(r'\n "status":')  # what follows the cell in a record as the runner lays it out
HEAD = 4096  # bytes that hold the whole cell of nearly every record
COLUMNS = ("ceiling", "ceiling_low", "ceiling_high", "ceiling_data")  # of table.csv


@dataclass(frozen=True)
class Ceiling:
    """A predictor's own error.

    Attributes:
        predictor, identity: its name and the hash of its weights.
        asked: the cell that scored it: data, size, intrinsic, alignment.
        value: primary metric against exact truth.
        skill: percent of the mean map's error on the same pictures that it takes away; None without one.
    """

    predictor: str
    identity: str
    asked: Cell
    value: Interval
    skill: float | None = None

    @property
    def text(self) -> str:
        """As "11.93 ° [11.20, 12.71] on rooms (skill 69.7 %)"."""
        metric = primary_metric(self.asked.intrinsic)
        unit = metric.unit_of(self.asked.intrinsic, self.asked.alignment)
        skill = f" (skill over the mean map {self.skill:.1f} %)" if self.skill is not None else ""
        return f"{amount(self.value, metric.decimals, unit)} on {self.asked.data}{skill}"


def amount(value: Interval, digits: int, unit: str) -> str:
    """As "11.93 ° [11.20, 12.71]", without ends where there are none."""
    between = f" [{value.low:.{digits}f}, {value.high:.{digits}f}]" if value.defined else ""
    return f"{value.value:.{digits}f}{f' {unit}' if unit else ''}{between}"


def read_ceilings(store: Path, own: Results | None = None) -> list[Ceiling]:
    """Every predictor scored against exact truth in a store or in one beside it, the store's own first.

    Args:
        own: what is in the store, where that was read already.
    """
    beside = [path for path in sorted(store.resolve().parent.iterdir()) if path.name != store.resolve().name]
    records = _told(own) if own else list(_scored(_files(store)))
    records += [record for place in beside for record in _scored(_files(place))]
    maps = {_place(r.cell): r for r in reversed(records) if r.cell.method == "constant"}
    found: dict[tuple[Any, ...], Ceiling] = {}
    for record in records:
        one = None if record.cell.method == "constant" else _ceiling(record, maps)
        if one is not None:
            found.setdefault((one.predictor, one.identity, _place(one.asked)), one)
    # Of several on one data set the one of most test pictures comes first.
    return sorted(found.values(), key=lambda c: (c.asked.data != "rooms", c.asked.data, -c.asked.test))


def _files(store: Path) -> list[Path]:
    return sorted((store / "records").glob("*.json"), key=lambda path: path.name)


def _told(own: Results) -> list[Record]:
    """Those of a store that was read, and of its records of other cells, by hash."""
    strangers = _scored(own.store / "records" / f"{name}.json" for name in own.strangers)
    found = [*filter(_fits, own.records.values()), *strangers]
    return sorted(found, key=lambda record: record.cell.hash)


def _fits(record: Record) -> bool:
    cell = record.cell
    exact = cell.method in METHODS and cell.labels == EXACT and not own_pictures(cell.data)
    return exact and record.status == "done"


def _scored(files: Iterable[Path]) -> Iterator[Record]:
    """Finished records of predictors and mean maps whose truth is exact."""
    for path in files:
        with path.open("rb") as file:
            head = file.read(HEAD)
            begin = head.decode(errors="replace")
            if END.search(begin) and not SCORED.search(begin):
                continue
            text = (head + file.read()).decode(errors="replace")
        if not SCORED.search(text):
            continue
        try:
            record = Record.from_json(text)
        except ValueError:
            continue  # the report of its own store names it
        if _fits(record):
            yield record


def _place(cell: Cell) -> tuple[Any, ...]:
    """The test pictures and what they are asked for."""
    world = cell.world.partition(" trained on ")[0]
    return cell.data, world, cell.test_size or cell.size, cell.test, cell.intrinsic, cell.alignment


def _ceiling(record: Record, maps: Mapping[tuple[Any, ...], Record]) -> Ceiling | None:
    metric, cell = primary_metric(record.cell.intrinsic).name, record.cell
    value = summary(Group((cell,), (record,), ()), metric)
    if value is None:
        return None
    options, flat = cell.options, maps.get(_place(cell))
    least = flat.scores.get(metric) if flat else None
    skill = 100 * (1 - value.value / least) if least else None
    if cell.method == "supervised":
        return Ceiling(PREDICTOR, str(options.get("network", "")), cell, value, skill)
    return Ceiling(str(options.get("predictor")), str(options.get("identity", "")), cell, value, skill)


def predicted(question: Question) -> bool:
    """Whether a question's truth is what a predictor says."""
    return question.context.labels != EXACT


def ceilings_of(question: Question, known: Sequence[Ceiling]) -> list[Ceiling]:
    """Those of the very predictor that labels a question, at its size, one of each data set."""
    if not predicted(question):
        return []
    context = question.context
    fitting = [
        one
        for one in known
        if one.predictor == context.labels
        and one.identity
        and one.identity in context.world  # the same weights, not only the same name
        and (one.asked.test_size or one.asked.size) == context.size
        and (one.asked.intrinsic, one.asked.alignment) == (question.intrinsic, question.alignment)
    ]
    first = {one.asked.data: one for one in reversed(fitting)}
    return [one for one in fitting if first[one.asked.data] is one]


def ceiling_text(question: Question, known: Sequence[Ceiling]) -> str:
    """One sentence, "" where truth is exact."""
    if not predicted(question):
        return ""
    here = ceilings_of(question, known)
    if not here:
        return (
            f"The truth is what {question.context.labels} says; how far off that is itself was not measured."
        )
    values = ", ".join(one.text for one in here)
    says = f"The truth is what {question.context.labels} says"
    return f"{says}; against exact truth that is itself off by {values}."


def with_ceilings(found: Sequence[Section], known: Sequence[Ceiling]) -> list[Section]:
    """Sections whose settings begin with that sentence, where there is one."""
    told = [(section, ceiling_text(section.question, known)) for section in found]
    return [
        replace(section, settings=[text, *section.settings]) if text else section for section, text in told
    ]


def ceiling_columns(
    found: Sequence[Section], known: Sequence[Ceiling]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """(data, labels, intrinsic, alignment) -> the values of COLUMNS, where there are any."""
    columns: dict[tuple[str, ...], dict[str, Any]] = {}
    for section in found:
        question = section.question
        for one in ceilings_of(question, known)[:1]:
            key = (question.context.data, question.context.labels, question.intrinsic, question.alignment)
            values = (one.value.value, one.value.low, one.value.high, one.asked.data)
            columns[key] = dict(zip(COLUMNS, values, strict=True))
    return columns
