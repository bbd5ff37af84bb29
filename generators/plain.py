"""JSON and TOML as plain values; whatever is wrong with a text is a ValueError, and nothing else."""

from __future__ import annotations

import tomllib
from typing import Any

import orjson


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, bytes being UTF-8; raises ValueError, at NaN and infinite numbers, too.

    A whole number of more than 64 bits becomes a float, as one beyond a float is refused.
    """
    return orjson.loads(text)


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text; raises ValueError (tomllib.TOMLDecodeError is one)."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
