"""Data sets by name; nothing here imports torch.

The part of a name before the first ":" is its family: a package below this one with `spec(name)` and
`needs(name, splits, intrinsics)`, and in its module `load` the functions
`load(name, split, indices, size, intrinsics)` and `groups(name, split, indices)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from benchmarks.methods import PREDICTOR
from benchmarks.predictors.registry import identity
from generators.errors import unknown

from .objects.facts import FINGERPRINT as OBJECTS_FINGERPRINT
from .rooms.facts import FINGERPRINT, SPLITS

if TYPE_CHECKING:
    from benchmarks.needs import Need

ABSENT = "absent"  # fingerprint of data that is not on this machine
BLOCK = 100_000  # rows of the training pictures of one seed of a cell


@dataclass(frozen=True)
class DataSpec:
    """Facts about a data set.

    Attributes:
        fingerprint: changes whenever a pixel may have changed; part of every cell.
        labels: sources of truth it offers beside the predictors; "exact" is its own.
        resolution: pixels a side unless a cell asks otherwise.
        own: whether the pictures are the asked model's own.
        counts: pictures of a split, where there are not as many as one likes.
        groups: what pictures that are no independent draws share ("scan", "scene"), "" if they are.
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
    counts: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""
    groups: str = ""


DATA: dict[str, DataSpec] = {
    "rooms": DataSpec(
        "rooms",
        "procedural rooms with exact truth",
        FINGERPRINT,
        "rooms",
        ("normal", "depth", "albedo", "shading"),
        SPLITS,
    ),
    "objects": DataSpec(
        "objects",
        "procedural objects on plain ground with exact truth",
        OBJECTS_FINGERPRINT,
        "objects",
        ("normal", "depth", "albedo", "shading"),
        SPLITS,
    ),
    "samples": DataSpec(
        "samples",
        "a model's own pictures, labeled by a predictor",
        f"own-2-{identity(PREDICTOR)}",
        "the model's",
        ("normal", "depth", "albedo", "shading"),
        ("train", "validation", "test"),
        labels=(PREDICTOR,),
        own=True,
    ),
}
FAMILIES: Mapping[str, str] = {
    "diode": "diode, diode:indoors, diode:outdoor,erode=2: DIODE, real rooms and streets with scanned truth",
    "own": "own:FOLDER: pictures and maps of your own, described by FOLDER/data.toml",
    "drawn": "drawn:MODEL: pictures that a model drew, shown to others",
}


def family_of(name: str) -> str:
    """The part of a name before the first colon; raises UserError with near names if nobody knows it."""
    family = name.split(":")[0]
    if family not in DATA and family not in FAMILIES:
        raise unknown("data set", name, [*DATA, *FAMILIES], "see: intrinsic-bench ls data")
    return family


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{family_of(name)}")


def describe(name: str) -> DataSpec:
    """A data set by name; raises UserError with near names if there is none."""
    if name in DATA:
        return DATA[name]
    if family_of(name) in DATA:
        raise unknown("data set", name, DATA, "this one takes nothing after its name")
    found: DataSpec = _module(name).spec(name)
    return found


def needs(name: str, splits: Sequence[str], intrinsics: Sequence[str]) -> tuple[Need, ...]:
    """What of some splits of a data set does not come with the package.

    Args:
        intrinsics: whose own truth is asked for; () where a predictor labels the pictures.
    """
    if name in DATA:
        return ()
    found: tuple[Need, ...] = _module(name).needs(name, splits, intrinsics)
    return found


def canonical_name(name: str) -> str:
    """The one name of a data set that can be written in several ways; raises UserError if there is none."""
    spec = describe(name)
    return spec.name


def own_pictures(name: str) -> bool:
    """Whether a data set's pictures are the asked model's own, by its name alone."""
    return name in DATA and DATA[name].own


def captions(data: str, split: str, rows: Sequence[int]) -> tuple[str, ...]:
    """What an embedded world says of its scenes in words, without rendering them; UserError for others."""
    from .rooms.worlds import WORLDS

    if data not in WORLDS:
        raise unknown("world with captions", data, WORLDS)
    return WORLDS[data](split, rows).captions
