"""A generator's own pictures, labeled by a predictor: how models that take no pictures are probed.

A model that draws and takes pictures, as Stable Diffusion, is shown what it has drawn: that is how it can
stand beside those on one axis.

Nobody knows the true maps of a picture a generator made up. What the predictor says of it is taken for
the truth; its own error on renders, where the truth is known, is the ceiling of every such number
(method `supervised` on data `rooms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from generators.base import Generator, GeneratorSpec
from generators.sampled import check_sample
from probes.intrinsics import INTRINSICS
from probes.memory import portions
from probes.task import Examples

from . import captions

BATCH = 32
# First seed of a split; no two splits share a picture, nor with the Frechet distance's samples.
FIRST_SEED: Mapping[str, int] = {"train": 200_000_000, "validation": 100_000_000, "test": 110_000_000}
# How a diffusion model draws its own pictures: as those its Frechet distance is measured of. Part of what the
# fingerprint of `samples` stands for (benchmarks.data): raise the number there with any change here.
SAMPLER: Mapping[str, Any] = {"steps": 12, "guidance": 1.0}


def told(spec: GeneratorSpec, seeds: Sequence[int]) -> dict[str, Any]:
    """What a model that listens is told when it draws: captions of its world's scenes, one for each seed."""
    if not spec.diffusion_steps:
        return {}
    return {"captions": captions(spec.domain, "reference", seeds), **SAMPLER}


def draw(generator: Generator, split: str, rows: range) -> dict[str, Tensor]:
    """Pictures (n 3 h w), 8 bit, and codes ("code.NAME") of a split's seeds.

    The code of a model that takes pictures is that of the picture as it is stored.
    """

    def some(part: slice) -> dict[str, Tensor]:
        seeds = [FIRST_SEED[split] + i for i in rows[part]]
        drawn = generator.sample(seeds, **told(generator.spec, seeds))
        sample = check_sample(drawn, generator.spec, len(seeds))
        pictures = ((sample.images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        code = sample.code
        if generator.spec.takes == "images":
            code = generator.embed(pictures.float() / 127.5 - 1)
        return {"pictures": pictures.cpu(), **{f"code.{name}": v.cpu() for name, v in code.items()}}

    parts = [found for _, found in portions(len(rows), BATCH, some, "draw pictures")]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def label(pictures: Tensor) -> dict[str, Tensor]:
    """Maps ("maps.NAME", natural units) the rooms' supervised network sees in pictures (n 3 h w), 8 bit."""
    from benchmarks.predictors.rooms import load_rooms_network, maps_of

    network, seen = load_rooms_network(), _plain(pictures, {}).pictures
    with torch.no_grad():
        parts = portions(len(seen), BATCH, lambda rows: network(seen[rows]), "predict by rooms-network")
        outputs = torch.cat([found for _, found in parts])
    return {f"maps.{name}": maps_of(outputs, name) for name in INTRINSICS}


def _plain(pictures: Tensor, maps: Mapping[str, Tensor]) -> Examples:
    mask = torch.ones_like(pictures[:, :1], dtype=torch.bool)
    return Examples(pictures.float() / 127.5 - 1, maps, mask)


def examples(tensors: Mapping[str, Tensor]) -> Examples:
    """What `draw` and `label` gave, together."""
    maps = {k.removeprefix("maps."): v for k, v in tensors.items() if k.startswith("maps.")}
    code = {k.removeprefix("code."): v for k, v in tensors.items() if k.startswith("code.")}
    seen = _plain(tensors["pictures"], maps)
    return Examples(seen.pictures, maps, seen.mask, code)
