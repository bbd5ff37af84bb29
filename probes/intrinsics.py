"""Normal, depth, albedo, shading as data: how a map becomes a picture, and back, and its loss.

A generator draws pictures of three channels in [-1, 1]; a map is asked for as such a picture.
Natural units: unit normals in the camera frame (x right, y up, z towards the camera), depth in
meters along the view axis, albedo and shading in linear RGB in [0, 1]. Relative depth has no unit:
1 is the nearest point of a picture, 0 the farthest (see `relative_depth`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from generators.errors import unknown

from .methods import RELATIVE

NEAREST, FARTHEST = 0.5, 300.0  # meters relative depth is clipped to
DEPTH_METERS = 10.0  # the depth that a picture's 1 stands for; -1 stands for 0


@dataclass(frozen=True)
class Intrinsic:
    """One property of a scene.

    Attributes:
        channels: of its map in natural units.
        to_picture: map (b c h w) to picture (b 3 h w) in [-1, 1].
        from_picture: picture (b 3 h w) to map (b c h w).
        error: (prediction, truth, mask) to one number, for choosing on validation data.
        pixel_loss: (prediction, target, valid) pictures to the loss of a pixel model (paper, equation 2);
            valid (b 1 h w) bool, None where everything is.
    """

    name: str
    channels: int
    to_picture: Callable[[Tensor], Tensor]
    from_picture: Callable[[Tensor], Tensor]
    error: Callable[[Tensor, Tensor, Tensor], Tensor]
    pixel_loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def unit(normals: Tensor) -> Tensor:
    """Normals (b 3 h w) of length one; a zero vector faces the camera, what is not finite stays so."""
    length = normals.norm(dim=1, keepdim=True)
    facing = torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype, device=normals.device)
    return torch.where(length <= 1e-6, facing[None, :, None, None], normals / length.clamp_min(1e-6))


def angular_error(a: Tensor, b: Tensor) -> Tensor:
    """Angle in degrees between normals (b 3 h w): (b 1 h w)."""
    cosine = (unit(a) * unit(b)).sum(1, keepdim=True).clamp(-1, 1)
    return torch.rad2deg(torch.acos(cosine))


def _inside(values: Tensor, mask: Tensor) -> Tensor:
    """Values where the mask is; all of them, uncopied, where it is everywhere."""
    return values if bool(mask.all()) else values[mask.expand_as(values)]


def _mean_angle(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return _inside(angular_error(a, b), mask).mean()


def _rms(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return _inside((a - b).square(), mask).mean().sqrt()


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the valid pixels, of all where there is no mask; 0 where nothing is valid."""
    if valid is None:
        return values.mean()
    inside = valid.expand_as(values)
    return torch.where(inside, values, 0).sum() / inside.sum().clamp_min(1)


def squared_error(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean squared error over the valid pixels (b 1 h w) of pictures or latents (b c h w)."""
    if valid is None:
        return functional.mse_loss(prediction, target)
    return _mean((prediction - target).square(), valid)


def _normal_loss(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - cosine + L1 (paper, equation 2)."""
    cosine = functional.cosine_similarity(prediction, target, dim=1, eps=1e-6)
    return 1 - _mean(cosine[:, None], valid) + _mean((prediction - target).abs(), valid)


def relative_depth(depth: Tensor, mask: Tensor) -> Tensor:
    """Depth (b 1 h w) in meters as a number without unit, 1 at the nearest valid pixel, 0 at the farthest.

    Per picture, over the pixels of the mask (b 1 h w): clipped to NEAREST and to the lesser of FARTHEST and
    the 99th percentile, brought to [0, 1] and turned round. The steps are those of the authors' published
    loader of DIODE (the paper states none). It takes both ends over the whole map, before it is cropped, and
    over invalid pixels, too: where those are 0, its nearest pixel is at NEAREST, so its numbers differ from
    these. A flat picture is all 1, and so is what the mask leaves out.
    """
    found = torch.ones_like(depth)
    for picture, seen, out in zip(depth, mask, found, strict=True):
        values = picture[seen].double()
        if values.numel() == 0:
            continue
        high = float(values.kthvalue(max(1, round(0.99 * values.numel()))).values)
        clipped = values.clamp(NEAREST, max(min(FARTHEST, high), NEAREST))
        low, span = clipped.min(), clipped.max() - clipped.min()
        if span > 0:
            out[seen] = (1 - (clipped - low) / span).to(depth.dtype)
    return found


def _three(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


INTRINSICS: dict[str, Intrinsic] = {
    "normal": Intrinsic("normal", 3, unit, unit, _mean_angle, _normal_loss),
    "depth": Intrinsic(
        "depth",
        1,
        lambda m: _three(m.clamp(0, DEPTH_METERS) * (2 / DEPTH_METERS) - 1),
        lambda p: (p.mean(1, keepdim=True) + 1) * (DEPTH_METERS / 2),
        _rms,
        squared_error,
    ),
    **{
        name: Intrinsic(
            name,
            3,
            lambda m: m.clamp(0, 1) * 2 - 1,
            lambda p: (p + 1) / 2,
            _rms,
            squared_error,
        )
        for name in ("albedo", "shading")
    },
}
# Depth as a cell with the alignment RELATIVE asks for it.
RELATIVE_DEPTH = Intrinsic(
    "depth",
    1,
    lambda m: _three(m.clamp(0, 1) * 2 - 1),
    lambda p: (p.mean(1, keepdim=True) + 1) / 2,
    _rms,
    squared_error,
)


def intrinsic(name: str, alignment: str = "none") -> Intrinsic:
    """An intrinsic by name, as it is asked for under an alignment; raises UserError if there is none."""
    if name == "depth" and alignment == RELATIVE:
        return RELATIVE_DEPTH
    if name not in INTRINSICS:
        raise unknown("intrinsic", name, INTRINSICS)
    return INTRINSICS[name]
