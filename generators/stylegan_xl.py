"""StyleGAN-XL (Sauer et al. 2022): official pickles, and the zoo's own models in the same names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import GeneratorSpec
from .style_weights import Architecture, count_parameters, find_weights
from .style_weights import identity as identity

if TYPE_CHECKING:
    from torch import Tensor

    from .style import StyleGenerator

# The zoo's network is built as the released ones: a stem of 1x1 convolutions and a super-resolution
# stage of 3x3 ones; with narrower margins, separable filters, and a class embedding of one number.
ROOMS: dict[str, Any] = {
    "z_dim": 64,
    "c_dim": 0,
    "w_dim": 128,
    "img_resolution": 16,
    "img_channels": 3,
    "conv_kernel": 1,
    "use_radial_filters": False,
    "channel_base": 1024,
    "channel_max": 160,
    "num_layers": 5,
    "margin_size": 4,
    "embedding": (1, 1),
    "stages": ({"img_resolution": 64, "up_factor": 4, "head_layers": 4, "conv_kernel": 3},),
}
RANDOM_SEED = 60  # of the weights training starts from, and of stylegan-xl.rooms64-random
# Shapes of the official networks, for counting without weights. The one of FFHQ is inferred from the
# paper's counts (67.9 M parameters, 0.19 M of LoRA); a file says for itself what it is.
_WIDE: dict[str, Any] = {
    "z_dim": 64,
    "w_dim": 512,
    "img_channels": 3,
    "conv_kernel": 1,
    "use_radial_filters": True,
    "channel_base": 65536,
    "channel_max": 1024,
}
_HEAD: dict[str, Any] = {"up_factor": 2, "conv_kernel": 3, "use_radial_filters": False}
FACES256 = _WIDE | {
    "c_dim": 0,
    "img_resolution": 32,
    "num_layers": 10,
    "stages": tuple({"img_resolution": r, "head_layers": 4, **_HEAD} for r in (64, 128, 256)),
}
IMAGENET256 = _WIDE | {
    "c_dim": 1000,
    "img_resolution": 16,
    "num_layers": 10,
    "stages": tuple({"img_resolution": r, "head_layers": 7, **_HEAD} for r in (32, 64, 128, 256)),
}
TARGET_SETS = {
    "all": r"(.*\.)?affine",
    "input": r"input\.affine",
    "layers": r"L\d+_.*\.affine",
}


ARCHITECTURE = Architecture("stylegan-xl", "StyleGAN-XL", ROOMS, RANDOM_SEED, TARGET_SETS, "s2")
SPECS = [
    *ARCHITECTURE.zoo(),
    ARCHITECTURE.official(
        "ffhq256",
        FACES256,
        title="StyleGAN-XL FFHQ-256",
        resolution=256,
        domain="faces",
        citation="Sauer et al. 2022",
        fid=(2.19, "fid50k_full"),
    ),
    ARCHITECTURE.official(
        "imagenet256",
        IMAGENET256,
        title="StyleGAN-XL ImageNet-256",
        resolution=256,
        domain="ImageNet",
        citation="Sauer et al. 2022",
        fid=(2.26, "fid50k_full"),
    ),
]


def count(spec: GeneratorSpec, rank: int = 8) -> dict[str, int]:
    """Parameters of the generator, and of LoRA on its affine layers; no weights are needed."""
    import torch

    from .networks.stylegan_xl import generator_from_kwargs

    with torch.device("meta"):
        return count_parameters(generator_from_kwargs(**spec.options["config"]), rank)


def load(spec: GeneratorSpec, device: str = "cpu") -> StyleGenerator:
    """A StyleGAN-XL in float32, frozen; raises UserError if its file is missing or broken."""
    from .networks.stylegan_xl import generator_from_kwargs
    from .style import StyleGenerator

    seed = spec.options.get("random_seed")
    if seed is not None:
        network = generator_from_kwargs(**spec.options["config"], seed=seed)
    else:
        network = read(find_weights(spec))
    return StyleGenerator(spec, network, _activations, device)


def _activations(synthesis: Any, ws: Tensor) -> dict[str, Tensor]:
    """Activations after the input and each layer but the one that makes the picture, without their margins.

    Alias-free layers compute some pixels beyond each border of the picture (Karras et al. 2021, section 3.2):
    what is left spans the picture, as the linear probe takes activations to do.
    """
    found: dict[str, Tensor] = synthesis.block_features(ws)
    first = synthesis.input.spec
    spans = {"input": (first.size, first.sampling_rate)}
    spans |= {
        layer.spec.name: (layer.spec.out_size, layer.spec.out_sampling_rate) for layer in synthesis.layers()
    }
    return {name: _inside(x, *spans[name]) for name, x in found.items() if name != synthesis.layer_names[-1]}


def _inside(x: Tensor, size: tuple[int, int], rate: float) -> Tensor:
    """The part (b c rate rate) of activations of a size (w, h) that lies in the picture."""
    left, top = ((side - round(rate)) // 2 for side in size)
    return x[..., top : size[1] - top, left : size[0] - left]


def read(path: str | Path) -> Any:
    """The generator of a file: an official pickle (stem or super-resolution), or a safetensors state dict."""
    from .checkpoints import read_network
    from .networks.xl_file import generator_from_file

    return generator_from_file(read_network(path))
