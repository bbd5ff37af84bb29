"""StyleGAN2 (Karras et al. 2020): official pickles, and the zoo's own models in the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import GeneratorSpec
from .style_weights import Architecture, count_parameters, find_weights
from .style_weights import identity as identity

if TYPE_CHECKING:
    from torch import Tensor

    from .style import StyleGenerator

# The zoo's network: three orders of magnitude below the official ones, the same code.
ROOMS: dict[str, Any] = {
    "z_dim": 128,
    "c_dim": 0,
    "w_dim": 128,
    "img_resolution": 64,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    # Without noise inputs: in rooms nothing is random but the scene, and with them the network made
    # checkers and stripes of noise instead of learning where they lie.
    "synthesis_kwargs": {"channel_base": 2048, "channel_max": 96, "use_noise": False},
}
RANDOM_SEED = 50  # of the weights training starts from, and of stylegan2.rooms64-random
# Shapes of the official networks, for counting without weights; a file brings its own.
_FACES: dict[str, Any] = {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_channels": 3}
PAPER256 = _FACES | {
    "img_resolution": 256,
    "mapping_kwargs": {"num_layers": 8},
    "synthesis_kwargs": {"channel_base": 16384, "channel_max": 512},
}
CONFIG_F = _FACES | {
    "img_resolution": 1024,
    "mapping_kwargs": {"num_layers": 8},
    "synthesis_kwargs": {"channel_base": 32768, "channel_max": 512},
}
# Choices of layers beside all affine ones.
TARGET_SETS = {
    "all": r"(.*\.)?affine",
    "conv": r".*\.conv[01]\.affine",
    "torgb": r".*\.torgb\.affine",
    "coarse": r"b(4|8|16)\..*affine",
    "fine": r"b(32|64|128|256|512|1024)\..*affine",
}


ARCHITECTURE = Architecture("stylegan2", "StyleGAN2", ROOMS, RANDOM_SEED, TARGET_SETS, "s3", ("random", "s3"))
SPECS = [
    *ARCHITECTURE.zoo(),
    ARCHITECTURE.official(
        "ffhq256",
        PAPER256,
        title="StyleGAN2 FFHQ-256",
        resolution=256,
        domain="faces",
        citation="Karras et al. 2020",
        fid=(3.62, "as quoted by Du et al. 2023; primary source unknown"),
    ),
    ARCHITECTURE.official(
        "ffhq1024",
        CONFIG_F,
        title="StyleGAN2 FFHQ-1024",
        resolution=1024,
        domain="faces",
        citation="Karras et al. 2020",
        fid=(2.84, "fid50k, config F, mean of 10 runs +-0.03"),
    ),
    ARCHITECTURE.official(
        "bedroom256",
        PAPER256,
        title="StyleGAN2 LSUN bedroom",
        resolution=256,
        domain="bedrooms",
        citation="Yu et al. 2021",
    ),
]


def count(spec: GeneratorSpec, rank: int = 8) -> dict[str, int]:
    """Parameters of the generator, and of LoRA on its affine layers; no weights are needed."""
    import torch

    from .networks import stylegan2

    with torch.device("meta"):
        return count_parameters(stylegan2.Generator(**spec.options["config"]), rank)


def load(spec: GeneratorSpec, device: str = "cpu") -> StyleGenerator:
    """A StyleGAN2 in float32, frozen; raises UserError if its file is missing, broken or of another kind."""
    from .networks import stylegan2
    from .style import StyleGenerator

    if spec.options.get("random_seed") is not None:
        network = stylegan2.Generator(**spec.options["config"])
        stylegan2.initialize(network, spec.options["random_seed"])
    else:
        network = read(find_weights(spec))
    return StyleGenerator(spec, network, _activations, device)


def _activations(synthesis: Any, ws: Tensor) -> dict[str, Tensor]:
    """Activations after each block, before they are turned into colors."""
    found = zip(synthesis.block_resolutions, synthesis.activations(ws), strict=True)
    return {f"b{resolution}": x for resolution, (x, _) in found}


def read(path: Any) -> Any:
    """The generator of a file: an official pickle, PyTorch or TensorFlow, or a safetensors state dict."""
    from .checkpoints import read_network
    from .errors import UserError
    from .networks import stylegan2

    file = read_network(path)
    try:
        return stylegan2.build(file.state, stylegan2.constructor_arguments(file.init_kwargs, file.modules))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"a StyleGAN2 generator from {path}",
            f"its constructor's arguments do not describe one: {error}",
            f"the file holds a {file.class_name} with {', '.join(sorted(file.init_kwargs))}",
            "check that the file is a StyleGAN2 pickle, not of another family",
        ) from error
