"""Maps as files: PNG of 8 or 16 bits and NPY, each whole or not there at all."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.color import srgb
from benchmarks.files import StoreError, atomic
from generators.errors import UserError, unknown
from probes.methods import RELATIVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = {"png8": ".png", "png16": ".16bit.png", "npy": ".npy"}
COLORS = "viridis_r"  # of depth: near is bright, as in the reports
NO_COLORS = "none"
CUT = (1.0, 99.0)  # percentiles of a depth map between which its colors run, unless told otherwise
AXES = "x right, y up, z towards the camera"


def meaning(intrinsic: str, alignment: str = "none") -> dict[str, str]:
    """What the values of each format mean, for the sidecar.

    Here and below, alignment is the adapter's: RELATIVE depth is 1 at the nearest point, 0 at the farthest.
    """
    if intrinsic == "normal":
        npy, png8, png16 = "unit normals, float32 (h w 3)", "(n + 1) / 2 * 255", "(n + 1) / 2 * 65535"
        return {"axes": AXES, "png8": png8, "png16": png16, "npy": npy}
    if intrinsic == "depth":
        scale = f"depth / {_full_scale(intrinsic, alignment):g}"
        colors = f"colors over the range, or gray, {scale} * 255, where there is no colormap"
        return {"png8": colors, "png16": f"{scale} * 65535, gray", "npy": "float32 (h w 1)"}
    seen = "sRGB-coded (IEC 61966-2-1), for viewing"
    return {"png8": seen, "png16": "linear RGB * 65535", "npy": "linear RGB, float32 (h w 3)"}


def _full_scale(intrinsic: str, alignment: str) -> float:
    """The value that 16 bits hold at most."""
    from probes.intrinsics import DEPTH_METERS

    return DEPTH_METERS if intrinsic == "depth" and alignment != RELATIVE else 1.0


@dataclass(frozen=True)
class Shown:
    """How maps are written.

    Attributes:
        formats: keys of FORMATS.
        colormap: of depth in png8, a name of matplotlib's, or NO_COLORS.
        limits: depths at the ends of the colormap; None for each picture's own, see CUT.
    """

    formats: tuple[str, ...] = ("png8",)
    colormap: str = COLORS
    limits: tuple[float, float] | None = None

    def check(self) -> None:
        """Raise UserError for a format or a colormap nobody knows, or an empty range."""
        for name in self.formats:
            if name not in FORMATS:
                raise unknown("format", name, FORMATS, "--format png8, png16 or npy, as often as needed")
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise UserError(
                f"formats {', '.join(self.formats) or 'none'}", "each is named once, one at least"
            )
        if self.colormap != NO_COLORS:
            import matplotlib

            if self.colormap not in matplotlib.colormaps:
                raise unknown("colormap", self.colormap, [NO_COLORS, *matplotlib.colormaps])
        if self.limits and not self.limits[0] < self.limits[1]:
            wrong = "the first number is not the smaller one"
            raise UserError(f"--range {self.limits[0]:g} {self.limits[1]:g}", wrong, "meters: near, then far")


def color_limits(values: NDArray[Any], shown: Shown, alignment: str = "none") -> tuple[float, float]:
    """Depths at the ends of the scale of a map in png8."""
    if shown.limits:
        return shown.limits
    if shown.colormap == NO_COLORS:
        return 0.0, _full_scale("depth", alignment)
    low, high = (float(v) for v in np.percentile(values, CUT))
    return low, max(high, low + 1e-6)


def viewed(intrinsic: str, values: NDArray[Any], shown: Shown, alignment: str = "none") -> NDArray[np.uint8]:
    """A map (h w c) in natural units as it is shown (h w 3), 8 bits; a colormap runs from near to far."""
    if intrinsic == "depth":
        low, high = color_limits(values, shown, alignment)
        share = np.clip((values[..., 0] - low) / (high - low), 0, 1)
        if shown.colormap == NO_COLORS:
            return np.repeat(_rounded(share, 255)[..., None], 3, 2).astype(np.uint8)
        import matplotlib

        share = 1 - share if alignment == RELATIVE else share
        colored: NDArray[np.uint8] = matplotlib.colormaps[shown.colormap](share, bytes=True)[..., :3]
        return colored
    light = (values + 1) / 2 if intrinsic == "normal" else srgb(values)
    return _rounded(light, 255).astype(np.uint8)


def stored(intrinsic: str, values: NDArray[Any], alignment: str = "none") -> NDArray[np.uint16]:
    """A map (h w c) in natural units as 16 bits: linear, in the scale that MEANING declares."""
    if intrinsic == "normal":
        return _rounded((values + 1) / 2, 65535).astype(np.uint16)
    return _rounded(values / _full_scale(intrinsic, alignment), 65535).astype(np.uint16)


def _rounded(share: NDArray[Any], top: int) -> NDArray[Any]:
    return np.rint(np.clip(share, 0, 1) * top)


def clipped(intrinsic: str, values: NDArray[Any], alignment: str = "none") -> float:
    """Share of the values that 8 and 16 bits cannot hold; NPY holds all."""
    low, high = (-1.0 if intrinsic == "normal" else 0.0), _full_scale(intrinsic, alignment)
    return round(float(((values < low - 1e-6) | (values > high + 1e-6)).mean()), 6)


# Files.


def save(path: Path, data: bytes) -> None:
    """Write a file that appears only when it is whole; raises StoreError if the disk is full."""
    try:
        with atomic(path) as file:
            file.write(data)
    except StoreError as error:
        known = "the maps written so far are whole"
        raise StoreError(error.asked, error.wrong, known, error.todo) from error


def png8(picture: NDArray[np.uint8]) -> bytes:
    """A picture (h w 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", compress_level=4)
    return buffer.getvalue()


def png16(values: NDArray[np.uint16]) -> bytes:
    """Values (h w 1) or (h w 3) as a PNG of 16 bits; Pillow writes none of RGB.

    PNG specification, third edition. Every row is filtered by "Up": smooth maps compress well so, and whole
    arrays are filtered at once.
    """
    h, w, c = values.shape
    rows = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(h, -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    lines = np.concatenate([np.full((h, 1), 2, np.uint8), rows - above], 1)  # modulo 256
    header = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 3: 2}[c], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 4)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def npy(values: NDArray[Any]) -> bytes:
    """A map (h w c) in natural units as NPY, float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()


def encoded(form: str, intrinsic: str, values: NDArray[Any], shown: Shown, alignment: str = "none") -> bytes:
    """A map (h w c) in natural units as a file of a format."""
    if form == "npy":
        return npy(values)
    if form == "png16":
        return png16(stored(intrinsic, values, alignment))
    return png8(viewed(intrinsic, values, shown, alignment))
