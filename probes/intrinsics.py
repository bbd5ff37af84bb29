"""Normal, depth, albedo, shading as data: how a map becomes a picture, and back, and its loss.

A generator draws pictures of three channels in [-1, 1]; a map is asked for as such a picture.
Natural units: unit normals in the camera frame (x right, y up, z towards the camera), depth in
meters along the view axis, albedo and shading in linear RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from generators.errors import unknown

DEPTH_METERS = 10.0  # the depth that a picture's 1 stands for; -1 stands for 0


@dataclass(frozen=True)
class Intrinsic:
    """One property of a scene.

    Attributes:
        channels: of its map in natural units.
        to_picture: map (b c h w) to picture (b 3 h w) in [-1, 1].
        from_picture: picture (b 3 h w) to map (b c h w).
        error: (prediction, truth, mask) to one number, for choosing on validation data.
        pixel_loss: (prediction, target) pictures to the loss of a pixel model (paper, equation 2).
    """

    name: str
    channels: int
    to_picture: Callable[[Tensor], Tensor]
    from_picture: Callable[[Tensor], Tensor]
    error: Callable[[Tensor, Tensor, Tensor], Tensor]
    pixel_loss: Callable[[Tensor, Tensor], Tensor]


def unit(normals: Tensor) -> Tensor:
    """Normals (b 3 h w) of length one; a zero vector faces the camera."""
    length = normals.norm(dim=1, keepdim=True)
    facing = torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype, device=normals.device)
    return torch.where(length > 1e-6, normals / length.clamp_min(1e-6), facing[None, :, None, None])


def angular_error(a: Tensor, b: Tensor) -> Tensor:
    """Angle in degrees between normals (b 3 h w): (b 1 h w)."""
    cosine = (unit(a) * unit(b)).sum(1, keepdim=True).clamp(-1, 1)
    return torch.rad2deg(torch.acos(cosine))


def _mean_angle(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return angular_error(a, b)[mask].mean()


def _rms(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return (a - b).square()[mask.expand_as(a)].mean().sqrt()


def _normal_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cosine + L1 (paper, equation 2)."""
    cosine = functional.cosine_similarity(prediction, target, dim=1, eps=1e-6)
    return 1 - cosine.mean() + (prediction - target).abs().mean()


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
        functional.mse_loss,
    ),
    **{
        name: Intrinsic(
            name,
            3,
            lambda m: m.clamp(0, 1) * 2 - 1,
            lambda p: (p + 1) / 2,
            _rms,
            functional.mse_loss,
        )
        for name in ("albedo", "shading")
    },
}


def intrinsic(name: str) -> Intrinsic:
    """An intrinsic by name; raises UserError with near names if there is none."""
    if name not in INTRINSICS:
        raise unknown("intrinsic", name, INTRINSICS)
    return INTRINSICS[name]
