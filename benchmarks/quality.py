"""How good a generator's pictures are: Frechet and kernel distance to renders of its world.

Features are those of the rooms' own supervised network, so the number is comparable only with
numbers measured the same way; it is never called FID.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cell import Cell
from .data.load import load_pictures
from .data.rooms.scenes import scene_parameters
from .metrics.frechet import FeatureStatistics, frechet_distance, kernel_distance
from .predictors.rooms import RoomsNetwork, load_rooms_network
from .session import Session

EXTRACTOR = "rooms supervised network, bottleneck mean, 128 features"
SEED = 1_000_000  # sample i has the seed SEED + i, in every cell
BATCH = 32
SHOWN = 8  # drawn pictures a record keeps


class Measured(NamedTuple):
    """What the method "frechet" gives.

    Attributes:
        shown: the first pictures the model drew and, below them, renders with the same captions; one
            picture (3 2h kw), 8 bit.
    """

    scores: dict[str, float]
    details: dict[str, Any]
    shown: Tensor


def features_of(network: RoomsNetwork, pictures: Tensor) -> Tensor:
    """Features (n, f) of pictures (n 3 h w) in [-1, 1]."""
    with torch.no_grad():
        return torch.cat([network.features(p) for p in pictures.split(BATCH)])


def _eight_bit(pictures: Tensor) -> Tensor:
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def reference_features(cell: Cell, here: Session, network: RoomsNetwork) -> Tensor:
    """Features (reference, f) of the split `reference`, computed once."""
    count = int(cell.options["reference"])
    key = {
        "kind": "features",
        "network": cell.options["network"],
        "world": cell.world,
        "size": cell.size,
        "n": count,
    }

    def compute() -> dict[str, Tensor]:
        parts = [
            features_of(
                network,
                load_pictures(cell.data, "reference", range(s, min(s + 256, count)), cell.size).pictures,
            )
            for s in range(0, count, 256)
        ]
        return {"features": torch.cat(parts)}

    return here.cache.get(key, compute)["features"]


def sample_features(
    cell: Cell, here: Session, network: RoomsNetwork, progress: Callable[[float], None]
) -> tuple[Tensor, Tensor]:
    """Features (samples, f) of pictures the model draws, prompted with the reference's captions.

    Beside them the first of the pictures, (k 3 h w) in [-1, 1].
    """
    generator, count = here.generator(cell), int(cell.options["samples"])
    if generator is None:
        raise TypeError("a Frechet distance needs a model")
    captions = [
        c
        for s in range(0, count, 256)
        for c in scene_parameters("reference", range(s, min(s + 256, count))).captions
    ]
    found, shown = [], torch.empty(0)
    for start in range(0, count, BATCH):
        rows = range(start, min(start + BATCH, count))
        sampled = generator.sample(
            [SEED + i for i in rows], captions[rows.start : rows.stop], **_sampler(cell)
        )
        pictures = _eight_bit(sampled.images.cpu())
        shown = pictures[:SHOWN] if start == 0 else shown
        found.append(features_of(network, pictures))
        progress(rows.stop / count)
    return torch.cat(found), shown


def _sheet(cell: Cell, drawn: Tensor) -> Tensor:
    """Drawn pictures (k 3 h w) side by side above the renders they are compared with, (3 2h kw), 8 bit."""
    renders = load_pictures(cell.data, "reference", range(len(drawn)), cell.size).pictures
    rows = [torch.cat(list(pictures), 2) for pictures in (drawn, renders)]
    return ((torch.cat(rows, 1).clamp(-1, 1) + 1) * 127.5).round().byte()


def _sampler(cell: Cell) -> dict[str, Any]:
    from generators import registry

    if not registry.spec(cell.model).diffusion_steps:
        return {}
    return {"steps": int(cell.options["steps"]), "guidance": float(cell.options["guidance"])}


def distances(samples: Tensor, reference: Tensor) -> tuple[dict[str, float], float]:
    """Frechet and kernel distance between features (n, f) and (m, f), and the latter's deviation."""
    a, b = samples.double().numpy(), reference.double().numpy()
    size = min(500, len(a), len(b))
    kernel = kernel_distance(a, b, subsets=50, subset_size=size, seed=2020)
    frechet = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    return {"frechet_distance": float(frechet), "kernel_distance": float(kernel.mean)}, float(kernel.std)


def measure(cell: Cell, here: Session, progress: Callable[[float], None]) -> Measured:
    """The method "frechet": distances, how they were measured, and pictures to look at."""
    network = load_rooms_network()
    reference = reference_features(cell, here, network)
    samples, drawn = sample_features(cell, here, network, progress)
    scores, kernel_std = distances(samples, reference)
    details = {
        "samples": len(samples),
        "reference": len(reference),
        "extractor": EXTRACTOR,
        "kernel_std": kernel_std,
        "feature_spread": float(reference.double().var(0).sum()),
    }
    return Measured(scores, details, _sheet(cell, drawn))
