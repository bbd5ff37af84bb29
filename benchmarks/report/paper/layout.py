"""What a table of the paper is made of: columns, subjects, and which cells they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from benchmarks.cell import Cell
from benchmarks.report.gather import Group

from .published import Line, Published

if TYPE_CHECKING:
    from .formats import Extra
    from .measured import Grid, Stores

ANY = "*"  # an option with any value
PLAIN: Mapping[str, Any] = {  # what the paper's probes are, where a pick says nothing else
    "noise": 0.0,
    "labels": "true",
    "rank": 8,
    "targets": "all",
    "variant": "lora",
}


@dataclass(frozen=True)
class Pick:
    """Which cells stand for a number, seeds aside.

    Attributes:
        methods: the first of them that has cells counts.
        model, data, labels: of the cell, as patterns (fnmatch).
        intrinsic: of the cell.
        alignments: of the cell; empty for any.
        options: that must be there with this value, or with any value for ANY; over PLAIN, whose
            options need not be there.
        each: intrinsic to options that hold for it alone.
        train: training pictures, None for any.
        larger: whether test pictures are larger than training pictures, None for either.
    """

    methods: tuple[str, ...]
    model: str = ANY
    intrinsic: str = "normal"
    data: str = ANY
    labels: str = ANY
    alignments: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train: int | None = None
    larger: bool | None = None

    def with_(self, **changes: Any) -> Pick:
        """The pick with some values replaced and `options` added."""
        options = dict(self.options) | dict(changes.pop("options", {}))
        return replace(self, options=options, **changes)


@dataclass(frozen=True)
class Column:
    """One number of every subject.

    Attributes:
        key: its column in the published file, or a key of `Subject.published`.
        title: as the paper prints it; group: what it prints above several columns.
        metric: in a record's scores, or a name of measured.FACTS; "" for what is not measured here.
        decimals: of our number, None for as many as it has.
        picks: what it changes in the subject's pick.
        lower: whether less is better; None where nothing is better.
    """

    key: str
    title: str
    metric: str
    decimals: int | None = 2
    group: str = ""
    picks: Mapping[str, Any] = field(default_factory=dict)
    lower: bool | None = True

    @property
    def intrinsic(self) -> str:
        """What is asked for."""
        return str(self.picks.get("intrinsic", "normal"))

    @property
    def name(self) -> str:
        """Title with its group."""
        return f"{self.group}: {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Subject:
    """A model, a method or a setting: one row, or one column of a figure.

    Attributes:
        labels: as the paper prints them.
        pick: its cells; None where nothing measures it.
        published: column's key -> text as printed; "" or no key where the paper gives none.
        counts: column's metric -> number counted on the architecture (counts.json), and its "parameters".
        x: place on the axis of a curve, None for names.
    """

    labels: tuple[str, ...]
    pick: Pick | None
    published: Line = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    x: float | None = None


@dataclass(frozen=True)
class Layout:
    """A table: its heads, who is in it and what is asked.

    Attributes:
        heads: of the labels.
        across: whether the subjects run across the page, as below the pictures of a figure.
        axis: what `Subject.x` is.
    """

    heads: tuple[str, ...]
    subjects: tuple[Subject, ...]
    columns: tuple[Column, ...]
    across: bool = False
    axis: str = ""


@dataclass(frozen=True)
class World:
    """The models that play the paper's parts, in the paper's own runs or on rooms.

    Attributes:
        published: whether the paper has numbers for it.
        models: part -> model's name; a part that is not there has no row.
        real: pattern of the data set of real pictures.
        truth: intrinsic -> what stands for the truth on generated pictures, as a pattern.
        alignments: of depth.
        predictors: intrinsic -> options of the supervised row.
        options: method -> options that tell the twin's cells from others of the same store.
    """

    published: bool
    models: Mapping[str, str]
    real: str
    truth: Mapping[str, str]
    alignments: tuple[str, ...]
    predictors: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


Counts = Mapping[str, Mapping[str, float]]
Build = Callable[[World, Published, Counts, Sequence[Group]], Layout]


@dataclass(frozen=True)
class Artifact:
    """A table or figure of the paper.

    Attributes:
        name: of its files; title: "Table 2".
        caption: what it shows; note: what the paper prints and what it does not.
        suite: its suite, whose store is `results/SUITE`; "" where there is none.
        build: makes its layout for a world.
        figure: "curve", "names", "scatter" or "" for a table alone.
        maps: whether its maps are drawn.
        planned: whether cells count that are planned and not in a store: it shows what they are set to.
        absent: what stands where nothing is measured.
        twin_note: what is said of the twin on rooms.
        twins: further stores of the twin, beside those the suite names.
        beside: whether what is published stands beside the twin, too.
        grids: fills the paper's grid and the twins' in place of `measured.fill`.
        extras: further tables made of the published numbers.
    """

    name: str
    title: str
    caption: str
    suite: str
    build: Build
    note: str = ""
    figure: str = ""
    maps: bool = False
    planned: bool = False
    absent: str = "not measured here"
    twin_note: str = ""
    twins: tuple[str, ...] = ()
    beside: bool = False
    grids: Callable[[Artifact, Published, Stores], tuple[Grid, list[Grid]]] | None = None
    extras: Callable[[Published], list[Extra]] | None = None


def option(cell: Cell, key: str) -> Any:
    """A value of a sweep: of a cell's own field, or of its method's options; None where it has none."""
    return cell.train if key == "train" else cell.options.get(key)
