"""Scores of predicted maps against the truth: one number per picture, masks everywhere.

All arithmetic is in float64. A value that is not finite is an error, never part of a mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from generators.errors import UserError, unknown

from .catalog import check_alignment

MINIMUM_DEPTH = 1e-3  # meters: predicted depth is clamped to it after alignment
NOT_FINITE = "see what made it: nothing that is not finite can be scored"  # unless the caller knows better
UNIT_TOLERANCE = 0.05  # how far the length of a true normal may be from 1 (8-bit maps are within 0.01)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pixels and channels of a mask: (b c h w), (b 1 h w) bool -> (b,)."""
    inside = mask.expand_as(values)
    return torch.where(inside, values, 0).sum((1, 2, 3)) / inside.sum((1, 2, 3))


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Median over the pixels of a mask, the mean of the middle two of an even number: (b 1 h w) -> (b,)."""
    ordered = torch.where(mask, values, torch.inf).flatten(1).sort(1).values
    count = mask.flatten(1).sum(1)
    low = ordered.gather(1, ((count - 1) // 2)[:, None])
    high = ordered.gather(1, (count // 2)[:, None])
    return ((low + high) / 2)[:, 0]


def _percent(good: Tensor, mask: Tensor) -> Tensor:
    return 100 * masked_mean(good.double(), mask)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors (b 3 h w) divided by their length; a zero vector stays zero."""
    # Dividing by the largest component first keeps tiny and huge vectors from under- or overflowing.
    largest = vectors.abs().amax(1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1)


def angles(prediction: Tensor, truth: Tensor) -> Tensor:
    """Angle between unit vectors (b 3 h w) in degrees (b 1 h w); 90 where the prediction is zero.

    2 atan2(|p - t|, |p + t|) is exact where arccos of the dot product loses half the digits (near 0 and
    180 degrees). Source: Kahan, "How futile are mindless assessments of roundoff", 2006, section 12.
    """
    apart = torch.linalg.vector_norm(prediction - truth, dim=1, keepdim=True)
    together = torch.linalg.vector_norm(prediction + truth, dim=1, keepdim=True)
    return torch.rad2deg(2 * torch.atan2(apart, together))


