"""Pictures of a folder of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.pictures import decoding, rgb
from generators.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def picture_files(folder: Path) -> list[Path]:
    """Pictures of a folder in the order of their names; raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"pictures of {folder}", "there is no such folder", "", "give a folder of pictures")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)
    if not found:
        kinds = sorted({p.suffix for p in folder.iterdir()})
        raise UserError(
            f"pictures of {folder}",
            "there are none",
            f"pictures end in {', '.join(ENDINGS)}; the folder has {', '.join(kinds) or 'nothing'}",
            "give a folder of pictures",
        )
    return found


def read_picture(path: Path, size: int) -> Tensor:
    """A picture as (3 size size) in [-1, 1]: upright by its EXIF, cropped to a square, Lanczos.

    Raises UserError naming the file if it cannot be decoded to the end.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    try:
        with decoding(path) as opened:
            upright = rgb(ImageOps.exif_transpose(opened))
            square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"picture {path}",
            f"it cannot be read: {error}",
            "nothing was computed; the other files are untouched",
            "mend or remove the file, then run the command again",
        ) from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1
