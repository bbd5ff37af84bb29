"""Depth Anything V2: metric depth, from transformers.

Yang et al., "Depth Anything V2", NeurIPS 2024. The indoor model is used: it was fine-tuned on Hypersim to
meters, at most 20. The picture is resized to 518 pixels (multiples of 14, its ratio kept) by a bicubic
filter with antialiasing; ImageNet's mean and deviation; the map comes back by a bicubic filter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError

from .base import Predict, PredictorSpec, check_names, fitted_size, reading, required_folder
from .registry import describe_predictor

if TYPE_CHECKING:
    from torch import Tensor

NAME = "depth-anything-v2"
SIDE = 518
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def read_network(spec: PredictorSpec, folder: Path) -> Any:
    """The network of a folder, float32, frozen; raises UserError if files are broken, or it is relative."""
    from transformers import DepthAnythingForDepthEstimation
    from transformers.utils import logging

    logging.disable_progress_bar()
    with reading(spec, folder):
        network, info = DepthAnythingForDepthEstimation.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        check_names(spec, folder, info)
    if network.config.depth_estimation_type != "metric":
        raise UserError(
            f"predictor {NAME!r}",
            "the model of its folder is relative: it gives disparity up to scale and shift, not depth",
            f"folder {folder}, depth_estimation_type {network.config.depth_estimation_type!r}",
            f"give the metric model, {spec.source}",
        )
    return network.float().eval().requires_grad_(False)


def depth_of(network: Any, pictures: Tensor, side: int = SIDE) -> Tensor:
    """Depth (b 1 h w) in meters of pictures (b 3 h w) in [-1, 1]."""
    from torch.nn import functional

    h, w = pictures.shape[2:]
    size = fitted_size(h, w, (side, side), int(network.config.patch_size))
    resized = functional.interpolate((pictures + 1) / 2, size=size, mode="bicubic", antialias=True)
    mean, std = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    depth = network(pixel_values=(resized - mean) / std).predicted_depth[:, None]
    return functional.interpolate(depth, size=(h, w), mode="bicubic", align_corners=False)


def load(device: str = "cpu") -> Predict:
    """The predictor; raises UserError if its weights are not on this machine, broken, or another model's."""
    import torch

    spec = describe_predictor(NAME)
    network = read_network(spec, required_folder(spec)).to(device)

    def predict(pictures: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"depth": depth_of(network, pictures.to(device))}

    return predict
