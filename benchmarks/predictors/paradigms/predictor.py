"""Albedo and shading of any picture by the shipped network, which was trained on paradigms alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from generators.errors import UserError

from .network import MULTIPLE, ParadigmsNetwork, split

WEIGHTS = Path(__file__).parents[1] / "paradigms.safetensors"
LARGEST = 256  # pixels of the longer side the network is shown; what is larger is shrunk for it
_PART = 16  # pictures shown at once


def identity() -> str:
    """Which weights are installed: the first 12 digits of their SHA-256, "missing" if there are none."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:12] if WEIGHTS.is_file() else "missing"


def load_network(path: Path = WEIGHTS, device: str = "cpu") -> ParadigmsNetwork:
    """The network in float32; raises UserError if its file is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = ParadigmsNetwork()
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            "predictor 'paradigms'",
            f"its weights cannot be read: {str(error)[:200]}",
            f"expected file: benchmarks/predictors/{path.name}",
            "install the package again, or train them: python -m benchmarks.predictors.paradigms.train",
        ) from error
    return network.to(device).eval().requires_grad_(False)


def _shown(picture: Tensor) -> Tensor:
    """At most LARGEST pixels a side, edges repeated until both sides are multiples of MULTIPLE."""
    h, w = picture.shape[2:]
    shrink = LARGEST / max(h, w)
    if shrink < 1:
        size = (max(1, round(h * shrink)), max(1, round(w * shrink)))
        picture = functional.interpolate(picture, size, mode="bilinear", antialias=True)
    h, w = picture.shape[2:]
    return functional.pad(picture, (0, -w % MULTIPLE, 0, -h % MULTIPLE), mode="replicate")


def _enlarged(field: Tensor, h: int, w: int) -> Tensor:
    """What the network said, without the repeated edges, at the picture's size (h, w)."""
    shrink = min(1.0, LARGEST / max(h, w))
    kept = field[:, :, : max(1, round(h * shrink)), : max(1, round(w * shrink))]
    return kept if shrink == 1 else functional.interpolate(kept, (h, w), mode="bilinear")


@torch.no_grad()
def decompose(network: ParadigmsNetwork, pictures: Tensor) -> dict[str, Tensor]:
    """Albedo and shading of pictures of any size.

    Above LARGEST pixels the network sees a smaller picture; albedo keeps the large one's detail, as it is
    the picture divided by an enlarged shading (see `network.split`).

    Args:
        network: on the device of its weights; the maps come back on that of the pictures.
        pictures: (b 3 h w) in [-1, 1], sRGB.

    Returns:
        "albedo" and "shading": (b 3 h w) linear RGB in [0, 1]; the brightest shading is about 1.

    Raises:
        ValueError: another shape, or NaN or Inf.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.numel():
        raise ValueError(f"need pictures (b 3 h w), got {tuple(pictures.shape)}")
    if not pictures.isfinite().all():
        raise ValueError("a picture has NaN or Inf")
    device, (h, w) = network.out.weight.device, pictures.shape[2:]
    found: dict[str, list[Tensor]] = {"albedo": [], "shading": []}
    for part in pictures.to(torch.float32).clamp(-1, 1).split(_PART):
        fields = [_enlarged(field, h, w) for field in network(_shown(part.to(device)))]
        for name, field in zip(found, split(part.to(device), *fields), strict=True):
            found[name].append(field.clamp(0, 1).to(pictures.device))
    return {name: torch.cat(parts) for name, parts in found.items()}


def load(device: str = "cpu") -> Callable[[Tensor], dict[str, Tensor]]:
    """The shipped predictor: see `decompose`; raises UserError if its weights are missing or broken."""
    network = load_network(device=device)
    return lambda pictures: decompose(network, pictures)
