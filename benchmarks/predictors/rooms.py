"""The rooms' own supervised network: the ceiling of every probe, and the features of the Frechet distance.

A small U-net trained on exact maps of the split `zoo`. Its bottleneck, averaged over the picture,
is the feature space in which the zoo's Frechet distance is measured; that number is comparable
only with itself, never with FID from Inception features.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.methods import NETWORK
from generators.errors import UserError
from generators.zoo.loop import Budget, Run, train, warmup_then_linear_decay
from probes.intrinsics import Intrinsic, unit
from probes.task import Examples, Task

CPU_BUDGET = Budget(steps=2600, batch=32)
GPU_BUDGET = Budget(steps=40_000, batch=128)
RATE = 2e-3
WEIGHTS = NETWORK
OBJECTS = NETWORK.with_name("objects.safetensors")  # the same network, trained on in the second world
WIDTHS = (40, 80, 128)
FEATURES = WIDTHS[-1]
DEPTH_SCALE = 10.0  # meters the depth output is measured in
NEAREST = 1e-3  # meters; pictures unlike any render can make the network see what is behind the camera
OUTPUTS = {"normal": slice(0, 3), "depth": slice(3, 4), "albedo": slice(4, 7), "shading": slice(7, 10)}


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(functional.silu(self.norm2(h)))
        return out


class RoomsNetwork(nn.Module):
    """Pictures (b 3 h w) in [-1, 1], h and w multiples of 16, to maps (b 10 h w): see OUTPUTS."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.stem = nn.Conv2d(12, a, 3, padding=1)
        self.down1 = nn.ModuleList([Block(a), Block(a)])
        self.to2 = nn.Conv2d(a, b, 2, stride=2)
        self.down2 = nn.ModuleList([Block(b), Block(b)])
        self.to3 = nn.Conv2d(b, c, 2, stride=2)
        self.middle = nn.ModuleList([Block(c) for _ in range(3)])
        self.mix = nn.Linear(c, c)  # of the picture's mean: the color of the light is global
        self.after = nn.ModuleList([Block(c)])
        self.from3 = nn.Conv2d(c, b, 1)
        self.up2 = nn.ModuleList([Block(b)])
        self.from2 = nn.Conv2d(b, a, 1)
        self.up1 = nn.ModuleList([Block(a), Block(a)])
        self.head = nn.Conv2d(a, 40, 3, padding=1)

    def _down(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h1 = self.stem(functional.pixel_unshuffle(x, 2))
        for block in self.down1:
            h1 = block(h1)
        h2 = self.to2(h1)
        for block in self.down2:
            h2 = block(h2)
        h3 = self.to3(h2)
        for block in self.middle:
            h3 = block(h3)
        return h1, h2, h3

    def features(self, x: Tensor) -> Tensor:
        """Mean of the bottleneck over the picture: (b, FEATURES)."""
        return self._down(x)[2].mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        h1, h2, h3 = self._down(x)
        h3 = h3 + self.mix(h3.mean((2, 3)))[:, :, None, None]
        for block in self.after:
            h3 = block(h3)
        h2 = h2 + functional.interpolate(self.from3(h3), scale_factor=2.0)
        for block in self.up2:
            h2 = block(h2)
        h1 = h1 + functional.interpolate(self.from2(h2), scale_factor=2.0)
        for block in self.up1:
            h1 = block(h1)
        out: Tensor = functional.pixel_shuffle(self.head(h1), 2)
        return out


def _targets(planes: Tensor) -> dict[str, Tensor]:
    """uint8 (b 13 h w) of a stock to maps: unit normals, depth / DEPTH_SCALE, linear RGB."""
    x = planes.float() / 255
    normal = functional.normalize(x[:, 3:6] * 2 - 1, dim=1)
    return {"normal": normal, "depth": x[:, 6:7], "albedo": x[:, 7:10], "shading": x[:, 10:13]}


def _mirrored(planes: Tensor, flip: Tensor) -> Tensor:
    """Left-right mirror of the chosen scenes; the x axis of their normals changes sign."""
    mirrored = planes.flip(3)
    mirrored[:, 3] = 255 - mirrored[:, 3]
    return torch.where(flip[:, None, None, None], mirrored, planes)


def train_rooms_network(
    planes: np.ndarray, folder: Path, budget: Budget, device: str = "cpu", start: nn.Module | None = None
) -> nn.Module:
    """Train on a stock's planes, uint8 (n 13 h w), from `start` where another world has been learnt."""
    torch.manual_seed(13)
    network = RoomsNetwork() if start is None else start.requires_grad_(True)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(planes), (budget.batch,), generator=generator).numpy()
        flip = torch.rand(budget.batch, generator=generator) < 0.5
        batch = _mirrored(torch.from_numpy(planes[rows]), flip).to(device)
        truth, out = _targets(batch), network(batch[:, :3].float() / 127.5 - 1)
        normal = functional.normalize(out[:, OUTPUTS["normal"]], dim=1, eps=1e-4)
        terms = {
            "normal": 1 - (normal * truth["normal"]).sum(1).mean() + (normal - truth["normal"]).abs().mean(),
            **{
                name: (out[:, OUTPUTS[name]] - truth[name]).abs().mean()
                for name in ("depth", "albedo", "shading")
            },
        }
        total = terms["normal"] + 4 * terms["depth"] + 2 * terms["albedo"] + 2 * terms["shading"]
        return {"loss": total, **terms}

    rate = warmup_then_linear_decay(RATE, 200, budget.steps)
    return train(Run(network, loss, budget.steps, budget.batch, rate, seed=13), folder, device)


def load_rooms_network(path: Path = WEIGHTS, device: str = "cpu") -> RoomsNetwork:
    """The shipped network in float32; raises UserError if its file is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = RoomsNetwork()
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            "the rooms' supervised network",
            f"its weights cannot be read: {str(error)[:200]}",
            f"expected file: benchmarks/predictors/{path.name}",
            "install the package again",
        ) from error
    return network.to(device).eval().requires_grad_(False)


def maps_of(outputs: Tensor, intrinsic: str) -> Tensor:
    """Maps (n c h w) in natural units from the network's outputs (n 10 h w).

    Albedo and shading are held to [0, 1], the range of every map and all that a probe can be taught: of
    pictures unlike any render, as untrained models draw them, the network says up to a third outside.
    """
    maps = outputs[:, OUTPUTS[intrinsic]]
    if intrinsic == "normal":
        return unit(maps)
    return (maps * DEPTH_SCALE).clamp_min(NEAREST) if intrinsic == "depth" else maps.clamp(0, 1)


class SupervisedProbe:
    """The shipped network's maps: what a model trained for the purpose reaches, the probes' ceiling."""

    steps_per_second = None
    meters = True  # its depth, whatever the alignment asks for

    def __init__(self, intrinsic: Intrinsic) -> None:
        self.intrinsic, self.network = intrinsic, load_rooms_network()
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self.details: dict[str, Any] = {"trained_on": "rooms zoo split"}

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        with torch.no_grad():
            outputs = torch.cat([self.network(part) for part in examples.pictures.split(32)])
        return maps_of(outputs, self.intrinsic.name)

    def save(self, folder: Path) -> None:
        """The weights ship with the package; there is nothing to keep."""
        folder.mkdir(parents=True, exist_ok=True)

    def release(self) -> None:
        """There is no generator."""


def fit(task: Task) -> SupervisedProbe:
    """The shipped network; nothing is fitted."""
    return SupervisedProbe(task.intrinsic)
