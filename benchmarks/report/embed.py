"""Figures within a page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from benchmarks.pictures import decoding

FIGURES = (".png", ".svg")


def embedded(path: Path, title: str) -> str:
    """An image element that holds a figure; a picture as WebP, a third of the PNG beside the page."""
    vector = path.suffix == ".svg"
    kind, data = ("svg+xml", path.read_bytes()) if vector else ("webp", _webp(path))
    return f'<img alt="{escape(title)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _webp(path: Path) -> bytes:
    buffer = io.BytesIO()
    with decoding(path) as picture:
        picture.convert("RGB").save(buffer, "WEBP", quality=90)
    return buffer.getvalue()
