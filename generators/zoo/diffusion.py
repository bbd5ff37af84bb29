"""The zoo's Stable Diffusion: a small text-conditioned latent UNet at five stages of its training.

Stable Diffusion v1's own noise schedule (scaled-linear betas 0.00085-0.012, so that the terminal
signal-to-noise ratio is not zero) and epsilon-prediction, min-SNR weighting (Hang et al. 2023,
gamma 5), a constant learning rate and averaged weights: stages differ in training, not in decay.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .loop import Budget, Run, train, warmup, world

CPU_BUDGET = Budget(steps=3000, batch=64)
GPU_BUDGET = Budget(steps=60_000, batch=256, bfloat16=True)
STAGES = (0.02, 0.10, 0.30, 0.60, 1.0)  # shares of the training at which a stage is kept
RATE = 8e-4
HALF_LIFE = 16_000.0  # of the moving average, in pictures: 250 steps of 64, and 62 of the GPU's 256
DROPPED = 0.1  # share of the prompts replaced by the empty one, for classifier-free guidance
RANDOM_SEED = 20  # of the weights training starts from, and of sd.rooms64-random
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}
CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (48, 80, 112),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 96,
    "attention_head_dim": 2,  # diffusers' name for the number of heads
    "norm_num_groups": 8,
}


def new_unet(seed: int = RANDOM_SEED) -> nn.Module:
    """The untrained UNet; the same seed gives the same weights."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(**CONFIG)


def stage_steps(budget: Budget) -> dict[str, int]:
    """Stage name (s1 ... s5) to the step it is taken at."""
    return {f"s{k}": max(1, round(share * budget.steps)) for k, share in enumerate(STAGES, 1)}


def encode_latents(vae: Any, rgb: Any, device: str = "cpu", batch: int = 64) -> Tensor:
    """Scaled latents of pictures, uint8 (n 3 h w), as float16 (n c h/4 w/4)."""
    found = []
    with torch.no_grad():
        for start in range(0, len(rgb), batch):
            x = torch.from_numpy(rgb[start : start + batch]).to(device).float() / 127.5 - 1
            found.append((vae.encode(x).latent_dist.mode() * vae.config.scaling_factor).half().cpu())
    return torch.cat(found)


def embed_prompts(tokenizer: Any, text_encoder: Any, prompts: Sequence[str], batch: int = 256) -> Tensor:
    """Text embeddings (n l d), float16."""
    found = []
    with torch.no_grad():
        for start in range(0, len(prompts), batch):
            ids = tokenizer(
                list(prompts[start : start + batch]),
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            found.append(text_encoder(ids)[0].half())
    return torch.cat(found)


def min_snr_weight(alphas: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) / SNR for epsilon-prediction (Hang et al. 2023, section 3.4)."""
    snr = alphas / (1 - alphas)
    return snr.clamp_max(gamma) / snr


def train_unet(
    latents: Tensor,
    texts: Tensor,
    empty: Tensor,
    folder: Path,
    budget: Budget,
    keep: Callable[[str, nn.Module], None],
    device: str = "cpu",
    until: str | None = None,
) -> None:
    """Train on scaled latents (n c h w) with their text embeddings (n l d).

    Args:
        empty: (1 l d) embedding of the empty prompt.
        keep: called with a stage's name and its averaged UNet.
        until: the stage after which training ends, None for the last.
    """
    from diffusers import DDPMScheduler

    network = new_unet()
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    weights = min_snr_weight(alphas).to(device)
    alphas, latents, texts, empty = (x.to(device) for x in (alphas, latents, texts, empty))

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        n = budget.batch // world()[1]
        rows = torch.randint(len(latents), (n,), generator=generator).to(device)
        t = torch.randint(len(alphas), (n,), generator=generator).to(device)
        noise = torch.randn(n, *latents.shape[1:], generator=generator).to(device)
        drop = (torch.rand(n, generator=generator) < DROPPED).to(device)
        text = torch.where(drop[:, None, None], empty, texts[rows]).float()
        a = alphas[t][:, None, None, None]
        noisy = a.sqrt() * latents[rows].float() + (1 - a).sqrt() * noise
        with budget.autocast(device):
            out = network(noisy, t, text).sample
        error = (out.float() - noise).square().mean((1, 2, 3))
        return {"loss": (error * weights[t]).mean(), "mse": error.mean()}

    steps = stage_steps(budget)
    stages: dict[int, Callable[[nn.Module], None]] = {
        step: partial(keep, name) for name, step in steps.items()
    }
    last = steps[until] if until else budget.steps
    run = Run(network, loss, last, budget.batch, warmup(RATE, 200), seed=20, ema=HALF_LIFE, stages=stages)
    train(run, folder, device)
