"""Frechet distance: eigenvalues of symmetric matrices against scipy.linalg.sqrtm, side by side in one run.

`OMP_NUM_THREADS=1 python -m benchmarks.speed.frechet` takes two minutes at the default 2048 dimensions: every
way warms up, then they take turns, and seconds of the processor are told, median, least and greatest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.metrics.frechet import Array, FeatureStatistics, frechet_distance

from .meters import Timed, in_turns, spread

Distance = Callable[[FeatureStatistics, FeatureStatistics], float]


def _without_root(a: FeatureStatistics, b: FeatureStatistics) -> float:
    step = a.mean - b.mean
    return float(step @ step + np.trace(a.covariance) + np.trace(b.covariance))


def by_sqrtm(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The usual way (TTUR, clean-fid, pytorch-fid): matrix square root of the product of covariances."""
    from scipy.linalg import sqrtm

    return _without_root(a, b) - 2 * float(np.trace(sqrtm(a.covariance @ b.covariance)).real)


def by_eigvals(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """torch-fidelity's way: eigenvalues of the product, which is not symmetric."""
    values = np.linalg.eigvals(a.covariance @ b.covariance)
    return _without_root(a, b) - 2 * float(np.sqrt(values.astype(np.complex128)).real.sum())


WAYS: dict[str, Distance] = {
    "scipy.linalg.sqrtm": by_sqrtm,
    "eigenvalues of the product": by_eigvals,
    "ours: symmetric eigenvalues": frechet_distance,
}


def features(name: str, count: int, dimensions: int) -> Array:
    """Features (count, dimensions) with a spectrum that falls as a network's does, one stream per name."""
    draw = np.random.default_rng([ord(letter) for letter in name])
    turn = np.linalg.qr(draw.standard_normal((dimensions, dimensions)))[0]
    scale = 1 / np.sqrt(1 + np.arange(dimensions))
    return np.asarray(draw.standard_normal((count, dimensions)) * scale @ turn + 0.01)


def measure(dimensions: int, count: int, rounds: int) -> dict[str, Timed[float]]:
    """Seconds by round and the distance found, for each way."""
    a, b = (FeatureStatistics.of(features(name, count, dimensions)) for name in ("first", "second"))
    return in_turns({name: partial(distance, a, b) for name, distance in WAYS.items()}, rounds)


@click.command()
@click.option("--dimensions", default=2048, show_default=True, help="Length of a feature vector.")
@click.option("--count", default=None, type=int, help="Pictures a set; twice the dimensions by default.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each way.")
def main(dimensions: int, count: int | None, rounds: int) -> None:
    """Time the ways to a Frechet distance on the same two feature sets."""
    count = count or 2 * dimensions
    found = measure(dimensions, count, rounds)
    slowest = found["scipy.linalg.sqrtm"].median
    table = Table(
        title=f"Frechet distance, {dimensions} dimensions, {count} pictures a set\n"
        f"seconds of the processor, median of {rounds} rounds by turns"
    )
    table.add_column("way")
    for column in ("seconds", "least-most", "times as fast as sqrtm", "distance"):
        table.add_column(column, justify="right")
    for name, one in found.items():
        ratio = f"{slowest / one.median:.1f}"
        table.add_row(name, f"{one.median:.2f}", spread(one.seconds), ratio, f"{one.result:.9f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
