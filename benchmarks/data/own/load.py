"""Pictures and maps of a folder of one's own, cropped to the middle square and resized."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.data import BLOCK
from benchmarks.data.load import Pictures
from benchmarks.data.square import HALF, middle, square_nearest, square_normals, square_picture
from generators.errors import UserError

from .checks import PICTURES, Declared, Finding, run_checks
from .index import Index, checked, folder_of, read_index, remember_checked
from .read import Scene, read_scene
from .settings import FILE

if TYPE_CHECKING:
    from numpy.typing import NDArray


def load(name: str, split: str, indices: Sequence[int], size: int, intrinsics: Sequence[str]) -> Pictures:
    """Pictures of a split by their numbers, with some of their maps.

    Pictures are resized by Lanczos; colors and normals are averaged over their valid pixels; depth is that of
    the nearest pixel, so that no depth lies between two surfaces.

    Raises:
        UserError: there are not as many, a file is broken, or the self-checks of the data find a mistake.
    """
    index = opened(name)
    assured(index)
    wanted = [i for i in intrinsics if i in index.settings.patterns]
    parts = [_one(read_scene(index, split, stem, wanted), size) for stem in _stems(index, split, indices)]
    mask = torch.stack([part["mask"] for part in parts])
    maps = {i: torch.stack([part[i] for part in parts]) for i in wanted}
    masks = {i: torch.stack([part[f"mask {i}"] for part in parts]) for i in wanted}
    masks = {i: found for i, found in masks.items() if not torch.equal(found, mask)}
    pictures = torch.stack([part["picture"] for part in parts])
    return Pictures(pictures, maps, mask, ("",) * len(parts), masks, groups(name, split, indices))


def groups(name: str, split: str, indices: Sequence[int]) -> tuple[str, ...]:
    """The group of each picture, by the pattern of [group]; () where there is none."""
    index = opened(name)
    if not index.settings.group:
        return ()
    return tuple(index.group(stem) for stem in _stems(index, split, indices))


def opened(name: str) -> Index:
    """The folder behind a name; raises UserError if it is not there."""
    folder = folder_of(name)
    if not (folder / FILE).is_file():
        todo = f"intrinsic-bench data init {folder}"
        raise UserError(f"data set {name}", f"there is no {FILE} in {folder}", "", todo)
    return read_index(folder)


def _stems(index: Index, split: str, indices: Sequence[int]) -> list[str]:
    """Stems of some rows; each block of BLOCK training rows has an order of its own."""
    there = len(index.rows.get(split, ()))
    places = [divmod(i, BLOCK) if split == "train" else (0, i) for i in indices]
    rows = [row for _, row in places]
    if not rows or min(indices) < 0 or max(rows) >= there:
        asked = f"pictures {min(rows)} to {max(rows)}" if rows else "no pictures"
        known = ", ".join(f"{name}: {len(stems)}" for name, stems in index.rows.items())
        raise UserError(f"{asked} of split {split!r} of {index.folder}", f"it has {there}", known)
    orders = {block: index.order(split, block) for block in {block for block, _ in places}}
    return [orders[block][row] for block, row in places]


# Self-checks.

_assured: set[tuple[Path, str]] = set()  # folders and fingerprints that passed in this process


def findings(index: Index) -> list[Finding]:
    """What the self-checks find: in the names of all pictures, and in a few pictures of every split."""
    wanted, found = index.settings.intrinsics, shared_groups(index)
    if not wanted:
        return found
    each = max(1, PICTURES // len(index.rows))
    scenes = [
        read_scene(index, split, stems[i], wanted)
        for split, stems in index.rows.items()
        for i in sorted({round(j) for j in np.linspace(0, len(stems) - 1, each)})
    ]
    return found + run_checks(scenes, Declared.by(index.settings))


def shared_groups(index: Index) -> list[Finding]:
    """Pairs of splits with pictures of one group: the test's are no independent draws then."""
    if not index.settings.group:
        return []
    of = {split: {index.group(stem) for stem in stems} for split, stems in index.rows.items()}
    found = []
    for a, b in combinations(of, 2):
        both = sorted(of[a] & of[b])
        if both:
            state = "wrong" if "test" in (a, b) and {"train", "validation"} & {a, b} else "odd"
            says = f"{a} and {b}: {len(both)} of [group] {index.settings.of} are in both, as {both[0]}"
            found.append(Finding("groups", state, says, "keep each of them within one split"))
    return found


def assured(index: Index, say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)) -> None:
    """Run the self-checks once for these very files; raises UserError for what is wrong.

    What only looks odd, or is wrong and named by `ignore` in data.toml, is said.
    """
    state = (index.folder, index.fingerprint)
    if state in _assured or checked(index) is not None:
        _assured.add(state)
        return
    found = findings(index)
    for finding in found:
        if finding.state == "wrong" and finding.check not in index.settings.ignore:
            raise refusal(index, finding)
        if finding.state in ("odd", "wrong"):
            say(f"{index.folder}: {finding}")
    remember_checked(index, [str(finding) for finding in found])
    _assured.add(state)


def refusal(index: Index, finding: Finding) -> UserError:
    """The error for what a self-check found."""
    return UserError(
        f"data set {index.folder}",
        finding.says,
        f"the check {finding.check!r}; see them all: "
        f"intrinsic-bench data check own:{index.folder.absolute()}",
        f'{finding.todo}; if the data are right, say ignore = ["{finding.check}"] in {FILE}',
    )


# Squares.


def _one(scene: Scene, size: int) -> dict[str, Tensor]:
    """Picture (3 s s) in [-1, 1], maps (c s s), and masks (1 s s) of a scene."""
    from PIL import Image

    found = {"picture": square_picture(Image.fromarray(np.rint(scene.picture * 255).astype(np.uint8)), size)}
    mask = _planes(scene.mask)
    found["mask"] = square_nearest(mask.float(), mask, size)[1][0]
    for name, values in scene.maps.items():
        resized, where = _SQUARES[name](_planes(values), _planes(scene.valid[name]), size)
        found[name], found[f"mask {name}"] = resized[0], where[0]
    return found


def _planes(values: NDArray[Any]) -> Tensor:
    """(1 c h w) of (h w) or (h w c)."""
    planes = torch.from_numpy(np.ascontiguousarray(values))
    return planes[None, None] if planes.ndim == 2 else planes.permute(2, 0, 1)[None]


def square_mean(values: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Light (b c s s) averaged over the valid part of each pixel, and where (b 1 s s) that is half of it."""
    area = functional.interpolate(middle(mask).to(values.dtype), size=(size, size), mode="area")
    total = functional.interpolate(middle(values * mask), size=(size, size), mode="area")
    return torch.where(area >= HALF, total / area.clamp_min(1e-6), 0), area >= HALF


_SQUARES = {
    "normal": square_normals,
    "depth": square_nearest,
    "albedo": square_mean,
    "shading": square_mean,
}
