"""How a picture of any size is shown to a model of one size, and its map brought back: explicit policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from generators.base import Generator

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, height, width
POLICIES = {
    "keep": "aspect kept, shorter side as the model's, map resized back",
    "square": "squeezed to the model's square, map resized back",
    "native": "the picture's own size, padded by reflection, map cropped back",
    "tile": "its own size, in overlapping tiles of the model's size, blended",
}
OVERLAP = 0.25  # least share of a tile that its neighbor sees, too
PROBED = 64  # side of the blank picture that tells how large latents are
LARGEST = 16  # times the model's own pixels that it is shown at once


@dataclass(frozen=True)
class Layout:
    """Where a picture's pixels go.

    Attributes:
        source: size of the picture, and of its map.
        scaled: size after resizing.
        canvas: size after padding by reflection, right and below.
        boxes: the parts of the canvas that the model is shown.
    """

    source: Size
    scaled: Size
    canvas: Size
    boxes: tuple[Box, ...]


def granularity_of(generator: Generator) -> int | None:
    """Sides a latent diffusion model can be shown are multiples of this; None: its own size alone.

    A pixel of its latents is so many of a picture, and between its levels the UNet halves the side once
    more each time: 8 * 8 on Stable Diffusion v1.
    """
    import torch

    levels = getattr(getattr(generator.network, "config", None), "block_out_channels", None)
    if generator.spec.space != "latents" or not levels:
        return None
    with torch.no_grad():
        latent = generator.encode(torch.zeros(1, 3, PROBED, PROBED))
    return int(PROBED // latent.shape[-1] * 2 ** (len(levels) - 1))


def check_policy(policy: str, name: str, granularity: int | None) -> None:
    """Raise UserError if a model cannot be shown pictures as a policy wants to."""
    if granularity is None and policy in ("keep", "native"):
        raise UserError(
            f"--resize {policy} with {name}",
            "this model is shown pictures of its own size only",
            "square: squeezed to it; tile: overlapping tiles of it",
            "--resize square or --resize tile",
        )


def plan_layout(policy: str, source: Size, resolution: int, granularity: int | None) -> Layout:
    """The layout of a picture.

    Args:
        source: height and width of the picture.
        resolution: the model's own side.

    Raises:
        UserError: the picture is smaller than one step of the model, or too large to be shown at once.
    """
    least = granularity or 2
    if min(source) < least:
        raise UserError(
            f"a picture of {_words(source)}",
            "it is too small: nothing of it would be left inside the model",
            f"the least size is {_words((least, least))}",
            "use a larger picture",
        )
    if policy == "tile":
        canvas = (max(source[0], resolution), max(source[1], resolution))
        tiles = [(y, x, resolution, resolution) for y in _starts(canvas[0], resolution)
                 for x in _starts(canvas[1], resolution)]  # fmt: skip
        return Layout(source, source, canvas, tuple(tiles))
    if policy == "native":
        scaled, canvas = source, _multiples(source, least, up=True)
    elif policy == "keep":
        scale = resolution / min(source)
        scaled = canvas = _multiples((source[0] * scale, source[1] * scale), least)
    else:
        scaled = canvas = (resolution, resolution)
    _check_largest(policy, source, canvas, resolution)
    return Layout(source, scaled, canvas, ((0, 0, *canvas),))


def _words(size: Size) -> str:
    return f"{size[1]} x {size[0]} pixels"


def _multiples(size: tuple[float, float], step: int, up: bool = False) -> Size:
    """Nearest multiples of a step, or those above; not less than one step."""
    counts = [-(-s // step) if up else round(s / step) for s in size]
    return max(1, int(counts[0])) * step, max(1, int(counts[1])) * step


def _check_largest(policy: str, source: Size, canvas: Size, resolution: int) -> None:
    if canvas[0] * canvas[1] > LARGEST * resolution**2:
        raise UserError(
            f"a picture of {_words(source)} with --resize {policy}",
            f"the model would be shown {_words(canvas)} at once",
            f"at most {LARGEST} times its own {resolution} x {resolution}",
            "--resize tile" + (" or keep" if policy == "native" else " or square"),
        )


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin, evenly spaced, so that they cover the length and overlap by OVERLAP or more."""
    count = 1 + max(0, -(-(length - tile) // int(tile * (1 - OVERLAP))))
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]


# There.


def prepare(values: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    """A picture (h w 3), uint8 or uint16, as the canvas (3 H W) in [-1, 1]; Lanczos, then reflection."""
    top = np.iinfo(values.dtype).max
    if layout.scaled != layout.source:
        values = _resized(values, layout.scaled)
    pad = [(0, c - s) for c, s in zip(layout.canvas, layout.scaled, strict=True)]
    padded = np.pad(values, [*pad, (0, 0)], mode="reflect") if any(p for _, p in pad) else values
    return np.ascontiguousarray((padded.astype(np.float32) * (2 / top) - 1).transpose(2, 0, 1))


def _resized(values: NDArray[Any], size: Size) -> NDArray[Any]:
    from PIL import Image

    shape, way = (size[1], size[0]), Image.Resampling.LANCZOS
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(values).resize(shape, way))
    deep = [Image.fromarray(values[..., c].astype(np.float32)) for c in range(3)]
    planes = [np.asarray(plane.resize(shape, way)) for plane in deep]
    return np.rint(np.clip(np.stack(planes, 2), 0, 65535)).astype(np.uint16)


# And back.


def window(height: int, width: int) -> Tensor:
    """Weights (1 h w) of a tile's pixels: a squared sine each way, above zero everywhere."""
    import torch

    sides = [torch.sin(torch.pi * (torch.arange(n) + 0.5) / n).square() for n in (height, width)]
    return (sides[0][:, None] * sides[1][None])[None]


def join(layout: Layout, parts: list[Tensor]) -> Tensor:
    """What the model drew of every box (3 h w), as a picture (3 h w) of the source's size."""
    import torch
    from torch.nn import functional

    if len(parts) == 1:
        whole = parts[0].float()
    else:
        total = torch.zeros(4, *layout.canvas, device=parts[0].device)  # the last one: sum of weights
        for (top, left, h, w), part in zip(layout.boxes, parts, strict=True):
            weight = window(h, w).to(part.device)
            weighted = torch.cat([part.float() * weight, weight])
            total[:, top : top + h, left : left + w] += weighted
        whole = total[:3] / total[3:]
    whole = whole[:, : layout.scaled[0], : layout.scaled[1]]
    if layout.scaled == layout.source:
        return whole
    return functional.interpolate(whole[None], layout.source, mode="bilinear", antialias=True)[0]
