"""Picture files as Pillow reads them, but of named formats only: none that is a program, or starts one.

Without a list of formats Pillow hands whatever begins like PostScript to Ghostscript, whatever its ending.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from generators.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")


def formats() -> list[str]:
    """Those of FORMATS that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@contextmanager
def decoding(source: Path | IO[bytes]) -> Iterator[ImageFile]:
    """An opened picture; whatever a decoder raises inside becomes a ValueError, a UserError stays one."""
    from PIL import Image

    try:
        with Image.open(source, formats=formats()) as found:
            yield found
    except (UserError, OSError, ValueError):
        raise
    except Exception as error:  # each of Pillow's decoders raises its own for a broken file
        raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from error


def rgb(picture: Image) -> Image:
    """A picture in RGB of 8 bits; 16-bit gray is scaled, where Pillow alone clips it at 255."""
    if not picture.mode.startswith("I;16"):
        return picture.convert("RGB")
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.rint(np.asarray(picture) / 257.0).astype(np.uint8)).convert("RGB")
