"""What needs no knowledge of a model: the mean map, RGB patches with position, the decoder's ceiling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generators.base import Generator

from .intrinsics import Intrinsic
from .linear import natural
from .memory import portions
from .ridge import STRENGTHS, Moments
from .task import Examples, Task

BATCH = 32


class ConstantProbe:
    """The mean of the training maps, pixel by pixel."""

    steps_per_second = None

    def __init__(self, intrinsic: Intrinsic, mean: Tensor) -> None:
        self.intrinsic, self.mean = intrinsic, natural(intrinsic, mean)
        self.parameters, self.details = mean.numel(), dict[str, Any]()

    def predict(self, examples: Examples) -> Tensor:
        """The mean map for every picture (n c h w), resized bilinearly for pictures of another size."""
        mean, size = self.mean, examples.mask.shape[2:]
        if mean.shape[2:] != size:
            mean = functional.interpolate(mean, size=size, mode="bilinear", align_corners=False)
            mean = natural(self.intrinsic, mean)
        return mean.expand(len(examples), -1, -1, -1).clone()

    def save(self, folder: Path) -> None:
        """Write constant.safetensors."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"mean": self.mean.contiguous()}, str(folder / "constant.safetensors"))

    def release(self) -> None:
        """There is no generator."""


def _mean_map(maps: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(maps.dtype)
    return (maps * weight).sum(0, keepdim=True) / weight.sum(0, keepdim=True).clamp_min(1)


def patch_features(pictures: Tensor, patch: int) -> Tensor:
    """RGB of the patch around each pixel, edges repeated, and position up to degree 4: (n f h w)."""
    n, _, h, w = pictures.shape
    reach = patch // 2
    padded = functional.pad(pictures, (reach,) * 4, mode="replicate")
    around = functional.unfold(padded, patch).view(n, -1, h, w)
    y = torch.linspace(-1, 1, h)[:, None].expand(h, w)
    x = torch.linspace(-1, 1, w)[None].expand(h, w)
    powers = [x**i * y**j for i in range(5) for j in range(5) if 1 <= i + j <= 4]
    return torch.cat([around, torch.stack(powers).expand(n, -1, -1, -1)], 1)


class PixelProbe:
    """Ridge regression from RGB patches and position, as the linear probe but without a model."""

    steps_per_second = None

    def __init__(self, task: Task) -> None:
        self.intrinsic, self.patch = task.intrinsic, int(task.options["patch"])
        truth = task.train.maps[self.intrinsic.name]
        moments = self._moments(task.train, truth)
        found = []
        for strength, (weight, bias) in zip(STRENGTHS, moments.solve(slice(None)), strict=True):
            self.weight, self.bias = weight, bias
            held = task.validation
            error = self.intrinsic.error(self.predict(held), held.maps[self.intrinsic.name], held.mask)
            found.append((float(error), strength, weight, bias))
        least, chosen, self.weight, self.bias = min(found, key=lambda f: f[:2])
        self.parameters = self.weight.numel() + self.bias.numel()
        self.details = {"ridge": chosen, "validation_error": least}

    def _moments(self, examples: Examples, truth: Tensor) -> Moments:
        moments: Moments | None = None
        for start in range(0, len(examples), 10):
            rows = slice(start, start + 10)
            keep = examples.mask[rows, 0]
            x = patch_features(examples.pictures[rows], self.patch).movedim(1, -1)[keep]
            y = truth[rows].movedim(1, -1)[keep]
            moments = moments or Moments.empty(x.shape[1], y.shape[1])
            moments.add(x.T @ x, x.T @ y, x.sum(0), y.sum(0), float(len(x)))
        if moments is None:
            raise ValueError("the pixel probe needs at least one training picture")
        return moments

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        found = []
        for start in range(0, len(examples), 10):
            f = patch_features(examples.pictures[start : start + 10], self.patch)
            mapped = torch.einsum("bfhw,ft->bthw", f, self.weight.float())
            found.append(mapped + self.bias.float()[None, :, None, None])
        return natural(self.intrinsic, torch.cat(found))

    def save(self, folder: Path) -> None:
        """Write pixels.safetensors and pixels.json."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight, "bias": self.bias}, str(folder / "pixels.safetensors"))
        (folder / "pixels.json").write_text(json.dumps({"patch": self.patch} | self.details, indent=1))

    def release(self) -> None:
        """There is no generator."""


class CeilingProbe:
    """decode(encode(true map)): no probe in a latent model's output space can do better."""

    parameters, steps_per_second = 0, None

    def __init__(self, generator: Generator, intrinsic: Intrinsic) -> None:
        self.generator, self.intrinsic = generator, intrinsic
        self.details: dict[str, Any] = {}

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) after the way through the generator's output space."""
        maps = examples.maps[self.intrinsic.name]

        def there_and_back(rows: slice) -> Tensor:
            with torch.no_grad():
                output = self.generator.encode(self.intrinsic.to_picture(maps[rows]))
                return self.intrinsic.from_picture(self.generator.decode(output)).cpu()

        found = [part for _, part in portions(len(examples), BATCH, there_and_back, "encode and decode maps")]
        return torch.cat(found)

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""
        folder.mkdir(parents=True, exist_ok=True)

    def release(self) -> None:
        """Nothing was changed in the generator."""


def fit_constant(task: Task) -> ConstantProbe:
    """The mean of the training maps."""
    return ConstantProbe(task.intrinsic, _mean_map(task.train.maps[task.intrinsic.name], task.train.mask))


def fit_pixels(task: Task) -> PixelProbe:
    """Ridge regression from RGB patches and position."""
    return PixelProbe(task)


def fit_ceiling(task: Task) -> CeilingProbe:
    """The way through the generator's output space and back; nothing is fitted."""
    return CeilingProbe(task.model, task.intrinsic)
