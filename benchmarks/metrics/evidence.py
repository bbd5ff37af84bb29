"""What a correlation over models rests on: one family, the models' size, or enough of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, t

from .statistics import EXACT, all_orders, pearson, spearman

LEVEL = 0.05  # two-sided
MOST = 100_000  # models beyond which nobody would look


def without_each(x: ArrayLike, y: ArrayLike, groups: Sequence[str]) -> dict[str, float]:
    """Spearman correlation of pairs (n,) without the models of one group: group -> coefficient.

    Groups that leave fewer than three pairs, or a constant x or y, are left out.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    labels = np.asarray(groups)
    found = {}
    for group in dict.fromkeys(groups):
        keep = labels != group
        if keep.sum() >= 3 and np.ptp(first[keep]) > 0 and np.ptp(second[keep]) > 0:
            found[group] = float(spearman(first[None, keep], second[None, keep])[0])
    return found


def given(x: ArrayLike, y: ArrayLike, z: ArrayLike) -> float | None:
    """Partial Spearman correlation of x and y (n,) given z: of the ranks' residuals after a line over z's.

    None where it is not defined: fewer than four models, a constant z, or x or y a function of z's rank.
    Source: Kendall, "Partial rank correlation", Biometrika 1942, with Spearman's coefficient.
    """
    ranks = np.stack([rankdata(np.asarray(values, np.float64)) for values in (x, y, z)])
    centered = ranks - ranks.mean(1, keepdims=True)
    if ranks.shape[1] < 4 or not centered[2].any():
        return None
    left = [_residual(values, centered[2]) for values in centered[:2]]
    if any(np.abs(values).max() < 1e-9 for values in left):
        return None
    return float(pearson(left[0][None], left[1][None])[0])


def _residual(values: NDArray[np.float64], line: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values - line * (values @ line) / (line @ line))


def needed(coefficient: float, level: float = LEVEL) -> int | None:
    """The least number of models at which a correlation of this size would have p <= level, two-sided.

    Of up to EXACT models by all orders of their ranks, which is Spearman's; beyond by Student's t with n - 2
    degrees of freedom, which Spearman's follows closely then. It says what the observed size would take, not
    what would be found. None for (nearly) zero.
    """
    size = min(abs(coefficient), 1 - 1e-9)
    for n in range(3, EXACT + 1):
        if abs(coefficient) >= _critical(n, level) - 1e-9:
            return n
    low, high = EXACT + 1, MOST
    if _p(size, high) > level:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _p(size, middle) <= level else (middle + 1, high)
    return low


@lru_cache
def _critical(n: int, level: float) -> float:
    """Least size of Spearman's coefficient of n distinct pairs with an exact p <= level; inf if none has."""
    squares = ((all_orders(n) - np.arange(n)) ** 2).sum(1)
    sizes = np.sort(np.abs(1 - 6 * squares / (n * (n**2 - 1))).round(9))
    values, first = np.unique(sizes, return_index=True)
    small = 1 - first / len(sizes) <= level  # the share of orders that are as far from zero
    return float(values[small][0]) if small.any() else math.inf


def _p(size: float, n: int) -> float:
    return float(2 * t.sf(size * np.sqrt((n - 2) / (1 - size**2)), n - 2))
