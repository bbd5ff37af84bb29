"""The second world: what is in its scenes, and that its truth is exact."""

import pytest
import torch

from benchmarks.data import captions, describe
from benchmarks.data.load import load_pictures
from benchmarks.data.objects.facts import FINGERPRINT
from benchmarks.data.objects.scenes import OBJECT, scene_parameters
from benchmarks.data.rooms.fingerprint import fingerprint
from benchmarks.data.rooms.render import render
from generators.errors import UserError


def test_the_fingerprint_is_that_of_the_pixels() -> None:
    assert fingerprint("objects") == FINGERPRINT == describe("objects").fingerprint
    assert describe("rooms").fingerprint != FINGERPRINT


def test_there_is_one_object_and_nothing_else_has_a_pattern() -> None:
    scenes = scene_parameters("test", range(200))
    assert (scenes.shape[:, 0] >= 0).all() and (scenes.shape[:, 1:] == -1).all()
    patterns = scenes.material[:, :, 0]
    assert (patterns[:, :OBJECT] == 0).all() and (patterns[:, OBJECT] > 0).mean() > 0.7
    assert (scenes.half[:, [0, 2]] > abs(scenes.eye[:, [0, 2]])).all() and (scenes.eye[:, 1] > 0.25).all()


def test_the_object_is_seen_in_every_picture() -> None:
    seen = render("test", range(200), 32, world="objects").objects.float().mean((1, 2, 3))
    assert seen.min() > 0.01 and seen.mean() > 0.12


def test_truth_fits_the_pictures() -> None:
    found = render("test", range(20), 32, world="objects")
    torch.testing.assert_close(found.image, found.albedo * found.shading)
    torch.testing.assert_close(found.normal.norm(dim=1), torch.ones(20, 32, 32))
    assert found.depth.isfinite().all() and found.depth.min() > 0.2 and found.depth.max() < 10


def test_a_scene_does_not_depend_on_its_batch() -> None:
    alone, together = (render("train", rows, 16, world="objects") for rows in ([7], range(5, 9)))
    assert torch.equal(alone.rgb[0], together.rgb[2])
    other = render("validation", [7], 16, world="objects")
    assert not torch.equal(alone.rgb, other.rgb)


def test_it_is_a_data_set_like_rooms() -> None:
    found = load_pictures("objects", "test", range(4), 16, ["depth"])
    assert found.pictures.shape == (4, 3, 16, 16) and list(found.maps) == ["depth"]
    assert found.captions == captions("objects", "test", range(4)) != captions("rooms", "test", range(4))
    with pytest.raises(UserError, match="samples"):
        captions("samples", "test", range(4))
    with pytest.raises(ValueError, match="known splits"):
        scene_parameters("train2", [0])
