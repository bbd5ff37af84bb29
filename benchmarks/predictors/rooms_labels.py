"""The embedded worlds' own networks as predictors: all four intrinsics of pictures of any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .base import Predict

if TYPE_CHECKING:
    from torch import Tensor

MULTIPLE = 16  # the network halves pictures that often


def load(device: str = "cpu") -> Predict:
    """The network of rooms; sides that are no multiples of 16 are resized (bilinear) there and back."""
    from .rooms import WEIGHTS

    return load_file(WEIGHTS, device)


def load_file(path: Path, device: str) -> Predict:
    """A network of rooms' shape by its file."""
    import torch

    from probes.intrinsics import INTRINSICS, unit

    from .rooms import load_rooms_network, maps_of

    network = load_rooms_network(path, device)

    def predict(pictures: Tensor) -> dict[str, Tensor]:
        h, w = pictures.shape[2:]
        sides = max(1, round(h / MULTIPLE)) * MULTIPLE, max(1, round(w / MULTIPLE)) * MULTIPLE
        with torch.no_grad():
            outputs = network(_resized(pictures.to(device), sides))
        maps = {name: maps_of(outputs, name) for name in INTRINSICS}
        if sides == (h, w):
            return maps
        resized = {name: _resized(values, (h, w)) for name, values in maps.items()}
        return resized | {"normal": unit(resized["normal"])}

    return predict


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    from torch.nn import functional

    if tuple(images.shape[2:]) == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)
