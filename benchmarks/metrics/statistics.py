"""Intervals and correlations of scores: plain numpy, every random stream named by purpose and seed."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.stats import rankdata

Array = NDArray[np.float64]
EXACT = 8  # most pairs for which all orders are counted: 8! = 40,320
ORDERS = 9999  # random orders above that: p has a resolution of 1 / 10,000
_BLOCK = 2_000_000  # numbers held at once while resampling


def _stream(purpose: str, seed: int) -> np.random.Generator:
    """The random numbers of one purpose and seed: a new purpose moves no other draw."""
    key = np.frombuffer(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Sizes of blocks of rows of `width` numbers that together are `rows` rows."""
    size = max(1, _BLOCK // max(width, 1))
    yield from (min(size, rows - start) for start in range(0, rows, size))


def _finite(values: ArrayLike, dimensions: Sequence[int], name: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim not in dimensions or array.size == 0:
        raise ValueError(f"{name} must be a filled array of {dimensions} axes, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or Inf at index {np.argwhere(~np.isfinite(array))[0].tolist()}")
    return array


def _check_resampling(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 100:
        raise ValueError(f"need 0 < level < 1 and resamples >= 100, got {level} and {resamples}")


@dataclass(frozen=True)
class Interval:
    """A mean and the interval its resamples fall in.

    Attributes:
        value: the mean itself.
        low, high: the ends, or None where no interval is defined; `reason` then says why.
        level: share of resamples inside, as 0.95.
        n: independent units that were resampled (pictures, or clusters where given).
        method: how the ends were found.
        reason: why there are no ends, "" where there are.
        seeds: training runs that were resampled, 1 where there is one set of values.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    n: int
    method: str
    reason: str = ""
    seeds: int = 1

    @property
    def defined(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside; False where no interval is defined."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def _clustered(values: Array, clusters: ArrayLike | None) -> tuple[Array, Array]:
    """Sum and count of each cluster; each value is its own cluster where none are given."""
    if clusters is None:
        return values, np.ones_like(values)
    labels = np.asarray(clusters)
    if labels.shape != values.shape:
        raise ValueError(f"clusters of shape {labels.shape} for values of shape {values.shape}")
    index = np.unique(labels, return_inverse=True)[1]
    return np.bincount(index, values).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled_means(sums: Array, counts: Array, resamples: int, stream: np.random.Generator) -> Array:
    n, found = len(sums), []
    for block in _blocks(resamples, n):
        drawn = stream.integers(n, size=(block, n))
        found.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(found)


def _bca_levels(means: Array, value: float, sums: Array, counts: Array, tails: Array) -> Array:
    """Quantile levels of BCa, with the jackknife's acceleration: Efron, JASA 1987, sections 2 and 6."""
    below = ((means < value).mean() + (means <= value).mean()) / 2
    bias = special.ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means))))
    without = (sums.sum() - sums) / (counts.sum() - counts)
    deviation = without.mean() - without
    spread = (deviation**2).sum()
    acceleration = (deviation**3).sum() / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + special.ndtri(tails)
    return np.asarray(special.ndtr(bias + shifted / (1 - acceleration * shifted)))


