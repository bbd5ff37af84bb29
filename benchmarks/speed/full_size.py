"""Stable Diffusion v1 at its full size with random weights, made in memory: nothing is read or written.

For timings, and for tests of what real sizes cost. Only the tokenizer is the zoo's: real ones are files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from generators import registry
from generators.stable_diffusion import UNET_V1, VAE_SD, ZOO, SingleStep

# CLIP ViT-L/14's text encoder (Radford et al. 2021), which Stable Diffusion v1 conditions on.
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}


def random_weights(made: Any, device: str, seed: int = 0) -> nn.Module:
    """A network built on the meta device, with every layer's own initialization, drawn where it will run."""
    network: nn.Module = made.to_empty(device=device)
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    return network.eval().requires_grad_(False)


def random_unet(device: str = "cpu", changes: Mapping[str, Any] | None = None) -> nn.Module:
    """The UNet of v1, 859,520,964 parameters; `changes` of its configuration as in in_channels = 8."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        made = UNet2DConditionModel.from_config(UNET_V1 | dict(changes or {}))
    return random_weights(made, device)


def random_vae(device: str = "cpu") -> nn.Module:
    """The autoencoder of v1, 83,653,863 parameters."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        made = AutoencoderKL.from_config(VAE_SD)
    return random_weights(made, device)


def random_text_encoder() -> Any:
    """CLIP's text encoder, 123,060,480 parameters, as transformers initializes it."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPTextModel(CLIPTextConfig(**CLIP_L))


def tokenizer() -> Any:
    """The zoo's tokenizer, padding to the length of CLIP's prompts."""
    from transformers import CLIPTokenizer

    found = CLIPTokenizer.from_pretrained(ZOO / "tokenizer")
    found.model_max_length = CLIP_L["max_position_embeddings"]
    return found


def schedule() -> Any:
    """The sampler with v1's noise: betas from 0.00085 to 0.012, their roots evenly spaced."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def single_step(device: str = "cpu") -> SingleStep:
    """sd.v1-5's architecture as the single-step protocol asks it, in float32."""
    spec = registry.spec("sd.v1-5")
    parts = random_unet(device), random_vae(device), random_text_encoder(), tokenizer(), schedule()
    return SingleStep(spec, *parts, device)
