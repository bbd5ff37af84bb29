"""Marigold: normals, affine-invariant depth, albedo and shading, from diffusers' pipelines.

Ke et al., "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation", CVPR 2024, and
"Marigold: Affordable Adaptation of Diffusion-Based Image Generators for Image Analysis", 2025 (v1.1,
intrinsic images). Steps, members of the ensemble, seed and resolution are the spec's options. Every picture
starts from the same noise, one draw a member, so that a map depends on its picture alone, not on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError
from generators.plain import parse_json

from .base import Predict, PredictorSpec, reading, required_folder
from .registry import describe_predictor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LINEAR = "linear"


def read_pipeline(spec: PredictorSpec, folder: Path, kind: str) -> Any:
    """A pipeline of diffusers, in float32, without a bar; raises UserError if the folder's is another kind's.

    Args:
        kind: name of the class in diffusers.
    """
    import diffusers
    from diffusers.utils import logging

    logging.disable_progress_bar()
    plain = (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    with reading(spec, folder):
        _check_kind(spec, folder, kind)
        found = getattr(diffusers, kind).from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            variant=None if plain else "fp16",
        )
    found.set_progress_bar_config(disable=True)
    for part in (found.unet, found.vae, found.text_encoder):
        part.float().eval().requires_grad_(False)
    return found


def _check_kind(spec: PredictorSpec, folder: Path, kind: str) -> None:
    said = parse_json((folder / "model_index.json").read_text(encoding="utf-8")).get("_class_name")
    if said != kind:
        raise UserError(
            f"predictor {spec.name!r}",
            f"its folder holds another pipeline: {said}",
            f"folder {folder}; expected {kind}",
            "give each predictor a folder of its own name",
        )


def _noise(options: Mapping[str, Any], count: int) -> list[torch.Generator]:
    """For every picture the same generators, one a member of the ensemble."""
    import torch

    from probes.task import seed_for

    seeds = [seed_for(int(options["seed"]), f"marigold member {i}") for i in range(options["ensemble"])]
    return [torch.Generator().manual_seed(seed) for _ in range(count) for seed in seeds]


def draw(pipeline: Any, pictures: Tensor, options: Mapping[str, Any]) -> Tensor:
    """What a pipeline says of pictures (b 3 h w) in [-1, 1], of their size."""
    found: Tensor = pipeline(
        (pictures + 1) / 2,
        num_inference_steps=options["steps"],
        ensemble_size=options["ensemble"],
        processing_resolution=options["resolution"],
        batch_size=len(pictures),
        generator=_noise(options, len(pictures)),
        output_type="pt",
    ).prediction
    return found.float()


# What it says, in our units.


def _normals(found: Tensor, pipeline: Any) -> dict[str, Tensor]:
    from benchmarks.data.axes import from_marigold
    from probes.intrinsics import unit

    return {"normal": unit(from_marigold(found))}


def _depth(found: Tensor, pipeline: Any) -> dict[str, Tensor]:
    return {"depth": found}


def _intrinsics(found: Tensor, pipeline: Any) -> dict[str, Tensor]:
    """Albedo and shading of (n * targets, 3, h, w), the targets of a picture together."""
    names = list(pipeline.target_properties["target_names"])
    targets = found.unflatten(0, (-1, len(names)))
    return {name: targets[:, names.index(name)] for name in ("albedo", "shading")}


def _check_targets(spec: PredictorSpec, pipeline: Any) -> None:
    """Raise UserError unless the model gives albedo and shading, both linear, as the lighting model does."""
    said = pipeline.target_properties or {}
    names = said.get("target_names", [])
    for name in spec.intrinsics:
        space = said.get(name, {}).get("prediction_space")
        if name not in names or space != LINEAR:
            wrong = f"its {name} is in {space!r} color" if name in names else f"it gives no {name}"
            raise UserError(
                f"predictor {spec.name!r}",
                f"the model of its folder is another one: {wrong}",
                f"it gives: {', '.join(names) or 'nothing it names'}",
                f"give the lighting model, {spec.source}",
            )


def _check_depth(spec: PredictorSpec, pipeline: Any) -> None:
    said = pipeline.config.prediction_type
    if said != "depth":
        raise UserError(
            f"predictor {spec.name!r}",
            f"the model of its folder gives {said}, not depth",
            "",
            f"give {spec.source}",
        )


def _nothing(spec: PredictorSpec, pipeline: Any) -> None:
    """Nothing to check."""


def _load(
    name: str,
    kind: str,
    convert: Callable[[Tensor, Any], dict[str, Tensor]],
    device: str,
    check: Callable[[PredictorSpec, Any], None] = _nothing,
) -> Predict:
    import torch

    spec = describe_predictor(name)
    pipeline = read_pipeline(spec, required_folder(spec), kind).to(device)
    check(spec, pipeline)

    def predict(pictures: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return convert(draw(pipeline, pictures.to(device), spec.options), pipeline)

    return predict


def load_normals(device: str = "cpu") -> Predict:
    """Unit normals; raises UserError if the weights are not on this machine, or broken."""
    return _load("marigold-normals", "MarigoldNormalsPipeline", _normals, device)


def load_depth(device: str = "cpu") -> Predict:
    """Affine-invariant depth in [0, 1], 0 near; raises UserError as `load_normals`."""
    return _load("marigold-depth", "MarigoldDepthPipeline", _depth, device, _check_depth)


def load_intrinsics(device: str = "cpu") -> Predict:
    """Albedo and shading in linear RGB in [0, 1]; raises UserError as `load_normals`."""
    return _load("marigold-iid", "MarigoldIntrinsicsPipeline", _intrinsics, device, _check_targets)
