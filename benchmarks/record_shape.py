"""The shape of records, suites and claims: what their users take for granted, checked beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATUS = ("done", "failed")
TEXTS = ("maps", "samples", "adapter", "log")  # paths below the store, or None
OBJECTS = ("scores", "per_image", "parameters", "details", "seconds", "environment", "generator")


# Fields of a cell by type; those without a default have to be there.
_TEXTS = ("model", "weights", "intrinsic", "method", "data", "world", "labels", "alignment")
CELL: dict[str, type] = dict.fromkeys((*_TEXTS, "train_data", "train_labels"), str)
CELL |= dict.fromkeys(("size", "train", "validation", "test", "seed", "protocol", "test_size"), int)
CELL |= {"options": dict}
NEEDED = {"model", "weights", "intrinsic", "method", "options", "data", "world"}
NEEDED |= {"size", "train", "validation", "test"}
COUNTED = ("steps", "batch", "samples", "sampler_steps")  # options that durations are reckoned from
BESIDE = ("hash", "impossible")  # what a suite says of a cell, too


def check_cell(facts: Any) -> None:
    """Raise ValueError unless facts are those of a cell, each of its type."""
    if not isinstance(facts, dict) or not facts.keys() <= CELL.keys() or not facts.keys() >= NEEDED:
        raise ValueError(f"{_brief(facts)} has not the keys of a cell")
    for name, value in facts.items():
        if type(value) is not CELL[name]:
            raise ValueError(f"{name} of a cell is {_brief(value)}, no {CELL[name].__name__}")
    for name in COUNTED:
        value = facts["options"].get(name)
        if value is not None and not _is_number(value):
            raise ValueError(f"option {name} of a cell is {_brief(value)}, no number")


def check_suite(found: Any) -> None:
    """Raise ValueError unless JSON is a suite: name, title and cells, each with its hash."""
    if not isinstance(found, dict) or not {"name", "title", "cells"} <= found.keys():
        raise ValueError("it is no suite")
    if not all(isinstance(found.get(name, ""), str) for name in ("name", "title", "question")):
        raise ValueError("its name, title or question is no text")
    if not isinstance(found["cells"], list):
        raise ValueError("its cells are no list")
    for cell in found["cells"]:
        if not isinstance(cell, dict) or not isinstance(cell.get("hash"), str):
            raise ValueError(f"{_brief(cell)} is no cell with its hash")
        if not isinstance(cell.get("impossible", ""), str | None):
            raise ValueError("why a cell is impossible is no text")
        check_cell({name: value for name, value in cell.items() if name not in BESIDE})


def check_claim(found: Any) -> None:
    """Raise ValueError unless JSON is a claim: a pid that may be, and three texts."""
    texts = ("host", "started", "since")
    if not isinstance(found, dict) or found.keys() != {"pid", *texts}:
        raise ValueError("it has not the keys of a claim")
    if type(found["pid"]) is not int or not 0 <= found["pid"] < 2**31:
        raise ValueError(f"its pid is {_brief(found['pid'])}")
    if not all(isinstance(found[name], str) for name in texts):
        raise ValueError("its host, start or time is no text")


def check_shape(data: Mapping[str, Any]) -> None:
    """Raise ValueError unless the fields of a record have the types they are used as, and numbers are finite.

    Args:
        data: of the JSON, without its cell, which its hash vouches for.
    """
    if data.get("status") not in STATUS:
        raise ValueError(f"its status is {_brief(data.get('status'))}, not done or failed")
    if not isinstance(data.get("reason", ""), str):
        raise ValueError("its reason is no text")
    for name in OBJECTS:
        if not isinstance(data.get(name, {}), dict):
            raise ValueError(f"its {name} are {_brief(data[name])}, no object")
    for name in TEXTS:
        _check_path(name, data.get(name))
    for name in ("scores", "parameters", "seconds"):
        for key, value in data.get(name, {}).items():
            if not _is_number(value):
                raise ValueError(f"{_brief(key)} of its {name} is {_brief(value)}, no finite number")
    for key, values in data.get("per_image", {}).items():
        if not isinstance(values, list) or not _are_numbers(values):
            raise ValueError(f"{_brief(key)} of its per_image is no list of finite numbers")


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; a whole one of any length is, as long as a float can hold it."""
    return type(value) in (int, float) and abs(value) < 1e300


def _are_numbers(values: list[Any]) -> bool:
    """`_is_number` of all of a list, quickly: a large store has many millions; none is NaN, in JSON."""
    if not values:
        return True
    return set(map(type, values)) <= {int, float} and _is_number(min(values)) and _is_number(max(values))


def _check_path(name: str, path: Any) -> None:
    """A path of a record leads into the store it is in."""
    if path is None:
        return
    parts = path.split("/") if isinstance(path, str) else []
    if not parts or path.startswith("/") or ".." in parts or "\0" in path or "\\" in path:
        raise ValueError(f"its {name} are at {_brief(path)}, no path below the store")


def _brief(value: Any) -> str:
    return repr(value)[:60]
