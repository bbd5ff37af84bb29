"""The zoo's KL autoencoder: four times smaller a side, eight channels, in diffusers' own layout.

It must carry any colored map, not only rooms, because a latent probe can be no better than
decode(encode(truth)). Stable Diffusion's has seen every color; this one sees rooms under random
linear transforms of color space, and never a map of normals, depth, albedo or shading.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .loop import Budget, Run, rows_of, train, warmup_then_linear_decay

CPU_BUDGET = Budget(steps=3200, batch=16)
GPU_BUDGET = Budget(steps=40_000, batch=64, bfloat16=True)
RATE = 2e-3
KL_WEIGHT = 3e-4  # per latent value; keeps the latents' scale and leaves them a little noise
TRANSFORMED = 0.8  # share of the pictures whose color space is transformed
CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "sample_size": 64,
    "mid_block_add_attention": False,
}


def transform_colors(x: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift the color space of pictures (b 3 h w) in [-1, 1], each its own way."""
    b = len(x)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=generator).to(x.device) * (high - low) + low

    mean, std = x.mean((2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    rotation = torch.linalg.qr(torch.randn(b, 3, 3, generator=generator))[0].to(x.device)
    contrast = uniform(0.15, 0.8, 1, 1, 1) * uniform(0.5, 1.5, 3, 1, 1)
    y = torch.einsum("bij,bjhw->bihw", rotation, (x - mean) / (std + 0.05)) * contrast
    y = (y + uniform(-0.7, 0.7, 3, 1, 1)).clamp(-1, 1)
    return torch.where(uniform(0, 1, 1, 1, 1) < TRANSFORMED, y, x)


def measure_scale(network: Any, rgb: np.ndarray, device: str = "cpu") -> float:
    """1 / standard deviation of the latents of pictures, uint8 (n 3 h w)."""
    with torch.no_grad():
        x = torch.from_numpy(rgb).to(device).float() / 127.5 - 1
        return 1.0 / float(network.encode(x).latent_dist.mode().std())


def train_autoencoder(rgb: np.ndarray, folder: Path, budget: Budget, device: str = "cpu") -> nn.Module:
    """Train on pictures, uint8 (n 3 h w), and save a diffusers folder in `folder/vae`."""
    from diffusers import AutoencoderKL

    torch.manual_seed(11)
    network, pictures = AutoencoderKL(**CONFIG), rows_of(rgb, device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x = pictures(torch.randint(len(rgb), (budget.batch,), generator=generator)).float() / 127.5 - 1
        x = transform_colors(x, generator)
        x = torch.where(torch.rand(budget.batch, 1, 1, 1, generator=generator).to(device) < 0.5, x, x.flip(3))
        with budget.autocast(device):
            posterior = network.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            y = network.decode(posterior.mean + posterior.std * noise).sample
            kl = posterior.kl().mean() / posterior.mean[0].numel()
        l1, mse = (y.float() - x).abs().mean(), (y.float() - x).square().mean()
        return {"loss": l1 + 4 * mse + KL_WEIGHT * kl, "l1": l1, "mse": mse, "kl": kl}

    run = Run(
        network, loss, budget.steps, budget.batch, warmup_then_linear_decay(RATE, 100, budget.steps), seed=11
    )
    train(run, folder / "training", device)
    network.register_to_config(scaling_factor=measure_scale(network, rgb[:512], device))
    network.half().save_pretrained(folder / "vae")
    return network.float()
