"""Files of DIODE as arrays; whatever is not as it should be is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import read_npy
from benchmarks.pictures import decoding
from generators.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH, HEIGHT = 1024, 768
FOCAL, CENTER = (886.81, 927.06), (512.0, 384.0)  # pixels, of the crops: intrinsics.txt of the devkit
AGAIN = "delete the file, then unpack it again: intrinsic-bench fetch --list"


def read_picture(path: Path) -> Image:
    """The RGB picture; raises UserError if it cannot be read to its end, or is no picture of 4:3."""
    try:
        with decoding(path) as opened:
            found = opened.convert("RGB")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if found.width * HEIGHT != found.height * WIDTH:
        raise UserError(f"picture {path}", f"it is {found.width}x{found.height}", f"{WIDTH}x{HEIGHT}", AGAIN)
    return found


def read_depth(path: Path, mask_path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Depth (h w) in meters, and where it is valid: masked as valid, finite and more than zero.

    Raises:
        UserError: a file that cannot be read or has another shape, or nothing is valid.
    """
    depth, mask = _array(path, 1), _array(mask_path, 1)
    if depth.shape != mask.shape:
        raise UserError(f"mask {mask_path}", f"its shape is {mask.shape}", f"depth: {depth.shape}", AGAIN)
    if not mask.any():
        raise UserError(
            f"depth {path}",
            "its mask is all zeros: no pixel of it is valid",
            str(mask_path),
            "move the mask away: a picture without one is left out and counted",
        )
    valid = (mask == 1) & np.isfinite(depth) & (depth > 0)
    if not valid.any():
        raise UserError(f"depth {path}", "no pixel that its mask calls valid has a depth", "", AGAIN)
    return np.where(valid, depth, 0).astype(np.float32), valid


def read_normals(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Normals (h w 3) of length one in the axes of the file, and where there are any: zero is invalid.

    Raises:
        UserError: a file that cannot be read or has another shape, no normal, or vectors that are none.
    """
    normals = _array(path, 3)
    with np.errstate(over="ignore", invalid="ignore"):  # damage may be as large as it likes: it is invalid
        length = np.linalg.norm(normals, axis=-1)
    valid = np.isfinite(length) & (length > 1e-6)
    if not valid.any():
        raise UserError(
            f"normals {path}",
            "they are all zeros: no pixel of them is valid",
            "an invalid normal is (0, 0, 0)",
            "move the file away: a picture without normals is left out and counted",
        )
    usual = float(np.median(length[valid]))
    if abs(usual - 1) > 0.05:
        raise UserError(f"normals {path}", f"they are {usual:.2f} long, not 1", "unit vectors", AGAIN)
    unit = np.where(valid[..., None], normals, 0) / np.where(valid, length, 1)[..., None]
    return unit.astype(np.float32), valid


def _array(path: Path, channels: int) -> NDArray[Any]:
    """(h w), or (h w 3), of a .npy file that may hold (h w 1)."""
    try:
        found = read_npy(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if channels == 1 and found.ndim == 3 and found.shape[2] == 1:
        found = found[..., 0]
    shape = found.shape[:2] if channels == 1 else (*found.shape[:2], channels)
    right = found.ndim >= 2 and found.shape == shape and found.shape[1] * HEIGHT == found.shape[0] * WIDTH
    if not right or found.dtype.kind not in "fbui":
        known = f"({HEIGHT}, {WIDTH}, {channels}), numbers"
        raise UserError(f"file {path}", f"it holds {found.shape} of {found.dtype}", known, AGAIN)
    return found


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"file {path}", f"it cannot be read: {error}", "", AGAIN)
