"""Pictures, depth and normals of DIODE as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.data.axes import NAMES, flip, from_diode
from benchmarks.data.load import Pictures
from benchmarks.data.square import square_nearest, square_normals, square_picture
from generators.errors import UserError, unknown

from .names import Options, parse
from .read import WIDTH, read_depth, read_normals, read_picture
from .splits import rows
from .tree import Entry, read_tree

EDGE = 0.1  # share of the depth by which it jumps where two surfaces meet


def load(
    name: str, split: str, indices: Sequence[int], size: int, intrinsics: Sequence[str] = ("normal", "depth")
) -> Pictures:
    """Pictures of a split, cropped to the middle square and resized (see `benchmarks.data.square`).

    Depth is (n 1 h w) in meters along the view axis, normals are (n 3 h w) in our axes. `mask` is that of
    depth, or of the normals where they alone are asked for.

    Raises:
        UserError: a row beyond the pictures that are there; a file that is broken, or has nothing valid;
            normals whose axes are not what they are declared to be.
    """
    options, tree = parse(name), read_tree()
    offered = ("depth",) if options.maps == "depth" else ("normal", "depth")
    for intrinsic in intrinsics:
        if intrinsic not in offered:
            raise unknown(f"intrinsic of data set {name!r}", intrinsic, offered)
    if not len(indices):
        raise UserError(f"pictures of {name!r}", "no picture is asked for", "", "ask for one at least")
    entries = rows(tree, options, split, indices)
    if "normal" in intrinsics:
        from .check import require_axes

        _require_normals(entries, tree.root)
        require_axes(tree, options, entries[0].partition)
    found = [_one(entry, tree.root, options, size, intrinsics) for entry in entries]
    pictures = torch.stack([parts["picture"] for parts in found])
    maps = {what: torch.cat([parts[what] for parts in found]) for what in intrinsics}
    masks = {what: torch.cat([parts[f"{what} mask"] for parts in found]) for what in intrinsics}
    everywhere = torch.ones_like(pictures[:, :1], dtype=torch.bool)
    mask = masks.pop("depth", masks.get("normal", everywhere))
    captions = ("",) * len(entries)
    return Pictures(pictures, maps, mask, captions, masks, tuple(entry.group for entry in entries))


def groups(name: str, split: str, indices: Sequence[int]) -> tuple[str, ...]:
    """The scan of each picture, "scene_00019/scan_00183"; raises UserError as `load` does for rows."""
    return tuple(entry.group for entry in rows(read_tree(), parse(name), split, indices))


def _require_normals(entries: Sequence[Entry], root: Path) -> None:
    for entry in entries:
        if not entry.has_normals:
            raise UserError(
                f"normals of {entry.file(root, '.png')}",
                "they are not on this machine",
                "normals come in archives of their own",
                f"intrinsic-bench fetch diode.{entry.partition}-normals",
            )


def _one(
    entry: Entry, root: Path, options: Options, size: int, intrinsics: Sequence[str]
) -> dict[str, Tensor]:
    """ "picture" (3 h w), and each map (1 c h w) with its mask (1 1 h w)."""
    picture = read_picture(entry.file(root, ".png"))
    shape = (picture.height, picture.width)
    found = {"picture": square_picture(picture, size)}
    if "depth" in intrinsics:
        path = entry.file(root, "_depth.npy")
        depth, valid = depth_of(entry, root, options)
        _check_shape(path, depth, shape)
        found["depth"], found["depth mask"] = square_nearest(depth, valid, size)
        _check_valid(path, found["depth mask"], size)
    if "normal" in intrinsics:
        path = entry.file(root, "_normal.npy")
        normals, valid = normals_of(entry, root, options)
        _check_shape(path, normals, shape)
        found["normal"], found["normal mask"] = square_normals(normals, valid, size)
        _check_valid(path, found["normal mask"], size)
    return found


def depth_of(entry: Entry, root: Path, options: Options) -> tuple[Tensor, Tensor]:
    """Depth (1 1 h w) in meters, clipped as asked, and its mask (1 1 h w), eroded as asked; full size."""
    values, valid = read_depth(entry.file(root, "_depth.npy"), entry.file(root, "_depth_mask.npy"))
    depth, mask = torch.from_numpy(values)[None, None], torch.from_numpy(valid)[None, None]
    if options.erode:
        mask = mask & ~near_jumps(depth, mask, max(1, round(options.erode * depth.shape[3] / WIDTH)))
    return depth if options.clip is None else depth.clamp(max=options.clip), mask


def near_jumps(depth: Tensor, mask: Tensor, pixels: int) -> Tensor:
    """Where depth (b 1 h w) jumps by more than EDGE between valid neighbors, and some pixels around."""
    jump = torch.zeros_like(mask)
    for axis in (2, 3):
        length = depth.shape[axis] - 1
        a, b = depth.narrow(axis, 0, length), depth.narrow(axis, 1, length)
        valid = mask.narrow(axis, 0, length) & mask.narrow(axis, 1, length)
        found = ((a - b).abs() > EDGE * torch.minimum(a, b)) & valid
        jump.narrow(axis, 0, length).logical_or_(found)
        jump.narrow(axis, 1, length).logical_or_(found)
    # The pixels at a jump are the first of those asked for.
    return functional.max_pool2d(jump.float(), 2 * pixels - 1, 1, pixels - 1) > 0


def normals_of(entry: Entry, root: Path, options: Options) -> tuple[Tensor, Tensor]:
    """Normals (1 3 h w) in our axes and their mask (1 1 h w), of the full size."""
    values, valid = read_normals(entry.file(root, "_normal.npy"))
    normals = from_diode(torch.from_numpy(np.moveaxis(values, -1, 0).copy())[None])
    signs = [-1 if name in options.flip else 1 for name in NAMES]
    return flip(normals, signs), torch.from_numpy(valid)[None, None]


def _check_shape(path: Path, found: Tensor, shape: tuple[int, int]) -> None:
    if tuple(found.shape[2:]) != shape:
        h, w = found.shape[2:]
        raise UserError(f"map {path}", f"it is {w}x{h}", f"its picture is {shape[1]}x{shape[0]}", "")


def _check_valid(path: Path, mask: Tensor, size: int) -> None:
    if not mask.any():
        raise UserError(
            f"map {path} at {size}x{size}",
            "nothing of its middle square is valid",
            "",
            "erode less if it is eroded, or move the file away: what is incomplete is left out and counted",
        )
