"""Which pictures of a folder are in which split, and the fingerprint of all that decides a pixel.

Contents are hashed once; a file in the cache remembers what was hashed and checked, by size and time of
change, so that a plan only looks at names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.files import atomic
from generators.checkpoints.download import weights_folder
from generators.errors import UserError
from generators.plain import parse_json

from .settings import FILE, SPLIT, STEM, Settings, read_settings

VARIABLE = "INTRINSIC_BENCH_DATA"
VERSION = "own-3"  # raise it whenever the same files may give other pixels
CHECKED = "checks-2"  # raise it with any new self-check, and folders are asked again
LARGE = 1 << 30  # bytes from which on hashing is announced
LONGEST_STEM = 1000  # characters of a line in a list


@dataclass(frozen=True)
class Index:
    """What a folder holds, without a picture being opened.

    Attributes:
        rows: split -> stems of its pictures, in the order in which they are taken.
        names: split -> what {split} stands for in the patterns.
        stamps: file below the folder -> size and time of change.
        skipped: split -> pictures left out because a map of theirs is missing.
    """

    folder: Path
    settings: Settings
    rows: Mapping[str, tuple[str, ...]]
    names: Mapping[str, str]
    stamps: Mapping[str, tuple[int, int]]
    fingerprint: str
    skipped: Mapping[str, int] = field(default_factory=dict)

    def files(self, split: str, stem: str) -> dict[str, Path]:
        """ "picture", "mask" or an intrinsic -> its file."""
        patterns = self.settings.patterns
        return {what: self.folder / fill(patterns[what], self.names[split], stem) for what in patterns}

    def order(self, split: str, block: int) -> Sequence[str]:
        """Stems of a split as a block takes them: each after the first has an order of its own."""
        stems = self.rows[split]
        return stems if block == 0 else _shuffled(stems, f"{self.settings.seed}/{block}")

    def group(self, stem: str) -> str:
        """The group of a picture; raises UserError if its stem has none."""
        found = re.search(self.settings.group, stem)
        if found is None or found[1] is None:
            wrong = f"the pattern of [group], {self.settings.group!r}, is not in its stem"
            raise UserError(f"the group of {stem!r} in {self.folder}", wrong, "", "mend the pattern")
        return found[1]


def folder_of(name: str) -> Path:
    """The folder that "own:WHERE" means.

    WHERE with a slash, or a dot at its start, is a path; a bare name is a folder below INTRINSIC_BENCH_DATA.

    Raises:
        UserError: nothing is named, or a bare name without that variable.
    """
    where = name.partition(":")[2]
    if not where:
        known = f"own:PATH, a folder, or own:NAME, a folder below {VARIABLE}"
        raise UserError(f"data set {name!r}", "it names no folder", known, "intrinsic-bench data init PATH")
    if _is_path(where):
        return Path(where).expanduser()
    if VARIABLE not in os.environ:
        wrong = f"it is a bare name, and {VARIABLE} is not set"
        todo = f"set {VARIABLE} to the folder above it, or write own:./{where}"
        raise UserError(f"data set {name!r}", wrong, "a path has a slash", todo)
    return Path(os.environ[VARIABLE]) / where


def _is_path(where: str) -> bool:
    return "/" in where or where.startswith((".", "~"))


def one_name(name: str) -> str:
    """The one of a folder's names that results are found by: own:photos/ is own:./photos."""
    family, _, where = name.partition(":")
    if not _is_path(where):
        return name
    short = os.path.normpath(where)
    return f"{family}:{short if _is_path(short) else f'./{short}'}"


def fill(pattern: str, split: str, stem: str) -> str:
    """The path of one file."""
    return pattern.replace(SPLIT, split).replace(STEM, stem)


State = tuple[tuple[int, int] | None, ...]
_memory: dict[Path, tuple[list[Path], State, Index]] = {}


def read_index(folder: Path) -> Index:
    """What a folder holds; raises UserError if data.toml does not fit what is there.

    It is kept while no folder below, no list and not data.toml itself changed.
    """
    place = folder.absolute()
    if place in _memory:
        watched, state, index = _memory[place]
        if state == _state(watched):
            return index
    settings = read_settings(place)
    folders, stamps = _look(place)
    lists = [place / str(value) for value in settings.splits.values() if settings.by == "lists"]
    watched = [place / FILE, *lists, *folders]
    _memory[place] = (watched, _state(watched), _index(place, settings, stamps))
    return _memory[place][2]


