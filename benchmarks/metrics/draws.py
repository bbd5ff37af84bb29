"""Random numbers by purpose, and resamples of seeds and pictures that many means share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK = 2_000_000  # numbers held at once while resampling


def random_stream(purpose: str, seed: int) -> np.random.Generator:
    """The random numbers of one purpose and seed: a new purpose moves no other draw."""
    key = np.frombuffer(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def blocks(rows: int, width: int) -> Iterator[int]:
    """Sizes of blocks of rows of `width` numbers that together are `rows` rows."""
    size = max(1, BLOCK // max(width, 1))
    yield from (min(size, rows - start) for start in range(0, rows, size))


def crossed_ends(sums: Array, counts: Array, level: float, resamples: int, seed: int) -> Array:
    """Ends (k, 2) of bootstrap intervals of k means over seeds and pictures, all from the same draws.

    Args:
        sums: (k, seeds, n) of the values of each picture, or of each group of them.
        counts: (n,) how many values a group has.
        level, resamples, seed: as in `statistics.bootstrap_interval`.
    """
    k, seeds, n = sums.shape
    flat = np.ascontiguousarray(sums.transpose(2, 0, 1).reshape(n, k * seeds))
    found = np.empty((k, resamples))
    start = 0
    for rows, columns in _crossed(seeds, n, resamples, seed):
        end = start + len(rows)
        # Of a resample's seeds (r, s) and pictures (r, n): the sum over both, of every mean.
        means = np.einsum("rs,rks->kr", rows, (columns @ flat).reshape(-1, k, seeds))
        found[:, start:end] = means / (seeds * (columns @ counts))
        start = end
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=1).T


def _crossed(seeds: int, n: int, resamples: int, seed: int) -> Iterable[tuple[Array, Array]]:
    """Blocks of how often each seed (r, seeds) and picture (r, n) is drawn; kept where they are small."""
    small = resamples * (n + seeds) <= BLOCK
    return _kept(seeds, n, resamples, seed) if small else _drawn(seeds, n, resamples, seed)


def _drawn(seeds: int, n: int, resamples: int, seed: int) -> Iterator[tuple[Array, Array]]:
    stream = random_stream("seeds-and-pictures", seed)
    for block in blocks(resamples, n):
        rows = stream.multinomial(seeds, np.full(seeds, 1 / seeds), block)
        columns = stream.multinomial(n, np.full(n, 1 / n), block)
        yield rows.astype(np.float64), columns.astype(np.float64)


@lru_cache(maxsize=8)
def _kept(seeds: int, n: int, resamples: int, seed: int) -> tuple[tuple[Array, Array], ...]:
    return tuple(_drawn(seeds, n, resamples, seed))
