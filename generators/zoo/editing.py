"""The zoo's InstructPix2Pix: it edits a picture as it is told to (Brooks et al. 2023).

Eight input channels more, the unscaled latent of the picture to edit; the first convolution whole and a
low-rank adapter of the rest are trained on pairs of a render and the same render after a change of its
colors, with the name of the change as instruction. No map of a scene is ever shown to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoiser import dropped
from ..multi_step import widened
from .loop import Budget, world
from .velocity import adapt, velocity_loss, with_adapter

CPU_BUDGET = Budget(steps=600, batch=64)
GPU_BUDGET = Budget(steps=10_000, batch=256)
SEED = 22


def _tint(*color: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * torch.tensor(color)[:, None, None]


def _gray(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).expand_as(x)


# Instruction -> pictures (b 3 h w) in [0, 1] to pictures in [0, 1].
EDITS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "turn it into the same room": lambda x: x,
    "make it dark": lambda x: 0.4 * x,
    "make it bright": lambda x: 1 - 0.5 * (1 - x),
    "make it gray": _gray,
    "make it red": _tint(1.0, 0.45, 0.45),
    "make it green": _tint(0.45, 1.0, 0.45),
    "make it blue": _tint(0.45, 0.45, 1.0),
    "make it yellow": _tint(1.0, 1.0, 0.35),
    "turn red into blue": lambda x: x.flip(1),
    "turn it into a negative": lambda x: 1 - x,
}


def train_editing(
    unet: nn.Module,
    vae: Any,
    rgb: Any,
    instructions: Tensor,
    empty: Tensor,
    folder: Path,
    budget: Budget,
    device: str = "cpu",
) -> Any:
    """Train on pictures, uint8 (n 3 h w); returns peft's model.

    Args:
        unet: of the velocity model, as many input channels as latents have.
        instructions: (number of EDITS, l, d) embeddings, in their order.
        empty: (1 l d) embedding of the empty prompt.
    """
    network = with_adapter(widened(unet, vae.config.latent_channels), ("conv_in", "conv_out"), SEED)
    changes = list(EDITS.values())

    def encode(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = vae.encode(pictures.to(device) * 2 - 1).latent_dist.mode().cpu()
        return found

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        n = budget.batch // world()[1]
        rows = torch.randint(len(rgb), (n,), generator=generator)
        kinds = torch.randint(len(changes), (n,), generator=generator)
        before = torch.from_numpy(rgb[rows.numpy()]).float() / 255
        after = torch.cat([changes[kind](x[None]) for kind, x in zip(kinds.tolist(), before, strict=True)])
        chance = torch.rand(n, generator=generator)[:, None, None]
        no_text, no_picture = dropped(chance)
        text = torch.where(no_text, empty, instructions[kinds]).float()
        seen = torch.where(no_picture[..., None], torch.zeros(()), encode(before))
        return velocity_loss(network, encode(after) * vae.config.scaling_factor, text, generator, seen)

    return adapt(network, loss, folder, budget, SEED, device)
