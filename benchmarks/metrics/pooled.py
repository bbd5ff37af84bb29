"""One correlation over strata whose values must not be set against each other: domains, sources of truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from .statistics import (
    EXACT,
    ORDERS,
    Array,
    Noise,
    all_orders,
    bootstrap_ends,
    check_resampling,
    checked_noise,
    checked_pairs,
    drawn_pairs,
    p_value,
    random_stream,
    spearman,
    standardized,
    taken,
    undefined,
)


@dataclass(frozen=True)
class Pooled:
    """Spearman's coefficient within strata, as one number.

    Attributes:
        value, low, high, p: as of a Coefficient.
        n: pairs in all strata.
        strata: how many they are.
        permutation: as of a Correlation.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    strata: int
    permutation: str


def stratified(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
    noise: Sequence[tuple[ArrayLike, ArrayLike]] | None = None,
) -> Pooled | None:
    """Spearman correlation within strata, as one number: no value is set against one of another stratum.

    The mean of the strata's coefficients, weighted by n - 1: one over each one's variance where x and y
    are independent. p permutes y within strata, all orders of all strata where they are few. The interval
    resamples pairs within strata. Source: Taylor, "Kendall's and Spearman's correlation coefficients in
    the presence of a blocking variable", Biometrics 1987.

    Args:
        pairs: x and y (n,) of each stratum; those where no coefficient is defined are left out.
        seed, level, resamples: as in `correlation`.
        noise: for each stratum as in `correlation`.

    Returns:
        A Pooled; None where no stratum has a coefficient.
    """
    check_resampling(level, resamples)
    vectors = [checked_pairs(x, y) for x, y in pairs]
    kept = [k for k, (x, y) in enumerate(vectors) if not undefined(x, y)]
    if not kept:
        return None
    strata = [vectors[k] for k in kept]
    sizes = [len(x) for x, _ in strata]
    draws = [
        checked_noise(noise[k] if noise else None, (resamples, n)) for k, n in zip(kept, sizes, strict=True)
    ]
    weights = (np.array(sizes) - 1.0) / (sum(sizes) - len(sizes))
    value = float(sum(w * spearman(x[None], y[None])[0] for w, (x, y) in zip(weights, strata, strict=True)))
    null, exact = _pooled_null(strata, weights, seed)
    again = [
        _again(k, *pair, resamples, seed, d) for k, (pair, d) in enumerate(zip(strata, draws, strict=True))
    ]
    defined = np.all([varied for _, varied in again], axis=0)
    pooled = sum(w * found for w, (found, _) in zip(weights, again, strict=True))
    low, high = bootstrap_ends(np.asarray(pooled)[defined], value, level, noise is not None)
    orders = f"{'exact' if exact else 'Monte Carlo'} p of {len(null)} orders within facets"
    p = p_value(null, np.asarray(value), exact)
    return Pooled(value, low, high, p, sum(sizes), len(sizes), orders)


def _pooled_null(strata: Sequence[tuple[Array, Array]], weights: Array, seed: int) -> tuple[Array, bool]:
    """Pooled coefficients under reordering within strata, and whether these are all orders."""
    count = math.prod(math.factorial(len(x)) for x, _ in strata)
    exact, total = count <= math.factorial(EXACT), np.zeros(1)
    for k, (weight, (x, y)) in enumerate(zip(weights, strata, strict=True)):
        stream = random_stream(f"orders of stratum {k}", seed)
        orders = (
            all_orders(len(x)) if exact else stream.permuted(np.tile(np.arange(len(x)), (ORDERS, 1)), axis=1)
        )
        ranks = standardized(np.stack([rankdata(x), rankdata(y)]))
        found = weight * (ranks[1][orders] @ ranks[0])
        total = (total[:, None] + found).ravel() if exact else total + found
    return total, exact


def _again(
    k: int, x: Array, y: Array, count: int, seed: int, noise: Noise | None
) -> tuple[Array, NDArray[np.bool_]]:
    """Spearman's of resamples (count,) of stratum k, and where it is defined."""
    stream = random_stream(f"pairs of stratum {k}", seed)
    found = [taken(x, y, *drawn, noise) for drawn in drawn_pairs(len(x), count, stream)]
    varied = [(np.ptp(first, 1) > 0) & (np.ptp(second, 1) > 0) for first, second in found]
    return np.concatenate([spearman(*pair) for pair in found]), np.concatenate(varied)
