"""Table 1: the paper's marks, those of our rule for measured models, and how far the rule agrees with them.

The rule is benchmarks.metrics.skill: judge. The paper tells of no control on its data, so on its own numbers
the worst model of a column stands in for one. That is no mean map: it knows something, and its pictures are
its own, as every model's are. What is found so is a comparison among the paper's seven models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import NamedTuple

from benchmarks.data import own_pictures
from benchmarks.metrics.skill import (
    GRID,
    LEVEL,
    MARKS,
    MUCH,
    SOME,
    YES,
    Agreement,
    Skill,
    agreement,
    judge,
    leave_one_out,
)
from benchmarks.metrics.statistics import Interval
from benchmarks.report.gather import MISSING
from benchmarks.report.known import ALONE, LINEAR, ONE_CONTROL, Known, find_known

from .artifacts import INTRINSICS, MARK, MODEL_HEADS, TABLE_1, TABLE_2, rows_of, table_1
from .formats import Extra, Line, Sheet
from .layout import Artifact, Layout, Subject, World
from .measured import NO_NUMBER, Grid, Slot, Stores
from .published import Line as Told
from .published import Published
from .worlds import PAPER, ROOMS

ERRORS = {"normal": "normal_mean_deg", "depth": "depth_rms", "albedo": "albedo_rms", "shading": "shading_rms"}
SIGNS = {LINEAR: "+", ONE_CONTROL: "*"}  # here another sign stands for what was counted
OWN, SHOWN = "rooms, its own pictures", "rooms, renders shown to it"


class Judged(NamedTuple):
    """One of the paper's marks beside the rule's.

    Attributes:
        labels: of the model.
        error: of table 2, skill: over the worst of its column; worst: whether it is the worst itself.
        paper, rule: marks; apart: the rule's with thresholds chosen without this mark.
    """

    labels: tuple[str, ...]
    intrinsic: str
    error: float
    skill: float
    worst: bool
    paper: str
    rule: str
    apart: str


def judge_published(published: Published) -> list[Judged]:
    """Every mark of table 1, intrinsic by intrinsic, judged by the errors of table 2."""
    errors = {part: line for _, part, line in rows_of(published, "table2", TABLE_2)}
    told = [
        (labels, name, float(errors[part][ERRORS[name]]), line[name])
        for name in INTRINSICS
        for labels, part, line in rows_of(published, "table1", TABLE_1)
    ]
    worst = {name: max(error for _, other, error, _ in told if other == name) for name in INTRINSICS}
    skills = [1 - error / worst[name] for _, name, error, _ in told]
    apart = leave_one_out(skills, [mark for *_, mark in told])
    return [
        Judged(labels, name, error, skill, error == worst[name], mark, judge(skill), left)
        for (labels, name, error, mark), skill, left in zip(told, skills, apart, strict=True)
    ]


def agree(found: Sequence[Judged], apart: bool = False) -> Agreement:
    """How far the rule says what the paper says; `apart`: with thresholds chosen without each mark."""
    return agreement([one.apart if apart else one.rule for one in found], [one.paper for one in found])


def most(found: Sequence[Judged]) -> int:
    """The most marks that any two thresholds of GRID get right: errors out of order cap it."""
    return max(
        sum(one.paper == MARKS[(one.skill >= some) + (one.skill >= much)] for one in found)
        for some, much in product(GRID, GRID)
        if some <= much
    )


def extras(published: Published) -> list[Extra]:
    """The rule on the paper's own numbers, and how far it agrees."""
    found = judge_published(published)
    heads = (*(name.capitalize() for name in INTRINSICS),)
    one = Sheet(MODEL_HEADS, (), heads, tuple(_lines(found)), True)
    return [Extra("rule", "The rule on the paper's own numbers", _caption(found), one, _notes(found))]


def _lines(found: Sequence[Judged]) -> Iterator[Line]:
    for labels in dict.fromkeys(one.labels for one in found):
        own = [one for one in found if one.labels == labels]
        yield Line(labels, "published", tuple(MARK[one.paper] for one in own))
        again = ("",) * len(labels)
        yield Line(again, "rule", tuple(f"{MARK[one.rule]} {100 * one.skill:.1f} %" for one in own))
        yield Line(again, "chosen without it", tuple(MARK[one.apart] for one in own))


def _caption(found: Sequence[Judged]) -> str:
    return (
        f"Rule: {MARK['yes']} from a skill of {100 * MUCH:.0f} %, {MARK['partial']} from {100 * SOME:.0f} %. "
        "Skill: 100 (1 - error of table 2 / error of the worst model of the column). The paper tells of no "
        "control on these pictures, so its worst model stands in for one. It gives no intervals, so the "
        "skill decides alone. The rule says what the paper says of "
        f"{_said(agree(found))}. Chosen without it: each mark by thresholds that were chosen from the other "
        f"{len(found) - 1}: {_said(agree(found, True))}."
    )


def _said(value: Agreement) -> str:
    kappa = "not defined" if value.kappa is None else f"{value.kappa:.2f}"
    return f"{value.same} of {value.n} marks (Cohen's kappa {kappa})"


