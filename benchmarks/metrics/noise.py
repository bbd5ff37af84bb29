"""What a cell's mean might have been with other test pictures and other training seeds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import Array, finite, random_stream, sums_of_rows


@lru_cache(maxsize=4)
def _draws(purpose: str, seed: int, n: int, resamples: int) -> NDArray[np.int64]:
    """How often each of n units is drawn in each resample (resamples, n); kept, as many cells share one."""
    return random_stream(purpose, seed).multinomial(n, np.full(n, 1 / n), resamples)


def cell_means(
    values: ArrayLike,
    shared: str,
    own: str,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Array:
    """Resampled means (resamples,) of one cell, for setting beside those of other cells row by row.

    Cells of one name `shared` draw the same pictures in the same row, as they were scored on the same: what
    makes a picture hard for all of them moves all of them and changes no order. Training seeds belong to a
    cell and are drawn by its name `own`. An axis of length 1 adds nothing, as in `mean_over_seeds`; so a
    single number without pictures and seeds comes back as it is. Source: Owen, Annals of Applied
    Statistics 2007.

    Args:
        values: (seeds, pictures).
        clusters: (pictures,) labels; pictures of one label are drawn together.
        resamples, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: as `mean_over_seeds`.
    """
    array = finite(values, (2,), "values")
    sums, counts = sums_of_rows(array, clusters)
    seeds, n = sums.shape
    rows = _draws(f"seeds of {own}", seed, seeds, resamples)
    columns = _draws(f"pictures of {shared}", seed, n, resamples)
    return np.asarray(((rows @ sums) * columns).sum(1) / (seeds * (columns @ counts)))
