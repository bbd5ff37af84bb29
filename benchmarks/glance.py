"""What a record says beside its numbers per picture: all that a plan asks, and quick to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from generators.plain import parse_json

from .cell import Cell, Record

_KEYS = frozenset(field.name for field in fields(Record)) | {"hash", "checksum"}
_BEGIN, _END = b'\n "per_image": {\n', b"\n },\n"  # as Record.to_json writes it; a text has no line ends


@dataclass(frozen=True)
class Glance:
    """A record without its scores.

    Attributes:
        facts: of the cell, as Cell.facts says them.
        seconds: the cell took; memory: peak of its worker, megabytes, None if it was not told.
    """

    hash: str
    facts: Mapping[str, Any]
    status: str
    seconds: float
    memory: float | None


def without_numbers(text: bytes) -> bytes:
    """A record's JSON without "per_image", most of it; as it is where another hand has laid it out."""
    begin = text.find(_BEGIN)
    end = text.find(_END, begin) if begin >= 0 else -1
    return text if end < 0 else text[:begin] + text[end + len(_END) - 1 :]


def record_files(folder: Path) -> list[str]:
    """Paths of the records in a folder, by name; none where there is no folder. Quicker than Path.glob."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [f"{folder}/{name}" for name in names if name.endswith(".json") and not name.startswith(".")]


def glance(path: str | Path, known: Mapping[str, Any] | None = None) -> Glance:
    """Read one record; raises ValueError if it is none or not that of its file name, OSError.

    What is wrong within the numbers of single pictures is not seen here: Store.read sees it.

    Args:
        known: facts of the cell of this hash, if they are known: a record of other facts is none of it.
    """
    wanted = os.path.basename(path).removesuffix(".json")
    with open(path, "rb") as file:
        data = parse_json(without_numbers(file.read()))
    if not isinstance(data, dict) or not data.keys() <= _KEYS:
        raise ValueError("not a record: it is no object with the keys of one")
    facts, status, name = data.get("cell"), data.get("status"), data.get("hash")
    if not isinstance(facts, dict) or status not in ("done", "failed") or name != wanted:
        raise ValueError(f"not the record of {wanted}: hash {name!r}, status {status!r}")
    if facts != known:
        found = _hash(facts)
        if found != name:
            raise ValueError(f"record says hash {name}, its cell hashes to {found}")
    return Glance(name, facts, status, *_costs(data))


def _hash(facts: Mapping[str, Any]) -> str:
    try:
        return Cell(**facts).hash
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error


def _costs(data: Mapping[str, Any]) -> tuple[float, float | None]:
    phases, environment = data.get("seconds") or {}, data.get("environment") or {}
    try:
        total = float(phases.get("total", sum(phases.values())))
        memory = environment.get("peak_memory_mib")
        return total, None if memory is None else float(memory)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error
