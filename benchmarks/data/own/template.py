"""A data.toml to start from: what is in a folder is filled in, what its numbers mean is left to a person."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.files import atomic
from generators.errors import UserError

from .conventions import ENCODINGS, KINDS, OURS, SPACES, UNITS, VALID, choices
from .files import ENDINGS, read_array
from .settings import BY, CHECKS, FILE, INTRINSICS, SPLIT, SPLITS, STEM

# What a folder or file of each kind is called, by the words in its path.
WORDS: Mapping[str, tuple[str, ...]] = {
    "normal": ("normal", "normals", "nrm", "norm"),
    "depth": ("depth", "depths", "disparity", "disp", "z", "range"),
    "albedo": ("albedo", "reflectance", "diffuse", "basecolor"),
    "shading": ("shading", "irradiance", "illumination", "shade"),
    "mask": ("mask", "masks", "valid", "validity"),
    "picture": ("rgb", "image", "images", "picture", "pictures", "color", "colors", "img", "photo", "photos"),
}
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}


@dataclass(frozen=True)
class Found:
    """What a look at a folder's names gives.

    Attributes:
        patterns: "picture", "mask" or an intrinsic -> pattern.
        counts: the same -> files that fit it; first: the same -> the first of them.
        splits: split -> folder, {} where no folder is named like one.
    """

    patterns: Mapping[str, str]
    counts: Mapping[str, int]
    first: Mapping[str, Path]
    splits: Mapping[str, str]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _kind(pattern: str) -> str | None:
    """What files of a pattern are, by their names."""
    words = _words(pattern.replace(STEM, " ").rpartition(".")[0])
    return next((kind for kind, known in WORDS.items() if words & set(known)), None)


def _split_of(part: str) -> str | None:
    return next((split for split, known in SPLIT_WORDS.items() if part.lower() in known), None)


def _pattern(path: Path, marks: Sequence[str]) -> str:
    """A file's path with {stem} for what tells it from its neighbors, and {split} for a split's folder.

    The stem is the file's name without the word for its kind, as in "0001" of "0001_normal.png".
    """
    folders = [SPLIT if _split_of(part) and i == 0 else part for i, part in enumerate(path.parts[:-1])]
    stem = path.stem
    for mark in marks:
        if re.search(rf"(?:^|[_.-]){mark}$", stem, re.IGNORECASE) and len(stem) > len(mark):
            return "/".join([*folders, f"{STEM}{stem[-len(mark) - 1 :]}{path.suffix}"])
    return "/".join([*folders, f"{STEM}{path.suffix}"])


def look(folder: Path) -> Found:
    """What is in a folder, by names alone; raises UserError if there is no file of a known kind."""
    marks = [word for words in WORDS.values() for word in words]
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)
    seen = [p for p in files if not any(part.startswith(".") for part in p.parts)]
    if not seen:
        raise UserError(
            f"describe {folder}",
            "no picture is below it",
            f"files end in {', '.join(ENDINGS)}",
            "name another",
        )
    by_pattern: dict[str, list[Path]] = defaultdict(list)
    for path in seen:
        by_pattern[_pattern(path, marks)].append(path)
    patterns: dict[str, str] = {}
    for pattern in sorted(by_pattern, key=lambda p: -len(by_pattern[p])):
        kind = _kind(pattern)
        if kind is not None:
            patterns.setdefault(kind, pattern)
    rest = [p for p in sorted(by_pattern, key=lambda p: -len(by_pattern[p])) if _kind(p) is None]
    if "picture" not in patterns and rest:
        patterns["picture"] = rest[0]
    tops = Counter(p.parts[0] for p in seen if len(p.parts) > 1)
    splits = {split: top for top in sorted(tops) if (split := _split_of(top))}
    first = {kind: folder / by_pattern[pattern][0] for kind, pattern in patterns.items()}
    return Found(patterns, {k: len(by_pattern[p]) for k, p in patterns.items()}, first, splits)


def _facts(path: Path) -> str:
    """Type, size and range of a file, as a comment."""
    try:
        values = read_array(path)
    except UserError as error:
        return f"# the first, {path.name}, cannot be read: {error.wrong}"
    size = " ".join(str(extent) for extent in values.shape)
    return f"# the first, {path.name}: {values.dtype} ({size}), {values.min():g} to {values.max():g}"


def _asked(name: str, known: Mapping[str, object]) -> str:
    return f'{name} = "?"  # {choices(known)}'


_QUESTIONS: Mapping[str, Sequence[str]] = {
    "picture": [_asked("space", SPACES)],
    "normal": [
        f'axes = "?"  # where red, green and blue point, as in "{OURS}"',
        _asked("encoding", ENCODINGS),
    ],
    "depth": [
        _asked("kind", KINDS),
        f"{_asked('unit', UNITS)}; or scale = meters of a stored 1",
        '# invalid = ["zero", "nan", "infinite"]  # what marks a pixel without depth',
    ],
    "albedo": [_asked("space", SPACES), "# scale = 1.0  # light that a stored 1 stands for"],
    "shading": [_asked("space", SPACES), "# scale = 1.0  # light that a stored 1 stands for"],
    "mask": [_asked("valid", VALID)],
}


def compose(folder: Path, found: Found) -> str:
    """The text of data.toml."""
    lines = [
        '# Describes this folder to intrinsic-bench. A convention is never guessed: choose one for each "?",',
        f"# then run: intrinsic-bench data check own:{folder.absolute()}",
        f"title = {json.dumps(folder.resolve().name)}",
        'domain = "own"  # what the pictures show; pictures of one domain are compared',
        'licence = ""',
        "resolution = 256  # pixels a side at which they are used, unless a suite asks otherwise",
        "skip_missing = false  # true: leave out, and count, pictures without all their maps",
        f"# ignore = []  # self-checks to overrule: {', '.join(CHECKS)}",
        "",
        *_split_lines(found),
        "",
        "# [group]  # pictures of one scene are no independent draws",
        "# pattern = '^(scene_\\d+)'  # searched in the stem; its group 1 names the scene",
        '# of = "scene"',
        "",
        "# [camera]",
        "# horizontal_fov = 60.0  # degrees between the left and the right edge of a whole picture",
    ]
    for kind in ("picture", *INTRINSICS, "mask"):
        if kind in found.patterns:
            pattern, count = found.patterns[kind], found.counts[kind]
            lines += [
                "",
                f"[{kind}]",
                f"pattern = {json.dumps(pattern)}  # fits {count} files",
                _facts(found.first[kind]),
            ]
            lines += _QUESTIONS[kind]
    return "\n".join(lines) + "\n"


def _split_lines(found: Found) -> list[str]:
    known = "; ".join(f'"{by}" ({says})' for by, says in BY.items())
    lines = ["[splits]", f"# by: {known}", f"# known splits: {', '.join(SPLITS)}"]
    if found.splits:
        return [
            *lines,
            'by = "folders"',
            *(f"{split} = {json.dumps(top)}" for split, top in found.splits.items()),
        ]
    return [*lines, 'by = "fractions"', "seed = 0", "train = 0.8", "validation = 0.1", "test = 0.1"]


def write_template(folder: Path) -> Path:
    """Write the data.toml of a folder; raises UserError if there is one already, or nothing to describe."""
    path = folder / FILE
    if not folder.is_dir():
        raise UserError(f"describe {folder}", "there is no such folder", "", "name a folder with pictures")
    if path.exists():
        raise UserError(f"describe {folder}", f"{path} is there already", "", "edit it, or delete it first")
    text = compose(folder, look(folder))
    with atomic(path) as file:
        file.write(text.encode())
    return path
