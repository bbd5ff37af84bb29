"""Whether the normals on disk have the axes they are declared to have: proven by the depth beside them."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import torch

from benchmarks.data.axes import ENOUGH, Fit, compare, normals_from_depth
from generators.checkpoints.transfer import read_json
from generators.errors import UserError

from .load import depth_of, normals_of
from .names import Options, parse, written
from .read import CENTER, FOCAL, WIDTH
from .splits import ordered, splits_of
from .tree import Entry, Tree, notes, read_tree, write_notes

PICTURES = 4  # pictures of different scans that are looked at
STEP = 4  # pixels at 1024x768 between compared points: steady on scans with noise of millimeters
MOST = 30.0  # degrees between normals and those of the depth, in the median


def check(name: str = "diode") -> dict[str, Fit]:
    """How the normals of each partition that is there fit its depth; raises UserError as `require_axes`."""
    options, tree = parse(name), read_tree()
    there = {entry.partition for entry in _with_normals(tree, options)}
    return {partition: require_axes(tree, options, partition) for partition in sorted(there)}


def require_axes(tree: Tree, options: Options, partition: str) -> Fit:
    """The fit of the first few pictures of a partition, looked at once for these files.

    Raises:
        UserError: an axis is flipped, or normals and depth do not belong together.
    """
    entries = ordered([e for e in _with_normals(tree, options) if e.partition == partition], "check")[
        :PICTURES
    ]
    fit = _noted(tree, replace(options, erode=0, clip=None), tuple(entries))
    if fit is None:
        raise UserError(
            f"axes of the normals in {tree.root / partition}",
            f"fewer than {ENOUGH} pixels of the first pictures have both normals and smooth depth",
            ", ".join(entry.stem for entry in entries) or "no picture with normals is there",
            "fetch more pictures with their normals: intrinsic-bench fetch --list",
        )
    if fit.flipped or fit.angle > MOST:
        raise _wrong(tree, options, partition, fit)
    return fit


def _with_normals(tree: Tree, options: Options) -> list[Entry]:
    entries = splits_of(tree, options).entries
    return [e for split in ("train", "validation", "test") for e in entries[split] if e.has_normals]


def _wrong(tree: Tree, options: Options, partition: str, fit: Fit) -> UserError:
    asked = f"normals in {tree.root / partition}, declared as x right, y up, z towards the camera"
    angles = f"they are {fit.angle:.0f} degrees from those of the depth, in the median"
    if not fit.flipped or fit.best > MOST:
        wrong, known = f"they do not belong to the depth: {angles}", f"{fit.pixels:,} pixels compared"
        return UserError(asked, wrong, known, "unpack depth and normals again: intrinsic-bench fetch --list")
    which = " and ".join(fit.flipped)
    wrong = f"the {which} {'axis is' if len(fit.flipped) == 1 else 'axes are'} flipped: {angles}"
    turned = "".join(sorted(set(options.flip) ^ set(fit.flipped)))
    todo = f"are these the published files? if so, use {written(replace(options, flip=turned))!r}"
    return UserError(asked, wrong, f"{fit.best:.0f} degrees with {which} turned", todo)


def _noted(tree: Tree, options: Options, entries: tuple[Entry, ...]) -> Fit | None:
    """The fit of some files, read from the notes about the tree if these very files were looked at before."""
    stamps = [entry.file(tree.root, ending).stat().st_mtime_ns for entry in entries for ending in _FILES]
    key = repr((options.flip, [(e.group, e.stem, e.sizes) for e in entries], stamps))
    return _kept(tree, options, entries, key)


_FILES = ("_depth.npy", "_depth_mask.npy", "_normal.npy")


@lru_cache(maxsize=32)
def _kept(tree: Tree, options: Options, entries: tuple[Entry, ...], key: str) -> Fit | None:
    path = notes(tree.root, "axes")
    known: dict[str, Any] = read_json(path)
    if key in known:
        return Fit(**known[key])
    fit = _fit(tree, options, entries)
    if fit is not None:
        write_notes(path, known | {key: asdict(fit)})
    return fit


def _fit(tree: Tree, options: Options, entries: tuple[Entry, ...]) -> Fit | None:
    parts = []
    for entry in entries:
        depth, mask = depth_of(entry, tree.root, options)
        normals, valid = normals_of(entry, tree.root, options)
        scale = depth.shape[3] / WIDTH
        focal, center = (FOCAL[0] * scale, FOCAL[1] * scale), (CENTER[0] * scale, CENTER[1] * scale)
        expected, sound = normals_from_depth(depth, mask, focal, center, max(1, round(STEP * scale)))
        parts.append([x.flatten(2) for x in (normals, expected, sound & valid)])
    if not parts:
        return None
    # Pictures side by side as one: (1 c 1 pixels).
    normals, expected, valid = (torch.cat(part, 2)[:, :, None] for part in zip(*parts, strict=True))
    return compare(normals, expected, valid)
