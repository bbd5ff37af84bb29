"""A Dinov2 backbone of transformers with one new linear layer that turns patch tokens into pixels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.errors import UserError

HEAD_STD = 0.02  # of the new head's weights, as the backbone's own


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (b c h w) at another size, bilinear, antialiased where they shrink; themselves where not."""
    old = (x.shape[2], x.shape[3])
    if old == size:
        return x
    shrinks = size[0] < old[0] or size[1] < old[1]
    if refused_backward(x):
        return resize_by_matrices(x, size, shrinks)
    return functional.interpolate(x, size, mode="bilinear", align_corners=False, antialias=shrinks)


def refused_backward(x: Tensor) -> bool:
    """Whether the gradient of x, where it is interpolated, has no deterministic algorithm and needs one.

    CUDA's for antialiased bilinear and for bicubic interpolation add in whichever order threads come.
    """
    return torch.are_deterministic_algorithms_enabled() and x.is_cuda and x.requires_grad


def resize_by_matrices(x: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """What bilinear interpolation gives, but for rounding, as two products, one for each axis.

    Args:
        x: pictures (b c h w); the products are computed in float32, and rounded to the type of x.
        size: rows and columns of the result.
        antialias: as in torch.nn.functional.interpolate.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (
            functional.interpolate(
                torch.eye(old, device=x.device)[None, None],
                (new, old),
                mode="bilinear",
                align_corners=False,
                antialias=antialias,
            )[0, 0]
            for old, new in zip(x.shape[2:], size, strict=True)
        )
        return torch.einsum("ij,bcjk,lk->bcil", rows, x.float(), columns).to(x.dtype)


def patches_to_pixels(values: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Pictures (b c h w) from one vector for each patch.

    Args:
        values: (b n f), n = rows * columns patches in row-major order; f = patch * patch * c, the
            pixels of a patch in row-major order, the channels of a pixel side by side.
        grid: rows and columns of patches.
        patch: side of a patch in pixels.
    """
    (rows, columns), b = grid, len(values)
    x = values.reshape(b, rows, columns, patch, patch, -1)  # b, patch row, patch column, y, x, channel
    x = x.permute(0, 5, 1, 3, 2, 4)  # b, channel, patch row, y, patch column, x
    return x.reshape(b, -1, rows * patch, columns * patch)


def new_head(width: int, patch: int, seed: int) -> nn.Linear:
    """A linear layer from a token to the RGB pixels of its patch: small weights from a seed, no bias yet."""
    head = nn.utils.skip_init(nn.Linear, width, 3 * patch**2)
    with torch.no_grad():
        head.weight.normal_(0, HEAD_STD, generator=torch.Generator().manual_seed(seed))
        head.bias.zero_()
    return head


class PixelTransformer(nn.Module):
    """Patch tokens after the final layer norm, one linear layer, pixels.

    Args:
        backbone: a Dinov2Model or Dinov2WithRegistersModel.
        head_seed: of the head's weights.
    """

    def __init__(self, backbone: Any, head_seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.patch: int = backbone.config.patch_size
        # The class token stands before the patches, and the registers between them.
        self.first_patch: int = 1 + getattr(backbone.config, "num_register_tokens", 0)
        self.head = new_head(backbone.config.hidden_size, self.patch, head_seed)

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        return pixels.shape[2] // self.patch, pixels.shape[3] // self.patch

    def _check_positions(self, grid: tuple[int, int]) -> None:
        """Raise UserError if the embeddings' bicubic interpolation would refuse its gradient."""
        positions = self.backbone.embeddings.position_embeddings
        side = round((positions.shape[1] - 1) ** 0.5)
        if grid == (side, side) or not torch.is_grad_enabled() or not refused_backward(positions):
            return
        raise UserError(
            f"the gradient of position embeddings on {grid[0]} x {grid[1]} patches",
            "bicubic interpolation has no deterministic algorithm for it on a CUDA device",
            f"without interpolation: pictures of {side * self.patch} x {side * self.patch} pixels,"
            f" or less than a patch smaller; this model has {side} x {side} positions",
            "leave out --deterministic, take pictures of that size, or a method that trains no position"
            " embeddings, as lora",
        )

    def forward(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (b 3 h w) of a size from normalized pictures whose sides are multiples of the patch.

        Raises UserError where the position embeddings are trained on a CUDA device under deterministic
        algorithms and have to be interpolated.
        """
        self._check_positions(self._grid(pixels))
        states = self.backbone(pixel_values=pixels).last_hidden_state
        values = self.head(states[:, self.first_patch :])
        return resize(patches_to_pixels(values, self._grid(pixels), self.patch), size)

    def activations(self, pixels: Tensor) -> dict[str, Tensor]:
        """Patch tokens as maps (b hidden h/p w/p): after every block, and after the final layer norm."""
        found = self.backbone(pixel_values=pixels, output_hidden_states=True)
        states = {f"block{i}": state for i, state in enumerate(found.hidden_states[1:])}  # 0: the embedding
        grid = self._grid(pixels)
        return {
            name: state[:, self.first_patch :].transpose(1, 2).unflatten(2, grid)
            for name, state in (states | {"norm": found.last_hidden_state}).items()
        }

    def reinitialize(self) -> None:
        """New weights for the backbone from torch's random state; the head is new anyway."""
        fresh = type(self.backbone)(copy.deepcopy(self.backbone.config))
        self.backbone.load_state_dict(fresh.state_dict())
