"""Which differences are more than chance: cells on the same pictures, in pairs, corrected for their number.

Two kinds of pairs: methods that asked the same model, and a model against its own random initialization,
asked by the same method. Numbers of different data, labels, sizes or alignments are never paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from benchmarks.data import own_pictures
from benchmarks.metrics.paired import Paired, holm, paired
from probes.methods import METHODS

from .formats import markdown_grid, markdown_text
from .gaps import scores
from .gather import Facts, Group, Question, main_settings, plain

LEVEL = 0.05
COLUMNS = (
    *("data", "labels", "intrinsic", "alignment", "metric", "first", "second"),
    *("difference", "low", "high", "p", "p_holm", "questions", "units", "test"),
)


@dataclass(frozen=True)
class Comparison:
    """One pair: the first's primary metric minus the second's.

    Attributes:
        found: the mean difference over pictures, seeds averaged before.
        p: after Holm's correction for all pairs of the question.
        questions: how many these are.
    """

    question: Question
    first: str
    second: str
    found: Paired
    p: float
    questions: int

    @property
    def verdict(self) -> str:
        """In words: which is better, or that this is not told."""
        if self.p >= LEVEL:
            return "not told apart"
        lower = self.question.metric.lower_is_better
        return f"{self.first if (self.found.value < 0) == lower else self.second} is better"


def find_comparisons(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Comparison]:
    """All pairs, those of one question together, corrected for their number."""
    main = main_settings(groups, facts)
    shown: dict[Question, dict[tuple[str, str], Group]] = {}
    for group in groups:
        cell = group.cell
        if plain(cell) and group.done:
            key = (group.question, cell.method, facts[cell.model].family)
            if main[key] == group.setting:
                shown.setdefault(group.question, {})[cell.model, cell.method] = group
    found: list[Comparison] = []
    for question, there in shown.items():
        pairs = list(_pairs(question, there, facts))
        corrected = holm([pair.found.p for pair in pairs])
        found += [replace(c, p=float(p), questions=len(pairs)) for c, p in zip(pairs, corrected, strict=True)]
    return found


def _pairs(
    question: Question, there: Mapping[tuple[str, str], Group], facts: Mapping[str, Facts]
) -> Iterator[Comparison]:
    order = list(METHODS)
    for model in dict.fromkeys(model for model, _ in there):
        asked = sorted((method for name, method in there if name == model), key=order.index)
        for a, b in combinations(asked, 2):
            names = [f"{METHODS[m].title} of {facts[model].title}" for m in (a, b)]
            yield from _pair(question, names, there[model, a], there[model, b])
    if own_pictures(question.context.data):
        return  # each model has its own pictures
    for (model, method), group in there.items():
        told = facts[model]
        if told.trained == 0:
            continue
        for other, asked_by in there:
            random = facts[other]
            if asked_by == method and random.family == told.family and random.trained == 0:
                names = [f"{METHODS[method].title} of {facts[m].title}" for m in (model, other)]
                yield from _pair(question, names, group, there[other, method])


def _pair(question: Question, names: Sequence[str], a: Group, b: Group) -> Iterator[Comparison]:
    """The pair, if both have one score for each of the same pictures."""
    found = scores([a, b])
    if found is not None:
        (first, second), clusters = found
        yield Comparison(question, names[0], names[1], paired(first, second, clusters or None), 1.0, 0)


def comparison_lines(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A line of CSV for each pair."""
    return [
        dict(
            zip(
                COLUMNS,
                (
                    *(c.question.context.data, c.question.context.labels),
                    *(c.question.intrinsic, c.question.alignment, c.question.metric.name),
                    *(c.first, c.second, c.found.value, c.found.low, c.found.high),
                    *(c.found.p, c.p, c.questions, c.found.n, c.found.how),
                ),
                strict=True,
            )
        )
        for c in found
    ]


HEAD = ("first", "second", "first - second", "p, Holm", "")
ABOUT = (
    "Mean difference over the test pictures, seeds averaged, with a 95 % bootstrap interval; p of the "
    "sign-flip test, corrected by Holm for all pairs of a question. What another training seed would give is "
    "not in it."
)


def comparison_rows(found: Sequence[Comparison]) -> Iterator[tuple[Question, list[list[str]]]]:
    """The rows of each question."""
    for question in dict.fromkeys(c.question for c in found):
        yield question, [_row(c) for c in found if c.question == question]


def _row(c: Comparison) -> list[str]:
    digits, unit = c.question.metric.decimals, c.question.unit
    between = f" [{c.found.low:+.{digits}f}, {c.found.high:+.{digits}f}]" if c.found.low is not None else ""
    return [
        c.first,
        c.second,
        f"{c.found.value:+.{digits}f}{between} {unit}".rstrip(),
        f"{c.p:.2g}",
        c.verdict,
    ]


def comparison_markdown(found: Sequence[Comparison]) -> str:
    """Every question's pairs; a word where there is none."""
    parts = [ABOUT] if found else ["No two cells share their test pictures."]
    for question, rows in comparison_rows(found):
        table = markdown_grid(HEAD, [[markdown_text(text) for text in row] for row in rows])
        parts.append(f"## {markdown_text(question.title)}: {question.metric.title}\n\n{table}")
    return "\n\n".join(parts)
