"""Pictures beside their maps: a sheet for each, and contact sheets of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pictures import decoding
from generators.errors import UserError

from .writing import png8, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAP, FOOT = 4, 16  # pixels between pictures, and below for their names
THUMB = 160  # greatest side of a picture on a contact sheet
COLUMNS, ROWS = 4, 12  # pairs on a contact sheet
WHITE = 255
MOST = 50_000_000  # pixels of a sheet; Pillow takes larger ones for an attack when it reads them


def sheet(picture: NDArray[np.uint8], shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (h w 3) and its map as shown, side by side; of large ones every n-th pixel."""
    step = math.ceil(math.sqrt(2 * picture.shape[0] * picture.shape[1] / MOST))
    picture, shown = picture[::step, ::step], shown[::step, ::step]
    h, w, _ = picture.shape
    both = np.full((h, 2 * w + GAP, 3), WHITE, np.uint8)
    both[:, :w], both[:, w + GAP :] = picture, shown
    return both


def write_contact_sheets(out: Path, intrinsic: str, sheets: Sequence[tuple[str, Path]]) -> list[Path]:
    """`contact-INTRINSIC.png` and as many more as needed, of sheets (name, file) made before.

    Raises UserError if a sheet cannot be read.
    """
    written, many = [], COLUMNS * ROWS
    for start in range(0, len(sheets), many):
        number = f"-{start // many + 1}" if start else ""
        path = out / f"contact-{intrinsic}{number}.png"
        save(path, png8(_page(sheets[start : start + many])))
        written.append(path)
    return written


def _page(sheets: Sequence[tuple[str, Path]]) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    across, down = min(COLUMNS, len(sheets)), -(-len(sheets) // COLUMNS)
    width, height = 2 * THUMB + GAP, THUMB + FOOT
    page = Image.new("RGB", (across * (width + 2 * GAP), down * (height + GAP)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for number, (name, path) in enumerate(sheets):
        x, y = number % COLUMNS * (width + 2 * GAP) + GAP, number // COLUMNS * (height + GAP) + GAP
        thumb = _thumb(path)
        page.paste(thumb, (x + (width - thumb.width) // 2, y + (THUMB - thumb.height) // 2))
        label = _fitting(name, width, draw, font)
        draw.text((x + width / 2, y + THUMB + FOOT / 2), label, fill="#22272e", font=font, anchor="mm")
    return np.asarray(page)


def _thumb(path: Path) -> Any:
    from PIL import Image

    try:
        with decoding(path) as opened:
            found = opened.convert("RGB")
    except (OSError, ValueError) as error:
        raise UserError(
            f"sheet {path}", f"it cannot be read: {error}", "", "run again with --overwrite"
        ) from error
    scale = min((2 * THUMB + GAP) / found.width, THUMB / found.height)
    size = max(1, round(found.width * scale)), max(1, round(found.height * scale))
    return found.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def _fitting(name: str, width: int, draw: Any, font: Any) -> str:
    """The end of a name, where it is too long: that is what tells pictures apart."""
    text, cut = name, 0
    while draw.textlength(text, font=font) > width and cut < len(name):
        cut += 1
        text = "…" + name[cut:]
    return text
