"""Omnidata v2 normals: a DPT-hybrid at 384 pixels, read from its authors' checkpoint without executing it.

Eftekhar et al., "Omnidata", ICCV 2021; the v2 weights: Kar et al., "3D Common Corruptions and Data
Augmentation", CVPR 2022. What its authors' demonstration does: the short side of a picture to 384 by a
bilinear filter with antialiasing, the middle square, values in [0, 1] with neither mean nor deviation;
the output, clamped to [0, 1], is (n + 1) / 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError

from .base import Predict
from .dpt_names import dpt_names, renamed
from .registry import describe_predictor

if TYPE_CHECKING:
    from torch import Tensor

NAME = "omnidata-v2"
CONFIG: dict[str, Any] = {
    "is_hybrid": True,
    "image_size": 384,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-6,  # timm's
    "backbone_featmap_shape": [1, 1024, 24, 24],
    "backbone_out_indices": [2, 5, 8, 11],  # of the transformer, the last two count: blocks 9 and 12
    "neck_ignore_stages": [0, 1],  # the first two taps are the ResNet's stages, as they are
    "neck_hidden_sizes": [256, 512, 768, 768],
    "reassemble_factors": [1, 1, 1, 0.5],
    "fusion_hidden_size": 256,
    "readout_type": "project",
    "backbone_config": {
        "model_type": "bit",
        "layer_type": "bottleneck",
        "depths": [3, 4, 9],
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "out_features": ["stage1", "stage2", "stage3"],
    },
}
CHANNELS = 3


def make_network(config: dict[str, Any] = CONFIG) -> Any:
    """A DPT-hybrid of three output channels with fresh weights: transformers' depth network, its end anew."""
    from torch import nn
    from transformers import DPTConfig, DPTForDepthEstimation

    stated = dict(config) | {"backbone_config": dict(config["backbone_config"])}
    network = DPTForDepthEstimation(DPTConfig(**stated))
    last = network.head.head[4]
    network.head.head[4] = nn.Conv2d(last.in_channels, CHANNELS, 1)
    return network


def read_network(path: Path, config: dict[str, Any] = CONFIG) -> Any:
    """The network with a checkpoint's weights, float32, frozen; raises UserError for another file."""
    from generators.checkpoints.lightning import read_lightning

    network = make_network(config)
    names = dpt_names(tuple(config["backbone_config"]["depths"]), config["num_hidden_layers"])
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = renamed(read_lightning(path), shapes, names, f"the checkpoint {path}")
    for name, value in state.items():
        if not value.isfinite().all():
            raise UserError(
                f"read the checkpoint {path}",
                f"NaN or infinity in what becomes {name!r}",
                "",
                f"fetch it again: intrinsic-bench fetch {NAME}",
            )
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.eval().requires_grad_(False)


def shown(pictures: Tensor, size: int) -> Tensor:
    """What the network sees of pictures (b 3 h w) in [-1, 1]: (b 3 size size) in [0, 1].

    A rectangle loses its ends: short side to `size`, middle square.
    """
    from torch.nn import functional

    h, w = pictures.shape[2:]
    scale = size / min(h, w)
    sides = (max(size, round(h * scale)), max(size, round(w * scale)))
    resized = functional.interpolate((pictures + 1) / 2, size=sides, mode="bilinear", antialias=True)
    top, left = (sides[0] - size) // 2, (sides[1] - size) // 2
    return resized[:, :, top : top + size, left : left + size]


def normals_of(network: Any, pictures: Tensor) -> Tensor:
    """Unit normals (b 3 h h) in our axes of pictures (b 3 h h) in [-1, 1]; UserError for rectangles."""
    from torch.nn import functional

    from benchmarks.data.axes import from_omnidata
    from probes.intrinsics import unit

    h, w = pictures.shape[2:]
    if h != w:
        raise UserError(
            f"normals of pictures of {w}x{h} by {NAME}",
            "it sees the middle square only: the ends would stay without a map",
            "square pictures",
            "crop the pictures to squares",
        )
    output = network(pixel_values=shown(pictures, network.config.image_size)).predicted_depth
    normals = from_omnidata(output.clamp(0, 1))
    return unit(functional.interpolate(normals, size=(h, w), mode="bilinear", antialias=True))


def load(device: str = "cpu") -> Predict:
    """The predictor; raises UserError if its checkpoint is not on this machine, or is another file."""
    import torch

    path = weights_path()
    network = read_network(path).to(device)

    def predict(pictures: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"normal": normals_of(network, pictures.to(device))}

    return predict


def weights_path() -> Path:
    """The checkpoint: NAME.ckpt among the user's own weights, or what `fetch` got; raises UserError."""
    from generators.checkpoints.download import local_path

    found = local_path(NAME)
    if found is not None and found.is_file():
        return found
    spec = describe_predictor(NAME)
    raise UserError(
        f"predictor {NAME!r}",
        "its weights are not on this machine" if found is None else f"{found} is a folder",
        f"{spec.source}, licence {spec.licence}",
        f"intrinsic-bench fetch {NAME} --accept-licence, or --from PATH for a file you have",
    )
