"""Metrics and statistics: the table of names at once, everything else when it is asked for.

Importing this package imports neither torch, numpy nor scipy, so that listings and plans stay fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .catalog import ALIGNMENTS as ALIGNMENTS
from .catalog import METRICS as METRICS
from .catalog import Metric as Metric
from .catalog import check_alignment as check_alignment
from .catalog import metrics_of as metrics_of
from .catalog import primary_metric as primary_metric

if TYPE_CHECKING:
    from .frechet import FeatureStatistics as FeatureStatistics
    from .frechet import KernelDistance as KernelDistance
    from .frechet import frechet_distance as frechet_distance
    from .frechet import kernel_distance as kernel_distance
    from .maps import score as score
    from .statistics import Correlation as Correlation
    from .statistics import Interval as Interval
    from .statistics import bootstrap_interval as bootstrap_interval
    from .statistics import correlation as correlation
    from .statistics import mean_over_seeds as mean_over_seeds
    from .statistics import paired_difference as paired_difference

_LATER = {
    "maps": "score",
    "frechet": "FeatureStatistics KernelDistance frechet_distance kernel_distance",
    "statistics": "Correlation Interval bootstrap_interval correlation mean_over_seeds paired_difference",
}
_MODULES = {name: module for module, names in _LATER.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
