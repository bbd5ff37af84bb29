"""JSON and TOML as plain values; whatever is wrong with a text is a ValueError, and nothing else."""

from __future__ import annotations

import json
import tomllib
from typing import Any, NoReturn


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_not_finite)  # json.loads would make one for every text


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; raises ValueError, also where Python's own reader takes NaN or recurses."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; raises ValueError (tomllib.TOMLDecodeError is one)."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
