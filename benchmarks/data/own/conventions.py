"""What the numbers of a file mean: the axes of normals, the coding of colors, units and kinds of depth.

Everything is said in words by data.toml and nothing is guessed. Inside, normals are x right, y up, z towards
the camera; colors are linear RGB; depth is meters along the view axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from generators.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

OURS = "x right, y up, z towards"
# Word -> our axis and the sign along it.
DIRECTIONS: Mapping[str, tuple[int, int]] = {
    "right": (0, 1),
    "left": (0, -1),
    "up": (1, 1),
    "down": (1, -1),
    "towards": (2, 1),
    "away": (2, -1),
}
WORDS: Mapping[tuple[int, int], str] = {place: word for word, place in DIRECTIONS.items()}
ENCODINGS: Mapping[str, str] = {
    "0..1": "(n + 1) / 2, of integers over their largest value",
    "-1..1": "the components themselves, in a file of floats",
}
SPACES: Mapping[str, str] = {"srgb": "coded for the eye (IEC 61966-2-1)", "linear": "proportional to light"}
KINDS: Mapping[str, str] = {"z": "along the view axis", "ray": "from the eye along the ray of the pixel"}
UNITS: Mapping[str, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001, "km": 1000.0}
INVALID: Mapping[str, str] = {"zero": "0 or less", "nan": "not a number", "infinite": "infinite"}
VALID: Mapping[str, str] = {"nonzero": "a pixel counts where the mask is not 0", "zero": "where it is 0"}


def choices(known: Mapping[str, Any]) -> str:
    """Words and what they mean, for an error."""
    return "; ".join(
        f'"{word}"' + (f" ({says})" if isinstance(says, str) else "") for word, says in known.items()
    )


def parse_axes(text: str, asked: str) -> NDArray[np.float64]:
    """The matrix (3 3) that takes stored components to ours, from "x right, y down, z away".

    x, y and z are the first, second and third channel of the file, with RGB as its order.

    Args:
        asked: where the text stands, for the error.

    Raises:
        UserError: it is no such text, or two channels point along the same axis.
    """
    words = re.sub(r"\b(the camera|from|to)\b", " ", text.lower().replace(",", " ")).split()
    known = f'one of {", ".join(DIRECTIONS)} for each of x, y, z, as in "{OURS}" (ours)'
    if len(words) != 6 or words[::2] != ["x", "y", "z"] or not set(words[1::2]) <= set(DIRECTIONS):
        raise UserError(asked, f"axes {text!r} cannot be read", known, "say where each channel points")
    matrix = np.zeros((3, 3))
    for channel, word in enumerate(words[1::2]):
        axis, sign = DIRECTIONS[word]
        matrix[axis, channel] = sign
    if not (np.abs(matrix).sum(1) == 1).all():
        wrong = f"axes {text!r} leave an axis out: two channels point along the same one"
        raise UserError(asked, wrong, known, "say where each channel points")
    return matrix


def say_axes(matrix: NDArray[np.float64]) -> str:
    """Inverse of `parse_axes`."""
    said = []
    for name, column in zip("xyz", matrix.T, strict=True):
        axis = int(np.abs(column).argmax())
        said.append(f"{name} {WORDS[axis, int(np.sign(column[axis]))]}")
    return ", ".join(said)


def decode_normals(stored: NDArray[Any], encoding: str) -> NDArray[np.float32]:
    """Components (h w 3) in [-1, 1], of the file's own axes; zeros where the file has no normal.

    A pixel that is black in "0..1", or shorter than a half in either encoding, has none.
    """
    values = as_share(stored)
    if encoding == "0..1":
        black = (values == 0).all(-1, keepdims=True)
        values = np.where(black, 0, 2 * values - 1)
    short = np.linalg.norm(values, axis=-1, keepdims=True) < 0.5
    return np.where(short, 0, values).astype(np.float32)


def as_share(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Integers over their largest value; floats as they are."""
    if stored.dtype.kind in "ub":
        full = 1 if stored.dtype.kind == "b" else np.iinfo(stored.dtype).max
        return (stored / np.float32(full)).astype(np.float32)
    return stored.astype(np.float32)


def to_linear(coded: NDArray[np.float32], space: str) -> NDArray[np.float32]:
    """Linear RGB of values in [0, 1] in a space of SPACES (IEC 61966-2-1)."""
    if space == "linear":
        return coded
    low, high = coded / 12.92, ((np.maximum(coded, 0) + 0.055) / 1.055) ** 2.4
    return np.where(coded <= 0.04045, low, high).astype(np.float32)


def ray_lengths(height: int, width: int, horizontal_fov: float) -> NDArray[np.float32]:
    """Length (h w) of the ray to each pixel's center whose part along the view axis is 1.

    Args:
        horizontal_fov: degrees between the left and the right edge of the whole picture.
    """
    x, y = pixel_directions(height, width, horizontal_fov)
    return np.sqrt(x**2 + y**2 + 1).astype(np.float32)


def pixel_directions(
    height: int, width: int, horizontal_fov: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x (1 w) to the right and y (h 1) upwards of the rays to the pixels' centers, at depth 1."""
    focal = width / 2 / np.tan(np.radians(horizontal_fov) / 2)
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = -(np.arange(height) + 0.5 - height / 2) / focal
    return x[None], y[:, None]