def bootstrap_interval(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    clusters: ArrayLike | None = None,
    kind: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Bootstrap interval of a mean: Efron and Tibshirani, "An introduction to the bootstrap", 1993.

    Args:
        values: (n,) one number per picture.
        level: share of resamples inside.
        resamples: how many, at least 100.
        seed: of the resamples.
        clusters: (n,) labels; pictures of one label (one scene, one room) are drawn together.
        kind: "percentile", or "bca" (bias-corrected and accelerated) for skewed values and few of them.

    Raises:
        ValueError: NaN or Inf, no values, another shape, an unknown kind.
    """
    array = _finite(values, (1,), "values")
    _check_resampling(level, resamples)
    if kind not in ("percentile", "bca"):
        raise ValueError(f"kind must be percentile or bca, got {kind!r}")
    sums, counts = _clustered(array, clusters)
    value, n, method = float(array.mean()), len(sums), f"{kind} bootstrap, {resamples} resamples"
    if n < 2:
        unit = "value" if clusters is None else "cluster"
        return Interval(value, None, None, level, n, method, f"one {unit} has no interval")
    means = _resampled_means(sums, counts, resamples, _stream("bootstrap", seed))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if kind == "bca":
        tails = _bca_levels(means, value, sums, counts, tails)
    low, high = np.quantile(means, tails)
    return Interval(value, float(low), float(high), level, n, method)


def _clustered_rows(array: Array, clusters: ArrayLike | None) -> tuple[Array, Array]:
    """Sums (seeds, groups) of the values (seeds, n) of each group, and how many values a group has."""
    if clusters is None:
        return array, np.ones(array.shape[1])
    parts = [_clustered(row, clusters) for row in array]
    return np.stack([sums for sums, _ in parts]), parts[0][1]


def mean_over_seeds(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Interval:
    """Bootstrap interval of a mean over training seeds and pictures, both resampled (crossed design).

    Every resample draws seeds and, independently, pictures that all drawn seeds share. An axis of length
    1 cannot be resampled and adds no width; with k seeds the seeds' part of the variance is too small by
    (k - 1) / k. Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.

    Args:
        values: (seeds, pictures), the same pictures for every seed.
        level, resamples, seed: as in `bootstrap_interval`.
        clusters: (pictures,) labels; pictures of one label (one scan, one scene) are drawn together.

    Raises:
        ValueError: NaN or Inf, no values, not two axes, or clusters of another length.
    """
    array = _finite(values, (2,), "values")
    _check_resampling(level, resamples)
    sums, counts = _clustered_rows(array, clusters)
    seeds, n = sums.shape
    unit = "pictures" if clusters is None else "groups of pictures"
    drawn = " and ".join(name for name, k in (("seeds", seeds), (unit, n)) if k > 1)
    method = f"percentile bootstrap over {drawn or 'nothing'}, {resamples} resamples"
    if array.size < 2:
        return Interval(float(array.mean()), None, None, level, n, method, "one value has no interval", seeds)
    stream, found = _stream("seeds-and-pictures", seed), []
    for block in _blocks(resamples, n):
        rows = stream.multinomial(seeds, np.full(seeds, 1 / seeds), block)
        columns = stream.multinomial(n, np.full(n, 1 / n), block)
        found.append(((rows @ sums) * columns).sum(1) / (seeds * (columns @ counts)))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), level, n, method, "", seeds)


def paired_difference(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of mean(a - b) where both scored the same pictures, in the same order.

    Args:
        a, b: (n,), or (seeds, n) where run k of a and of b are paired by seed.
        level, resamples, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: shapes that differ, NaN or Inf, no values.
    """
    first, second = _finite(a, (1, 2), "a"), _finite(b, (1, 2), "b")
    if first.shape != second.shape:
        raise ValueError(f"paired values need one shape, got {first.shape} and {second.shape}")
    difference = first - second
    if difference.ndim == 2 and len(difference) > 1:
        return mean_over_seeds(difference, level, resamples, seed)
    return bootstrap_interval(difference.ravel(), level, resamples, seed)


@dataclass(frozen=True)
class Coefficient:
    """One correlation coefficient with its interval and permutation p.

    Attributes:
        value: in [-1, 1].
        low, high: percentile bootstrap interval over the pairs.
        p: two-sided: share of orders of y whose coefficient is at least as far from zero.
    """

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Correlation:
    """Spearman, Pearson and Kendall (tau-b) of the same pairs.

    Attributes:
        n: pairs.
        spearman, pearson, kendall: the coefficients, None where they are not defined.
        reason: why they are not defined, "" where they are.
        level: of the intervals.
        resamples: resamples with two distinct x and y, which the intervals are made of.
        permutation: "exact" or "Monte Carlo", and of how many orders.
    """

    n: int
    spearman: Coefficient | None = None
    pearson: Coefficient | None = None
    kendall: Coefficient | None = None
    reason: str = ""
    level: float = 0.95
    resamples: int = 0
    permutation: str = ""

    @property
    def defined(self) -> bool:
        """Whether there are coefficients."""
        return self.spearman is not None

    def __str__(self) -> str:
        if self.spearman is None or self.pearson is None or self.kendall is None:
            return f"not defined: {self.reason} (n = {self.n})"
        named = {"Spearman": self.spearman, "Pearson": self.pearson, "Kendall": self.kendall}
        parts = [
            f"{name} {c.value:+.2f} [{c.low:+.2f}, {c.high:+.2f}], p = {c.p:.2g}" for name, c in named.items()
        ]
        return f"{'; '.join(parts)}; n = {self.n}, {self.level:.0%} bootstrap, {self.permutation}"


def _standard(values: Array) -> Array:
    """Rows (k, n) centered and of length 1; a constant row becomes zero."""
    # Dividing by the largest deviation first keeps squares of extreme values finite.
    centered = values - values.mean(1, keepdims=True)
    centered[np.ptp(values, 1) == 0] = 0
    largest = np.abs(centered).max(1, keepdims=True)
    centered = centered / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(centered, axis=1, keepdims=True)
    return centered / np.where(length > 0, length, 1)


def pearson(x: Array, y: Array) -> Array:
    """Product-moment correlation of each row of x with the same row of y: (k, n), (k, n) -> (k,)."""
    return np.asarray((_standard(x) * _standard(y)).sum(1).clip(-1, 1))


def spearman(x: Array, y: Array) -> Array:
    """Rank correlation of rows, tied values sharing their mean rank: (k, n), (k, n) -> (k,)."""
    return pearson(rankdata(x, axis=1), rankdata(y, axis=1))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b of rows: (k, n), (k, n) -> (k,). Source: Kendall, Biometrika 1945."""
    first, second = np.triu_indices(x.shape[1], 1)
    sx, sy = (np.sign(v[:, first] - v[:, second]) for v in (x, y))
    untied = np.sqrt(np.abs(sx).sum(1) * np.abs(sy).sum(1))
    return np.asarray((sx * sy).sum(1) / np.where(untied > 0, untied, 1))


_COEFFICIENTS: dict[str, Callable[[Array, Array], Array]] = {
    "spearman": spearman,
    "pearson": pearson,
    "kendall": kendall,
}
_Found = dict[str, Array]


def _measured(pairs: Iterator[tuple[Array, Array]]) -> _Found:
    """Every coefficient of blocks of rows (k, n), (k, n)."""
    found = [{name: measure(x, y) for name, measure in _COEFFICIENTS.items()} for x, y in pairs]
    return {name: np.concatenate([block[name] for block in found]) for name in _COEFFICIENTS}


def _permuted(x: Array, y: Array, stream: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """x with every order of y, or with ORDERS random ones."""
    n = len(x)
    if n <= EXACT:
        orders = np.array(list(itertools.permutations(range(n))))
        yield np.broadcast_to(x, orders.shape), y[orders]
        return
    for block in _blocks(ORDERS, n * n):
        rows = np.broadcast_to(y, (block, n))
        yield np.broadcast_to(x, (block, n)), stream.permuted(rows, axis=1)


def _p_values(x: Array, y: Array, observed: _Found, seed: int) -> dict[str, float]:
    """Two-sided permutation p. Source of (1 + k) / (1 + m): Phipson and Smyth, SAGMB 2010."""
    null = _measured(_permuted(x, y, _stream("permutation", seed)))
    extra = 0 if len(x) <= EXACT else 1
    # The same coefficient summed in another order may differ in the last digits and still counts.
    reached = {name: np.abs(null[name]) >= np.abs(observed[name]) - 1e-12 for name in null}
    return {name: float((extra + r.sum()) / (extra + len(r))) for name, r in reached.items()}


def _resampled(x: Array, y: Array, count: int, stream: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Pairs drawn with replacement, without the resamples in which x or y is constant."""
    n = len(x)
    for block in _blocks(count, n * n):
        drawn = stream.integers(n, size=(block, n))
        varied = (np.ptp(x[drawn], 1) > 0) & (np.ptp(y[drawn], 1) > 0)
        yield x[drawn[varied]], y[drawn[varied]]


def _undefined(x: Array, y: Array) -> str:
    if len(x) < 3:
        return "fewer than three pairs"
    constant = [name for name, values in (("x", x), ("y", y)) if np.ptp(values) == 0]
    return f"{' and '.join(constant)} constant" if constant else ""


def correlation(
    x: ArrayLike, y: ArrayLike, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> Correlation:
    """Spearman, Pearson and Kendall correlation with intervals and permutation p.

    With up to EXACT pairs p counts all n! orders of y, above that ORDERS random ones; the result says
    which. The intervals resample pairs (models) with replacement; resamples in which x or y is constant
    have no coefficient and are left out, and how many remain is in the result. Intervals from a handful of
    models are rough: read them with n.

    Args:
        x, y: (n,) each, one pair per model.
        seed: of resamples and random orders.
        level, resamples: as in `bootstrap_interval`.

    Returns:
        A Correlation; with n < 3 or a constant x or y one that is not defined and says why.

    Raises:
        ValueError: NaN or Inf, or lengths that differ.
    """
    first, second = (np.asarray(values, np.float64) for values in (x, y))
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"correlation needs two vectors of one length, got {first.shape} and {second.shape}")
    _check_resampling(level, resamples)
    n = len(first)
    if n:
        _finite(first, (1,), "x"), _finite(second, (1,), "y")
    if reason := _undefined(first, second):
        return Correlation(n, reason=reason, level=level)
    observed = _measured(iter([(first[None], second[None])]))
    p = _p_values(first, second, observed, seed)
    drawn = _measured(_resampled(first, second, resamples, _stream("pairs", seed)))
    tails = [(1 - level) / 2, (1 + level) / 2]
    found: dict[str, Any] = {}
    for name, value in observed.items():
        low, high = np.quantile(drawn[name], tails)
        found[name] = Coefficient(float(value[0]), float(low), float(high), p[name])
    orders = f"exact p of {math.factorial(n)} orders" if n <= EXACT else f"Monte Carlo p of {ORDERS} orders"
    return Correlation(n, **found, level=level, resamples=len(drawn["pearson"]), permutation=orders)
