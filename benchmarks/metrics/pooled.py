"""One correlation over strata whose values must not be set against each other: domains, sources of truth."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from .statistics import (
    EXACT,
    ORDERS,
    Array,
    Noise,
    Orders,
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

# How many units some strata have together, and which of them those of each stratum are.
Shared = tuple[int, Mapping[int, Orders]]


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
    names: Sequence[Sequence[str]] | None = None,
) -> Pooled | None:
    """Spearman correlation within strata, as one number: no value is set against one of another stratum.

    The mean of the strata's coefficients, weighted by n - 1: one over each one's variance where x and y
    are independent. p permutes x within strata, all orders of all strata where they are few. The interval
    resamples pairs within strata. Source: Taylor, "Kendall's and Spearman's correlation coefficients in
    the presence of a blocking variable", Biometrics 1987. Strata that share models are permuted, and
    resampled, together: a model's x goes to one other model in all of them, and it is drawn for all or none.

    Args:
        pairs: x and y (n,) of each stratum; those where no coefficient is defined are left out.
        seed, level, resamples: as in `correlation`.
        noise: for each stratum as in `correlation`.
        names: what the pairs of each stratum are; one name with one x is the same model in every stratum.
            None: all are different.

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
    units = [
        [(names[k][i] if names else (k, i), float(x[i])) for i in range(len(x))]
        for k, (x, _) in zip(kept, strata, strict=True)
    ]
    shared = _sharing(units)
    null, exact = _pooled_null(strata, weights, seed, shared)
    again = _all_again(strata, draws, resamples, seed, shared)
    defined = np.all([varied for _, varied in again], axis=0)
    pooled = sum(w * found for w, (found, _) in zip(weights, again, strict=True))
    low, high = bootstrap_ends(np.asarray(pooled)[defined], value, level, noise is not None)
    orders = f"{'exact' if exact else 'Monte Carlo'} p of {len(null)} orders within facets"
    p = p_value(null, np.asarray(value), exact)
    return Pooled(value, low, high, p, sum(sizes), len(sizes), orders)


def _sharing(units: Sequence[Sequence[Hashable]]) -> list[Shared]:
    """Strata that share units, directly or by others, with where each one's units are among all of theirs."""
    groups: list[list[int]] = []
    for k, mine in enumerate(units):
        touched = [group for group in groups if any(set(mine) & set(units[other]) for other in group)]
        joined = sorted([k, *(other for group in touched for other in group)])
        groups = [*(group for group in groups if group not in touched), joined]
    found: list[Shared] = []
    for group in sorted(groups):
        every = {unit: i for i, unit in enumerate(dict.fromkeys(unit for k in group for unit in units[k]))}
        found.append((len(every), {k: np.array([every[unit] for unit in units[k]], np.intp) for k in group}))
    return found


def _pooled_null(
    strata: Sequence[tuple[Array, Array]], weights: Array, seed: int, shared: Sequence[Shared]
) -> tuple[Array, bool]:
    """Pooled coefficients under reordering, strata that share units together; whether of all orders."""
    exact, total = math.prod(math.factorial(n) for n, _ in shared) <= math.factorial(EXACT), np.zeros(1)
    for n, places in shared:
        stream = random_stream(f"orders of stratum {min(places)}", seed)
        orders = all_orders(n) if exact else stream.permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)
        values = np.zeros(n)
        for k, at in places.items():
            values[at] = strata[k][0]
        found = sum(weights[k] * _reordered(values, orders, at, strata[k][1]) for k, at in places.items())
        total = (total[:, None] + found).ravel() if exact else total + found
    return total, exact


def _reordered(values: Array, orders: Orders, at: Orders, y: Array) -> Array:
    """Spearman's of y (k,) with each order (m, n) of all units' values (n,); units `at` stand with y."""
    if len(at) == len(values):  # whichever goes where: the same values
        first, second = (standardized(rankdata(v)[None])[0] for v in (values, y))
        return np.asarray(first[orders[:, at]] @ second)
    given = values[orders[:, at]]
    return spearman(given, np.broadcast_to(y, given.shape))


def _all_again(
    strata: Sequence[tuple[Array, Array]],
    draws: Sequence[Noise | None],
    count: int,
    seed: int,
    shared: Sequence[Shared],
) -> list[tuple[Array, NDArray[np.bool_]]]:
    """Spearman's of resamples (count,) of every stratum, and where it is defined."""
    found: dict[int, tuple[Array, NDArray[np.bool_]]] = {}
    for n, places in shared:
        if len(places) == 1:
            (k,) = places
            found[k] = _again(k, *strata[k], count, seed, draws[k])
            continue
        stream = random_stream(f"units of strata {sorted(places)}", seed)
        times = stream.multinomial(n, np.full(n, 1 / n), count).astype(np.float64)
        for k, at in places.items():
            pairs = draws[k] or tuple(np.broadcast_to(v, (count, len(v))) for v in strata[k])
            found[k] = _repeated(pairs[0], pairs[1], times[:, at])
    return [found[k] for k in range(len(strata))]


def _repeated(x: Array, y: Array, times: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Spearman's of rows (k, n) in which pair i stands times[., i] times, and where it is defined."""
    first, second = _centered_ranks(x, times), _centered_ranks(y, times)
    both, own, other = (
        (times * a * b).sum(1) for a, b in ((first, second), (first, first), (second, second))
    )
    size = np.sqrt(own * other)
    defined = size > 1e-9
    return np.where(defined, both / np.where(defined, size, 1), 0).clip(-1, 1), defined


def _centered_ranks(values: Array, times: Array) -> Array:
    """Mean ranks of rows (k, n) of repeated values, less their mean."""
    ranks = np.zeros(values.shape)
    for j in range(values.shape[1]):  # a value is above those that are less, and half above its equals
        above = np.sign(values - values[:, j : j + 1])
        ranks += times[:, j : j + 1] * (above + 1) / 2
    total = times.sum(1, keepdims=True)
    return np.asarray(ranks - (times * ranks).sum(1, keepdims=True) / np.where(total > 0, total, 1))


def _again(
    k: int, x: Array, y: Array, count: int, seed: int, noise: Noise | None
) -> tuple[Array, NDArray[np.bool_]]:
    """Spearman's of resamples (count,) of stratum k, and where it is defined."""
    stream = random_stream(f"pairs of stratum {k}", seed)
    found = [taken(x, y, *drawn, noise) for drawn in drawn_pairs(len(x), count, stream)]
    varied = [(np.ptp(first, 1) > 0) & (np.ptp(second, 1) > 0) for first, second in found]
    return np.concatenate([spearman(*pair) for pair in found]), np.concatenate(varied)
