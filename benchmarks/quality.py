"""How good a generator's pictures are: Frechet and kernel distance to renders of its world.

Features are those of the rooms' own supervised network, and of a second network where a cell asks for one,
so the numbers are comparable only with numbers measured the same way; they are never called FID. One
drawing of the pictures serves both spaces, and no more than a batch of pictures is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from generators.errors import UserError
from generators.sampled import check_sample
from probes.memory import portions
from probes.precision import autocast

from .cell import Cell
from .data import captions
from .data.load import load_pictures
from .features import describe, identity, measure_features
from .metrics.frechet import FeatureStatistics, frechet_distance, kernel_distance
from .session import Session

SPACE = "rooms"  # the feature space of `frechet_distance` in every record
SEED = 1_000_000  # sample i has the seed SEED + i, in every cell
BATCH = 32  # pictures drawn, and seen by a network, together
LOADED = 256  # renders, or captions of scenes, made together
SHOWN = 8  # drawn pictures a record keeps
# What a second network was trained on where that is renders, too: it is no stranger to this world.
TRAINED = {"dinov2-rooms": "self-supervised, on renders of rooms, too"}


class Measured(NamedTuple):
    """What the method "frechet" gives.

    Attributes:
        shown: the first pictures the model drew and, below them, renders with the same captions; one
            picture (3 2h kw), 8 bit.
    """

    scores: dict[str, float]
    details: dict[str, Any]
    shown: Tensor


def spaces_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The feature spaces a cell asks for, SPACE first; raises UserError for one that nobody knows."""
    second = str(options.get("second", ""))
    if second == SPACE:
        wrong = "it is the first one in every record"
        raise UserError(f"second = {second!r}", wrong, "for example: dinov2-rooms", "leave it out")
    return (SPACE, describe(second).name) if second else (SPACE,)


def weights_of(space: str, options: Mapping[str, Any]) -> str:
    """Identity of a space's weights; raises UserError if they are not those the cell was planned with."""
    found = identity(space)
    planned = options["network"] if space == SPACE else options.get("second_weights") or found
    if planned != found:
        wrong = f"its weights are {found} now, the plan was made for {planned}"
        raise UserError(f"feature space {space}", wrong, "", "run the suite again: it plans anew")
    return found


def _eight_bit(pictures: Tensor) -> Tensor:
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte()


