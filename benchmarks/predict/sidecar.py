"""The JSON file beside every map: what it is, what it was made of and with. That it is there means: done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generators.errors import UserError
from generators.plain import parse_json

from .inputs import Source
from .reading import digest
from .writing import save

MADE_BY = "intrinsic-bench predict"


def sidecar_path(out: Path, source: Source, intrinsic: str) -> Path:
    """Where the JSON of a picture's map is."""
    return out / f"{source.name}.{intrinsic}.json"


def is_finished(path: Path, source: Source, settings: Mapping[str, Any]) -> bool:
    """Whether a picture's maps are there, made as they would be now.

    Raises UserError if they are there but made with other settings or of another picture, or if the
    sidecar is not one of ours.
    """
    try:
        said = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise _refused(path, f"what is there cannot be read: {error}", "") from error
    parts = (
        [said.get(name, {}) for name in ("settings", "source", "outputs")] if isinstance(said, dict) else [0]
    )
    if not all(isinstance(part, dict) for part in parts) or said.get("made_by") != MADE_BY:
        raise _refused(path, "a file of this name is there, and no sidecar of ours", "")
    differences = _differences(said.get("settings", {}), settings)
    if not _same_picture(said.get("source", {}), source):
        differences.append(f"picture: {said.get('source', {}).get('path')} then, {source.path} (changed) now")
    if differences:
        raise _refused(path, "the maps there were made otherwise", "; ".join(differences)[:2000])
    names = said.get("outputs", {}).values()
    return all(isinstance(n, str) and len(n) < 256 and (path.parent / n).is_file() for n in names)


def _refused(path: Path, wrong: str, known: str) -> UserError:
    todo = "choose another --out, or replace what is there: --overwrite"
    return UserError(f"write maps beside {path}", wrong, known, todo)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    told = json.loads(json.dumps(dict(now)))  # tuples as lists, as in the file
    keys = [*then, *(k for k in told if k not in then)]
    return [f"{k}: {then.get(k)!r} then, {told.get(k)!r} now" for k in keys if then.get(k) != told.get(k)]


def _same_picture(said: Mapping[str, Any], source: Source) -> bool:
    """By size and time of the file, or by its content where these have changed."""
    stat = source.path.stat()
    if (said.get("bytes"), said.get("modified")) == (stat.st_size, stat.st_mtime_ns):
        return True
    return bool(said.get("bytes") == stat.st_size and said.get("sha256") == digest(source.path))


def source_facts(path: Path, sha256: str, size: tuple[int, int], bits: int) -> dict[str, Any]:
    """What a sidecar says about its picture."""
    stat = path.stat()
    shape = {"width": size[1], "height": size[0], "bits": bits}
    return {"path": str(path), "sha256": sha256, "bytes": stat.st_size, "modified": stat.st_mtime_ns} | shape


def write_sidecar(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a sidecar, last of all files of its picture."""
    save(path, (json.dumps({"made_by": MADE_BY} | dict(facts), indent=1) + "\n").encode())


def forget(path: Path) -> None:
    """Remove a sidecar, and the files it names: with other formats asked for they would be left behind."""
    try:
        outputs = parse_json(path.read_text(encoding="utf-8"))["outputs"].values()
        names = [name for name in outputs if Path(name).name == name and len(name) < 256 and "\0" not in name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = []  # nothing there, or not ours: then it is just replaced
    path.unlink(missing_ok=True)
    for name in names:
        if (path.parent / name).is_file():  # and no folder, as ".." is
            (path.parent / name).unlink()
