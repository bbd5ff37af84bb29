"""Feature spaces in which two sets of pictures are compared; nothing here imports torch.

| name | network | published name of the Frechet distance |
|---|---|---|
| rooms | the rooms' own supervised network, bottleneck mean | none: comparable only with itself |
| dinov2-rooms | the zoo's DINOv2, mean of the patch tokens | none: comparable only with itself |
| inception | Inception v3 of 2015-12-05, 2,048 pooled features | FID (Heusel et al., NIPS 2017) |
| dinov2 | DINOv2 ViT-L/14, class token | FD-DINOv2 (Stein et al., NeurIPS 2023) |

`intrinsic-bench fetch inception` gets the TorchScript published with StyleGAN2-ADA; the same weights as a
bare state dict, torch-fidelity's, are `inception.torch-fidelity`. `intrinsic-bench fetch dinov2.large` gets
DINOv2. A number says its whole protocol: space, hash of the weights, resize filter, size, crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from generators.errors import unknown

from .protocol import Protocol as Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.needs import Need

LARGE = "dinov2.large"  # the generator whose backbone Stein et al. take
SMALL = "dinov2.rooms64-s2"
# Where the weights of "inception" may be, in this order: names of `fetch`.
INCEPTION = ("inception", "inception.torch-fidelity")
# Hashes as published elsewhere; anything else is the user's own file, and a result says so.
PUBLISHED: Mapping[str, str] = {
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": "inception-2015-12-05.pt",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": (
        "weights-inception-2015-12-05-6726825d.pth"
    ),
}


@dataclass(frozen=True)
class Space:
    """A feature space, and how pictures come to it unless one asks otherwise.

    Attributes:
        extractor: the network and what of it, in words.
        resize, size, crop: see Protocol; size is pixels a side, None for the pictures' own.
        subsets, subset_size: of the kernel distance; smaller sets take smaller subsets.
        source: the paper.
    """

    name: str
    extractor: str
    resize: str
    size: int | None
    crop: bool
    subsets: int
    subset_size: int
    source: str


SPACES: Mapping[str, Space] = {
    space.name: space
    for space in (
        Space(
            "rooms",
            "rooms supervised network, bottleneck mean, 128 features",
            "lanczos",
            64,
            True,
            50,
            500,
            "this package, benchmarks/predictors/rooms.py",
        ),
        Space(
            "dinov2-rooms",
            "DINOv2 trained on rooms, mean of the patch tokens, 144 features",
            "lanczos",
            64,
            True,
            50,
            500,
            "this package, generators/zoo/dinov2.py",
        ),
        Space(
            "inception",
            "Inception v3 of 2015-12-05, pooled features, inside 299 pixels, bilinear as TensorFlow 1",
            "none",
            None,
            False,
            100,
            1000,
            "Szegedy et al., CVPR 2016; Heusel et al., NIPS 2017; Binkowski et al., ICLR 2018",
        ),
        Space(
            "dinov2",
            "DINOv2 ViT-L/14, class token, 1,024 features, inside 224 pixels, bicubic",
            "bicubic",
            224,
            False,
            100,
            1000,
            "Stein et al., Exposing flaws of generative model evaluation metrics, NeurIPS 2023",
        ),
    )
}


def describe(name: str) -> Space:
    """A feature space by name; raises UserError with near names if there is none."""
    if name not in SPACES:
        raise unknown("feature space", name, SPACES, "see: intrinsic-bench distance --help")
    return SPACES[name]


def inception_file() -> Path | None:
    """The file of Inception's weights on this machine, the user's own first; None if there is none."""
    from generators.checkpoints.download import local_path

    return next((found for name in INCEPTION if (found := local_path(name)) is not None), None)


def need(name: str) -> Need | None:
    """What a feature space needs that does not come with the package, None for the rooms' own.

    Raises UserError for a name nobody knows.
    """
    from benchmarks.needs import Need, model_need

    describe(name)
    if name == "inception":
        command = f"intrinsic-bench fetch {name}"
        return Need(name, "features", 95_607_719, "Apache-2.0", inception_file() is not None, command)
    found = model_need(LARGE) if name == "dinov2" else None
    if found is None:
        return None
    return Need(name, "features", found.bytes, found.licence, found.here, found.command, f"model {LARGE}")


def identity(name: str) -> str:
    """Hash of the weights of a feature space, "absent" where they are not on this machine: for cells."""
    from .weights import weights_hash

    wanted = need(name)
    return "absent" if wanted is not None and not wanted.here else weights_hash(name)


def measure_features(name: str, pictures: Tensor, device: str = "cpu", batch: int = 32) -> Tensor:
    """Features (n d), float32, of pictures (n 3 h w) in [-1, 1], which are rounded to 8 bits first.

    The pictures are not resized but by the extractor itself. Raises UserError if its weights are missing.
    """
    from .extractors import load_extractor

    return load_extractor(name, device)(((pictures.clamp(-1, 1) + 1) * 127.5).round().byte(), batch)
