"""The linear probe: per layer a linear map from frozen activations to the intrinsic, in closed form.

The map acts on activations upsampled bilinearly to the output grid (Chen et al. 2023). Bilinear
upsampling is linear and separable, y = U_h f U_w^T, so where every pixel is valid its normal
equations are those of the small activations weighted by U^T U, and no upsampled activation is
made. Where some are not valid, small ones are upsampled for real; large ones are weighted by
U^T M U, with M the valid pixels: each place goes together with its neighbours alone. One streaming
pass serves all layers and all intrinsics; ridge strength and layer are chosen on the validation
split.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generators.base import Generator
from generators.errors import unknown

from .fit import shuffled
from .intrinsics import INTRINSICS, Intrinsic
from .memory import portions
from .ridge import STRENGTHS, Moments
from .task import Examples, Task, stream

BATCH = 25
UPSAMPLED = 2**28  # bytes: activations of a batch that would be larger are not upsampled
SUMMED = 0.7  # share of fitting that is done when all moments are there


def upsampling(small: int, large: int) -> Tensor:
    """Matrix (large, small) of bilinear upsampling in one dimension (align_corners=False)."""
    rows = functional.interpolate(torch.eye(small)[None], size=large, mode="linear", align_corners=False)
    return rows[0].T


def columns(examples: Examples) -> dict[str, slice]:
    """Where each intrinsic's channels stand among the target columns."""
    found, start = {}, 0
    for name in INTRINSICS:
        if name in examples.maps:
            width = examples.maps[name].shape[1]
            found[name] = slice(start, start + width)
            start += width
    return found


def stacked_targets(examples: Examples) -> Tensor:
    """All maps of the examples side by side (n t h w), in the order of INTRINSICS."""
    return torch.cat([examples.maps[name] for name in INTRINSICS if name in examples.maps], 1)


