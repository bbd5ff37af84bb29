"""DIODE (Vasiljevic et al., 2019): rooms and streets of laser scans, with depth and normals.

`tree` knows what is on this machine, `splits` which pictures are in which split, `load` reads them, `check`
proves the axes of the normals by the depth, `archives` fetches. Names are explained in `names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.data import ABSENT, DataSpec
from benchmarks.needs import Need

from .archives import ARCHIVES, LICENCE, Archive
from .names import OFFICIAL, PICTURES, Options, parse, written
from .names import canonical as canonical
from .splits import SPLITS, has_normals, splits_of
from .tree import Tree, read_tree

INTRINSICS = ("normal", "depth")


def spec(name: str) -> DataSpec:
    """Facts about DIODE as a name asks for it, from names and sizes of files alone.

    The fingerprint is ABSENT where no test picture is on this machine; counts are of what is there.

    Raises:
        UserError: an option that does not exist.
    """
    options = parse(name)
    tree = read_tree()
    splits = splits_of(tree, options)
    counts = {split: len(splits.entries[split]) for split in SPLITS if splits.entries[split]}
    if not options.place:
        counts.setdefault("test", PICTURES[options.validation])
    return DataSpec(
        written(options),
        _title(options),
        splits.fingerprint if any(splits.entries.values()) else ABSENT,
        "DIODE",
        ("depth",) if options.maps == "depth" else INTRINSICS,
        SPLITS,
        resolution=512,
        counts=counts,
        licence=LICENCE,
        groups="scan",
    )


def _title(options: Options) -> str:
    where = options.place or "indoors and outdoor"
    return f"DIODE, laser-scanned {where}, validation list of {PICTURES[options.validation]}"


def skipped(name: str) -> Mapping[str, int]:
    """How many pictures are left out, by reason."""
    return splits_of(read_tree(), parse(name)).skipped


def needs(
    name: str, splits: Sequence[str] = SPLITS, intrinsics: Sequence[str] | None = None
) -> tuple[Need, ...]:
    """The archives that some splits need.

    Args:
        intrinsics: whose own truth is asked for; () for pictures that a predictor labels. None, where nobody
            said, is depth and normals of the test, and pictures for training: normals to train on are 126 GB
            that most cells do not need.
    """
    options, tree = parse(name), read_tree()
    found = []
    if "test" in splits:
        found.append(_need("diode.val", tree, options))
        if options.validation == OFFICIAL:
            found.append(_need("diode.meta", tree, options))
        if options.maps != "depth" and "normal" in (INTRINSICS if intrinsics is None else intrinsics):
            found.append(_need("diode.val-normals", tree, options))
    if "train" in splits or "validation" in splits:
        found.append(_need("diode.train", tree, options))
        if options.maps != "depth" and "normal" in (intrinsics or ()):
            found.append(_need("diode.train-normals", tree, options))
    return tuple(found)


def _need(what: str, tree: Tree, options: Options) -> Need:
    archive = ARCHIVES[what]
    here, note = _state(archive, tree, options)
    return Need(what, "data", archive.about, LICENCE, here, f"intrinsic-bench fetch {what}", note)


def _state(archive: Archive, tree: Tree, options: Options) -> tuple[bool, str]:
    """Whether any of an archive is there, and how much."""
    if not archive.partition:
        return tree.official is not None, str(tree.root)
    if archive.normals:
        return has_normals(tree, archive.partition), str(tree.root)
    place = (options.place,) if options.place else ("indoors", "outdoor")
    there = [e for e in tree.entries if e.partition == archive.partition and e.place in place and e.has_depth]
    whole = f" of {archive.pictures}" if not options.place else ""
    return bool(there), f"{len(there):,}{whole} pictures in {tree.root}"
