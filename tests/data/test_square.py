"""Squares at other sizes: what is cut, what is averaged, and that nothing invalid leaks."""

import pytest
import torch
from PIL import Image

from benchmarks.data.square import middle, square_nearest, square_normals, square_picture


def test_the_middle_is_cut_out() -> None:
    columns = torch.arange(8.0).expand(1, 1, 6, 8)
    assert middle(columns)[0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert middle(columns.movedim(3, 2))[0, 0, :, 0].tolist() == [1, 2, 3, 4, 5, 6]
    picture = Image.new("RGB", (8, 6), "white")
    picture.paste((0, 0, 0), (0, 0, 1, 6))
    assert (square_picture(picture, 6) == 1).all()  # the black column is cut off


@pytest.mark.parametrize("size", [3, 5, 6, 7, 12])
def test_depth_is_one_of_the_measured_values(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    depth = torch.rand(2, 1, 6, 8, generator=generator) + 1
    mask = torch.rand(2, 1, 6, 8, generator=generator) > 0.3
    found, valid = square_nearest(torch.where(mask, depth, torch.nan), mask, size)
    assert valid.any() and not valid.all()
    assert set(found[valid].tolist()) <= set(depth[mask].tolist())
    assert (found[~valid] == 0).all()


@pytest.mark.parametrize("size", [3, 5, 6, 12])
def test_normals_are_the_unit_mean_of_the_valid_ones(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    toward = torch.tensor([0.6, 0.0, 0.8])[:, None, None].expand(1, 3, 6, 8)
    mask = torch.rand(1, 1, 6, 8, generator=generator) > 0.3
    found, valid = square_normals(torch.where(mask, toward, torch.nan), mask, size)
    assert valid.any() and torch.isfinite(found).all()
    assert torch.allclose(found.movedim(1, -1)[valid[:, 0]], torch.tensor([0.6, 0.0, 0.8]))
    assert (found.movedim(1, -1)[~valid[:, 0]] == 0).all()


def test_half_of_a_pixel_has_to_be_valid_and_normals_may_not_cancel() -> None:
    normals = torch.zeros(1, 3, 4, 4)
    normals[:, 2] = 1
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, :2] = False  # half of the first of four pixels
    mask[0, 0, :2, 2:] = torch.tensor([[True, False], [False, False]])  # a quarter of the second
    normals[0, 2, 2, :2] = -1  # the third looks both ways
    _, valid = square_normals(normals, mask, 2)
    assert valid[0, 0].tolist() == [[True, False], [False, True]]