def _small_sums(f: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Sums of upsampled activations f (b c h w) and targets y (b t H W), all pixels valid."""
    u, v = upsampling(f.shape[2], y.shape[2]), upsampling(f.shape[3], y.shape[3])
    weighted = torch.einsum("ij,bcjk,kl->bcil", u.T @ u, f, v.T @ v)
    small_y = torch.einsum("ji,btjk,kl->btil", u, y, v)
    total = torch.einsum("h,bchw,w->c", u.sum(0), f, v.sum(0))
    flat = f.transpose(0, 1).flatten(1)
    gram = weighted.transpose(0, 1).flatten(1) @ flat.T
    cross = flat @ small_y.transpose(0, 1).flatten(1).T
    return gram, cross, total, y.sum((0, 2, 3)), float(y[:, 0].numel())


def _masked_sums(f: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """The same over the valid pixels only, on activations upsampled for real where they are small enough."""
    if f.element_size() * math.prod((*f.shape[:2], *y.shape[2:])) > UPSAMPLED:
        return _neighbour_sums(f, y, mask)
    large = functional.interpolate(f, size=y.shape[2:], mode="bilinear", align_corners=False)
    keep = mask[:, 0]
    x, t = large.movedim(1, -1)[keep], y.movedim(1, -1)[keep]
    return x.T @ x, x.T @ t, x.sum(0), t.sum(0), float(len(x))


def _neighbour_sums(f: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """`_masked_sums`, float64, picture by picture, without any upsampled activation."""
    u, v = upsampling(f.shape[2], y.shape[2]), upsampling(f.shape[3], y.shape[3])
    gram = torch.zeros(f.shape[1], f.shape[1], dtype=torch.float64)
    cross = torch.zeros(f.shape[1], y.shape[1] + 1, dtype=torch.float64)
    sum_y = torch.zeros(y.shape[1], dtype=torch.float64)
    for activation, truth, valid in zip(f, y, mask, strict=True):
        flat, inside = activation.flatten(1), torch.where(valid, truth, 0)
        gram += _weighted(activation, u, v, valid[0].float()).flatten(1) @ flat.T
        targets = torch.cat([inside, valid.float()])  # with 1, whose products are the sum of x
        cross += flat @ torch.einsum("ji,tjk,kl->til", u, targets, v).flatten(1).T
        sum_y += inside.sum((1, 2))
    return gram, cross[:, :-1], cross[:, -1], sum_y, float(mask.sum())


def _weighted(f: Tensor, u: Tensor, v: Tensor, valid: Tensor) -> Tensor:
    """Activations f (c h w) weighted by U^T M U, of upsampling by u (H h) and v (W w), and M (H W) 0 or 1.

    Every pixel is made of two neighbouring rows and columns: a place meets itself and eight others.
    """
    h, w = f.shape[1:]
    padded, found = functional.pad(f, (1, 1, 1, 1)), torch.zeros_like(f)
    wide_u, wide_v = functional.pad(u, (1, 1)), functional.pad(v, (1, 1))
    for i in range(3):
        for j in range(3):
            together = (u * wide_u[:, i : i + h]).T @ valid @ (v * wide_v[:, j : j + w])
            found += together * padded[:, i : i + h, j : j + w]
    return found


def accumulate(
    generator: Generator, examples: Examples, labels: Tensor, seen: Callable[[int], None] = lambda count: None
) -> dict[str, Tensor]:
    """Moments of all layers in one pass over the examples, as "layer/part" tensors.

    Args:
        labels: target maps (n t h w), those of the examples or shuffled ones.
        seen: called with the number of examples that are in the moments.
    """
    moments: dict[str, Moments] = {}

    def see(rows: slice) -> dict[str, Tensor]:
        with torch.no_grad():
            features = generator.features({k: v[rows] for k, v in examples.code.items()})
        return {name: activation.float().cpu() for name, activation in features.items()}

    for rows, features in portions(len(examples), BATCH, see, "compute activations"):
        y, mask = labels[rows], examples.mask[rows]
        for name, f in features.items():
            sums = _small_sums(f, y) if bool(mask.all()) else _masked_sums(f, y, mask)
            moments.setdefault(name, Moments.empty(f.shape[1], y.shape[1])).add(*sums)
        seen(rows.stop)
    return {f"{name}/{part}": t for name, m in moments.items() for part, t in m.tensors().items()}


def _split(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = key.rsplit("/", 1)
        layers.setdefault(name, {})[part] = tensor
    return {name: Moments.from_tensors(parts) for name, parts in layers.items()}


def apply(f: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Linear map of activations (b c h w), then bilinear upsampling to `size`: they commute."""
    small = torch.einsum("bchw,ct->bthw", f.double(), weight) + bias[None, :, None, None]
    return functional.interpolate(small.float(), size=size, mode="bilinear", align_corners=False)


class LinearProbe:
    """The best layer's linear map."""

    steps_per_second = None

    def __init__(
        self,
        generator: Generator,
        intrinsic: Intrinsic,
        layer: str,
        weight: Tensor,
        bias: Tensor,
        details: dict[str, Any],
    ) -> None:
        self.generator, self.intrinsic, self.layer = generator, intrinsic, layer
        self.weight, self.bias, self.details = weight, bias, details
        self.parameters = weight.numel() + bias.numel()

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        size = (examples.mask.shape[2], examples.mask.shape[3])

        def some(rows: slice) -> Tensor:
            code = {k: v[rows] for k, v in examples.code.items()}
            with torch.no_grad():
                f = self.generator.features(code)[self.layer].cpu()
            return apply(f, self.weight, self.bias, size)

        found = [maps for _, maps in portions(len(examples), BATCH, some, "predict maps")]
        return natural(self.intrinsic, torch.cat(found))

    def save(self, folder: Path) -> None:
        """Write linear.safetensors (weight (c, t), bias (t,)) and linear.json (layer, choices)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight, "bias": self.bias}, str(folder / "linear.safetensors"))
        (folder / "linear.json").write_text(json.dumps({"layer": self.layer} | self.details, indent=1))

    def release(self) -> None:
        """Nothing was changed in the generator."""


def natural(intrinsic: Intrinsic, maps: Tensor) -> Tensor:
    return intrinsic.from_picture(maps) if intrinsic.name == "normal" else maps


def fit(task: Task) -> LinearProbe:
    """Solve all layers and strengths, keep the pair with the least validation error."""
    generator, kind = task.model, task.options["labels"]
    key = f"moments of the picture/{kind}/{task.seed if kind == 'shuffled' else ''}"
    moments = _split(task.remember(key, lambda: _moments(task)))
    task.progress(SUMMED)
    asked = task.options["layer"]
    if asked != "best" and asked not in moments:
        raise unknown(f"layer of {generator.spec.name}", asked, moments)
    chosen = {asked: moments[asked]} if asked != "best" else moments
    return _choose(task, chosen)


def _moments(task: Task) -> dict[str, Tensor]:
    """Moments of all layers over the training pictures, in one go or part by part."""
    before = 0  # pictures of the parts that are done

    def seen(count: int) -> None:
        task.progress(SUMMED * (before + count) / len(task.train))

    if task.parts is not None:
        if task.options["labels"] == "shuffled":
            raise ValueError("maps of other pictures cannot be asked for part by part: give all at once")
        found: dict[str, Tensor] = {}
        for part in task.parts():
            for name, value in accumulate(task.model, part, stacked_targets(part), seen).items():
                found[name] = found[name] + value if name in found else value
            before += len(part)
        return found
    train, labels = task.train, stacked_targets(task.train)
    if task.options["labels"] == "shuffled":  # a map goes with where it is valid
        order = shuffled(len(labels), stream(task.seed, "labels"))
        train, labels = replace(train, mask=train.mask[order]), labels[order]
    return accumulate(task.model, train, labels, seen)


def _choose(task: Task, moments: dict[str, Moments]) -> LinearProbe:
    generator, intrinsic, held = task.model, task.intrinsic, task.validation
    where = columns(task.train)[intrinsic.name]
    truth, size = held.maps[intrinsic.name], (held.mask.shape[2], held.mask.shape[3])
    features = validation_features(generator, held)
    tried: list[tuple[float, str, float, Tensor, Tensor]] = []
    for name, moment in moments.items():
        activation = features.pop(name).double()  # once, not once for every strength
        for strength, (weight, bias) in zip(STRENGTHS, moment.solve(where), strict=True):
            prediction = natural(intrinsic, apply(activation, weight, bias, size))
            error = float(intrinsic.error(prediction, truth, held.mask))
            tried.append((error, name, strength, weight, bias))
    error, name, strength, weight, bias = min(tried, key=lambda t: (t[0], t[1], t[2]))
    by_layer = {n: min(t[0] for t in tried if t[1] == n) for n in moments}
    details = {"layer": name, "ridge": strength, "validation_error": error, "validation_by_layer": by_layer}
    return LinearProbe(generator, intrinsic, name, weight, bias, details)


def validation_features(generator: Generator, held: Examples) -> dict[str, Tensor]:
    """Activations of the validation pictures for all layers (n c h w)."""

    def see(rows: slice) -> dict[str, Tensor]:
        with torch.no_grad():
            features = generator.features({k: v[rows] for k, v in held.code.items()})
        return {name: activation.cpu() for name, activation in features.items()}

    parts = [found for _, found in portions(len(held), BATCH, see, "compute activations")]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
