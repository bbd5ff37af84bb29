"""How far the numbers of a point could have been others: draws for the intervals of correlations."""

from __future__ import annotations

from functools import lru_cache

from benchmarks.cell import canonical
from benchmarks.data import own_pictures
from benchmarks.metrics.noise import cell_means
from benchmarks.metrics.statistics import Array

from .gather import Group


def draws(group: Group, metric: str) -> Array:
    """Means (resamples,) of a metric with other test pictures and other training seeds.

    Cells that were scored on the same pictures draw the same ones in the same row. A score without one
    number per picture (the Frechet distance) varies with its seeds alone, and with one seed not at all.
    """
    cell, first = group.cell, group.done[0]
    each = [tuple(r.per_image.get(metric) or ()) for r in group.done]
    if not all(each):
        each = [(r.scores[metric],) for r in group.done]
    clusters = tuple(first.details.get("groups") or ())
    owner = f" of {cell.model} {cell.weights}" if own_pictures(cell.data) else ""
    shared = f"{cell.data} {cell.world}, {cell.test} pictures{owner}"
    own = canonical(cell.facts() | {"seed": None})
    return _draws(tuple(each), shared, own, clusters if len(clusters) == len(each[0]) else ())


@lru_cache(maxsize=1024)
def _draws(values: tuple[tuple[float, ...], ...], shared: str, own: str, clusters: tuple[str, ...]) -> Array:
    return cell_means(values, shared, own, clusters or None)
