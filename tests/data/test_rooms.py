"""The embedded world: exact, repeatable, independent of the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.data import describe
from benchmarks.data.load import Pictures, load_pictures
from benchmarks.data.rooms.facts import FINGERPRINT, SPLITS
from benchmarks.data.rooms.fingerprint import fingerprint
from benchmarks.data.rooms.render import Rooms, _columns, _Hit, _Planes, _rays, render, srgb
from benchmarks.data.rooms.scenes import Scenes, draws, scene_parameters
from generators.errors import UserError

MAPS = ("image", "rgb", "normal", "depth", "albedo", "shading", "objects")


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return render("test", range(40))


def test_image_is_albedo_times_shading(rooms: Rooms) -> None:
    assert (rooms.image - rooms.albedo * rooms.shading).abs().max() < 1e-6
    for value in (rooms.image, rooms.albedo, rooms.shading):
        assert value.min() >= 0 and value.max() <= 1


def test_the_picture_is_the_image_in_8_bit_srgb(rooms: Rooms) -> None:
    assert (rooms.rgb - srgb(rooms.image)).abs().max() <= 0.5 / 255 + 1e-6
    assert ((rooms.rgb * 255).round() - rooms.rgb * 255).abs().max() < 1e-4


def test_normals_are_unit_and_face_the_camera(rooms: Rooms) -> None:
    assert (rooms.normal.norm(dim=1) - 1).abs().max() < 1e-5
    # A visible surface faces its ray: n . d < 0 with d from the eye through the pixel.
    planes = _Planes(scene_parameters("test", range(40)), torch.device("cpu"))
    _, x, y = _rays(planes, 64)
    rays = torch.stack([x, y, -torch.ones_like(x)], 1).view(-1, 3, 64, 64)
    assert ((rays * rooms.normal).sum(1) < 1e-4).all()


def test_normals_agree_with_the_depth_they_came_with(rooms: Rooms) -> None:
    """Cross product of neighboring 3-D points, away from edges, against the normal map."""
    planes = _Planes(scene_parameters("test", range(40)), torch.device("cpu"))
    _, x, y = _rays(planes, 64)
    grid = torch.stack([x, y, -torch.ones_like(x)], 1).view(-1, 3, 64, 64)
    points = grid * rooms.depth
    right = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    down = points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    cross = torch.nn.functional.normalize(torch.cross(down, right, dim=1), dim=1)
    normal = rooms.normal[:, :, 1:-1, 1:-1]
    angle = torch.rad2deg(torch.acos((cross * normal).sum(1).clamp(-1, 1)))
    assert angle.median() < 0.5
    assert (angle < 5).float().mean() > 0.8  # the others are at edges


def test_up_is_up() -> None:
    """Without pitch and roll the floor's normal is +y and what is above the horizon is not floor."""
    scenes = scene_parameters("test", range(20))
    level = np.tile(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]), (20, 1, 1))
    planes = _Planes(Scenes(**{**scenes.__dict__, "axes": level}), torch.device("cpu"))
    d, _, _ = _rays(planes, 16)
    hit = _Hit(_columns(planes.eye), d, planes.half)
    surface = hit.surface.view(20, 16, 16)
    assert (surface[:, 8:] == 2).any() and not (surface[:, :8] == 2).any()
    assert not (surface[:, 8:] == 3).any()


@pytest.mark.parametrize("name", MAPS)
def test_a_scene_does_not_depend_on_its_batch(rooms: Rooms, name: str) -> None:
    alone = render("test", [23])
    other = render("test", [5, 23, 7])
    whole: Tensor = getattr(rooms, name)
    assert torch.equal(getattr(alone, name)[0], whole[23])
    assert torch.equal(getattr(other, name)[1], whole[23])


def test_splits_and_scenes_differ() -> None:
    pictures = [render(split, range(3), 16).rgb for split in SPLITS]
    flat = torch.cat(pictures).flatten(1)
    distances = torch.cdist(flat, flat) + torch.eye(len(flat)) * 1e9
    assert distances.min() > 0.5


def test_one_purpose_moves_no_other() -> None:
    assert np.array_equal(draws("train", 3, "room", 2), draws("train", 3, "room", 5)[:2])
    assert not np.array_equal(draws("train", 3, "room", 3), draws("train", 3, "lights", 3))


def test_the_fingerprint_is_that_of_the_pixels() -> None:
    """If this fails because the world was meant to change, raise VERSION and renew FINGERPRINT."""
    assert fingerprint() == FINGERPRINT == describe("rooms").fingerprint


def test_captions_name_what_is_there() -> None:
    captions = scene_parameters("test", range(200)).captions
    assert all(" in a room with a " in c and c.endswith(" floor") for c in captions)
    shapes = scene_parameters("test", range(200)).shape
    for caption, row in zip(captions, shapes, strict=True):
        named = sum(caption.count(s) for s in ("sphere", "box", "cylinder"))
        assert named == (row >= 0).sum()
    assert any("an orange" in c for c in captions) and not any("a orange" in c for c in captions)


def test_objects_shadows_and_textures_are_everywhere(rooms: Rooms) -> None:
    seen = rooms.objects.float().mean()
    assert 0.1 < seen < 0.4
    # Shading varies a lot within a scene, and its color differs from gray: lights are colored.
    assert (rooms.shading.amax((1, 2, 3)) / rooms.shading.mean((1, 2, 3))).median() > 2
    assert (rooms.shading.std(1).mean((1, 2)) > 0.02).float().mean() > 0.5


@pytest.mark.parametrize("size", [1, 7, 96])
def test_any_size(size: int) -> None:
    assert render("train", [0, 1], size).rgb.shape == (2, 3, size, size)


@pytest.mark.parametrize(
    ("split", "rows", "size"), [("nope", [0], 8), ("train", [], 8), ("train", [-1], 8), ("train", [0], 0)]
)
def test_bad_requests_are_refused(split: str, rows: list[int], size: int) -> None:
    with pytest.raises(ValueError, match="rooms"):
        render(split, rows, size)


def test_loaded_pictures_survive_the_cache_bit_by_bit() -> None:
    loaded = load_pictures("rooms", "validation", range(3), 32)
    again = Pictures.from_tensors(loaded.tensors(), loaded.captions)
    assert torch.equal(again.pictures, loaded.pictures)
    assert all(torch.equal(again.maps[k], loaded.maps[k]) for k in loaded.maps)
    assert loaded.pictures.min() >= -1 and loaded.pictures.max() <= 1
    with pytest.raises(UserError, match="split 'dev'"):
        load_pictures("rooms", "dev", range(1), 32)
