"""Pictures of files as a protocol wants them: upright, cropped or not, resized by a named filter.

FFHQ at 256 pixels made with a box or a Lanczos filter has an FID of 4.3 or 5.3 (reference of this project):
the filter is part of the number. "antialias" is clean-fid's: Pillow's bicubic filter on each channel in
floating point, not rounded to 8 bits (Parmar, Zhang, Zhu, "On aliased resizing and surprising subtleties in
GAN evaluation", CVPR 2022); the others are Pillow's on 8 bits. All of them widen when they shrink.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.pictures import decoding, rgb
from generators.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

FILTERS = ("box", "lanczos", "bicubic", "antialias", "none")


ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values that exchange width and height


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"picture {path}",
            f"it cannot be read: {error}",
            "shards of other pictures that are finished are kept",
            "mend or remove the file, then run the command again",
        ) from error


def opened(data: bytes, path: Path) -> Image:
    """A picture in RGB, upright by its EXIF, decoded to the end; raises UserError naming the file."""
    from PIL import ImageOps

    with _decoding(path), decoding(io.BytesIO(data)) as found:
        return rgb(ImageOps.exif_transpose(found))


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture, upright, from its header; raises UserError naming the file."""
    with _decoding(path), decoding(path) as found:
        turned = found.getexif().get(ORIENTATION) in TURNED
        return found.size if turned else (found.height, found.width)


def _square(picture: Image) -> Image:
    """The largest square in the middle, in whole pixels."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _resized(channels: Image, filter_: str, size: int, crop: bool) -> Image:
    from PIL import Image, ImageOps

    how = {"box": Image.Resampling.BOX, "lanczos": Image.Resampling.LANCZOS}
    method = how.get(filter_, Image.Resampling.BICUBIC)
    # `fit` crops by fractions of a pixel, in one step with the resizing.
    return ImageOps.fit(channels, (size, size), method) if crop else channels.resize((size, size), method)


def picture_tensor(picture: Image, filter_: str, size: int | None, crop: bool) -> Tensor:
    """A picture as (3 h w) on 0..255: uint8, or float32 for "antialias".

    Args:
        filter_: one of FILTERS; "none" leaves the size as it is.
        size: pixels a side, None for "none".
        crop: whether to take the square in the middle; else the sides are scaled apart.
    """
    import numpy as np
    import torch

    if filter_ == "none" or size is None:
        values = np.array(_square(picture) if crop else picture)
    elif filter_ == "antialias":
        floats = [_resized(channel.convert("F"), filter_, size, crop) for channel in picture.split()]
        values = np.stack([np.asarray(channel, np.float32) for channel in floats], 2).clip(0, 255)
    else:
        values = np.array(_resized(picture, filter_, size, crop))
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def check_resize(filter_: str, size: int | None) -> None:
    """Raise UserError unless a filter comes with a size, and "none" without."""
    if filter_ not in FILTERS:
        raise UserError(f"--resize {filter_}", "there is no such filter", ", ".join(FILTERS), "name one")
    if (filter_ == "none") != (size is None):
        wrong = "there is nothing to resize to" if size is None else "without resizing there is no size"
        raise UserError(
            f"--resize {filter_}" + ("" if size is None else f" --size {size}"),
            wrong,
            f"filters: {', '.join(FILTERS)}",
            "give both --resize FILTER and --size PIXELS, or --resize none alone",
        )
    if size is not None and not 8 <= size <= 4096:
        raise UserError(f"--size {size}", "it is out of range", "8 to 4096 pixels a side", "give another")
