"""Numbers of groups: means over seeds with intervals, by benchmarks.metrics.statistics."""

from __future__ import annotations

from functools import lru_cache

from benchmarks.metrics import METRICS
from benchmarks.metrics.statistics import Interval, mean_over_seeds
from generators.errors import UserError

from .gather import Group
from .reading import RERUN


def summary(group: Group, metric: str) -> Interval | None:
    """Mean over the seeds with a 95 % interval over seeds and test pictures; None without a score.

    Pictures of one group (one scan, one scene) are resampled together.

    Records without one number per picture (the Frechet distance) are resampled over seeds alone.
    """
    if not group.done or any(metric not in r.scores for r in group.done):
        return None
    each = [tuple(r.per_image.get(metric) or ()) for r in group.done]
    if not all(each):
        each = [(r.scores[metric],) for r in group.done]
    if len({len(values) for values in each}) > 1:
        raise UserError(
            f"the mean of {metric} over the seeds of {group.cell}",
            "its records hold different numbers of test pictures",
            ", ".join(f"records/{r.cell.hash}.json: {len(v)}" for r, v in zip(group.done, each, strict=True)),
            RERUN,
        )
    groups = tuple(group.done[0].details.get("groups") or ())
    return _interval(tuple(each), groups if len(groups) == len(each[0]) else ())


@lru_cache(maxsize=4096)
def _interval(values: tuple[tuple[float, ...], ...], groups: tuple[str, ...]) -> Interval:
    return mean_over_seeds(values, clusters=groups or None)


def metrics_in(group: Group) -> list[str]:
    """Metrics all records of a group have, those of the catalog first."""
    if not group.done:
        return []
    have = set.intersection(*(set(r.scores) for r in group.done))
    return [m for m in METRICS if m in have] + sorted(have - set(METRICS))
