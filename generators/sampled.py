"""What a generator drew, looked at before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .base import GeneratorSpec, Sample


def check_sample(sample: Any, spec: GeneratorSpec, count: int) -> Sample:
    """The sample itself; raises UserError unless it is `count` finite pictures of the model's resolution."""
    wrong = _wrong(getattr(sample, "images", None), (count, 3, spec.resolution, spec.resolution))
    if not wrong and not isinstance(getattr(sample, "code", None), Mapping):
        wrong = "its code is no mapping from names to tensors"
    if wrong:
        todo = f"see: intrinsic-bench check {spec.name}"
        raise UserError(f"{count} pictures drawn by {spec.name!r}", wrong, "pictures lie in [-1, 1]", todo)
    found: Sample = sample
    return found


def _wrong(images: Any, expected: tuple[int, ...]) -> str:
    """What is wrong with pictures, "" if nothing is."""
    import torch

    if not isinstance(images, torch.Tensor):
        return f"it gave a {type(images).__name__} for pictures, no tensor"
    if tuple(images.shape) != expected:
        return f"it gave pictures of shape {tuple(images.shape)}; expected {expected}"
    if not images.is_floating_point():
        return f"it gave pictures of {images.dtype}, no floats"
    bad = int((~images.isfinite()).flatten(1).any(1).sum())
    return f"{bad} of them hold NaN or infinity" if bad else ""
