"""What of DIODE is on this machine: names and sizes, kept in a file so that a plan looks at folders only.

ROOT/{train,val}/{indoors,outdoor}/scene_NNNNN/scan_NNNNN/STEM{.png,_depth.npy,_depth_mask.npy,_normal.npy}
and ROOT/diode_meta.json. Any part of it may be missing: what is there is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import atomic
from generators.checkpoints.transfer import CACHE_VARIABLE, read_json
from generators.errors import UserError
from generators.plain import parse_json

VARIABLE = "INTRINSIC_BENCH_DATA"
META = "diode_meta.json"
PARTITIONS = ("train", "val")
ENDINGS = (".png", "_depth.npy", "_depth_mask.npy", "_normal.npy")
SCENE, SCAN = re.compile(r"scene_\d{5}"), re.compile(r"scan_\d{5}")
FILE = re.compile(
    r"(\d{5}_\d{5}_(?:indoors|outdoor)_\d{3}_\d{3})(\.png|_depth\.npy|_depth_mask\.npy|_normal\.npy)"
)
SETTLED = 120 * 10**9  # nanoseconds after its last change from which on a folder is taken as written


@dataclass(frozen=True)
class Entry:
    """One picture and its maps.

    Attributes:
        sizes: bytes of its files in the order of ENDINGS, 0 for one that is not there.
    """

    partition: str
    place: str
    scene: str
    scan: str
    stem: str
    sizes: tuple[int, int, int, int]

    @property
    def group(self) -> str:
        """The scan: pictures of one scan are crops of one panorama."""
        return f"{self.scene}/{self.scan}"

    @property
    def has_depth(self) -> bool:
        """Whether picture, depth and mask are there."""
        return all(self.sizes[:3])

    @property
    def has_normals(self) -> bool:
        """Whether the normals are there."""
        return self.sizes[3] > 0

    def file(self, root: Path, ending: str) -> Path:
        """One of its files."""
        return root / self.partition / self.place / self.scene / self.scan / f"{self.stem}{ending}"


@dataclass(frozen=True, eq=False)  # one tree is one object: what is derived from it is kept by it
class Tree:
    """What is there.

    Attributes:
        official: stems of the official validation list; None if diode_meta.json is not there.
    """

    root: Path
    entries: tuple[Entry, ...]
    official: frozenset[str] | None


def cache_folder() -> Path:
    """As benchmarks.cache.cache_folder, without torch."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "intrinsic-bench"


def data_root() -> Path:
    """The folder of DIODE: `diode` in INTRINSIC_BENCH_DATA, or in `data` of the cache."""
    given = os.environ.get(VARIABLE)
    return (Path(given) if given else cache_folder() / "data") / "diode"


def notes(root: Path, kind: str) -> Path:
    """A file of the cache about a tree."""
    digest = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]
    return cache_folder() / "trees" / f"diode-{digest}-{kind}.json"


def write_notes(path: Path, found: Any) -> None:
    """Replace what is noted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(json.dumps(found).encode())


_memory: dict[Path, tuple[dict[str, Any], Any, Tree]] = {}


def read_tree(root: Path | None = None) -> Tree:
    """What is below a folder, `data_root()` by default; raises UserError for a diode_meta.json that is none.

    The same object as before, unless something changed.
    """
    root = data_root() if root is None else root
    path, meta = notes(root, "files"), root / META
    before = _memory.get(root)
    known = before[0] if before else read_json(path)
    found = {name: _folder(folder, known.get(name)) for name, folder in _scans(root)}
    stamp = (meta.stat().st_size, meta.stat().st_mtime_ns) if meta.is_file() else None
    if before and before[:2] == (found, stamp):
        return before[2]
    if found != known:
        write_notes(path, found)
    official = None if stamp is None else frozenset(_official(read_meta(meta)))
    tree = Tree(root, tuple(_entries(found)), official)
    _memory[root] = (found, stamp, tree)
    return tree


def _entries(found: Mapping[str, Any]) -> Iterator[Entry]:
    for name, (_, files) in found.items():
        partition, place, scene, scan = name.split("/")
        for stem, picture, depth, mask, normal in files:
            yield Entry(partition, place, scene, scan, stem, (picture, depth, mask, normal))


def _scans(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders of scans by their path below the root, in the order of names."""
    for partition in PARTITIONS:
        for place in ("indoors", "outdoor"):
            for scene in _below(root / partition / place, SCENE):
                for scan in _below(scene, SCAN):
                    yield f"{partition}/{place}/{scene.name}/{scan.name}", scan


def _below(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir())


def _folder(folder: Path, known: Any) -> list[Any]:
    """[time of the last change, or 0 while it may still be written; [stem, four sizes] of each picture]."""
    changed = folder.stat().st_mtime_ns
    if isinstance(known, list) and len(known) == 2 and known[0] == changed:
        return known
    settled = time.time_ns() - changed > SETTLED
    sizes: dict[str, list[int]] = {}
    with os.scandir(folder) as files:
        for file in files:
            found = FILE.fullmatch(file.name)
            if found and file.is_file():
                sizes.setdefault(found[1], [0] * 4)[ENDINGS.index(found[2])] = file.stat().st_size
    return [changed if settled else 0, [[stem, *sizes[stem]] for stem in sorted(sizes)]]


# The list of the devkit.


def read_meta(path: Path) -> dict[str, Any]:
    """diode_meta.json, {partition: {place: {scene: {scan: [stem]}}}}; raises UserError if it is none."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if not _official(found):
            raise ValueError("it lists no validation picture")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"the list {path}",
            f"it is no {META} of DIODE's devkit: {error}",
            "{partition: {place: {scene: {scan: [stem, ...]}}}}",
            "delete it, then: intrinsic-bench fetch diode.meta",
        ) from error
    return dict(found)


def _official(meta: dict[str, Any]) -> list[str]:
    """Stems of the validation partition."""
    scans = [scan for place in meta["val"].values() for scene in place.values() for scan in scene.values()]
    return [stem for scan in scans for stem in scan if FILE.fullmatch(f"{stem}.png")]
