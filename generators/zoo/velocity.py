"""The zoo's Stable Diffusion v2: the last stage taught to predict velocity under zero terminal SNR.

Salimans and Ho 2022 (velocity, appendix D), Lin et al. 2023 (zero terminal SNR). What is learned is a
low-rank adapter of every convolution and linear layer, and the last convolution whole: a twentieth of
the size of a second UNet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..multi_step import VELOCITY
from .diffusion import DROPPED, SCHEDULE
from .loop import Budget, Run, train, warmup_then_linear_decay, world

CPU_BUDGET = Budget(steps=900, batch=64)
GPU_BUDGET = Budget(steps=10_000, batch=256)
RANK = 8
RATE = 2e-3
HALF_LIFE = 6_000.0  # of the moving average, in pictures
SEED = 21
V_SCHEDULE: dict[str, Any] = SCHEDULE | VELOCITY | {"timestep_spacing": "trailing"}


def with_adapter(unet: nn.Module, saved: tuple[str, ...] = ("conv_out",), seed: int = SEED) -> Any:
    """The UNet with an adapter of rank RANK on its layers and some modules trained whole: peft's model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=r".*(conv1|conv2|conv|proj_in|proj_out|to_q|to_k|to_v|to_out\.0|time_emb_proj"
        r"|conv_shortcut|ff\.net\.0\.proj|ff\.net\.2|linear_1|linear_2)",
        modules_to_save=list(saved),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(unet, config)


def min_snr_weight(alphas: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) / (SNR + 1) for velocity (Hang et al. 2023, section 3.4)."""
    return torch.minimum(alphas, gamma * (1 - alphas))


@cache
def schedule() -> Any:
    """The schedule; its last cumulative product is exactly zero."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**V_SCHEDULE)


def velocity_loss(
    network: Any, x: Tensor, text: Tensor, generator: torch.Generator, extra: Tensor | None = None
) -> dict[str, Tensor]:
    """Weighted error of the predicted velocity of latents x (b c h w), with latents beside them or none."""
    alphas, device = schedule().alphas_cumprod, next(network.parameters()).device
    t = torch.randint(len(alphas), (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    noisy, wanted = schedule().add_noise(x, noise, t), schedule().get_velocity(x, noise, t)
    seen = noisy if extra is None else torch.cat([noisy, extra], 1)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        out = network(seen.to(device), t.to(device), encoder_hidden_states=text.to(device)).sample
    error = (out.float() - wanted.to(device)).square().mean((1, 2, 3))
    return {"loss": (error * min_snr_weight(alphas)[t].to(device)).mean(), "mse": error.mean()}


def train_velocity(
    unet: nn.Module,
    latents: Tensor,
    texts: Tensor,
    empty: Tensor,
    folder: Path,
    budget: Budget,
    device: str = "cpu",
) -> Any:
    """Train the adapter on scaled latents (n c h w) and text embeddings (n l d); returns peft's model.

    Args:
        empty: (1 l d) embedding of the empty prompt.
    """
    network = with_adapter(unet)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        n = budget.batch // world()[1]
        rows = torch.randint(len(latents), (n,), generator=generator)
        drop = torch.rand(n, generator=generator) < DROPPED
        text = torch.where(drop[:, None, None], empty, texts[rows]).float()
        return velocity_loss(network, latents[rows].float(), text, generator)

    return adapt(network, loss, folder, budget, SEED, device)


def adapt(
    network: Any,
    loss: Callable[[int, torch.Generator], dict[str, Tensor]],
    folder: Path,
    budget: Budget,
    seed: int,
    device: str,
) -> Any:
    """Train what of peft's model requires gradients; returns the averaged model."""
    rate = warmup_then_linear_decay(RATE, 50, budget.steps)
    run = Run(network, loss, budget.steps, budget.batch, rate, seed=seed, ema=HALF_LIFE)
    return train(run, folder, device)


def keep_adapter(network: Any, folder: Path) -> None:
    """Write an adapter in peft's layout, weights in float16."""
    from safetensors.torch import load_file, save_file

    network.save_pretrained(str(folder), safe_serialization=True)
    path = str(folder / "adapter_model.safetensors")
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    (folder / "README.md").unlink(missing_ok=True)