def normal_scores(prediction: Tensor, truth: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Scores of normals (b 3 h w), any length, against unit normals: (b,) each.

    Mean and median angle in degrees and percent of pixels under 11.25, 22.5 and 30 degrees, from Fouhey
    et al., "Data-driven 3D primitives for single image understanding", ICCV 2013; 100 times the mean
    absolute difference over pixels and channels of unit normals, from Table 2 of Du et al., "Generative
    models: what do they know?", 2023. A zero vector points nowhere and counts as 90 degrees.
    """
    prediction, truth = unit_vectors(prediction), unit_vectors(truth)
    angle = angles(prediction, truth)
    return {
        "mean_angular_error": masked_mean(angle, mask),
        "median_angular_error": masked_median(angle, mask),
        "l1_x100": 100 * masked_mean((prediction - truth).abs(), mask),
        "below_11_25": _percent(angle < 11.25, mask),
        "below_22_5": _percent(angle < 22.5, mask),
        "below_30": _percent(angle < 30, mask),
    }


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """above / below (b,) as (b 1 1 1), zero where below is zero."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), 0)[:, None, None, None]


def least_squares_scale(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """The factor s per picture, (b 1 1 1), of the least sum of (s p - t)^2; zero where p is zero."""
    return _ratio(masked_mean(prediction * truth, mask), masked_mean(prediction**2, mask))


def align_depth(prediction: Tensor, truth: Tensor, mask: Tensor, alignment: str) -> Tensor:
    """Depth (b 1 h w) fitted to the true one, per picture, within the mask.

    "none" changes nothing. "scale" multiplies by the least-squares factor (not by the ratio of medians,
    so that "scale" minimizes the same error as "scale-shift"). "scale-shift" is the least-squares line
    s p + o of Ranftl et al., "Towards robust monocular depth estimation" (MiDaS), TPAMI 2022, eq. 3,
    fitted to depth rather than to disparity, as in Ke et al., "Marigold", CVPR 2024; s may be negative,
    and a constant prediction becomes the mean of the truth. "unit" changes nothing, either: both are relative
    depth already (probes.intrinsics.relative_depth).
    """
    if alignment in ("none", "unit"):
        return prediction
    if alignment == "scale":
        return prediction * least_squares_scale(prediction, truth, mask)
    center = [masked_mean(x, mask)[:, None, None, None] for x in (prediction, truth)]
    return (prediction - center[0]) * least_squares_scale(
        prediction - center[0], truth - center[1], mask
    ) + center[1]


def depth_scores(prediction: Tensor, truth: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Scores of depth (b 1 h w) in meters against depth above zero: (b,) each.

    RMS in meters, percent of pixels with max(p/t, t/p) < 1.25, 1.25^2, 1.25^3, mean |p - t| / t, and 100
    times the square root of the scale-invariant logarithmic error with lambda = 1, all from Eigen et al.,
    "Depth map prediction from a single image", NIPS 2014 (section 3.2, eq. 1 to 3; section 4).
    Predictions are clamped to at least MINIMUM_DEPTH, and the truth where it divides: it may be relative.
    """
    prediction = prediction.clamp_min(MINIMUM_DEPTH)
    truth = torch.where(mask, truth, 1)
    below = truth.clamp_min(MINIMUM_DEPTH)
    ratio = torch.maximum(prediction / below, below / prediction)
    log_ratio = prediction.log() - below.log()
    log_ratio = log_ratio - masked_mean(log_ratio, mask)[:, None, None, None]
    return {
        "rms": masked_mean((prediction - truth) ** 2, mask).sqrt(),
        "delta1": _percent(ratio < 1.25, mask),
        "delta2": _percent(ratio < 1.25**2, mask),
        "delta3": _percent(ratio < 1.25**3, mask),
        "abs_rel": masked_mean((prediction - truth).abs() / below, mask),
        "silog": 100 * masked_mean(log_ratio**2, mask).sqrt(),
    }


def color_scores(prediction: Tensor, truth: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Scores of albedo or shading (b 3 h w) in linear RGB: (b,) each.

    RMS over pixels and channels, and the same after the one least-squares factor per picture, from Grosse
    et al., "Ground truth dataset and baseline evaluations for intrinsic image algorithms", ICCV 2009,
    eq. 8, over the whole picture instead of windows.
    """
    scale = least_squares_scale(prediction, truth, mask)
    return {
        "rms": masked_mean((prediction - truth) ** 2, mask).sqrt(),
        "si_rms": masked_mean((prediction * scale - truth) ** 2, mask).sqrt(),
    }


_SCORES: dict[str, tuple[int, Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]]] = {
    "normal": (3, normal_scores),
    "depth": (1, depth_scores),
    "albedo": (3, color_scores),
    "shading": (3, color_scores),
}


def _check_shapes(intrinsic: str, prediction: Tensor, truth: Tensor, mask: Tensor) -> None:
    channels = _SCORES[intrinsic][0]
    shape = (*truth.shape[:1], channels, *truth.shape[2:])
    if truth.ndim != 4 or truth.shape != shape or prediction.shape != shape:
        raise ValueError(
            f"{intrinsic} needs prediction and truth of one shape (b {channels} h w), "
            f"got {tuple(prediction.shape)} and {tuple(truth.shape)}"
        )
    if mask.dtype != torch.bool or mask.shape != (shape[0], 1, *shape[2:]):
        raise ValueError(f"mask must be bool (b 1 h w), got {mask.dtype} {tuple(mask.shape)}")


def _refuse(intrinsic: str, wrong: Tensor, what: str, todo: str) -> None:
    """Raise UserError if any picture is wrong, (b,) bool, and say which is the first."""
    if wrong.any():
        first, count = int(wrong.nonzero()[0]), int(wrong.sum())
        raise UserError(
            f"score {intrinsic} of {len(wrong)} pictures",
            f"{what} in picture {first}" + (f" and {count - 1} more" if count > 1 else ""),
            "a score is a mean over finite values within the mask",
            todo,
        )


def _check_values(
    intrinsic: str, prediction: Tensor, truth: Tensor, mask: Tensor, alignment: str, cure: str
) -> None:
    def pictures(pixels: Tensor) -> Tensor:
        return pixels.flatten(1).any(1)

    _refuse(intrinsic, ~pictures(mask), "no pixel is in the mask", "leave such pictures out")
    _refuse(intrinsic, pictures(~prediction.isfinite()), "the prediction has NaN or Inf", cure)
    broken = "mask such pixels out"
    _refuse(intrinsic, pictures(~truth.isfinite() & mask), "the truth has NaN or Inf in the mask", broken)
    if intrinsic == "depth" and alignment == "unit":
        outside = pictures(((truth < 0) | (truth > 1)) & mask)
        _refuse(intrinsic, outside, "the true relative depth is not within 0 and 1", broken)
    elif intrinsic == "depth":
        behind = pictures((truth <= 0) & mask)
        _refuse(intrinsic, behind, "the true depth is not above zero in the mask", broken)
    if intrinsic == "normal":
        length = torch.linalg.vector_norm(truth, dim=1, keepdim=True)
        long = (length - 1).abs() > UNIT_TOLERANCE
        _refuse(intrinsic, pictures(long & mask), "a true normal in the mask is not of length 1", broken)


def score(
    intrinsic: str,
    prediction: Tensor,
    truth: Tensor,
    mask: Tensor,
    alignment: str = "none",
    cure: str = NOT_FINITE,
) -> dict[str, Tensor]:
    """Every metric of an intrinsic, per picture.

    Args:
        intrinsic: normal, depth, albedo or shading.
        prediction: (b c h w) in natural units: normals of any length, meters, linear RGB; relative depth
            under the alignment "unit".
        truth: (b c h w): unit normals, meters above zero, linear RGB, under "unit" relative depth from 0 to
            1; anything outside the mask.
        mask: (b 1 h w) bool; pixels outside count for nothing, alignment included.
        alignment: of depth, one of ALIGNMENTS; "none" for every other intrinsic.
        cure: what to do about a prediction that is not finite, which only the caller knows.

    Returns:
        Metric name to float64 (b,); the names, titles and units are METRICS.

    Raises:
        UserError: an unknown intrinsic or alignment; an empty mask; NaN or Inf anywhere in the prediction,
            or in the truth within the mask; true depth <= 0 or true normals not of length 1 there.
        ValueError: shapes that do not fit.
    """
    if intrinsic not in _SCORES:
        raise unknown("intrinsic", intrinsic, _SCORES)
    check_alignment(intrinsic, alignment)
    _check_shapes(intrinsic, prediction, truth, mask)
    _check_values(intrinsic, prediction, truth, mask, alignment, cure)
    p, t = prediction.detach().double(), torch.where(mask, truth.detach().double(), 0)
    if intrinsic == "depth":
        p = align_depth(p, t, mask, alignment)
    return _SCORES[intrinsic][1](p, t, mask)