def _parts(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def reference_features(cell: Cell, here: Session, space: str) -> Tensor:
    """Features (reference, f) of the split `reference` in a space, computed once for all models."""
    count = int(cell.options["reference"])
    weights = weights_of(space, cell.options)
    key = {"kind": "features", "network": weights, "world": cell.world, "size": cell.size, "n": count}
    if space != SPACE:
        key |= {"space": space}

    def compute() -> dict[str, Tensor]:
        renders = (
            load_pictures(cell.data, "reference", rows, cell.size, ()).pictures
            for rows in _parts(count, LOADED)
        )
        return {"features": torch.cat([_features(space, some) for some in renders])}

    return here.cache.get(key, compute)["features"]


def drawn_pictures(cell: Cell, here: Session) -> Iterator[Tensor]:
    """Batches of pictures (b 3 h w), 8 bit, that the model draws, prompted with the reference's captions.

    A cell's precision, steps and guidance are those of diffusion models; in bfloat16 a transformer draws
    its codes more slowly, and draws others (results/speed/frechet.txt).
    """
    generator, count = here.generator(cell), int(cell.options["samples"])
    if generator is None:
        raise TypeError("a Frechet distance needs a model")
    options = cell.options if _denoises(cell) else {}
    said = [c for rows in _parts(count, LOADED) for c in captions(cell.data, "reference", rows)]

    def draw(rows: slice) -> Tensor:
        asked = [SEED + i for i in range(rows.start, rows.stop)], said[rows]
        with autocast(generator.network, options):
            sampled = generator.sample(*asked, **_sampler(cell))
        check_sample(sampled, generator.spec, len(asked[0]))
        return _eight_bit(sampled.images.float().cpu())

    for _, pictures in portions(count, BATCH, draw, "draw pictures"):
        yield pictures


def _features(space: str, pictures: Tensor) -> Tensor:
    """Features (n f) of pictures in [-1, 1], as many at a time as memory allows."""

    def see(rows: slice) -> Tensor:
        return measure_features(space, pictures[rows], batch=BATCH)

    return torch.cat([found for _, found in portions(len(pictures), BATCH, see, f"features {space}")])


def sample_features(
    cell: Cell, here: Session, spaces: tuple[str, ...], progress: Callable[[float], None]
) -> tuple[dict[str, Tensor], Tensor]:
    """Features (samples, f) of pictures the model draws, in every space.

    Beside them the first of the pictures, (k 3 h w) of 8 bit.
    """
    found: dict[str, list[Tensor]] = {space: [] for space in spaces}
    count, done, shown = int(cell.options["samples"]), 0, torch.empty(0, dtype=torch.uint8)
    for pictures in drawn_pictures(cell, here):
        shown = torch.cat([shown, pictures])[:SHOWN] if done < SHOWN else shown
        for space, parts in found.items():
            parts.append(_features(space, pictures.float() / 127.5 - 1))
        done += len(pictures)
        progress(done / count)
    return {space: torch.cat(parts) for space, parts in found.items()}, shown


def _sheet(cell: Cell, drawn: Tensor) -> Tensor:
    """Drawn pictures (k 3 h w) side by side above the renders they are compared with, (3 2h kw), 8 bit."""
    renders = _eight_bit(load_pictures(cell.data, "reference", range(len(drawn)), cell.size, ()).pictures)
    return torch.cat([torch.cat(list(pictures), 2) for pictures in (drawn, renders)], 1)


def _denoises(cell: Cell) -> bool:
    from generators import registry

    return registry.spec(cell.model).diffusion_steps > 0


def _sampler(cell: Cell) -> dict[str, Any]:
    if not _denoises(cell):
        return {}
    return {"steps": int(cell.options["steps"]), "guidance": float(cell.options["guidance"])}


def distances(
    samples: Tensor, reference: Tensor, subsets: int = 50, subset_size: int = 500
) -> tuple[dict[str, float], float]:
    """Frechet and kernel distance between features (n, f) and (m, f), and the latter's deviation."""
    a, b = samples.double().numpy(), reference.double().numpy()
    size = min(subset_size, len(a), len(b))
    kernel = kernel_distance(a, b, subsets=subsets, subset_size=size, seed=2020)
    frechet = frechet_distance(FeatureStatistics.of(a), FeatureStatistics.of(b))
    return {"frechet_distance": float(frechet), "kernel_distance": float(kernel.mean)}, float(kernel.std)


def compared(space: str, samples: Tensor, reference: Tensor) -> tuple[dict[str, float], dict[str, Any]]:
    """Distances between features of one space, and how they were measured.

    Whatever belongs to another space than SPACE has "_2" behind its name.
    """
    about, end = describe(space), "" if space == SPACE else "_2"
    scores, kernel_std = distances(samples, reference, about.subsets, about.subset_size)
    spread = float(reference.double().var(0).sum())
    facts: dict[str, Any] = {
        "extractor": about.extractor,
        "kernel_std": kernel_std,
        "feature_spread": spread,
    }
    if end:
        facts |= {"weights": identity(space), "trained": TRAINED.get(space, "on other pictures")}
    return {k + end: v for k, v in scores.items()}, {k + end: v for k, v in facts.items()}


def measure(cell: Cell, here: Session, progress: Callable[[float], None]) -> Measured:
    """The method "frechet": distances, how they were measured, and pictures to look at."""
    spaces = spaces_of(cell.options)
    reference = {space: reference_features(cell, here, space) for space in spaces}
    samples, drawn = sample_features(cell, here, spaces, progress)
    scores: dict[str, float] = {}
    details: dict[str, Any] = {"samples": len(samples[SPACE]), "reference": len(reference[SPACE])}
    for space in spaces:
        found, facts = compared(space, samples[space], reference[space])
        scores |= found
        details |= facts
    return Measured(scores, details, _sheet(cell, drawn))