def _notes(found: Sequence[Judged]) -> tuple[str, ...]:
    rest = [one for one in found if not one.worst]
    yes = sum(one.paper == YES for one in found)
    each = "; ".join(f"{n} {_share(found, n)}" for n in INTRINSICS)
    return (
        f"By intrinsic, chosen without it: {each}. The worst of a column has no skill by construction; "
        f"without those {len(found) - len(rest)} the rule chosen apart agrees on {_said(agree(rest, True))}.",
        f"For comparison: to say {MARK['yes']} of everything agrees on {yes} of {len(found)} (kappa 0), and "
        f"no two thresholds agree on more than {most(found)}, since the paper's marks do not follow its "
        f"errors: {_crossed(found)}. Thresholds are chosen so that each of the three marks counts alike, "
        f"else {MARK['partial']} would never be said.",
        f"They differ on: {_differences(found)}.",
    )


def _share(found: Sequence[Judged], intrinsic: str) -> str:
    own = agree([one for one in found if one.intrinsic == intrinsic], True)
    return f"{own.same} of {own.n}"


def _crossed(found: Sequence[Judged]) -> str:
    """One pair of each intrinsic where the larger error has the better mark."""
    said = []
    for name in INTRINSICS:
        own = [one for one in found if one.intrinsic == name]
        pairs = [(b.error - a.error, a, b) for a in own for b in own if _better(b, a) and b.error > a.error]
        if pairs:
            _, low, high = max(pairs, key=lambda pair: pair[0] / pair[1].error)
            said.append(
                f"{name} of {_name(high)} has {MARK[high.paper]} at {high.error:g}, of {_name(low)} "
                f"{MARK[low.paper]} at {low.error:g}"
            )
    return "; ".join(said)


def _better(a: Judged, b: Judged) -> bool:
    return MARKS.index(a.paper) > MARKS.index(b.paper)


def _name(one: Judged) -> str:
    return f"{one.labels[0]} ({one.labels[-1]})"


def _differences(found: Sequence[Judged]) -> str:
    """Every mark on which rule and paper differ, by what they say."""
    said: dict[tuple[str, str], list[str]] = {}
    for one in found:
        if one.paper != one.rule:
            what = f"{one.intrinsic} of {_name(one)}, {100 * one.skill:.1f} %"
            said.setdefault((one.paper, one.rule), []).append(what)
    return "; ".join(f"paper {MARK[a]}, rule {MARK[b]}: {', '.join(names)}" for (a, b), names in said.items())


def grids(artifact: Artifact, published: Published, stores: Stores) -> tuple[Grid, list[Grid]]:
    """The paper's models where they were measured, and those of rooms, each beside the paper's marks."""
    layout = table_1(PAPER, published, {}, ())
    parts = [part for _, part, _ in rows_of(published, "table1", TABLE_1)]
    here = [one for one in _known(stores, "table2") if _of_paper(PAPER, one)]
    rows = [
        _slots(subject.published, _by_intrinsic(here, PAPER.models[part]))
        for subject, part in zip(layout.subjects, parts, strict=True)
    ]
    return Grid(layout, tuple(rows), stores.folder("table2")), _rooms(artifact, published, stores, layout)


def _known(stores: Stores, name: str) -> list[Known]:
    return [one for one in find_known(stores(name), stores.facts(name)) if one.shown]


def _of_paper(world: World, one: Known) -> bool:
    """Whether the predictor and the alignment of depth are the paper's."""
    fits = fnmatchcase(one.question.context.labels, world.truth[one.question.intrinsic])
    return fits and (one.question.intrinsic != "depth" or one.question.alignment in world.alignments)


def _by_intrinsic(found: Sequence[Known], model: str) -> dict[str, Known]:
    """The first of each intrinsic."""
    return {one.question.intrinsic: one for one in reversed(found) if one.model == model}


def _rooms(artifact: Artifact, published: Published, stores: Stores, paper: Layout) -> list[Grid]:
    """One grid; a model has a row for pictures of its own and one for renders, each from one store."""
    known, subjects, rows = [_known(stores, name) for name in artifact.twins], [], []
    for labels, part, line in rows_of(published, "table1", TABLE_1):
        for place in (OWN, SHOWN):
            found = _first(known, ROOMS.models.get(part, ""), place == OWN)
            if found:
                told = {name: MARK[line[name]] for name in INTRINSICS}
                subjects.append(Subject((*labels[:2], place), None, told))
                rows.append(_slots(told, found))
    layout = Layout(MODEL_HEADS, tuple(subjects), paper.columns)
    return [Grid(layout, tuple(rows), stores.folder("rooms"))] if rows else []


def _first(stores: Sequence[Sequence[Known]], model: str, own: bool) -> dict[str, Known]:
    """What the first store that asked a model on such pictures knows of it, by intrinsic."""
    for known in stores:
        fits = [one for one in known if one.found and own_pictures(one.question.context.data) == own]
        if found := _by_intrinsic(fits, model):
            return found
    return {}


def _slots(told: Told, found: Mapping[str, Known]) -> tuple[Slot, ...]:
    return tuple(_slot(told[name], found.get(name)) for name in INTRINSICS)


def _slot(published: str, one: Known | None) -> Slot:
    if one is None or one.found is None or not one.found.mark:
        mark = MISSING if one is None else NO_NUMBER if one.mark == ALONE else one.mark
        return Slot(published, None, mark, group=one.group if one else None)
    mark = MARK[one.found.mark] + "".join(SIGNS[sign] for sign in one.notes)
    return Slot(published, _percent(one.found), mark, one.group.seeds, group=one.group)


def _percent(value: Skill) -> Interval:
    ends = [None if end is None else 100 * end for end in (value.low, value.high)]
    method = f"paired bootstrap against {value.control}"
    return Interval(100 * value.value, ends[0], ends[1], LEVEL, value.n, method, "", value.seeds)
