"""The zoo's models as diffusers folders: one shared pipeline, and a UNet folder for every stage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .diffusion import SCHEDULE

LAST = "s5"


def keep_stage(folder: Path, stage: str, network: Any) -> None:
    """Write a stage's UNet in float16: `unet-s1` ... and, for the last one, `unet`."""
    import copy

    target = folder / ("unet" if stage == LAST else f"unet-{stage}")
    copy.deepcopy(network).half().save_pretrained(target)


def write_shared(folder: Path, vae: Path, text: Path) -> None:
    """Copy autoencoder, text encoder and tokenizer into the folder, and write its scheduler."""
    from diffusers import DDIMScheduler

    folder.mkdir(parents=True, exist_ok=True)
    for source in (vae / "vae", text / "text_encoder", text / "tokenizer"):
        shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")


def write_index(folder: Path) -> None:
    """Write model_index.json, so that diffusers' own StableDiffusionPipeline opens the folder."""
    import json

    import diffusers

    parts = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    index |= {"requires_safety_checker": False} | parts
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
