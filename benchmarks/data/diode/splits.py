"""Which pictures are in which split, and in which order.

"test" is the official validation partition, which nobody may train on; "train" and "validation" are scans of
the official train partition, 1 in 20 of them kept for validation. Every order is a seeded one, by hashes of
names, that takes one picture of each scan in turn, one scene after the other: any first n pictures are a
sparse subset of all scenes, and no other picture's files are opened.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from benchmarks.data import BLOCK
from generators.errors import UserError

from .names import OFFICIAL, Options, written
from .tree import Entry, Tree

VERSION = "diode-1"  # raise it whenever the same files may give other pictures or pixels
SPLITS = ("train", "validation", "test")
KEPT = 20  # one scan in so many of the train partition is for validation


@dataclass(frozen=True, eq=False)
class Splits:
    """Pictures by split, and how many were left out for what reason."""

    entries: Mapping[str, tuple[Entry, ...]]
    skipped: Mapping[str, int]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over names and sizes of all files that are used."""
        digest = hashlib.sha256(VERSION.encode())
        for split in SPLITS:
            for entry in self.entries[split]:
                digest.update(f"{split}/{entry.group}/{entry.stem} {entry.sizes}\n".encode())
        return digest.hexdigest()[:16]


@lru_cache(maxsize=32)
def splits_of(tree: Tree, options: Options) -> Splits:
    """All splits of what is there."""
    skipped: Counter[str] = Counter()
    parts = {name: _usable(tree, name, options, skipped) for name in ("train", "val")}
    kept = _kept(parts["train"])
    test = parts["val"]
    if options.validation == OFFICIAL:
        test = [entry for entry in test if entry.stem in (tree.official or ())]
    entries = {
        "train": [entry for entry in parts["train"] if entry.group not in kept],
        "validation": [entry for entry in parts["train"] if entry.group in kept],
        "test": test,
    }
    place = (options.place,) if options.place else ("indoors", "outdoor")
    asked = {split: tuple(e for e in found if e.place in place) for split, found in entries.items()}
    return Splits(asked, dict(skipped))


def has_normals(tree: Tree, partition: str) -> bool:
    """Whether any normals of a partition are there."""
    return any(entry.partition == partition and entry.has_normals for entry in tree.entries)


def _usable(tree: Tree, partition: str, options: Options, skipped: Counter[str]) -> list[Entry]:
    """Pictures with their maps; the others are counted."""
    wants_normals = options.maps != "depth" and has_normals(tree, partition)
    usable = []
    for entry in tree.entries:
        if entry.partition != partition or options.place not in ("", entry.place):
            continue
        if not entry.has_depth:
            skipped[f"{partition}: picture, depth or mask missing"] += 1
        elif wants_normals and not entry.has_normals:
            skipped[f"{partition}: normals missing"] += 1
        else:
            sizes = entry.sizes if wants_normals else (*entry.sizes[:3], 0)
            usable.append(Entry(partition, entry.place, entry.scene, entry.scan, entry.stem, sizes))
    return usable


def _kept(entries: Iterable[Entry]) -> set[str]:
    """Scans for validation: of rooms and streets alike, of each at least one where there are two."""
    kept: set[str] = set()
    scans = {(entry.place, entry.group) for entry in entries}
    for place in ("indoors", "outdoor"):
        groups = sorted((g for p, g in scans if p == place), key=lambda group: _draw("validation", group))
        if len(groups) > 1:
            kept.update(groups[: max(1, round(len(groups) / KEPT))])
    return kept


def _draw(*words: object) -> bytes:
    """A seeded number of some words: none depends on what else is there."""
    return hashlib.sha256("/".join(map(str, (VERSION, *words))).encode()).digest()


@lru_cache(maxsize=32)
def _order(tree: Tree, options: Options, purpose: str) -> tuple[Entry, ...]:
    return ordered(splits_of(tree, options).entries[purpose.partition("/")[0]], purpose)


def ordered(entries: Iterable[Entry], purpose: str) -> tuple[Entry, ...]:
    """Pictures in the order of a purpose: one of each scan in turn, the scans of one scene far apart."""
    scans: dict[str, dict[str, list[Entry]]] = {}
    for entry in entries:
        scans.setdefault(entry.scene, {}).setdefault(entry.group, []).append(entry)
    keyed: list[tuple[int, int, bytes, Entry]] = []
    for scene, groups in scans.items():
        for turn, group in enumerate(sorted(groups, key=lambda group: _draw(purpose, group))):
            drawn = sorted(groups[group], key=lambda entry: _draw(purpose, entry.stem))
            keyed += [(i, turn, _draw(purpose, scene), entry) for i, entry in enumerate(drawn)]
    return tuple(entry for *_, entry in sorted(keyed, key=lambda key: key[:3]))


def rows(tree: Tree, options: Options, split: str, indices: Sequence[int]) -> list[Entry]:
    """The pictures of some rows; each block of BLOCK training rows has an order of its own.

    Raises:
        UserError: no such split, or a row beyond the pictures that are there.
    """
    name = written(options)
    if split not in SPLITS:
        raise UserError(f"split {split!r} of {name}", "it does not exist", f"known: {', '.join(SPLITS)}")
    entries = splits_of(tree, options).entries[split]
    found = []
    for index in indices:
        block, row = divmod(index, BLOCK) if split == "train" else (0, index)
        if not 0 <= row < len(entries):
            raise _beyond(tree, options, split, row)
        found.append(_order(tree, options, f"{split}/{block}")[row])
    return found


def _beyond(tree: Tree, options: Options, split: str, row: int) -> UserError:
    splits = splits_of(tree, options)
    there = ", ".join(f"{name} {len(splits.entries[name])}" for name in SPLITS)
    left_out = "; ".join(f"{count} left out, {reason}" for reason, count in splits.skipped.items())
    return UserError(
        f"picture {row} of split {split!r} of {written(options)}",
        f"there are {len(splits.entries[split])}, counted from 0",
        f"pictures in {tree.root}: {there}" + (f"; {left_out}" if left_out else ""),
        "ask for fewer, or fetch more: intrinsic-bench fetch --list",
    )
