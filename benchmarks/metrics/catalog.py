"""Every metric as data: what tables call it, its unit, and which way is better. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from generators.errors import UserError, unknown
from probes.methods import RELATIVE

ALIGNMENTS = ("none", "scale", "scale-shift", RELATIVE)  # of depth before it is scored: see maps.align_depth


@dataclass(frozen=True)
class Metric:
    """One number a table may show.

    Attributes:
        name: as records call it.
        intrinsics: what it is measured on; ("none",) if it is measured once per model.
        title: as tables call it, without unit.
        unit: behind the number or in the column's head, "" for a plain number.
        lower_is_better: False for shares of good pixels.
        primary: whether it stands for its intrinsics where one number must do.
        decimals: digits behind the point in a table.
        units: units of single intrinsics where they differ from `unit`.
    """

    name: str
    intrinsics: tuple[str, ...]
    title: str
    unit: str
    lower_is_better: bool
    primary: bool
    decimals: int
    units: Mapping[str, str] = field(default_factory=dict)

    def unit_of(self, intrinsic: str, alignment: str = "none") -> str:
        """The unit on one intrinsic: RMS is in meters on depth, without unit on albedo and relative depth."""
        if alignment == RELATIVE and intrinsic in self.units:
            return self.unit
        return self.units.get(intrinsic, self.unit)

    @property
    def arrow(self) -> str:
        """The sign papers put behind a metric's title."""
        return "↓" if self.lower_is_better else "↑"


_NORMAL, _DEPTH, _COLOR, _MODEL = ("normal",), ("depth",), ("albedo", "shading"), ("none",)
_LISTED = (
    Metric("mean_angular_error", _NORMAL, "Mean angular error", "°", True, True, 2),
    Metric("median_angular_error", _NORMAL, "Median angular error", "°", True, False, 2),
    Metric("l1_x100", _NORMAL, "L1 x 100", "", True, False, 2),
    Metric("below_11_25", _NORMAL, "< 11.25°", "%", False, False, 1),
    Metric("below_22_5", _NORMAL, "< 22.5°", "%", False, False, 1),
    Metric("below_30", _NORMAL, "< 30°", "%", False, False, 1),
    Metric("rms", _DEPTH + _COLOR, "RMS", "", True, True, 4, {"depth": "m"}),
    Metric("delta1", _DEPTH, "δ < 1.25", "%", False, False, 1),
    Metric("delta2", _DEPTH, "δ < 1.25²", "%", False, False, 1),
    Metric("delta3", _DEPTH, "δ < 1.25³", "%", False, False, 1),
    Metric("abs_rel", _DEPTH, "AbsRel", "", True, False, 4),
    Metric("silog", _DEPTH, "SILog x 100", "", True, False, 2),
    Metric("si_rms", _COLOR, "Scale-invariant RMS", "", True, False, 4),
    Metric("skill", _NORMAL + _DEPTH + _COLOR, "Skill over its own mean map", "%", False, False, 1),
    Metric("frechet_distance", _MODEL, "Frechet distance", "", True, True, 3),
    Metric("kernel_distance", _MODEL, "Kernel distance", "", True, False, 5),
    # Of the second feature space, where a cell asks for one.
    Metric("frechet_distance_2", _MODEL, "Frechet distance, second features", "", True, False, 3),
    Metric("kernel_distance_2", _MODEL, "Kernel distance, second features", "", True, False, 5),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _LISTED}


def metrics_of(intrinsic: str) -> list[Metric]:
    """The metrics of an intrinsic, "none" for a model's own, in table order; raises UserError if unknown."""
    found = [metric for metric in METRICS.values() if intrinsic in metric.intrinsics]
    if not found:
        raise unknown("intrinsic", intrinsic, _NORMAL + _DEPTH + _COLOR + _MODEL)
    return found


def primary_metric(intrinsic: str) -> Metric:
    """The one metric that stands for an intrinsic; raises UserError if the intrinsic is unknown."""
    return next(metric for metric in metrics_of(intrinsic) if metric.primary)


def check_alignment(intrinsic: str, alignment: str) -> None:
    """Raise UserError on an unknown alignment, or on one for anything but depth."""
    if alignment not in ALIGNMENTS:
        raise unknown("alignment", alignment, ALIGNMENTS)
    if alignment != "none" and intrinsic != "depth":
        raise UserError(
            f"alignment {alignment!r} of {intrinsic}",
            "only depth is aligned before it is scored",
            f"alignments of depth: {', '.join(ALIGNMENTS)}; of {intrinsic}: none",
            'set alignment = "none" for this intrinsic',
        )
