"""The middle square of pictures and maps at another size, so that no invalid pixel leaks into a valid one.

Pictures by Pillow's Lanczos filter (which smooths before it makes smaller), depth by its nearest measured
value, as a mean over an edge lies on neither surface, normals by the mean of the valid ones, made unit again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from PIL.Image import Image

HALF = 0.5  # share of a pixel's area that has to be valid


def square_picture(picture: Image, size: int) -> Tensor:
    """(3 size size) in [-1, 1] of the middle square of an RGB picture."""
    from PIL import Image, ImageOps

    resized = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.asarray(resized, dtype=np.float32).copy())
    return values.permute(2, 0, 1) / 127.5 - 1


def middle(values: Tensor) -> Tensor:
    """The middle square (b c s s) of (b c h w)."""
    h, w = values.shape[2:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return values[:, :, top : top + side, left : left + side]


def square_nearest(values: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Values (b c size size) and their mask (b 1 size size): each pixel one of those that were there."""
    nearest = functional.interpolate(middle(values), size=(size, size), mode="nearest-exact")
    valid = functional.interpolate(middle(mask).float(), size=(size, size), mode="nearest-exact") > HALF
    return torch.where(valid, nearest, 0), valid


def square_normals(normals: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Unit normals (b 3 size size) and their mask (b 1 size size): the mean over what is valid.

    Valid is a pixel with at least half of its area valid, and normals that do not cancel; elsewhere 0.
    """
    weight = middle(mask).to(normals.dtype)
    clean = torch.where(middle(mask), middle(normals), 0)
    area = functional.interpolate(weight, size=(size, size), mode="area")
    total = functional.interpolate(clean, size=(size, size), mode="area")
    length = total.norm(dim=1, keepdim=True)
    valid = (area >= HALF) & (length > HALF * area)
    return torch.where(valid, total / length.clamp_min(1e-6), 0), valid
