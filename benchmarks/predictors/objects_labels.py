"""The second world's own network as a predictor: all four intrinsics of pictures of any size."""

from __future__ import annotations

from .base import Predict
from .rooms_labels import load_file


def load(device: str = "cpu") -> Predict:
    """The network of objects; sides that are no multiples of 16 are resized (bilinear) there and back."""
    from .rooms import OBJECTS

    return load_file(OBJECTS, device)
