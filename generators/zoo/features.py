"""A frozen feature network for projected discriminators, trained on rooms without any map.

StyleGAN-XL's discriminators look at pictures through networks trained on ImageNet. This one has
learned what a caption says of a picture (which objects in which colors, which floor) and to remove
noise. It never sees normals, depth, albedo or shading, so a generator trained against it is not
told what the probes will ask; and it is not the network whose features the Frechet distance is
measured in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .loop import Budget, Run, rows_of, train, warmup_then_linear_decay

CPU_BUDGET = Budget(steps=1800, batch=64)
GPU_BUDGET = Budget(steps=20_000, batch=256)
RATE = 2e-3
WIDTHS = (32, 64, 128, 192)  # channels at 1/2, 1/4, 1/8 and 1/16 of the resolution
NOISE = 0.8  # largest standard deviation the network learns to remove


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(h)))


class FeatureNetwork(nn.Module):
    """Pictures (b 3 h w) in [-1, 1] to four feature maps, at 1/2 ... 1/16 of their resolution."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip(inputs, WIDTHS, strict=True)
        )
        self.block = nn.ModuleList(_Block(w) for w in WIDTHS)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for down, block in zip(self.down, self.block, strict=True):
            x = block(down(x))
            found.append(x)
        return found


class _Trainer(nn.Module):
    """The network with the two heads it is trained through and which are thrown away."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.features = FeatureNetwork()
        self.head = nn.Linear(WIDTHS[-1], labels)
        self.up = nn.ModuleList(nn.Conv2d(w, 48, 1) for w in WIDTHS)
        self.mix = nn.ModuleList(nn.Conv2d(48, 48, 3, padding=1) for _ in WIDTHS)
        self.out = nn.Conv2d(48, 12, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b labels) and the picture without noise (b 3 h w)."""
        maps = self.features(x)
        h = torch.zeros_like(self.up[-1](maps[-1]))
        for level in range(len(maps) - 1, -1, -1):
            if h.shape[-1] != maps[level].shape[-1]:
                h = functional.interpolate(h, scale_factor=2.0)
            h = h + functional.relu(self.mix[level](h + self.up[level](maps[level])))
        return self.head(maps[-1].mean((2, 3))), functional.pixel_shuffle(self.out(h), 2)


def caption_labels(captions: Sequence[str]) -> Tensor:
    """What captions say, (n labels) of zeros and ones: "red sphere", "checkered floor", ... ."""
    said = [set(re.findall(r"[a-z]+ (?:sphere|box|cylinder|floor)", c)) for c in captions]
    names = sorted(set().union(*said))
    return torch.tensor([[float(n in s) for n in names] for s in said])


def train_features(
    rgb: np.ndarray, captions: Sequence[str], folder: Path, budget: Budget, device: str = "cpu"
) -> FeatureNetwork:
    """Train on pictures, uint8 (n 3 h w), and their captions."""
    labels = caption_labels(captions)
    torch.manual_seed(31)
    network = _Trainer(labels.shape[1])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = rows_of(rgb, device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(rgb), (budget.batch,), generator=generator)
        x = pictures(rows).float() / 127.5 - 1
        flip = torch.rand(budget.batch, 1, 1, 1, generator=generator) < 0.5
        x = torch.where(flip.to(device), x.flip(3), x)
        sigma = NOISE * torch.rand(budget.batch, 1, 1, 1, generator=generator)
        sigma = sigma * (torch.rand(budget.batch, 1, 1, 1, generator=generator) < 0.5)
        noisy = x + (sigma * torch.randn(x.shape, generator=generator)).to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            logits, clean = network(noisy.contiguous(memory_format=torch.channels_last))
        said = functional.binary_cross_entropy_with_logits(logits.float(), labels[rows].to(device))
        denoised = (clean.float() - x).square().mean((1, 2, 3))[sigma.flatten().to(device) > 0]
        total = 5 * said + 2 * denoised.mean()
        return {"loss": total, "caption": said, "denoise": denoised.mean()}

    rate = warmup_then_linear_decay(RATE, 100, budget.steps)
    trained = train(Run(network, loss, budget.steps, budget.batch, rate, seed=31), folder, device)
    features = trained.features
    assert isinstance(features, FeatureNetwork)
    return features
