"""Skill: the share of a control's error that a model takes away, and the mark it gets for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
NO, PARTIAL, YES = MARKS = ("no", "partial", "yes")
SOME = 0.05  # least skill of "partial"; why: see `judge`
MUCH = 0.40  # least skill of "yes"
GRID = tuple(k / 20 for k in range(1, 20))  # thresholds to choose from: 28 marks tell no finer ones apart
LEVEL, RESAMPLES = 0.95, 2000
STREAMS = {"units": 20_261, "seeds": 20_262}  # purpose -> its random numbers


class Skill(NamedTuple):
    """1 - error / error of the better control.

    Attributes:
        value: at most 1; 0 is no better than the control, below 0 is worse.
        low, high: 95 % percentile bootstrap interval; None where one unit alone was scored.
        error: mean over pictures and seeds; against: that of the better control, whose name is `control`.
        n: independent units: pictures, or groups of them; seeds: training runs.
    """

    value: float
    low: float | None
    high: float | None
    error: float
    against: float
    control: str
    n: int
    seeds: int

    @property
    def mark(self) -> str:
        """What `judge` says of it; "" where there is no interval."""
        return judge(self.value, self.low) if self.low is not None else ""


def judge(value: float, low: float | None = None) -> str:
    """The paper's mark for a skill: "yes", "partial" or "no".

    "no": below SOME, or an interval that reaches down to 0: the control may be just as good.
    "yes": at least MUCH. "partial": what lies between.

    Why 0.05 and 0.40: `choose` finds them on the paper's own numbers (the errors of table 2 under the marks
    of table 1), with the worst model of a column in the control's place. There each mark counts alike: 20 of
    28 are "yes", and a rule that says nothing else would agree with all of those. The paper's worst model is
    likely to know more than a mean map does, so that skills over real controls are the higher ones.

    Args:
        low: lower end of the interval; None where there is none (published numbers): the value decides alone.
    """
    if value < SOME or (low is not None and low <= 0):
        return NO
    return YES if value >= MUCH else PARTIAL


def skill(
    error: ArrayLike,
    controls: Mapping[str, ArrayLike],
    clusters: ArrayLike | None = None,
    seed: int = 0,
) -> Skill:
    """Skill over the better of several controls, with a paired bootstrap interval.

    Pictures (or clusters of them) and training seeds are resampled as `statistics.mean_over_seeds` does, the
    better control's on the same pictures. It is the better one of all test pictures: asking that anew in
    each resample covers less. Where two controls are equally good the interval covers 92 to 93 % instead of
    95, and most of its misses lie below the truth, since the better of two looks better than it is.

    Args:
        error: (n,) or (seeds, n), lower is better, one per test picture.
        controls: name -> (n,) or (seeds, n) on the same pictures in the same order, seeds averaged; or one
            number where only the mean is known, which then adds nothing to the interval.
        clusters: (n,) labels; pictures of one label are drawn together.

    Raises:
        ValueError: no control, no picture, NaN or Inf, shapes that do not fit, a control without any error.
    """
    rows = _rows(error, "error")
    others = {name: _control(values, name, rows.shape[1]) for name, values in controls.items()}
    if not others:
        raise ValueError("skill needs a control, got none")
    means = {name: float(values.mean()) for name, values in others.items()}
    better = min(means, key=lambda name: means[name])
    if means[better] <= 0:
        raise ValueError(f"the control {better!r} has an error of {means[better]}: nothing is left to know")
    own = float(rows.mean())
    index = _index(rows.shape[1], clusters)
    units, value = int(index.max()) + 1, 1 - own / means[better]
    low = high = None
    if units > 1:
        found = 1 - _ratios(rows, others[better], index, seed)
        low, high = (float(v) for v in np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Skill(value, low, high, own, means[better], better, units, len(rows))


def _rows(values: ArrayLike, name: str) -> Array:
    array = np.atleast_2d(np.asarray(values, np.float64))
    if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers (n,) or (seeds, n), got shape {array.shape}")
    return array


def _control(values: ArrayLike, name: str, n: int) -> Array:
    """(n,) seeds averaged, or () where only the mean is known."""
    array = _rows(values, name).mean(0)
    if np.ndim(values) == 0:
        return np.asarray(array[0])
    if len(array) != n:
        raise ValueError(f"the control {name!r} has {len(array)} pictures, the error {n}")
    return np.asarray(array)


def _index(n: int, clusters: ArrayLike | None) -> NDArray[np.intp]:
    """The unit of each picture: 0, 1, ..."""
    if clusters is None:
        return np.arange(n)
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters of shape {labels.shape} for {n} pictures")
    return np.unique(labels, return_inverse=True)[1]


def _ratios(rows: Array, control: Array, index: NDArray[np.intp], seed: int) -> Array:
    """Error over the control's in each resample: (RESAMPLES,)."""
    counts = np.bincount(index).astype(np.float64)
    units = _drawn(len(counts), "units", seed)
    pictures = units @ counts
    sums = np.stack([np.bincount(index, row) for row in rows])
    error = ((_drawn(len(rows), "seeds", seed) @ sums) * units).sum(1) / (len(rows) * pictures)
    against = control if control.ndim == 0 else (units @ np.bincount(index, control)) / pictures
    return np.asarray(error / against)


