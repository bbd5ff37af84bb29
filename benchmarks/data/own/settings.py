"""data.toml: where pictures and maps are, and what their numbers mean. What is not said is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError, unknown
from generators.plain import parse_toml

from .conventions import ENCODINGS, INVALID, KINDS, OURS, SPACES, UNITS, VALID, choices, parse_axes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "data.toml"
STEM = "{stem}"
SPLIT = "{split}"
SPLITS = ("train", "validation", "test", "reference")
INTRINSICS = ("normal", "depth", "albedo", "shading")
UNSAID = "?"  # what `intrinsic-bench data init` writes where a person has to choose
BY = {
    "folders": "split = folder, which stands for {split} in the patterns",
    "lists": "split = text file with a stem in each line",
    "fractions": "split = share of the pictures; seed = which ones",
}
CHECKS = ("axes", "colors", "disparity", "groups", "units")
_TOP = ("title", "domain", "licence", "resolution", "skip_missing", "ignore", "splits", "group", "camera")
_TABLES: Mapping[str, tuple[str, ...]] = {
    "splits": ("by", "seed", *SPLITS),
    "group": ("pattern", "of"),
    "camera": ("horizontal_fov",),
    "picture": ("pattern", "space"),
    "mask": ("pattern", "valid"),
    "normal": ("pattern", "axes", "encoding"),
    "depth": ("pattern", "kind", "unit", "scale", "invalid"),
    "albedo": ("pattern", "space", "scale"),
    "shading": ("pattern", "space", "scale"),
}


@dataclass(frozen=True)
class Settings:
    """What data.toml says of a folder.

    Attributes:
        patterns: "picture", "mask" or an intrinsic -> path below the folder with {stem}, and {split} or not.
        by: how splits are made, a key of BY; splits: split -> folder, file or share.
        seed: of the fractions.
        group: regular expression whose group 1 in the stem names a picture's group; "" for none.
        of: what a group is ("scene").
        fov: degrees between the left and the right edge of a picture; None if nobody said.
        space: of the pictures, a key of SPACES; spaces: of albedo and shading.
        axes: takes the file's normals to ours; encoding: a key of ENCODINGS.
        kind: of depth, a key of KINDS; scales: meters, or light, that a stored 1 stands for.
        invalid: what marks a pixel without depth, keys of INVALID.
        valid: a key of VALID.
        ignore: self-checks, of CHECKS, whose complaint is only noted.
    """

    title: str
    domain: str
    licence: str
    resolution: int
    patterns: Mapping[str, str]
    by: str
    splits: Mapping[str, Any]
    seed: int = 0
    group: str = ""
    of: str = ""
    fov: float | None = None
    space: str = "srgb"
    spaces: Mapping[str, str] = field(default_factory=dict)
    axes: NDArray[np.float64] | None = None
    encoding: str = ""
    kind: str = ""
    scales: Mapping[str, float] = field(default_factory=dict)
    invalid: tuple[str, ...] = ()
    valid: str = "nonzero"
    skip_missing: bool = False
    ignore: tuple[str, ...] = ()

    @property
    def intrinsics(self) -> tuple[str, ...]:
        """Those whose maps the folder has."""
        return tuple(name for name in INTRINSICS if name in self.patterns)


def read_settings(folder: Path) -> Settings:
    """What the data.toml of a folder says; raises UserError for whatever is missing, unknown or unsaid."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        todo = f"intrinsic-bench data init {folder}"
        raise UserError(f"read {path}", f"it cannot be read: {error}", "", todo) from error
    try:
        said = parse_toml(text)
    except ValueError as error:
        raise UserError(f"read {path}", f"it is no TOML: {error}", "", "mend the line") from error
    return _settings(said, path)


class _Said:
    """One table of data.toml, which knows its place for errors."""

    def __init__(self, values: Any, path: Path, table: str) -> None:
        self.path, self.table = path, table
        self.place = f"[{table}] of {path}" if table else str(path)
        if not isinstance(values, dict):
            raise self.wrong("it is no table")
        self.values: dict[str, Any] = values
        known = _TABLES[table] if table else (*_TOP, *(name for name in _TABLES if name not in _TOP))
        for name in values:
            if name not in known:
                raise unknown(f"setting of {self.place}", name, known, "mend its name or take it out")

    def wrong(self, fact: str, known: str = "", todo: str = "") -> UserError:
        return UserError(self.place, fact, known, todo or "say it in data.toml")

    def get(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """A value of a type; a bool is no number."""
        value = self.values.get(name, default)
        if value is not default and (
            not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)
        ):
            names = kind if isinstance(kind, tuple) else (kind,)
            needed = " or ".join(k.__name__ for k in names)
            raise self.wrong(f"{name} = {value!r} is no {needed}")
        return value

    def choose(self, name: str, known: Mapping[str, Any], hint: str = "") -> str:
        """A word that has to be one of the known; a convention nobody declared is not guessed."""
        value = self.values.get(name, UNSAID)
        if value == UNSAID:
            listed = f"choose {choices(known)}{hint}"
            raise self.wrong(f"{name} is not declared", listed, f"set {name} in data.toml")
        if not isinstance(value, str) or value not in known:
            raise self.wrong(f"{name} = {value!r} is not known", f"choose {choices(known)}")
        return value

    def words(self, name: str, known: Sequence[str]) -> tuple[str, ...]:
        """A list of known words."""
        value = self.get(name, list, [])
        for word in value:
            if word not in known:
                raise self.wrong(f"{name} has {word!r}", f"known: {', '.join(known)}")
        return tuple(value)

    def number(self, name: str, fits: Callable[[float], bool], range_: str) -> float | None:
        """A number within a range, or None."""
        value = self.get(name, (int, float), None)
        if value is not None and not (abs(value) < 1e300 and fits(value)):
            raise self.wrong(f"{name} = {value!r}", f"it has to be {range_}")
        return None if value is None else float(value)


