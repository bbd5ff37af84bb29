"""Which pictures are meant, and what their maps are called."""

from __future__ import annotations

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from generators.errors import UserError

# Endings looked for in folders and globs; a file named in full may have any.
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif")
_WILD = "*?["


@dataclass(frozen=True)
class Source:
    """One picture.

    Attributes:
        name: of its maps, relative to the output folder, without intrinsic and ending; "/" separates folders.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class _Found:
    path: Path
    root: Path  # the folder that was asked for, or the part of a glob before its first wildcard
    searched: bool  # found in a folder or by a glob, not named in full


def find_sources(given: Sequence[str | Path], out: Path) -> list[Source]:
    """All pictures of files, folders (with their folders) and globs, each once, in order.

    Args:
        out: where maps go; what lies in it is not read.

    Raises:
        UserError: a file or folder is missing, a folder or glob has no picture, or the maps would lie
            among the pictures and be read by the next run.
    """
    if not given:
        raise UserError("predict", "no picture is named", "files, folders, globs", "name one")
    found: dict[Path, _Found] = {}
    for text in given:
        for one in _find(str(text), out.resolve()):
            found.setdefault(one.path.resolve(), one)
    sources = _named(list(found.values()))
    _check_places(found.values(), sources, out)
    return sources


def _find(text: str, out: Path) -> list[_Found]:
    path = Path(text)
    if path.is_dir():
        files, what = _below(path), "folder"
        root = path
    elif path.exists():
        return [_Found(path, path.parent, False)]
    elif any(c in text for c in _WILD):
        files, what = sorted(Path(p) for p in glob.glob(text, recursive=True)), "glob"
        root = _before_wildcard(text)
    else:
        raise _missing(path)
    pictures = [p for p in files if p.suffix.lower() in ENDINGS and p.is_file()]
    kept = [p for p in pictures if not _within(p.resolve(), out, root.resolve())]
    if not kept:
        raise _empty(text, what, files, bool(pictures))
    return [_Found(p, root, True) for p in kept]


def _below(folder: Path) -> list[Path]:
    """Files of a folder and its folders, sorted; none that is hidden."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(place) / f for f in files if not f.startswith(".")]
    return sorted(found)


def _before_wildcard(text: str) -> Path:
    parts = Path(text).parts
    first = next(i for i, part in enumerate(parts) if any(c in part for c in _WILD))
    return Path(*parts[:first])


def _within(path: Path, out: Path, root: Path) -> bool:
    """Whether a file lies in an output folder that lies in the folder that is read."""
    return out != root and out.is_relative_to(root) and path.is_relative_to(out)


def _missing(path: Path) -> UserError:
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    known = f"did you mean {' or '.join(near)}?" if near else f"{folder} has {len(names)} entries"
    wrong = "there is no such file, folder or match"
    return UserError(f"pictures {path}", wrong, known, "name files, folders or quoted globs")


def _empty(text: str, what: str, files: Sequence[Path], own: bool) -> UserError:
    kinds = Counter(p.suffix.lower() or "no ending" for p in files if p.is_file())
    there = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)) or "no files"
    wrong = "it matches nothing" if what == "glob" and not files else f"the {what} has no pictures"
    if own:
        wrong += " but those in the output folder"
    known = f"there: {there}; pictures end in {', '.join(ENDINGS)}"
    return UserError(f"pictures {text}", wrong, known, "name a folder or glob that has pictures")


# Names: as short as they can be while all differ.


def _named(found: Sequence[_Found]) -> list[Source]:
    """Names for all; those that would be equal get their ending, then their folders, then both."""
    roots = [str(one.root.resolve()) for one in found]
    above = Path(os.path.commonpath(roots))
    levels = [0] * len(found)
    while True:
        names = [_name(one, level, above) for one, level in zip(found, levels, strict=True)]
        counts = Counter(name.casefold() for name in names)  # some file systems do not tell A from a
        again = [i for i, n in enumerate(names) if counts[n.casefold()] > 1 and levels[i] < 3]
        if not again:
            return [Source(one.path, name) for one, name in zip(found, names, strict=True)]
        for i in again:
            levels[i] += 1


def _name(one: _Found, level: int, above: Path) -> str:
    if level < 2:
        relative = one.path.relative_to(one.root)
    else:
        relative = (one.root.resolve() / one.path.relative_to(one.root)).relative_to(above)
    return (relative.with_suffix("") if level % 2 == 0 else relative).as_posix()


def _check_places(found: Iterable[_Found], sources: Sequence[Source], out: Path) -> None:
    """Raise UserError if a map would lie where the same command would read it as a picture."""
    here = out.resolve()
    roots = {one.root.resolve() for one in found if one.searched}
    folders = {(here / source.name).parent for source in sources}
    for root in sorted(roots):
        inside = [f for f in sorted(folders) if f.is_relative_to(root)]
        if inside and not (here != root and here.is_relative_to(root)):
            raise UserError(
                f"maps of {root} in {out}",
                f"they would lie among the pictures, in {inside[0]}, and the next run would read them",
                "",
                f"choose another folder, as --out {root / 'maps'}",
            )
