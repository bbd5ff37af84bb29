"""Data sets by name; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.methods import network_hash
from generators.errors import unknown

from .rooms.scenes import FINGERPRINT, SPLITS


@dataclass(frozen=True)
class DataSpec:
    """Facts about a data set.

    Attributes:
        fingerprint: changes whenever a pixel may have changed; part of every cell.
        labels: sources of truth it offers; "exact" is the renderer's own.
        resolution: pixels a side unless a cell asks otherwise.
        own: whether the pictures are the asked model's own.
    """

    name: str
    title: str
    fingerprint: str
    domain: str
    intrinsics: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...] = ("exact",)
    resolution: int = 64
    own: bool = False


DATA: dict[str, DataSpec] = {
    "rooms": DataSpec(
        "rooms",
        "procedural rooms with exact truth",
        FINGERPRINT,
        "rooms",
        ("normal", "depth", "albedo", "shading"),
        SPLITS,
    ),
    "samples": DataSpec(
        "samples",
        "a model's own pictures, labeled by a predictor",
        f"own-1-{network_hash()}",
        "the model's",
        ("normal", "depth", "albedo", "shading"),
        ("train", "validation", "test"),
        labels=("rooms-network",),
        own=True,
    ),
}


def describe(name: str) -> DataSpec:
    """A data set by name; raises UserError with near names if there is none."""
    if name not in DATA:
        raise unknown("data set", name, DATA, "see: intrinsic-bench ls data")
    return DATA[name]
