"""Pictures and maps of a data set as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generators.errors import UserError

from . import describe


@dataclass(frozen=True)
class Pictures:
    """n pictures with their truth.

    Attributes:
        pictures: (n 3 h w) in [-1, 1], sRGB.
        maps: intrinsic -> (n c h w) in natural units.
        mask: (n 1 h w) bool.
        captions: one for each picture.
    """

    pictures: Tensor
    maps: Mapping[str, Tensor]
    mask: Tensor
    captions: tuple[str, ...]

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, for the cache; pictures are 8 bit."""
        picture = ((self.pictures + 1) * 127.5).round().to(torch.uint8)
        return {"pictures": picture, "mask": self.mask, **{f"maps.{k}": v for k, v in self.maps.items()}}

    @staticmethod
    def from_tensors(parts: Mapping[str, Tensor], captions: tuple[str, ...]) -> Pictures:
        """Inverse of `tensors`."""
        maps = {k.removeprefix("maps."): v for k, v in parts.items() if k.startswith("maps.")}
        return Pictures(parts["pictures"].float() / 127.5 - 1, maps, parts["mask"], captions)


def load_pictures(data: str, split: str, indices: Sequence[int], size: int) -> Pictures:
    """Pictures of a data set; raises UserError for an unknown data set or split."""
    spec = describe(data)
    if split not in spec.splits:
        raise UserError(f"split {split!r} of {data}", "it does not exist", f"known: {', '.join(spec.splits)}")
    from .rooms.render import render

    rooms = render(split, indices, size)
    maps = {name: getattr(rooms, name) for name in spec.intrinsics}
    mask = torch.ones_like(rooms.depth, dtype=torch.bool)
    # The same rounding as a picture read from the cache has.
    picture = (rooms.rgb * 255).round() / 127.5 - 1
    return Pictures(picture, maps, mask, rooms.captions)
