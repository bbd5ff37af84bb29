"""One picture of a folder with its maps, in our conventions and at the size it has on disk.

Whatever a single picture tells is checked here, every time it is read: sizes, numbers that are none, masks
without a pixel, lengths of normals, ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.color import srgb
from generators.errors import UserError

from .conventions import INVALID, as_share, decode_normals, ray_lengths, to_linear
from .files import Stored, one_channel, read_stored
from .index import Index
from .settings import FILE, Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH_TOLERANCE = 0.1  # of a unit normal: what 8 bits and a resampled edge do to it stays below
LENGTH_SHARE = 0.05  # of the pixels may be beyond
BRIGHT_SHARE = 0.01  # of a map's values may exceed 1, and are clipped to it
DEEPEST = 1000.0  # meters that no median depth of a picture exceeds
SHALLOWEST = 0.02  # meters that no median depth of a picture falls below


@dataclass(frozen=True)
class Scene:
    """A picture with its maps.

    Attributes:
        picture: (h w 3) sRGB in [0, 1].
        maps: intrinsic -> (h w c), natural units and axes of ours; zero where it is not valid.
        mask: (h w) bool, where the picture counts; valid: intrinsic -> (h w) bool, where its map does.
    """

    name: str
    picture: NDArray[np.float32]
    maps: Mapping[str, NDArray[np.float32]]
    mask: NDArray[np.bool_]
    valid: Mapping[str, NDArray[np.bool_]]


def read_scene(index: Index, split: str, stem: str, intrinsics: Sequence[str]) -> Scene:
    """A picture and some of its maps.

    Raises:
        UserError: a file is broken, was changed since it was hashed, or holds what cannot be.
    """
    files, settings = index.files(split, stem), index.settings
    for name in ("picture", "mask", *intrinsics):
        if name in files:
            _unchanged(index, files[name])
    stored = read_stored(files["picture"])
    picture, mask = _picture(stored, settings), _mask(files, settings, stored)
    maps, valid = {}, {}
    for name in intrinsics:
        file = read_stored(files[name])
        found, known = _READERS[name](file, name, settings, mask)
        _same_place(file, stored)
        where = known & mask
        if not where.any():
            wrong = f"no pixel of its {name} is valid"
            raise UserError(f"file {files[name]}", wrong, _size(found), "take the picture out of its split")
        maps[name], valid[name] = np.where(where[..., None], found, 0).astype(np.float32), where
    return Scene(f"{split}/{stem}", picture, maps, mask, valid)


def _unchanged(index: Index, path: Path) -> None:
    """Raise UserError if a file is not what the fingerprint was made of."""
    stamp = index.stamps[path.relative_to(index.folder).as_posix()]
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"file {path}", f"it cannot be read: {error}", "it was there a moment ago") from error
    if (stat.st_size, stat.st_mtime_ns) != stamp:
        wrong = "it was changed while the data set was in use"
        raise UserError(f"file {path}", wrong, "results name what they were computed from", "run it again")


def _size(values: NDArray[Any]) -> str:
    return f"{values.shape[1]} x {values.shape[0]} pixels"


def _same_place(file: Stored, picture: Stored) -> None:
    """Raise UserError unless a map's pixels are its picture's: turned alike, and as many."""
    if file.turn != picture.turn:
        lies, other = (picture, file) if file.turn == 1 else (file, picture)
        wrong = f"its EXIF orientation is {lies.turn}, that of {other.path} {other.turn}"
        known = "1 is upright; others are turned when they are read"
        todo = "save it upright, as the other is" if other.turn == 1 else "save both upright"
        raise UserError(f"file {lies.path}", wrong, known, todo)
    size = picture.values.shape
    if file.values.shape[:2] != size[:2]:
        wrong = f"it has {_size(file.values)}, its picture {size[1]} x {size[0]}"
        raise UserError(f"file {file.path}", wrong, f"picture {picture.path}", "bring both to one size")


def _picture(stored: Stored, settings: Settings) -> NDArray[np.float32]:
    values, path = as_share(stored.values), stored.path
    _finite(values, np.ones(values.shape[:2], bool), path)
    if values.shape[2] == 1:
        values = np.repeat(values, 3, 2)
    if settings.space == "srgb":
        _in_range(values, np.ones(values.shape[:2], bool), path, 'space = "linear" clips what is brighter')
        return np.clip(values, 0, 1)
    return srgb(values).astype(np.float32)


def _mask(files: Mapping[str, Path], settings: Settings, picture: Stored) -> NDArray[np.bool_]:
    if "mask" not in files:
        return np.ones(picture.values.shape[:2], bool)
    stored = read_stored(files["mask"])
    values = one_channel(stored)
    _same_place(stored, picture)
    mask = (values != 0) == (settings.valid == "nonzero")
    if not mask.any():
        known = (
            f"all its {mask.size} values are {'' if settings.valid == 'nonzero' else 'not '}0, and valid = "
        )
        raise UserError(
            f"mask {files['mask']}",
            "no pixel of it is valid",
            f'{known}"{settings.valid}" in {FILE}',
            "mend the mask, mend [mask] valid, or take the picture out of its split",
        )
    return np.asarray(mask, bool)


def _finite(values: NDArray[Any], where: NDArray[np.bool_], path: Path, todo: str = "") -> None:
    wrong = ~np.isfinite(values).all(-1) & where
    if wrong.any():
        row, column = (int(i[0]) for i in np.nonzero(wrong))
        raise UserError(
            f"file {path}",
            f"{int(wrong.sum())} of its pixels are not numbers (NaN or infinite)",
            f"the first in row {row}, column {column}: {values[row, column].tolist()}",
            todo or "mend the file, or give a mask that leaves them out",
        )


def _in_range(values: NDArray[Any], where: NDArray[np.bool_], path: Path, todo: str) -> None:
    seen = values[where]
    outside = (seen < -1e-3) | (seen > 1 + 1e-3)
    if seen.size and outside.mean() > BRIGHT_SHARE:
        raise UserError(
            f"file {path}",
            f"its values go from {seen.min():g} to {seen.max():g}; {outside.mean():.0%} are not in [0, 1]",
            "colors and shading are shares of the light that 1 stands for",
            todo,
        )


def _normal(
    file: Stored, name: str, settings: Settings, mask: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    path, stored = file.path, file.values
    if stored.shape[2] != 3:
        raise UserError(f"file {path}", "a normal has three components", f"it has {stored.shape[2]}")
    if file.turn != 1:
        wrong = f"its EXIF orientation is {file.turn}: its pixels would turn, its axes would not"
        raise UserError(f"file {path}", wrong, "1 is upright", "save it and its picture upright")
    if stored.dtype.kind in "ub" and settings.encoding == "-1..1":
        wrong = f'its values are {stored.dtype}, and encoding = "-1..1" in {FILE}'
        raise UserError(f"file {path}", wrong, "integers hold no negative numbers", 'say encoding = "0..1"')
    inside = mask if mask.shape == stored.shape[:2] else np.ones(stored.shape[:2], bool)
    _finite(stored, inside, path)
    stored = np.where(inside[..., None], stored, np.zeros_like(stored))
    components = decode_normals(stored, settings.encoding)
    length = np.linalg.norm(components, axis=-1)
    known = length > 0
    off = (np.abs(length - 1) > LENGTH_TOLERANCE)[known]
    if off.size and off.mean() > LENGTH_SHARE:
        low, high = np.percentile(length[known], [5, 95])
        raise UserError(
            f"file {path}",
            f"its normals are no unit vectors: {off.mean():.0%} are longer or shorter by over "
            f"{LENGTH_TOLERANCE:g}",
            f'lengths {low:.2f} to {high:.2f} under encoding = "{settings.encoding}", stored values '
            f"{stored.min():g} to {stored.max():g}",
            "declare the other encoding, or normalize the file",
        )
    if settings.axes is None:
        raise TypeError("normals without axes")
    ours = components @ settings.axes.T / np.maximum(length, 1e-6)[..., None]
    return ours.astype(np.float32), known


def _depth(
    file: Stored, name: str, settings: Settings, mask: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    path, values = file.path, one_channel(file).astype(np.float64) * settings.scales["depth"]
    inside = mask if mask.shape == values.shape else np.ones(values.shape, bool)
    marks = {"zero": values <= 0, "nan": np.isnan(values), "infinite": np.isinf(values)}
    for mark, where in marks.items():
        if mark in settings.invalid:
            inside = inside & ~where
        elif (where & inside).any():
            raise _undeclared(path, mark, int((where & inside).sum()))
    if inside.any() and "units" not in settings.ignore:
        _plausible(path, values[inside], settings)
    if settings.kind == "ray":
        if settings.fov is None:
            raise TypeError("distances along rays without a field of view")
        values = values / ray_lengths(values.shape[0], values.shape[1], settings.fov)
    return np.where(inside, values, 0)[..., None].astype(np.float32), inside


def _undeclared(path: Path, mark: str, count: int) -> UserError:
    return UserError(
        f"file {path}",
        f"{count} of its depths are {INVALID[mark]}, and nothing says what that means",
        "[depth] invalid may list " + ", ".join(f'"{m}" ({says})' for m, says in INVALID.items()),
        f'say invalid = ["{mark}"] in {FILE}, or give a mask that leaves them out',
    )


def _plausible(path: Path, meters: NDArray[Any], settings: Settings) -> None:
    median = float(np.median(meters))
    if SHALLOWEST <= median <= DEEPEST:
        return
    guess = "millimeters read as meters" if median > DEEPEST else "meters read as millimeters"
    raise UserError(
        f"file {path}",
        f"its median depth would be {median:g} m; it looks like {guess}",
        f"a stored 1 stands for {settings.scales['depth']:g} m by [depth] in {FILE}",
        'mend unit or scale; if it is true, say ignore = ["units"]',
    )


def _color(
    file: Stored, name: str, settings: Settings, mask: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    path, values, space = file.path, as_share(file.values), settings.spaces[name]
    inside = mask if mask.shape == values.shape[:2] else np.ones(values.shape[:2], bool)
    _finite(values, inside, path)
    if space == "srgb":  # light is scaled, not its coding
        _in_range(values, inside, path, f'store what is coded in [0, 1], or say [{name}] space = "linear"')
        values = to_linear(np.clip(np.nan_to_num(values), 0, 1), space)
    light = values * np.float32(settings.scales[name])
    _in_range(light, inside, path, f"say [{name}] scale in {FILE}: what a stored 1 stands for, 1 the most")
    if light.shape[2] == 1:
        light = np.repeat(light, 3, 2)
    return np.clip(np.nan_to_num(light), 0, 1), inside


_READERS = {"normal": _normal, "depth": _depth, "albedo": _color, "shading": _color}
