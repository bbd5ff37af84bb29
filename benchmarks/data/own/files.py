"""A file of a picture or a map as an array: PNG and other pictures of 8 or 16 bits, NPY, EXR."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.arrays import read_npy
from generators.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ENDINGS = (*PICTURES, ".npy", ".exr")


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Attributes:
        values: (h w c) as stored: uint8 or uint16 of a picture, upright, whatever an NPY or EXR holds.
        turn: how EXIF says the file lies (2 to 8, section 4.6.4), 1 for upright.
    """

    path: Path
    values: NDArray[Any]
    turn: int = 1


def read_array(path: Path) -> NDArray[Any]:
    """Values (h w c) of a file; raises as `read_stored` does."""
    return read_stored(path).values


def read_stored(path: Path) -> Stored:
    """A file of a picture or a map, decoded once.

    Raises:
        UserError: it is not there, of another kind, broken, transparent, or no picture by its shape.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        known = f"files end in {', '.join(ENDINGS)}"
        raise UserError(f"file {path}", f"nothing reads {ending or 'no ending'!r}", known, "convert it")
    if not path.is_file():
        raise UserError(f"file {path}", "it is not there", "", "put it there, or set skip_missing = true")
    reader = {".npy": _read_npy, ".exr": _read_exr}.get(ending, _read_picture)
    values, turn = reader(path)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or not values.size:
        wrong = f"its shape is {tuple(values.shape)}"
        raise UserError(f"file {path}", wrong, "(height width), (height width 1) or (height width 3)")
    if values.dtype.kind not in "ubf" or values.dtype.itemsize > 8:
        known = "unsigned integers, booleans and floats of up to 64 bits"
        raise UserError(f"file {path}", f"its values are {values.dtype}", known, "convert it to float32")
    return Stored(path, values, turn)


def one_channel(stored: Stored) -> NDArray[Any]:
    """Values (h w) of a file of one channel, or of three equal ones; raises UserError if they differ."""
    values = stored.values
    if not np.array_equal(np.broadcast_to(values[..., :1], values.shape), values, equal_nan=True):
        wrong = "its three channels differ: it is a picture for the eye, not numbers"
        raise UserError(f"file {stored.path}", wrong, "one channel is needed", "store the numbers themselves")
    return values[..., 0]


def _read_npy(path: Path) -> tuple[NDArray[Any], int]:
    try:
        found = read_npy(path)
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error
    return found, 1


def _read_picture(path: Path) -> tuple[NDArray[Any], int]:
    """A picture file (h w 3) and how it lay, of 16 bits where it has them; gray is three equal channels."""
    from benchmarks.predict.reading import read_picture

    found = read_picture(path)
    if any("transparent" in note for note in found.notes):
        wrong = "it has transparent pixels, and nothing says what they mean"
        raise UserError(f"file {path}", wrong, "", "save it without alpha; give a mask of its own if need be")
    return found.values, found.turn


def _read_exr(path: Path) -> tuple[NDArray[Any], int]:
    """Channels RGB, or the one channel there is, of an OpenEXR file; its package is optional."""
    try:
        import OpenEXR
    except ImportError as error:
        raise UserError(
            f"file {path}",
            "the package that reads OpenEXR is not installed",
            "PNG and NPY need nothing more",
            "pip install OpenEXR",
        ) from error
    try:
        with OpenEXR.File(os.fspath(path), separate_channels=True) as file:
            channels = {name: np.asarray(value.pixels) for name, value in file.channels().items()}
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise _broken(path, error) from error
    if set("RGB") <= set(channels):
        return np.stack([channels[name] for name in "RGB"], -1), 1
    if len(channels) == 1:
        return next(iter(channels.values())), 1
    known = f"it has {', '.join(channels)}"
    raise UserError(f"file {path}", "it has neither R, G and B nor one channel alone", known, "convert it")


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(
        f"file {path}",
        f"it cannot be read: {error}",
        "a copy that broke off looks like this",
        "mend or replace the file, then run the same command again",
    )
