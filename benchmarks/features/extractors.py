"""The networks behind the feature spaces, loaded, with one way to call them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generators.errors import UserError

from . import LARGE, SMALL, describe, need
from .weights import found_inception, hub_hash, rooms_hash

DINO_SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Extractor:
    """A feature network.

    Attributes:
        weights: hash of its weights, hexadecimal digits.
        network: pictures (b 3 h w) on 0..255, uint8 or float32, on `device`, to features (b d).
    """

    name: str
    weights: str
    network: Callable[[Tensor], Tensor]
    device: str = "cpu"

    @torch.no_grad()
    def __call__(self, pictures: Tensor, batch: int = 32) -> Tensor:
        """Features (n d), float32, of pictures (n 3 h w) on 0..255; raises UserError if they are none."""
        parts = [self.network(part.to(self.device)).float().cpu() for part in pictures.split(batch)]
        found = torch.cat(parts)
        if found.ndim != 2 or len(found) != len(pictures) or not found.isfinite().all():
            raise UserError(
                f"features {self.name}",
                f"{len(pictures)} pictures gave numbers of shape {tuple(found.shape)}, or NaN",
                "expected: one row of finite numbers per picture",
                "look at the pictures, and at the extractor's file",
            )
        return found


def _rooms(device: str) -> Extractor:
    from benchmarks.predictors.rooms import load_rooms_network

    network = load_rooms_network(device=device)
    return Extractor("rooms", rooms_hash(), lambda p: network.features(p.float() / 127.5 - 1), device)


def _resized(pictures: Tensor) -> Tensor:
    """Pictures (b 3 h w) at DINO_SIDE: themselves, or bicubic, antialiased where they shrink."""
    if pictures.shape[2:] == (DINO_SIDE, DINO_SIDE):
        return pictures
    size = (DINO_SIDE, DINO_SIDE)
    return functional.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 255)


def _backbone(name: str, device: str) -> Callable[[Tensor], Tensor]:
    """Tokens (b n d) after the final layer norm, the class token first, of normalized pictures."""
    import generators

    network: Any = generators.load(name, device).network
    return lambda pixels: network.backbone(pixel_values=pixels).last_hidden_state


def _dinov2(device: str) -> Extractor:
    """Class token of ViT-L/14 at 224 pixels (Stein et al. 2023, appendix on encoders).

    transformers interpolates the position embeddings with its own bicubic filter.
    """
    tokens = _backbone(LARGE, device)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    weights = hub_hash(LARGE)
    return Extractor(
        "dinov2", weights, lambda p: tokens((_resized(p.float()) / 255 - mean) / std)[:, 0], device
    )


def _dinov2_rooms(device: str) -> Extractor:
    """Mean of the patch tokens: the zoo's training never looks at the class token."""
    tokens, weights = _backbone(SMALL, device), hub_hash(SMALL)
    return Extractor("dinov2-rooms", weights, lambda p: tokens(p.float() / 127.5 - 1)[:, 1:].mean(1), device)


def load_inception_file(path: Path, sha256: str | None = None, device: str = "cpu") -> Extractor:
    """Inception from a file: TorchScript that passes the check, or a bare state dict.

    Args:
        sha256: what the file's hash must be, 64 hexadecimal digits; None for any.

    Raises:
        UserError: another hash, a truncated file, a script that does more than compute.
    """
    from .inception import load_inception
    from .script import is_script, load_script

    digest = found_inception(path, sha256)
    if is_script(path):
        return Extractor("inception", digest, load_script(path, device), device)
    return Extractor("inception", digest, load_inception(path).to(device), device)


def _inception(device: str) -> Extractor:
    return load_inception_file(found_path("inception"), None, device)


def found_path(name: str) -> Path:
    """The file of Inception; raises UserError, which says how to get it, if it is not on this machine."""
    from . import inception_file

    path, wanted = inception_file(), need(name)
    if path is None and wanted is not None:
        raise UserError(
            f"features {name!r}",
            "its weights are not on this machine",
            f"licence {wanted.licence}; also taken: --weights FILE",
            wanted.command,
        )
    assert path is not None
    return path


_LOADERS = {"rooms": _rooms, "dinov2-rooms": _dinov2_rooms, "inception": _inception, "dinov2": _dinov2}


@cache
def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """An extractor by name, kept for the process; raises UserError if its weights are missing or broken."""
    return _LOADERS[describe(name).name](device)
