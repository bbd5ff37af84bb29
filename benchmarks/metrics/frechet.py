"""Frechet and kernel distances between two sets of features, in float64; the extractor is the caller's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.arrays import read_npz
from generators.errors import UserError, unknown

Array = NDArray[np.float64]
_SAVED = {"count", "mean", "scatter"}


def _features(values: ArrayLike, dimensions: int | None = None) -> Array:
    """Features as float64 (n, d); raises UserError if they are not finite or of another width."""
    features = np.asarray(values, np.float64)
    if features.ndim != 2 or (dimensions is not None and features.shape[1] != dimensions):
        raise UserError(
            f"features of shape {features.shape}",
            "features are a matrix, one row per picture",
            f"expected (n, {dimensions or 'd'})",
            "use one extractor for both sets",
        )
    wrong = ~np.isfinite(features).all(1)
    if wrong.any():
        raise UserError(
            f"features of shape {features.shape}",
            f"NaN or Inf in {wrong.sum()} rows, the first is row {int(wrong.argmax())}",
            "a distance is defined for finite features only",
            "look at the pictures of these rows",
        )
    return features


class FeatureStatistics:
    """Count, mean and covariance (N - 1) of features that arrive in batches.

    Means and sums of squared deviations are merged pairwise, so nothing cancels however far the mean is
    from zero. Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983, eq. 2.1.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0  # feature vectors seen
        self.mean: Array = np.zeros(dimensions)  # (d,)
        self._scatter: Array = np.zeros((dimensions, dimensions))  # sum of outer products of deviations

    @classmethod
    def of(cls, features: ArrayLike) -> FeatureStatistics:
        """Statistics of one matrix (n, d)."""
        array = _features(features)
        return cls(array.shape[1]).update(array)

    @classmethod
    def of_moments(
        cls, count: int, mean: ArrayLike | None, covariance: ArrayLike | None
    ) -> FeatureStatistics:
        """Statistics that somebody else measured: mean (d) and covariance (d, d) with N - 1.

        Raises ValueError unless they are finite, of fitting shapes and symmetric, and count is at least 2.
        """
        if any(np.asarray(given).dtype.kind == "c" for given in (mean, covariance)):
            raise ValueError("mean or covariance is complex")
        center, spread = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
        if center.ndim != 1 or spread.shape != 2 * center.shape or len(center) == 0:
            raise ValueError(f"mean and covariance have the shapes {center.shape} and {spread.shape}")
        if not np.isfinite(center).all() or not np.isfinite(spread).all():
            raise ValueError("mean or covariance holds NaN or Inf")
        if np.abs(spread - spread.T).max() > 1e-6 * max(np.abs(spread).max(), 1e-30):
            raise ValueError("the covariance is not symmetric")
        if not isinstance(count, int) or isinstance(count, bool) or count < 2:
            raise ValueError(f"a covariance of {count!r} pictures is not defined")
        found = cls(len(center))
        found._add(count, center, (spread + spread.T) / 2 * (count - 1))
        return found

    @property
    def dimensions(self) -> int:
        """Length d of a feature vector."""
        return len(self.mean)

    @property
    def covariance(self) -> Array:
        """Covariance (d, d) with N - 1; raises UserError with fewer than two feature vectors."""
        if self.count < 2:
            raise UserError(
                f"the covariance of {self.count} feature vectors",
                "it is defined for two and more",
                "",
                "measure on more pictures",
            )
        return self._scatter / (self.count - 1)

    def update(self, features: ArrayLike) -> FeatureStatistics:
        """Take in a batch (n, d), n >= 0, and return self; raises UserError on NaN, Inf or another d."""
        batch = _features(features, self.dimensions)
        if len(batch):
            mean = batch.mean(0)
            deviation = batch - mean
            self._add(len(batch), mean, deviation.T @ deviation)
        return self

    def merged(self, other: FeatureStatistics) -> FeatureStatistics:
        """Statistics of both sets together, as a new object; raises UserError if the widths differ."""
        _check_widths(self, other)
        both = FeatureStatistics(self.dimensions)
        both._add(self.count, self.mean, self._scatter)
        both._add(other.count, other.mean, other._scatter)
        return both

    def _add(self, count: int, mean: Array, scatter: Array) -> None:
        total = self.count + count
        if count == 0:
            return
        step = mean - self.mean
        self._scatter = self._scatter + scatter + np.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def save(self, path: str | Path) -> None:
        """Write an .npz file, under a temporary name first."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez(file, count=self.count, mean=self.mean, scatter=self._scatter)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> FeatureStatistics:
        """Read what `save` wrote; nothing is unpickled. Raises UserError if the file holds anything else."""
        try:
            stored = read_npz(Path(path))
        except ValueError as error:
            raise _broken(path, str(error)) from error
        if set(stored) != _SAVED:
            raise _broken(path, f"it holds {str(sorted(stored))[:200]}")
        count, mean, scatter = stored["count"], stored["mean"], stored["scatter"]
        numbers = count.dtype.kind in "iu" and mean.dtype.kind == scatter.dtype.kind == "f"
        shapes_fit = numbers and count.shape == () and mean.ndim == 1 and scatter.shape == 2 * mean.shape
        if not shapes_fit or count < 0 or not np.isfinite(mean).all() or not np.isfinite(scatter).all():
            raise _broken(path, "its numbers do not fit each other")
        loaded = cls(len(mean))
        loaded._add(int(count), mean.astype(np.float64), scatter.astype(np.float64))
        return loaded


def _broken(path: str | Path, why: str) -> UserError:
    known = f"expected an .npz with {sorted(_SAVED)}"
    wrong = f"the file is no feature statistics: {why}"
    return UserError(f"feature statistics {path}", wrong, known, "remove it")


def _check_widths(a: FeatureStatistics, b: FeatureStatistics) -> None:
    if a.dimensions != b.dimensions:
        raise UserError(
            "statistics of two feature sets",
            "they have different numbers of dimensions",
            f"{a.dimensions} and {b.dimensions}",
            "use one extractor for both sets",
        )


def factor_of(a: Array) -> Array:
    """A matrix f (d, r) with f f' = a for a covariance a (d, d) of numerical rank r.

    Cholesky's where no pivot vanishes (it is the cheaper one), else from eigenvectors. Directions in which a
    vanishes to rounding are left out: as noise of size eps their roots would be of size sqrt(eps), which is
    what separates other implementations on rank-deficient covariances.
    """
    noise = len(a) * np.finfo(np.float64).eps
    try:
        factor = np.asarray(np.linalg.cholesky(a), np.float64)
    except np.linalg.LinAlgError:
        factor = np.zeros_like(a)
    if np.diag(factor).min() ** 2 > noise * np.diag(a).max():
        return factor
    values, vectors = np.linalg.eigh(a)
    kept = values > noise * max(values[-1], 0.0)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def trace_of_root(a: Array, b: Array) -> float:
    """Trace of the square root of a @ b for covariances (d, d), from eigenvalues of a symmetric matrix.

    With a = f f' the non-zero eigenvalues of a @ b are those of f' b f.
    """
    factor = factor_of(a)
    product = factor.T @ b @ factor
    return float(np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum())


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians of these means and covariances.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) with covariances of N - 1: Dowson and Landau, "The Frechet
    distance between multivariate normal distributions", 1982; Heusel et al. (TTUR), NIPS 2017, eq. 6. It
    is FID only if the features are those of FID's Inception network. What rounding puts below zero is zero.

    Raises:
        UserError: different numbers of dimensions, or fewer than two feature vectors in a set.
    """
    _check_widths(a, b)
    # The set of fewer pictures has the lower rank: factoring it leaves no null space in the product.
    few, many = sorted((a, b), key=lambda statistics: statistics.count)
    first, second = few.covariance, many.covariance
    step = a.mean - b.mean
    distance = step @ step + np.trace(first) + np.trace(second) - 2 * trace_of_root(first, second)
    return max(float(distance), 0.0)


