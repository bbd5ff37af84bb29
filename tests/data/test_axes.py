"""Every source's axes on planes whose normals are known, and the comparison with depth."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.data.axes import (
    compare,
    flip,
    from_diode,
    from_marigold,
    from_omnidata,
    normals_from_depth,
)
from benchmarks.data.rooms.render import _Planes, render
from benchmarks.data.rooms.scenes import scene_parameters
from tests.data.diode_tree import CENTER, FOCAL, room

WALL, FLOOR, RIGHT = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)  # ours; RIGHT looks to the right


def one(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("convert", "wall", "floor", "right"),
    [
        (from_diode, (0, 0, 1), (0, 1, 0), (1, 0, 0)),
        (from_marigold, (0, 0, 1), (0, 1, 0), (1, 0, 0)),
        (from_omnidata, (0.5, 0.5, 0), (0.5, 0, 0.5), (1, 0.5, 0.5)),  # in [0, 1]; OpenCV's axes
    ],
)
def test_each_source_says_wall_floor_and_right(convert, wall, floor, right) -> None:  # type: ignore[no-untyped-def]
    for said, expected in ((wall, WALL), (floor, FLOOR), (right, RIGHT)):
        assert torch.equal(convert(one(*map(float, said))), one(*expected))


def parts(turn: float = 30.0) -> tuple[Tensor, Tensor, Tensor]:
    """Normals, those of the depth, and where to compare, of a room in closed form."""
    maps = room(turn)
    depth = torch.from_numpy(maps["depth"][None, None, ..., 0])
    expected, sound = normals_from_depth(depth, torch.ones_like(depth, dtype=torch.bool), FOCAL, CENTER)
    return torch.from_numpy(np.moveaxis(maps["normal"], -1, 0)[None].copy()), expected, sound


def test_depth_implies_the_normals_of_a_room() -> None:
    normals, expected, sound = parts()
    angle = torch.rad2deg(torch.acos((normals * expected).sum(1, keepdim=True).clamp(-1, 1)))
    assert sound.float().mean() > 0.8
    assert angle[sound].median() < 0.1
    assert (angle[sound] < 1).float().mean() > 0.95  # the others are at the edges of the room


def test_the_rooms_agree_too() -> None:
    """An independent renderer: the embedded world, whose camera has square pixels."""
    size, rooms = 64, render("test", range(4))
    tangent = _Planes(scene_parameters("test", range(4)), torch.device("cpu")).tangent.flatten()
    for i in range(4):
        focal = size / 2 / float(tangent[i])
        mask = torch.ones_like(rooms.depth[i : i + 1], dtype=torch.bool)
        middle = (size - 1) / 2
        expected, sound = normals_from_depth(rooms.depth[i : i + 1], mask, (focal, focal), (middle, middle))
        fit = compare(rooms.normal[i : i + 1], expected, sound)
        assert fit is not None and fit.flipped == "" and fit.angle < 1


@pytest.mark.parametrize("axes", ["", "x", "y", "z", "xz", "xyz"])
def test_flipped_axes_are_named(axes: str) -> None:
    normals, expected, sound = parts()
    fit = compare(flip(normals, [-1 if name in axes else 1 for name in "xyz"]), expected, sound)
    assert fit is not None and fit.flipped == axes
    assert fit.best < 1
    assert (fit.angle > 5) == bool(axes)


def test_what_hardly_shows_an_axis_says_nothing_of_it() -> None:
    """A wall face to face: x and y of its normals are noise."""
    generator = torch.Generator().manual_seed(0)
    wall = one(*WALL).expand(1, 3, 40, 40)
    noisy = torch.nn.functional.normalize(wall + 0.02 * torch.randn(1, 3, 40, 40, generator=generator), dim=1)
    fit = compare(wall, noisy, torch.ones(1, 1, 40, 40, dtype=torch.bool))
    assert fit is not None and fit.flipped == ""
    assert compare(wall, noisy, torch.zeros(1, 1, 40, 40, dtype=torch.bool)) is None


def test_invalid_depth_and_borders_are_not_sound() -> None:
    depth = torch.full((1, 1, 12, 12), 2.0)
    mask = torch.ones_like(depth, dtype=torch.bool)
    mask[0, 0, 5, 6] = False
    _, sound = normals_from_depth(depth, mask, (10.0, 10.0), (6.0, 6.0), step=2)
    assert not sound[0, 0, :2].any() and not sound[0, 0, :, -2:].any()
    assert not any(sound[0, 0, r, c] for r, c in ((5, 6), (3, 6), (7, 6), (5, 4), (5, 8)))
    assert sound[0, 0, 4, 5]
