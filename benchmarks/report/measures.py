"""Numbers of groups: means over seeds with intervals, by benchmarks.metrics.statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from benchmarks.metrics import METRICS
from benchmarks.metrics.statistics import Array, Interval, mean_over_seeds, means_over_seeds
from generators.errors import UserError

from .gather import Group
from .reading import RERUN

TOGETHER = 256  # means that are resampled at once: 20 MB of numbers with 5 seeds


def summary(group: Group, metric: str) -> Interval | None:
    """Mean over the seeds with a 95 % interval over seeds and test pictures; None without a score.

    Pictures of one group (one scan, one scene) are resampled together.

    Records without one number per picture (the Frechet distance) are resampled over seeds alone.
    """
    if metric not in group.intervals:
        values = _values(group, metric)
        clusters = _clusters(group, values)
        found = None if values is None else _interval(values.tobytes(), values.shape, clusters)
        group.intervals[metric] = found
    return group.intervals[metric]


def summarize(groups: Iterable[Group]) -> None:
    """Work out the summary of every metric of many groups: those of one shape share their resamples."""
    waiting: dict[tuple[int, ...], list[tuple[Group, str, Array]]] = defaultdict(list)
    for group in groups:
        for metric in metrics_in(group):
            values = _values(group, metric)
            if values is not None and metric not in group.intervals and not _clusters(group, values):
                same = waiting[values.shape]
                same.append((group, metric, values))
                if len(same) >= TOGETHER:
                    _summarize(waiting.pop(values.shape))
    for same in waiting.values():
        _summarize(same)


def _summarize(same: Sequence[tuple[Group, str, Array]]) -> None:
    found = means_over_seeds(np.stack([values for _, _, values in same]))
    for (group, metric, _), one in zip(same, found, strict=True):
        group.intervals[metric] = one


def _values(group: Group, metric: str) -> Array | None:
    """A number for each seed and test picture (or one for each seed); None without a score."""
    if not group.done or any(metric not in r.scores for r in group.done):
        return None
    each: list[Sequence[float]] = [r.per_image.get(metric) or () for r in group.done]
    if not all(each):
        each = [(r.scores[metric],) for r in group.done]
    if len({len(values) for values in each}) > 1:
        raise UserError(
            f"the mean of {metric} over the seeds of {group.cell}",
            "its records hold different numbers of test pictures",
            ", ".join(f"records/{r.cell.hash}.json: {len(v)}" for r, v in zip(group.done, each, strict=True)),
            RERUN,
        )
    return np.asarray(each, np.float64)


def _clusters(group: Group, values: Array | None) -> tuple[str, ...]:
    clusters = tuple(group.done[0].details.get("groups") or ()) if group.done else ()
    return clusters if values is not None and len(clusters) == values.shape[1] else ()


@lru_cache(maxsize=4096)
def _interval(values: bytes, shape: tuple[int, ...], clusters: tuple[str, ...]) -> Interval:
    """Kept, as tables, pages and lists gather the same store again."""
    return mean_over_seeds(np.frombuffer(values).reshape(shape), clusters=clusters or None)


def metrics_in(group: Group) -> list[str]:
    """Metrics all records of a group have, those of the catalog first."""
    if not group.done:
        return []
    have = set.intersection(*(set(r.scores) for r in group.done))
    return [m for m in METRICS if m in have] + sorted(have - set(METRICS))
