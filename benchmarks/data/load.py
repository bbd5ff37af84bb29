"""Pictures and maps of a data set as tensors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from generators.errors import UserError

from . import DATA, DataSpec, describe, family_of


@dataclass(frozen=True)
class Pictures:
    """n pictures with their truth.

    Attributes:
        pictures: (n 3 h w) in [-1, 1], sRGB.
        maps: intrinsic -> (n c h w) in natural units.
        mask: (n 1 h w) bool.
        captions: one for each picture.
        masks: intrinsic -> (n 1 h w) bool, where a map is valid elsewhere than `mask` says.
        groups: one name for each picture; pictures of one group are no independent draws. () if all are.
    """

    pictures: Tensor
    maps: Mapping[str, Tensor]
    mask: Tensor
    captions: tuple[str, ...]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    def mask_of(self, intrinsic: str) -> Tensor:
        """Where a map is valid: (n 1 h w) bool."""
        return self.masks.get(intrinsic, self.mask)

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, for the cache; pictures are 8 bit."""
        picture = ((self.pictures + 1) * 127.5).round().to(torch.uint8)
        masks = {f"masks.{k}": v.clone() for k, v in self.masks.items()}  # often `mask` itself
        maps = {f"maps.{k}": v for k, v in self.maps.items()}
        return {"pictures": picture, "mask": self.mask, **maps, **masks}

    @staticmethod
    def from_tensors(
        parts: Mapping[str, Tensor], captions: tuple[str, ...], groups: tuple[str, ...] = ()
    ) -> Pictures:
        """Inverse of `tensors`."""
        maps = {k.removeprefix("maps."): v for k, v in parts.items() if k.startswith("maps.")}
        masks = {k.removeprefix("masks."): v for k, v in parts.items() if k.startswith("masks.")}
        return Pictures(parts["pictures"].float() / 127.5 - 1, maps, parts["mask"], captions, masks, groups)


def load_pictures(
    data: str,
    split: str,
    indices: Sequence[int],
    size: int,
    intrinsics: Sequence[str] | None = None,
) -> Pictures:
    """Pictures of a data set, with the maps of some intrinsics; None for all it has.

    Raises:
        UserError: an unknown data set or split, or more pictures than there are.
    """
    spec = describe(data)
    if split not in spec.splits:
        raise UserError(f"split {split!r} of {data}", "it does not exist", f"known: {', '.join(spec.splits)}")
    wanted = spec.intrinsics if intrinsics is None else tuple(intrinsics)
    if data not in DATA:
        module = importlib.import_module(f"{__package__}.{family_of(data)}.load")
        found: Pictures = module.load(data, split, indices, size, wanted)
        return found
    return _rendered(data, split, indices, size, wanted)


def _rendered(
    world: str, split: str, indices: Sequence[int], size: int, intrinsics: Sequence[str]
) -> Pictures:
    from .rooms.render import render

    rooms = render(split, indices, size, world=world)
    maps = {name: getattr(rooms, name) for name in intrinsics}
    mask = torch.ones_like(rooms.depth, dtype=torch.bool)
    # The same rounding as a picture read from the cache has.
    picture = (rooms.rgb * 255).round() / 127.5 - 1
    return Pictures(picture, maps, mask, rooms.captions)


def groups_of(data: str, split: str, indices: Sequence[int]) -> tuple[str, ...]:
    """The group of each picture (see Pictures), without reading a picture; () where they are independent."""
    spec: DataSpec = describe(data)
    if not spec.groups:
        return ()
    module = importlib.import_module(f"{__package__}.{family_of(data)}.load")
    found: tuple[str, ...] = module.groups(data, split, indices)
    return found
