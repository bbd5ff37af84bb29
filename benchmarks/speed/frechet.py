"""Frechet distance: eigenvalues of symmetric matrices against scipy.linalg.sqrtm, side by side in one run.

`python -m benchmarks.speed.frechet` takes a minute or two at the default 2048 dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.metrics.frechet import Array, FeatureStatistics, frechet_distance

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


def measure(dimensions: int, count: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Least wall seconds of `repeats` runs and the distance found, for each way."""
    a, b = (FeatureStatistics.of(features(name, count, dimensions)) for name in ("first", "second"))
    found = {}
    for name, distance in WAYS.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            value = distance(a, b)
            seconds.append(time.perf_counter() - start)
        found[name] = (min(seconds), value)
    return found


@click.command()
@click.option("--dimensions", default=2048, show_default=True, help="Length of a feature vector.")
@click.option("--count", default=None, type=int, help="Pictures a set; twice the dimensions by default.")
@click.option("--repeats", default=1, show_default=True, help="Runs of each way; the fastest counts.")
def main(dimensions: int, count: int | None, repeats: int) -> None:
    """Time the ways to a Frechet distance on the same two feature sets."""
    count = count or 2 * dimensions
    found = measure(dimensions, count, repeats)
    slowest = found["scipy.linalg.sqrtm"][0]
    table = Table(title=f"Frechet distance, {dimensions} dimensions, {count} pictures a set")
    table.add_column("way")
    for column in ("seconds", "times as fast as sqrtm", "distance"):
        table.add_column(column, justify="right")
    for name, (seconds, value) in found.items():
        table.add_row(name, f"{seconds:.2f}", f"{slowest / seconds:.1f}", f"{value:.9f}")
    Console().print(table)


if __name__ == "__main__":
    main()
