"""Normals of each source in our axes, and the normals that a depth map implies, to check them with.

Ours: unit vectors in the camera frame, x right, y up, z towards the camera. A surface seen face to face has
the normal (0, 0, 1), a floor has y > 0, what looks to the right has x > 0. Each source has one function here,
which says what is known of its axes, and from where; only data can prove it (see `compare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NAMES = ("x", "y", "z")
JUMP = 0.05  # share of the depth by which two compared points of one surface may differ
ENOUGH = 200  # pixels that a verdict needs
SEEN = 0.01  # mean square of a component below which its sign cannot be told


def flip(normals: Tensor, signs: Sequence[int]) -> Tensor:
    """Normals (b 3 h w) with every axis times its sign."""
    factors = torch.tensor(signs, dtype=normals.dtype, device=normals.device)
    return normals * factors[:, None, None]


def from_diode(normals: Tensor) -> Tensor:
    """Normals (b 3 h w) of DIODE's files, in [-1, 1], zero where invalid: ours already.

    The devkit states no axes. Known is that y and z point the other way than Omnidata's, which makes them
    ours; `benchmarks.data.diode.check` proves it on the files, by their depth, before any normal is used.
    """
    return normals


def from_omnidata(values: Tensor) -> Tensor:
    """Omnidata's output (b 3 h w), (n + 1) / 2 in [0, 1], with x right, y down, z away from the camera.

    Measured by users of the v2 model on pictures of rooms (issue 9 of maturk/dn-splatter): a floor is near
    (0, -1, 0), a ceiling near (0, 1, 0), a wall face to face near (0, 0, -1).
    """
    return flip(values * 2 - 1, (1, -1, -1))


def from_marigold(normals: Tensor) -> Tensor:
    """Marigold's output (b 3 h w) in [-1, 1]: ours already.

    Documented by diffusers (MarigoldImageProcessor.visualize_normals): x right, y top, z to the observer.
    """
    return normals


def normals_from_depth(
    depth: Tensor, mask: Tensor, focal: tuple[float, float], center: tuple[float, float], step: int = 1
) -> tuple[Tensor, Tensor]:
    """Normals (b 3 h w) in our axes of depth (b 1 h w) along the view axis, and where they are sound.

    Back-projection by a pinhole camera, then the cross product of central differences. Sound are pixels whose
    four compared points are valid and within JUMP of the depth in the middle: (b 1 h w) bool.

    Args:
        mask: (b 1 h w) bool, valid depth.
        focal: fx and fy in pixels.
        center: cx and cy in pixels, from the middle of the first pixel.
        step: pixels to the compared points; more is steadier on noisy depth.
    """
    h, w = depth.shape[2:]
    clean = torch.where(mask, depth, 1.0).double()  # differences of large numbers
    x = (torch.arange(w, dtype=torch.float64) - center[0]) / focal[0]
    y = (center[1] - torch.arange(h, dtype=torch.float64)) / focal[1]
    rays = torch.stack([x.expand(h, w), y[:, None].expand(h, w), -torch.ones(h, w, dtype=torch.float64)])
    points = rays * clean

    def beside(values: Tensor, down: int, right: int) -> Tensor:
        return torch.roll(values, (-down * step, -right * step), (2, 3))

    across = beside(points, 0, 1) - beside(points, 0, -1)
    along = beside(points, 1, 0) - beside(points, -1, 0)
    normals = functional.normalize(torch.linalg.cross(along, across, dim=1), dim=1).to(depth.dtype)
    sound = mask.clone()
    for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        near = (beside(clean, down, right) - clean).abs() < JUMP * clean
        sound &= beside(mask, down, right) & near
    inside = torch.zeros_like(sound)
    inside[:, :, step : h - step, step : w - step] = True  # no point from the other end of the picture
    return normals, sound & inside


@dataclass(frozen=True)
class Fit:
    """How normals fit those that the depth implies.

    Attributes:
        flipped: names of the axes that point the other way.
        angle: median angle in degrees between both as the files are declared.
        best: the same with the flipped axes turned.
        pixels: that were compared.
    """

    flipped: str
    angle: float
    best: float
    pixels: int


def compare(normals: Tensor, expected: Tensor, valid: Tensor) -> Fit | None:
    """How normals (b 3 h w) fit expected ones where valid (b 1 h w); None with fewer than ENOUGH pixels.

    An axis is flipped if its components anticorrelate; one that is hardly seen counts as it is declared.
    """
    inside = valid[:, 0]
    if int(inside.sum()) < ENOUGH:
        return None
    said, seen = normals.movedim(1, -1)[inside], expected.movedim(1, -1)[inside]
    told = (seen.square().mean(0) > SEEN) & (said.square().mean(0) > SEEN)
    turned = told & ((said * seen).mean(0) < 0)
    signs = torch.where(turned, -1.0, 1.0).to(said.dtype)
    flipped = "".join(name for name, is_turned in zip(NAMES, turned.tolist(), strict=True) if is_turned)
    angle, best = _median_angle(said, seen), _median_angle(said * signs, seen)
    return Fit(flipped, angle, best, len(said))


def _median_angle(a: Tensor, b: Tensor) -> float:
    return float(torch.rad2deg(torch.acos((a * b).sum(1).clamp(-1, 1))).median())