def _state(watched: Iterable[Path]) -> State:
    return tuple(_stamp(path) for path in watched)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:  # gone
        return None
    return stat.st_size, stat.st_mtime_ns


def _look(folder: Path) -> tuple[list[Path], dict[str, tuple[int, int]]]:
    """Every folder below, and size and time of change of every file by its path; hidden ones are left out."""
    seen: dict[str, Path] = {}
    files: dict[str, tuple[int, int]] = {}
    waiting = [("", folder)]
    while waiting:
        prefix, place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            continue
        seen[real] = place
        for entry in os.scandir(place):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append((f"{prefix}{entry.name}/", Path(entry.path)))
            elif entry.is_file():
                stat = entry.stat()
                files[f"{prefix}{entry.name}"] = (stat.st_size, stat.st_mtime_ns)
    return list(seen.values()), files


def _index(folder: Path, settings: Settings, stamps: dict[str, tuple[int, int]]) -> Index:
    by_folder = settings.by == "folders"
    names = {split: str(value).strip("/") if by_folder else "" for split, value in settings.splits.items()}
    rows = _rows(folder, settings, names, stamps)
    kept, skipped = {}, {}
    for split, stems in rows.items():
        kept[split] = tuple(s for s in stems if not _missing(folder, settings, names[split], s, stamps))
        skipped[split] = len(stems) - len(kept[split])
        if not kept[split]:
            where = settings.splits[split]
            wrong = f"split {split!r} ({where!r}) has no picture" + (" with all its maps" if stems else "")
            known = f"pictures are {settings.patterns['picture']}"
            raise UserError(
                f"read {folder}", wrong, known, f"mend [splits] or the patterns in {folder / FILE}"
            )
    used = {
        fill(pattern, names[split], stem)
        for split, stems in kept.items()
        for stem in stems
        for pattern in settings.patterns.values()
    }
    used |= {str(value) for value in settings.splits.values() if settings.by == "lists"}
    fingerprint = _fingerprint(folder, sorted(used | {FILE}), stamps)
    return Index(folder, settings, kept, names, stamps, fingerprint, skipped)


def _regex(pattern: str, split: str) -> re.Pattern[str]:
    head, *tail = (re.escape(part) for part in pattern.replace(SPLIT, split).split(STEM))
    return re.compile(f"{head}(?P<stem>.+){'(?P=stem)'.join(tail)}")


def _stems(patterns: Mapping[str, str], split: str, stamps: Iterable[str]) -> list[str]:
    """Stems of the pictures: of the files that fit their pattern, and no longer one of the maps."""
    own = patterns["picture"]
    regex = _regex(own, split)
    maps = [_regex(pattern, split) for pattern in patterns.values() if len(pattern) > len(own)]
    fitting = {name: found["stem"] for name in stamps if (found := regex.fullmatch(name))}
    return [stem for name, stem in fitting.items() if not any(map_.fullmatch(name) for map_ in maps)]


def _shuffled(stems: Iterable[str], seed: int | str) -> list[str]:
    """An order that depends on each name and the seed alone: the first n are as good as any other n."""
    return sorted(stems, key=lambda stem: hashlib.sha256(f"{seed}/{stem}".encode()).digest())


def _rows(
    folder: Path, settings: Settings, names: Mapping[str, str], stamps: Mapping[str, Any]
) -> dict[str, list[str]]:
    patterns, pattern = settings.patterns, settings.patterns["picture"]
    if settings.by == "lists":
        rows = {split: _listed(folder, str(value), stamps) for split, value in settings.splits.items()}
    elif settings.by == "folders":
        rows = {split: _shuffled(_stems(patterns, names[split], stamps), settings.seed) for split in names}
    else:
        rows = _shares(folder, settings, _stems(patterns, "", stamps))
    seen: Counter[str] = Counter(fill(pattern, names[s], stem) for s, stems in rows.items() for stem in stems)
    twice = next((name for name, count in seen.items() if count > 1), None)
    if twice is not None:
        known = ", ".join(f"{split} = {value!r}" for split, value in settings.splits.items())
        raise UserError(f"read {folder}", f"{twice} is used twice", known, "splits share no picture")
    return rows


