"""ZoeDepth: metric depth, from transformers.

Bhat et al., "ZoeDepth", 2023. As its authors infer: the picture is padded by reflection by 3 sqrt(side / 2)
pixels, resized to fit 384 x 512 by a bilinear filter (corners aligned, multiples of 32), and the depth of
the picture and of its mirror image are averaged; the map comes back by a bicubic filter, and the padding
is cut off. Values in [-1, 1]. It is shown one picture at a time: transformers takes one of its two heads
(NYU, KITTI) for all pictures of a batch together, and a map is to depend on its picture alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import Predict, PredictorSpec, check_names, fitted_size, reading, required_folder
from .registry import describe_predictor

if TYPE_CHECKING:
    from torch import Tensor

NAME = "zoedepth"
TARGET, MULTIPLE = (384, 512), 32


def read_network(spec: PredictorSpec, folder: Path) -> Any:
    """The network of a folder, float32, frozen; raises UserError if its files are broken or incomplete."""
    from transformers import ZoeDepthForDepthEstimation
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours would be torn apart by it
    with reading(spec, folder):
        network, info = ZoeDepthForDepthEstimation.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        check_names(spec, folder, info)
    return network.float().eval().requires_grad_(False)


def _padding(side: int, factor: float) -> int:
    """Pixels on both ends of a side; reflection cannot give more than the side has."""
    return min(int((side / 2) ** 0.5 * factor), side - 1)


def _once(network: Any, pictures: Tensor, factor: float) -> Tensor:
    from torch.nn import functional

    h, w = pictures.shape[2:]
    top, left = _padding(h, factor), _padding(w, factor)
    padded = functional.pad(pictures, (left, left, top, top), mode="reflect")
    size = fitted_size(h + 2 * top, w + 2 * left, TARGET, MULTIPLE)
    shown = functional.interpolate(padded, size=size, mode="bilinear", align_corners=True)
    depth = network(pixel_values=shown).predicted_depth[:, None]
    back = functional.interpolate(
        depth, size=(h + 2 * top, w + 2 * left), mode="bicubic", align_corners=False
    )
    return back[:, :, top : top + h, left : left + w]


def depth_of(network: Any, pictures: Tensor, flip: bool, padding: float) -> Tensor:
    """Depth (b 1 h w) in meters of pictures (b 3 h w) in [-1, 1], all by the head that most of them ask for.

    Args:
        flip: whether it is averaged with that of the mirror image.
        padding: the factor of sqrt(side / 2).
    """
    depth = _once(network, pictures, padding)
    if flip:
        depth = (depth + _once(network, pictures.flip(3), padding).flip(3)) / 2
    return depth


def load(device: str = "cpu") -> Predict:
    """The predictor; raises UserError if its weights are not on this machine, or broken."""
    import torch

    spec = describe_predictor(NAME)
    network = read_network(spec, required_folder(spec)).to(device)

    def predict(pictures: Tensor) -> dict[str, Tensor]:
        asked = spec.options
        with torch.no_grad():
            shown = pictures.to(device).split(asked["batch"])
            found = [depth_of(network, some, asked["flip"], asked["padding"]) for some in shown]
        return {"depth": torch.cat(found)}

    return predict
