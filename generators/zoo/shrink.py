"""Weights in a byte a number: what keeps all of the zoo below 80 MB.

Matrices and kernels become float8 (e4m3: three bits of mantissa), vectors float16. Every library the
zoo is read with turns them into float32 by itself. What is measured of a model is measured of the
weights as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def shrunk(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name: floating ones of two axes and more in float8 where it can hold them, else float16."""
    return {name: _small(value) for name, value in state.items()}


def _small(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    if value.ndim < 2 or value.float().abs().max() > LARGEST:
        return value.half()
    return value.to(torch.float8_e4m3fn)


def shrink_file(path: Path) -> tuple[int, int]:
    """Rewrite a safetensors file with `shrunk` tensors and its own metadata; bytes before and after."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    before = path.stat().st_size
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(shrunk(state), str(path.with_suffix(".tmp")), metadata)
    path.with_suffix(".tmp").replace(path)
    return before, path.stat().st_size