def _listed(folder: Path, name: str, stamps: Mapping[str, Any]) -> list[str]:
    if name not in stamps:
        raise UserError(
            f"read {folder / name}", "there is no such list below the folder", "a stem in each line"
        )
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"the list cannot be read: {error}"
        raise UserError(f"read {folder / name}", wrong, "a stem in each line") from error
    long = next((line for line in lines if len(line) > LONGEST_STEM), None)
    if long is not None:
        wrong = f"a line of it has {len(long):,} characters"
        raise UserError(f"read {folder / name}", wrong, "a stem in each line")
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _shares(folder: Path, settings: Settings, stems: Sequence[str]) -> dict[str, list[str]]:
    """Pictures by seeded shares; where there are groups, whole groups are dealt out."""
    index = Index(folder, settings, {}, {}, {}, "")
    group = {stem: index.group(stem) if settings.group else stem for stem in stems}
    order = _shuffled(set(group.values()), settings.seed)
    rows: dict[str, list[str]] = {}
    share, start = 0.0, 0
    for split, part in settings.splits.items():
        share += part
        stop = round(share * len(order))
        taken = set(order[start:stop])
        rows[split] = _shuffled((s for s in stems if group[s] in taken), settings.seed)
        start = stop
    return rows


def _missing(
    folder: Path, settings: Settings, split: str, stem: str, stamps: Mapping[str, Any]
) -> str | None:
    """The first file of a picture that is not there; raises UserError unless such pictures are skipped."""
    for pattern in settings.patterns.values():
        name = fill(pattern, split, stem)
        if name not in stamps:
            if settings.skip_missing:
                return name
            known = f"its picture is {fill(settings.patterns['picture'], split, stem)}"
            todo = (
                f"add the file, or set skip_missing = true in {folder / FILE}: then such pictures are counted"
            )
            raise UserError(f"read {folder}", f"{name} is missing", known, todo)
    return None


# What was hashed, and what was checked, is remembered.


def _memo(folder: Path) -> Path:
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    return weights_folder().parent / "own" / f"{key}.json"


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        found = parse_json(_memo(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or torn: it is only a memory
        found = {}
    whole = isinstance(found, dict) and found.get("version") == VERSION and _is_memory(found)
    return found if whole else {"version": VERSION, "files": {}, "checked": {}}


def _is_memory(found: Mapping[str, Any]) -> bool:
    """Whether names have size, time and hash, and fingerprints what the checks noted."""
    files, checks = found.get("files"), found.get("checked")
    if not isinstance(files, dict) or not isinstance(checks, dict):
        return False
    hashed = all(isinstance(f, list) and len(f) == 3 and isinstance(f[2], str) for f in files.values())
    return hashed and all(isinstance(notes, list) for notes in checks.values())


def _remember(folder: Path, memory: Mapping[str, Any]) -> None:
    path = _memo(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(json.dumps(memory).encode())


def _fingerprint(folder: Path, used: Sequence[str], stamps: Mapping[str, tuple[int, int]]) -> str:
    """16 hex digits over the names and contents of all files in use, data.toml among them."""
    memory = _remembered(folder)
    known = memory["files"]
    new = [name for name in used if known.get(name, [])[:2] != list(stamps.get(name, ()))]
    size = sum(stamps[name][0] for name in new if name in stamps)
    if size > LARGE:
        print(f"{folder}: hashing {len(new)} files, {size / 1e9:.1f} GB, once", file=sys.stderr)
    for name in new:
        with (folder / name).open("rb") as file:
            known[name] = [*stamps[name], hashlib.file_digest(file, "sha256").hexdigest()]
    if new:
        _remember(folder, memory)
    digest = hashlib.sha256(VERSION.encode())
    for name in used:
        digest.update(f"{name}\0{known[name][2]}\0".encode())
    return digest.hexdigest()[:16]


def _state_of_checks(index: Index) -> str:
    return f"{CHECKED} {index.fingerprint}"


def checked(index: Index) -> list[str] | None:
    """What the self-checks noted on this very data; None if they have not run."""
    found: list[str] | None = _remembered(index.folder)["checked"].get(_state_of_checks(index))
    return found


def remember_checked(index: Index, notes: Sequence[str]) -> None:
    """Keep what the self-checks noted."""
    memory = _remembered(index.folder)
    memory["checked"] = {_state_of_checks(index): list(notes)}
    _remember(index.folder, memory)