@lru_cache(maxsize=16)
def _drawn(units: int, purpose: str, seed: int) -> Array:
    """How often each unit is drawn in each resample: (RESAMPLES, units), the same for all cells."""
    stream = np.random.default_rng([seed, STREAMS[purpose]])
    return stream.multinomial(units, np.full(units, 1 / units), RESAMPLES).astype(np.float64)


class Agreement(NamedTuple):
    """How often two rows of marks say the same.

    Attributes:
        same: of n.
        kappa: Cohen's, 0 where no more than chance, 1 where always; None where both say one mark alone.
    """

    same: int
    n: int
    kappa: float | None


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Agreement of marks (n,), (n,). Source: Cohen, Educational and Psychological Measurement 1960."""
    if len(first) != len(second) or not first:
        raise ValueError(f"agreement needs two rows of one length, got {len(first)} and {len(second)}")
    n, same = len(first), sum(a == b for a, b in zip(first, second, strict=True))
    chance = sum(list(first).count(mark) * list(second).count(mark) for mark in {*first, *second}) / n**2
    return Agreement(same, n, (same / n - chance) / (1 - chance) if chance < 1 else None)


def choose(skills: Sequence[float], marks: Sequence[str]) -> tuple[float, float]:
    """SOME and MUCH of GRID with the highest mean share of right marks, each mark counted alike.

    Of equals the lowest SOME, then the lowest MUCH.
    """
    there = [mark for mark in MARKS if mark in marks]

    def balanced(some: float, much: float) -> float:
        said = [_mark(value, some, much) for value in skills]
        return sum(_recall(said, marks, mark) for mark in there) / len(there)

    pairs = [(some, much) for some, much in itertools.product(GRID, GRID) if some <= much]
    return max(pairs, key=lambda pair: (round(balanced(*pair), 9), -pair[0], -pair[1]))


def _mark(value: float, some: float, much: float) -> str:
    return NO if value < some else YES if value >= much else PARTIAL


def _recall(said: Sequence[str], marks: Sequence[str], mark: str) -> float:
    right = [a == b for a, b in zip(said, marks, strict=True) if b == mark]
    return sum(right) / len(right)


def leave_one_out(skills: Sequence[float], marks: Sequence[str]) -> list[str]:
    """The mark of each by thresholds that were chosen without it."""
    found = []
    for k, value in enumerate(skills):
        others = [i for i in range(len(skills)) if i != k]
        found.append(_mark(value, *choose([skills[i] for i in others], [marks[i] for i in others])))
    return found