def _settings(said: dict[str, Any], path: Path) -> Settings:
    top = _Said(said, path, "")
    tables = {name: _Said(said[name], path, name) for name in _TABLES if name in said}
    if "picture" not in tables:
        raise top.wrong("there is no table [picture]", 'pattern = "rgb/{stem}.png", space = "srgb"')
    empty = {name: _Said({}, path, name) for name in ("group", "camera")}
    camera, group = (tables.get(name, empty[name]) for name in ("camera", "group"))
    fov = camera.number("horizontal_fov", lambda v: 0 < v < 180, "degrees between 0 and 180")
    by, splits = _splits(tables, top)
    patterns = _patterns(tables, by)
    colors: list[str] = [name for name in ("albedo", "shading") if name in tables]
    scales = {name: _scale(tables[name]) for name in colors}
    more: dict[str, Any] = {}
    if "normal" in tables:
        more |= _normal(tables["normal"])
    if "depth" in tables:
        more |= _depth(tables["depth"], fov)
        scales["depth"] = more.pop("scale")
    if "mask" in tables:
        more["valid"] = tables["mask"].choose("valid", VALID)
    return Settings(
        title=top.get("title", str, path.parent.name),
        domain=top.get("domain", str, "own"),
        licence=top.get("licence", str, ""),
        resolution=int(top.number("resolution", lambda v: v >= 1 and v == int(v), "whole, from 1 on") or 256),
        patterns=patterns,
        by=by,
        splits=splits,
        seed=tables["splits"].get("seed", int, 0),
        group=_group(group),
        of=group.get("of", str, "group") if group.values else "",
        fov=fov,
        space=tables["picture"].choose("space", SPACES),
        spaces={name: tables[name].choose("space", SPACES) for name in colors},
        scales=scales,
        skip_missing=top.get("skip_missing", bool, False),
        ignore=top.words("ignore", CHECKS),
        **more,
    )


def _normal(said: _Said) -> dict[str, Any]:
    text = said.get("axes", str, UNSAID)
    if text == UNSAID:
        known = (
            f'where x, y and z (red, green, blue) point, as in "{OURS}"; right, left, up, down, towards, away'
        )
        raise said.wrong("axes is not declared", known, "set axes in data.toml")
    return {"axes": parse_axes(text, said.place), "encoding": said.choose("encoding", ENCODINGS)}


def _depth(said: _Said, fov: float | None) -> dict[str, Any]:
    for name in ("kind", "unit"):
        if said.values.get(name) in ("disparity", "inverse", "relative"):
            wrong = f"{name} = {said.values[name]!r}: it has no unit, and its shift is unknown"
            raise said.wrong(
                wrong, "depth is meters along the view axis or the ray", "convert it to depth first"
            )
    kind = said.choose("kind", KINDS)
    if kind == "ray" and fov is None:
        wrong = "distances along rays need the field of view"
        raise said.wrong(wrong, "[camera] horizontal_fov = degrees between left and right edge")
    if "scale" in said.values and "unit" in said.values:
        raise said.wrong("unit and scale are both given", "scale = meters that a stored 1 stands for")
    hint = "; or scale = meters that a stored 1 stands for, in place of unit"
    scale = _scale(said) if "scale" in said.values else UNITS[said.choose("unit", UNITS, hint)]
    return {"kind": kind, "scale": scale, "invalid": said.words("invalid", tuple(INVALID))}


def _scale(said: _Said) -> float:
    return said.number("scale", lambda v: v > 0, "above 0") or 1.0


def _patterns(tables: Mapping[str, _Said], by: str) -> dict[str, str]:
    found = {}
    for name in ("picture", "mask", *INTRINSICS):
        if name not in tables:
            continue
        pattern = tables[name].get("pattern", str, "")
        if STEM not in pattern or pattern.startswith("/") or ".." in pattern.split("/"):
            wrong = f"pattern = {pattern!r}"
            raise tables[name].wrong(wrong, 'a path below the folder with {stem}, as in "rgb/{stem}.png"')
        if (SPLIT in pattern) != (by == "folders"):
            wrong = f"pattern = {pattern!r}, and splits are made by {by}"
            raise tables[name].wrong(
                wrong, 'with by = "folders", and only then, {split} stands in every pattern'
            )
        found[name] = pattern
    return found


def _splits(tables: Mapping[str, _Said], top: _Said) -> tuple[str, dict[str, Any]]:
    if "splits" not in tables:
        raise top.wrong("there is no table [splits]", f"by is {choices(BY)}")
    said = tables["splits"]
    by = said.choose("by", BY)
    kinds = (int, float) if by == "fractions" else str
    found = {name: said.get(name, kinds, None) for name in SPLITS if name in said.values}
    if not found:
        raise said.wrong("it names no split", f"{', '.join(SPLITS)}; {BY[by]}")
    if by == "fractions" and not (all(s > 0 for s in found.values()) and sum(found.values()) <= 1 + 1e-9):
        raise said.wrong(f"shares {found}", "each above 0, together at most 1")
    if len(set(found.values())) < len(found) and by != "fractions":
        raise said.wrong(f"two splits are the same: {found}", "train, validation and test share no picture")
    return by, found


def _group(said: _Said) -> str:
    pattern: str = said.get("pattern", str, "")
    if not pattern and not said.values:
        return ""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise said.wrong(f"pattern = {pattern!r} is no regular expression: {error}") from error
    if groups != 1:
        raise said.wrong(
            f"pattern = {pattern!r} has {groups} groups", r"one, as in '^(scene_\d+)', searched in the stem"
        )
    return pattern
