"""A picture file as an array: upright, on a background, gray and CMYK as RGB, 16 bits where it has them.

Pictures are taken as sRGB. A CMYK picture is converted by its own ICC profile if it has one; profiles
of RGB pictures are not applied.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pictures import formats
from generators.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

ORIENTATION = 0x0112  # EXIF tag
# EXIF orientation -> what makes the array (h w c) upright (EXIF 2.3, section 4.6.4).
_UPRIGHT: dict[int, Any] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        values: (h w 3) sRGB, uint8 or uint16, upright.
        sha256: of the file.
        notes: what was decided for this file and may surprise.
        turn: how EXIF says the file lies (2 to 8, section 4.6.4), which `values` no longer do; 1 for upright.
    """

    values: NDArray[Any]
    sha256: str
    notes: tuple[str, ...] = field(default=())
    turn: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def bits(self) -> int:
        """Of a channel."""
        return self.values.dtype.itemsize * 8

    def eight_bit(self) -> NDArray[np.uint8]:
        """(h w 3) as it is shown."""
        if self.bits == 8:
            return self.values
        return np.rint(self.values / 257.0).astype(np.uint8)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_picture(path: Path, background: tuple[int, int, int] = (255, 255, 255)) -> Picture:
    """A picture file; raises UserError that names it if it cannot be decoded to the end.

    Args:
        background: sRGB, 8 bits, what is seen through transparent pixels.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise ValueError("the file is empty")
        values, notes, turn = _decode(data, background)
    except UserError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own for a broken file
        raise UserError(
            f"picture {path}",
            f"it cannot be read: {_reason(error)}",
            "",
            "mend or remove the file, then run the same command again",
        ) from error
    return Picture(values, hashlib.sha256(data).hexdigest(), tuple(notes), turn)


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no picture of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it would decode to more pixels than any photograph has: {error}"
    return str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"


def _decode(data: bytes, background: tuple[int, int, int]) -> tuple[NDArray[Any], list[str], int]:
    from PIL import Image

    notes: list[str] = []
    with Image.open(io.BytesIO(data), formats=formats()) as image:
        if getattr(image, "n_frames", 1) > 1:
            notes.append("the first of several frames")
        before = _turn(image) if image.format == "TIFF" else 1  # Pillow turns it and forgets that
        deep = _sixteen_bit(data, image)
        values: NDArray[Any]
        if deep is None:
            values = _eight_bit(image, background, notes)
        else:
            values = _on_background(deep, np.asarray(background, np.uint16) * 257, notes)
        turn = _turn(image)
    return np.ascontiguousarray(_UPRIGHT.get(turn, lambda a: a)(values)), notes, before if turn == 1 else turn


def _turn(image: Image) -> int:
    """EXIF orientation, 1 where it is none that is known; of a PNG without one this decodes the pixels."""
    turn = image.getexif().get(ORIENTATION, 1)
    return int(turn) if turn in _UPRIGHT else 1


# 16 bits. Pillow has no 16-bit RGB; what it has are unpackers that take one byte of each sample.


def _raw_mode(image: ImageFile) -> str:
    tile = image.tile[0] if image.tile else None
    args = tile.args if tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _sixteen_bit(data: bytes, image: ImageFile) -> NDArray[np.uint16] | None:
    """(h w c) of 1 to 4 channels, gray, gray + alpha, RGB or RGBA; None for a picture of 8 bits."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    raw = _raw_mode(image)
    if image.format != "PNG" or ";16B" not in raw:
        return None
    if raw == "LA;16B":  # four bytes a pixel: the bytes of gray, then those of alpha
        found = _reopened(data, "RGBA").astype(np.uint16)
        return np.asarray(found[..., 0::2] << 8 | found[..., 1::2], np.uint16)
    # "RGB;16L" takes the second byte of a sample, which is the low one in a PNG.
    image.load()
    high, low = np.asarray(image), _reopened(data, raw.replace(";16B", ";16L"))
    both = np.asarray(high.astype(np.uint16) << 8 | low, np.uint16)
    clear = image.info.get("transparency")
    if both.shape[2] == 3 and clear is not None:  # one color stands for nothing
        alpha = np.where((both == np.asarray(clear, np.uint16)).all(2, keepdims=True), 0, 65535)
        both = np.concatenate([both, alpha.astype(np.uint16)], 2)
    return both


def _reopened(data: bytes, raw: str) -> NDArray[np.uint8]:
    """The bytes of a PNG as an unpacker of Pillow's takes them."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=formats()) as image:
        image.tile = [image.tile[0]._replace(args=raw)]
        image.load()
        return np.array(image)


def _on_background(
    deep: NDArray[np.uint16], background: NDArray[np.uint16], notes: list[str]
) -> NDArray[np.uint16]:
    """RGB (h w 3) of gray or RGB with or without alpha, as coded: nobody composites in linear light."""
    color, alpha = (deep[..., :-1], deep[..., -1:]) if deep.shape[2] in (2, 4) else (deep, None)
    color = np.broadcast_to(color, (*color.shape[:2], 3))
    if alpha is None or (alpha == 65535).all():
        return color
    notes.append("transparent pixels show the background")
    share = alpha / 65535.0
    return np.rint(color * share + background * (1 - share)).astype(np.uint16)


# 8 bits.


def _eight_bit(image: ImageFile, background: tuple[int, int, int], notes: list[str]) -> NDArray[np.uint8]:
    from PIL import Image as images

    if image.mode in ("I", "F"):
        raise ValueError(f"its values are of 32 bits (mode {image.mode}), and nothing says their range")
    if ";16" in _raw_mode(image) or ";12" in _raw_mode(image):
        notes.append("of its 16 bits a channel the upper 8 are read: save it as PNG to use them all")
    image.load()
    if image.mode == "CMYK":
        return np.array(_from_cmyk(image, notes))
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        seen = image.convert("RGBA")
        if seen.getchannel("A").getextrema() != (255, 255):
            notes.append("transparent pixels show the background")
        return np.array(images.alpha_composite(images.new("RGBA", seen.size, (*background, 255)), seen))[
            ..., :3
        ]
    return np.array(image.convert("RGB"))


def _from_cmyk(image: Image, notes: list[str]) -> Image:
    profile = image.info.get("icc_profile")
    if not profile:
        notes.append("CMYK without a profile: colors are approximate")
        return image.convert("RGB")
    from PIL import ImageCms

    try:
        own, ours = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(image, own, ours, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"CMYK, its profile cannot be applied ({error}): colors are approximate")
        return image.convert("RGB")
    if found is None:
        raise TypeError("a conversion that is not in place gives a picture")
    notes.append("CMYK, converted by its own profile")
    return found
