"""Two cells on the same pictures: whether they differ by more than chance, and which of many pairs do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import bootstrap_interval

EXACT = 12  # units with up to which all 2^n signs are counted
FLIPS = 10_000  # random signs above that
BLOCK = 2_000_000  # numbers held at once


class Paired(NamedTuple):
    """The mean of differences between paired scores.

    Attributes:
        value, low, high: mean with its 95 % percentile bootstrap interval over units (None: one unit).
        p: two-sided, of the sign-flip test.
        n: independent units: pictures, or groups of them.
        how: "exact" or "Monte Carlo", and of how many signs.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    n: int
    how: str


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p values (k,) adjusted for k questions asked at once, in their order; at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 1979.
    Raises ValueError for anything that is no p value.
    """
    values = np.asarray(p, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p values lie within 0 and 1 in one row, got {values}")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    found = np.empty_like(values)
    found[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return found


def sign_flip(differences: ArrayLike, clusters: ArrayLike | None = None, seed: int = 0) -> tuple[float, str]:
    """Two-sided p of a mean of zero if every unit's sign were a coin's: Fisher's randomization test of pairs.

    Args:
        differences: (n,) one per picture.
        clusters: (n,) labels; pictures of one label keep one sign.
        seed: of the random signs, where they are too many to count.

    Returns:
        p and how it was counted. Random signs count the observed ones, too: Phipson and Smyth, SAGMB 2010.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("differences are finite numbers in one row, one at least")
    labels = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    if labels.shape != values.shape:
        raise ValueError(f"clusters of shape {labels.shape} for differences of shape {values.shape}")
    sums = np.bincount(labels, values)
    observed, units = abs(sums.sum()) - 1e-12 * np.abs(sums).sum(), len(sums)
    if units <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=units)))
        reached = np.abs(signs @ sums) >= observed
        return float(reached.mean()), f"exact, {len(signs)} signs"
    blocks = _kept(units, seed) if FLIPS * units <= BLOCK else _signs(units, seed)
    count = 1 + sum(int((np.abs(signs @ sums) >= observed).sum()) for signs in blocks)
    return count / (FLIPS + 1), f"Monte Carlo, {FLIPS} signs"


def _signs(units: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks (k, units) of random signs, FLIPS together."""
    stream, left = np.random.default_rng([seed, 20_26]), FLIPS
    while left:
        rows = min(left, max(1, BLOCK // units))
        coins = stream.integers(0, 2, (rows, units), dtype=np.int8)
        yield coins.astype(np.float64) * 2 - 1
        left -= rows


@lru_cache(maxsize=4)
def _kept(units: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    """The same of few units, kept: all pairs of a report take them."""
    return tuple(_signs(units, seed))


def paired(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, seed: int = 0) -> Paired:
    """How much more a has than b on the same pictures, in the same order: (n,) each."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values need one shape, got {first.shape} and {second.shape}")
    between = bootstrap_interval(first - second, clusters=clusters, seed=seed)
    p, how = sign_flip(first - second, clusters, seed)
    return Paired(between.value, between.low, between.high, p, between.n, how)
