"""Training of the zoo's DINOv2: self-distillation without labels.

A student sees a picture with most of its patches masked and tells, at the masked ones, what an average
of itself sees in the whole picture: the mean of the teacher's upper layers, normalized (Baevski et al.
2022, data2vec). DINOv2 itself distills distributions over thousands of prototypes (Oquab et al. 2023);
that was tried here, see the README. The teacher is what is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .loop import Budget, Run, follow, rows_of, train

CPU_BUDGET = Budget(steps=1800, batch=64)
GPU_BUDGET = Budget(steps=60_000, batch=256, bfloat16=True)
LONGER_CPU_BUDGET = Budget(steps=900, batch=64)
LONGER_GPU_BUDGET = Budget(steps=30_000, batch=256, bfloat16=True)
STAGES = {"s1": 2 / 15, "s2": 1.0}
LONGER = {"s3": 0.5, "s4": 1.0}  # of a second training from where the first ended
RATE, WEIGHT_DECAY = 1.5e-3, 0.04
LAYERS = 3  # upper layers whose mean is the target
MASKED = 0.6  # share of the patches that are hidden, in blocks of 2 x 2
CROPPED = (0.5, 1.0)  # share of a picture's area that is seen

Keep = Callable[[str, nn.Module], None]


class Distillation(nn.Module):
    """Student with the linear layer it answers through, and teacher; only the student has gradients."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.student = backbone
        self.teacher = copy.deepcopy(backbone).eval().requires_grad_(False)
        self.answer = nn.Linear(backbone.config.hidden_size, backbone.config.hidden_size)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student."""
        follow(self.teacher, self.student, momentum)

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """What the teacher sees (b n c): its upper layers, each normalized over places, their mean."""
        layers = self.teacher(x, output_hidden_states=True).hidden_states[-LAYERS:]
        normal = [functional.instance_norm(h[:, 1:].float().transpose(1, 2)).transpose(1, 2) for h in layers]
        return torch.stack(normal).mean(0)


def crops(x: Tensor, draws: torch.Generator) -> Tensor:
    """One random crop of every picture (b 3 h w), at its size, perhaps mirrored, in changed colors."""
    b = len(x)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=draws) * (high - low) + low

    area, aspect = uniform(*CROPPED), torch.exp(uniform(-0.2, 0.2))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = width * torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False).to(x.device)
    y = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    gains, shift = uniform(0.8, 1.2, 1, 1, 1) * uniform(0.9, 1.1, 3, 1, 1), uniform(-0.1, 0.1, 1, 1, 1)
    return (y * gains.to(x.device) + shift.to(x.device)).clamp(-1, 1)


def block_mask(b: int, side: int, draws: torch.Generator) -> Tensor:
    """Which patches (b side * side) are hidden: the same number in every picture, in blocks of 2 x 2."""
    blocks = (side // 2) ** 2
    order = torch.rand(b, blocks, generator=draws).argsort(1)
    hidden = (order < round(MASKED * blocks)).view(b, side // 2, side // 2)
    return hidden.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)


def _momentum(share: float) -> float:
    return 1 - 0.004 * (1 - share) - 0.0002


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return RATE * min((step + 1) / warm, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def train_dinov2(
    backbone: nn.Module,
    rgb: np.ndarray,
    folder: Path,
    budget: Budget,
    keep: Keep,
    device: str = "cpu",
    stages: Mapping[str, float] = STAGES,
    until: str | None = None,
) -> nn.Module:
    """Train on pictures, uint8 (n 3 h w); `keep` is called with the teacher at each stage.

    Args:
        stages: name to the share of the budget at which it is kept.
        until: the stage after which training ends, None for the last; the schedule is the budget's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(61)
        both = Distillation(backbone)
    pictures = rows_of(rgb, device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        both.follow(_momentum(step / budget.steps))
        rows = torch.randint(len(rgb), (budget.batch,), generator=generator)
        x = crops(pictures(rows).float() / 127.5 - 1, generator)
        with budget.autocast(device):
            targets = both.targets(x)
            mask = block_mask(len(x), math.isqrt(targets.shape[1]), generator).to(device)
            seen = both.student(x, bool_masked_pos=mask).last_hidden_state[:, 1:]
            answer = both.answer(seen[mask])
        hidden = targets[mask]
        error = (answer.float() - hidden).square().mean()
        return {"loss": error, "variance": hidden.var(0).mean()}

    def kept(name: str) -> Callable[[Any], None]:
        return lambda network: keep(name, network.teacher)

    steps = {name: max(1, round(share * budget.steps)) for name, share in stages.items()}
    run = Run(
        both, loss, steps[until] if until else budget.steps, budget.batch,
        lambda step: _rate(step, budget.steps), seed=61, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98),
        stages={step: kept(name) for name, step in steps.items()},
    )  # fmt: skip
    return train(run, folder, device)


def keep_stage(folder: Path, backbone: Any) -> None:
    """Write a backbone as a folder of transformers, in half precision."""
    copy.deepcopy(backbone).half().save_pretrained(folder)
