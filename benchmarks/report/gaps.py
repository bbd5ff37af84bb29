"""One way of asking against another, over models: which is better, by how much, and in how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.evidence import LEVEL
from benchmarks.metrics.paired import holm, paired
from benchmarks.metrics.statistics import Interval, mean_over_seeds

from .ceiling import amount
from .gather import Group, Question

YES, NO, OPEN = 1, -1, 0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """One way of asking against another, in pairs: of one model, or of a model and its control.

    Attributes:
        names: the first models of the pairs.
        gain: what the first is better by (negative: worse) on average, in the metric's unit, with a 95 %
            bootstrap interval over pairs and test pictures.
        better: pairs whose mean is better.
        surely_better, surely_worse: those that stay so after Holm's correction over the pairs.
    """

    names: tuple[str, ...]
    gain: Interval
    better: int
    surely_better: int
    surely_worse: int

    @property
    def models(self) -> int:
        """Pairs."""
        return len(self.names)

    @property
    def sign(self) -> int:
        """YES or NO where the interval is on one side of zero."""
        if not self.gain.excludes(0):
            return OPEN
        return YES if self.gain.value > 0 else NO

    def amount(self, question: Question) -> str:
        """As "better by 1.14 ° [0.40, 1.90]"."""
        shown = self.gain if self.gain.value >= 0 else _turned(self.gain)
        unit = "points" if question.unit == "%" else question.unit
        way = "better" if self.gain.value >= 0 else "worse"
        return f"{way} by {amount(shown, question.metric.decimals, unit)}"

    def words(self, question: Question) -> str:
        """The amount, and in how many models it is so."""
        if self.models == 1:
            sure = self.surely_better + self.surely_worse
            return f"{self.amount(question)} (one model, {'certain' if sure else 'not certain'})"
        counts = f"better in {self.better} of {self.models} models, certainly in {self.surely_better}"
        worse = f", certainly worse in {self.surely_worse}" if self.surely_worse else ""
        return f"{self.amount(question)} on average ({counts}{worse})"

    def brief(self, question: Question) -> str:
        """The amount and the number of models."""
        return f"{self.amount(question)}, {model_count(self.models)}"


def model_count(n: int) -> str:
    """As "5 models"."""
    return "one model" if n == 1 else f"{n} models"


def _turned(value: Interval) -> Interval:
    low = None if value.high is None else -value.high
    high = None if value.low is None else -value.low
    return Interval(-value.value, low, high, value.level, value.n, value.method, value.reason, value.seeds)


def gap(
    question: Question, pairs: Sequence[tuple[Group, Group]], floor: Array | float | None = None
) -> Gap | None:
    """The pairs together, without those of other numbers of test pictures than the first; None without any.

    Models that have pictures of their own pair them by their place: that tests whether the means differ.

    Args:
        floor: what a model counts as whose mean is worse: a number, or one for each test picture. A network
            whose maps are thousands of percent worse than the mean map says nothing of what another knows.
    """
    told = [(a.cell.model, *each) for a, b in pairs if (each := scores([a, b])) is not None]
    sign = -1 if question.metric.lower_is_better else 1
    same = [
        (name, _floored(rows, floor, sign), c) for name, rows, c in told if rows.shape == told[0][1].shape
    ]
    if not same:
        return None
    clusters = same[0][2]
    gains = np.stack([sign * (rows[0] - rows[1]) for _, rows, _ in same])
    p = holm([tested(rows[0].tobytes(), rows[1].tobytes(), c)[1] for _, rows, c in same])
    means, sure = gains.mean(1), p < LEVEL
    value = mean_over_seeds(gains, clusters=clusters or None)
    counts = (int((means > 0).sum()), int((sure & (means > 0)).sum()), int((sure & (means < 0)).sum()))
    return Gap(tuple(name for name, _, _ in same), value, *counts)


def _floored(rows: Array, floor: Array | float | None, sign: int) -> Array:
    if floor is None or np.size(floor) not in (1, rows.shape[1]):
        return rows
    return np.where(sign * rows.mean(1, keepdims=True) < sign * np.mean(floor), floor, rows)


def scores(groups: Sequence[Group]) -> tuple[Array, tuple[str, ...]] | None:
    """A number for each model and test picture, seeds averaged, and the pictures' groups; None if unequal."""
    metric = groups[0].question.metric.name
    each = [[record.per_image.get(metric) or [] for record in group.done] for group in groups]
    if len({len(values) for seeds in each for values in seeds}) != 1 or not each[0][0]:
        return None
    clusters = tuple(groups[0].done[0].details.get("groups") or ())
    rows = np.stack([np.asarray(seeds, np.float64).mean(0) for seeds in each])
    return rows, clusters if len(clusters) == rows.shape[1] else ()


@lru_cache(maxsize=8192)
def tested(first: bytes, second: bytes, clusters: tuple[str, ...]) -> tuple[float, float]:
    """Mean difference and p of two rows of numbers; pages and lists ask for the same ones."""
    found = paired(np.frombuffer(first), np.frombuffer(second), clusters or None)
    return found.value, found.p