@dataclass(frozen=True)
class KernelDistance:
    """Squared maximum mean discrepancy over random subsets; the unbiased estimate may be below zero."""

    mean: float
    std: float  # population standard deviation over the subsets (ddof 0)
    subsets: int
    subset_size: int


def polynomial_kernel(x: Array, y: Array, degree: int, gamma: float | None, coef0: float) -> Array:
    """(gamma x.y + coef0)^degree, gamma = 1 / d by default: (n, d), (m, d) -> (n, m)."""
    scale = 1 / x.shape[1] if gamma is None else gamma
    return np.asarray((x @ y.T * scale + coef0) ** degree)


def gaussian_kernel(x: Array, y: Array, sigma: float) -> Array:
    """exp(-|x - y|^2 / (2 sigma^2)): (n, d), (m, d) -> (n, m)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.asarray(np.exp(-squares.clip(0) / (2 * sigma**2)))


def _kernel(name: str, **options: Any) -> Callable[[Array, Array], Array]:
    if name == "poly":
        return partial(polynomial_kernel, **{"degree": 3, "gamma": None, "coef0": 1.0} | options)
    if name == "rbf":
        return partial(gaussian_kernel, **{"sigma": 10.0} | options)
    raise unknown("kernel", name, ("poly", "rbf"))


def _check_subsets(n: int, m: int, subsets: int, subset_size: int) -> None:
    if subsets < 1 or not 2 <= subset_size <= min(n, m):
        raise UserError(
            f"{subsets} subsets of {subset_size} rows",
            "a kernel distance needs subsets >= 1 and 2 <= subset size <= rows of either set",
            f"the sets have {n} and {m} rows",
            f"ask for a subset size of at most {min(n, m)}",
        )


def discrepancy(xx: Array, yy: Array, xy: Array) -> float:
    """Squared maximum mean discrepancy of m against m samples from their kernel matrices (m, m).

    XX and YY without their diagonals over m (m - 1), XY with its diagonal over m^2: the unbiased estimate of
    Gretton et al., "A kernel two-sample test", JMLR 2012, eq. 3.
    """
    m = len(xx)
    within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.sum() / m**2)


def kernel_distance(
    x: ArrayLike,
    y: ArrayLike,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    kernel: Literal["poly", "rbf"] = "poly",
    **options: Any,
) -> KernelDistance:
    """Kernel distance between features (n, d) and (m, d), with the draws of torch-fidelity.

    KID of Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4, if the features are Inception's.

    Args:
        x, y: the two sets; exchanging them changes which rows are drawn.
        subsets: how many pairs of subsets are drawn, at least 1.
        subset_size: rows a subset holds, at least 2, drawn without replacement.
        seed: of numpy's RandomState; each subset draws from x first, then from y.
        kernel: "poly" with options degree (3), gamma (None: 1 / d), coef0 (1), or "rbf" with sigma (10).

    Raises:
        UserError: fewer rows than a subset needs, NaN or Inf, widths that differ, no subsets.
        TypeError: an option the kernel does not have.
    """
    first = _features(x)
    second = _features(y, first.shape[1])
    _check_subsets(len(first), len(second), subsets, subset_size)
    measure = _kernel(kernel, **options)
    draw = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        a = first[draw.choice(len(first), subset_size, replace=False)]
        b = second[draw.choice(len(second), subset_size, replace=False)]
        found.append(discrepancy(measure(a, a), measure(b, b), measure(a, b)))
    return KernelDistance(float(np.mean(found)), float(np.std(found)), subsets, subset_size)
