"""Policies: what the model is shown, and that the way back undoes the way there."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.predict.layout import (
    OVERLAP,
    POLICIES,
    check_policy,
    join,
    plan_layout,
    prepare,
)
from generators.errors import UserError
from tests.predict.pictures import smooth

sides = st.integers(16, 150)


def drawn(policy: str, picture: np.ndarray) -> torch.Tensor:
    """A picture there and back with a model that gives back what it is shown."""
    layout = plan_layout(policy, picture.shape[:2], 64, 16)
    canvas = torch.from_numpy(prepare(picture, layout))
    parts = [canvas[:, y : y + h, x : x + w] for y, x, h, w in layout.boxes]
    return join(layout, parts)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(POLICIES)), sides, sides)
def test_every_pixel_is_shown_and_sides_fit_the_model(policy: str, h: int, w: int) -> None:
    layout = plan_layout(policy, (h, w), 64, 16)
    seen = np.zeros(layout.canvas, bool)
    for y, x, height, width in layout.boxes:
        assert height % 16 == 0 and width % 16 == 0
        assert min(y, x) >= 0 and y + height <= layout.canvas[0] and x + width <= layout.canvas[1]
        seen[y : y + height, x : x + width] = True
    assert seen.all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["native", "tile"]), sides, sides, st.booleans())
def test_without_resizing_a_picture_comes_back_as_it_was(policy: str, h: int, w: int, deep: bool) -> None:
    picture = np.random.default_rng(h * w).integers(0, 256, (h, w, 3)).astype(np.uint8)
    given_ = picture.astype(np.uint16) * 257 if deep else picture
    expected = picture.transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(drawn(policy, given_).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("policy", ["keep", "square"])
@pytest.mark.parametrize("size", [(64, 64), (48, 97), (130, 75)])
@pytest.mark.parametrize("deep", [False, True])
def test_resized_pictures_come_back_nearly(policy: str, size: tuple[int, int], deep: bool) -> None:
    picture = smooth(*size)
    found = drawn(policy, picture.astype(np.uint16) * 257 if deep else picture).numpy()
    assert found.shape == (3, *size)
    assert np.abs(found - (picture.transpose(2, 0, 1) / 127.5 - 1)).mean() < 0.02


def test_the_sizes_of_stable_diffusion() -> None:
    """Steps of 64; a megapixel is shown at once, as in the paper's appendix F."""
    assert plan_layout("native", (1024, 1024), 512, 64).boxes == ((0, 0, 1024, 1024),)
    assert plan_layout("native", (1000, 700), 512, 64).canvas == (1024, 704)
    assert plan_layout("keep", (1080, 1920), 512, 64).canvas == (512, 896)
    assert plan_layout("keep", (300, 300), 512, 64).canvas == (512, 512)
    assert plan_layout("square", (1080, 1920), 512, 64).canvas == (512, 512)
    assert len(plan_layout("tile", (1024, 1024), 512, 64).boxes) == 9


@given(st.integers(64, 700))
def test_neighboring_tiles_overlap(length: int) -> None:
    starts = [box[1] for box in plan_layout("tile", (64, length), 64, 16).boxes]
    assert starts[0] == 0 and starts[-1] == length - 64
    assert all(b - a <= 64 * (1 - OVERLAP) + 1 for a, b in pairwise(starts))


def test_tiles_blend_without_a_seam() -> None:
    """Two tiles that disagree by one give a ramp, no step."""
    layout = plan_layout("tile", (64, 112), 64, 16)
    parts = [torch.full((3, 64, 64), float(number)) for number in range(len(layout.boxes))]
    row = join(layout, parts)[0, 30]
    assert row[0] == 0 and row[-1] == len(parts) - 1
    assert (row.diff() >= -1e-6).all() and row.diff().max() < 0.25


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("size", [(1, 1), (15, 400)])
def test_too_small_is_refused_with_the_least_size(policy: str, size: tuple[int, int]) -> None:
    with pytest.raises(UserError) as caught:
        plan_layout(policy, size, 64, 16)
    assert "16 x 16" in caught.value.known


@pytest.mark.parametrize(("policy", "size"), [("native", (6000, 8000)), ("keep", (20, 2000))])
def test_too_large_for_one_look_is_refused_with_a_way(policy: str, size: tuple[int, int]) -> None:
    with pytest.raises(UserError) as caught:
        plan_layout(policy, size, 64, 16)
    assert "--resize tile" in caught.value.todo


def test_models_of_one_size_refuse_other_sizes() -> None:
    check_policy("square", "vit", None)
    check_policy("tile", "vit", None)
    with pytest.raises(UserError, match="its own size only"):
        check_policy("native", "vit", None)
