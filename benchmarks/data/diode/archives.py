"""The archives of DIODE: fetched with resume, verified as a whole, and only then unpacked, file by file.

An archive lies in ROOT/archives, with a JSON file beside it once its md5 is right. After everything in it was
unpacked it is removed; after a part of it (`only`) it stays, so that more can be unpacked.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from benchmarks.files import storage_error
from generators.checkpoints.download import _alone
from generators.checkpoints.transfer import (
    CHUNK,
    HTTPS,
    Network,
    Origin,
    Part,
    Progress,
    Refused,
    Say,
    beside,
    from_origin,
    megabytes,
    read_json,
    write_json,
)
from generators.errors import UserError, unknown

from .tree import META, VARIABLE, data_root, read_meta, read_tree

LICENCE = "MIT"  # "the dataset and the code", says the home page; the devkit's repository has the same
LICENCE_ADDRESS = "https://diode-dataset.org"
BASE = "https://diode-dataset.s3.amazonaws.com"
DEVKIT = (
    "https://raw.githubusercontent.com/diode-dataset/diode-devkit/8b1765b7d801a5f5e2877c434ffe164e62ce8c90"
)
PIXELS = 1024 * 768
UNPACKED = {False: PIXELS * (2 + 4 + 8), True: PIXELS * 12}  # bytes of a picture's files: at most, by format
MEMBER = re.compile(
    r"(?:\./)?(?:(train|val)[^/]*/)?((?:indoors|outdoor)/scene_\d{5}/scan_\d{5}/"
    r"\d{5}_\d{5}_(?:indoors|outdoor)_\d{3}_\d{3}(\.png|_depth\.npy|_depth_mask\.npy|_normal\.npy))"
)


@dataclass(frozen=True)
class Archive:
    """One published file.

    Attributes:
        partition: "train" or "val"; "" for the list of the devkit.
        md5, sha256: of the file; one of them is known.
        bytes: of the file; None where only `about` is published, which is rounded.
        pictures: of the partition.
    """

    name: str
    url: str
    partition: str
    normals: bool
    about: int
    md5: str = ""
    sha256: str = ""
    bytes: int | None = None
    pictures: int = 0

    @property
    def unpacked(self) -> int:
        """Bytes of all its files, at most."""
        return self.pictures * UNPACKED[self.normals]


_TRAIN, _VAL = 25_458, 771
ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in (
        Archive(
            "diode.meta",
            f"{DEVKIT}/{META}",
            "",
            False,
            811_851,
            sha256="ea293e1e8eb5615430353291ea9b798d8e75b6672abfd90d185069a3f53b1288",
            bytes=811_851,
        ),
        Archive(
            "diode.val",
            f"{BASE}/val.tar.gz",
            "val",
            False,
            2_774_625_282,
            "5c895d09201b88973c8fe4552a67dd85",
            bytes=2_774_625_282,
            pictures=_VAL,
        ),
        Archive(
            "diode.val-normals",
            f"{BASE}/val_normals.tar.gz",
            "val",
            True,
            4_600_000_000,
            "323ccaf60abebdb59705dcd8b529d709",
            pictures=_VAL,
        ),
        Archive(
            "diode.train",
            f"{BASE}/train.tar.gz",
            "train",
            False,
            81_000_000_000,
            "3a94632398fe1d002d89f11743f748b1",
            pictures=_TRAIN,
        ),
        Archive(
            "diode.train-normals",
            f"{BASE}/train_normals.tar.gz",
            "train",
            True,
            126_000_000_000,
            "9c0617ebe1eaf1928fdf3344e1c42aef",
            pictures=_TRAIN,
        ),
    )
}


def archive_of(name: str) -> Archive:
    """An archive by name; raises UserError with near names if there is none."""
    if name not in ARCHIVES:
        raise unknown("archive of DIODE", name, ARCHIVES, "see: intrinsic-bench fetch --list")
    return ARCHIVES[name]


def state(archive: Archive) -> str:
    """What is on this machine of it, in a few words."""
    part = Part(_target(archive)).size()
    if not archive.partition:
        return "fetched" if (data_root() / META).is_file() else "not here"
    said = read_json(_record(archive))
    if said:
        return f"unpacked, {said['files']:,} files" + (f" ({said['only']})" if said.get("only") else "")
    if _target(archive).is_file():
        return "fetched, not unpacked"
    return f"begun, {megabytes(part)}" if part else "not here"


def _target(archive: Archive) -> Path:
    return data_root() / "archives" / archive.url.rpartition("/")[2]


def _record(archive: Archive) -> Path:
    """What was unpacked of it, and when."""
    return data_root() / "archives" / f"{archive.name}.unpacked.json"


def fetch(
    archive: Archive,
    *,
    from_path: Path | None = None,
    only: str = "",
    progress: Progress,
    say: Say,
    network: Network = HTTPS,
) -> Path:
    """Get an archive, verify it, unpack it; the folder where its files are.

    Args:
        from_path: a local copy to use instead of a download; it is neither changed nor removed.
        only: a pattern of paths as "indoors/scene_00019/*"; "" for everything.

    Raises:
        UserError: no space, no address gives the file, it is half a file or another one, a path in it leads
            elsewhere, or nothing in it fits the pattern.
    """
    root = data_root()
    say(f"{archive.name}: licence: {LICENCE} {LICENCE_ADDRESS}")
    (root / "archives").mkdir(parents=True, exist_ok=True)
    with _alone(root / "archives", archive.name, say):
        if not archive.partition:
            return _list(archive, root / META, from_path, progress, say, network)
        if from_path is None and _is_whole(archive):
            say("everything in it is here already")
            return root / archive.partition
        path = _local(archive, from_path) if from_path else _target(archive)
        missing = 0 if path.is_file() else archive.about - Part(path).size()
        _check_space(archive, root, missing, only)
        if missing:
            _download(archive, path, progress, say, network)
        _verify(archive, path, from_path, progress, say)
        count = _unpack(archive, path, root, only, progress, say)
        _report(archive, count, only)
        if from_path is None and not only:
            path.unlink()
            beside(path).unlink(missing_ok=True)
        return root / archive.partition


def _on_disk(archive: Archive) -> list[int]:
    """Bytes of each file of an archive that was unpacked."""
    kinds = slice(3, 4) if archive.normals else slice(0, 3)
    entries = [entry for entry in read_tree().entries if entry.partition == archive.partition]
    return [size for entry in entries for size in list(entry.sizes)[kinds] if size]


def _is_whole(archive: Archive) -> bool:
    """Whether everything in it was unpacked and still is there."""
    said = read_json(_record(archive))
    same = said.get("md5") == archive.md5 and not said.get("only")
    return bool(said) and same and len(_on_disk(archive)) >= said["files"]


def _check_space(archive: Archive, root: Path, missing: int, only: str) -> None:
    """Raise UserError unless the disk holds `missing` bytes of archive and, but for a part, what is in it."""
    needed = missing + (0 if only else max(0, archive.unpacked - sum(_on_disk(archive))))
    free = shutil.disk_usage(root).free
    if needed > free:
        unpacked = "" if only else f" and up to {megabytes(archive.unpacked)} of files in it"
        raise UserError(
            f"fetch {archive.name}: {megabytes(archive.about)}{unpacked} in {root}",
            "the disk is too full",
            f"needed: {megabytes(needed)}, free: {megabytes(free)}",
            f"name another folder: {VARIABLE}, or unpack a part: --only 'indoors/*'",
        )


def _download(archive: Archive, path: Path, progress: Progress, say: Say, network: Network) -> None:
    """The archive, as the server has it, under its name; what broke off before is continued."""
    part = Part(path)
    say(f"from {archive.url}")
    origin = Origin(archive.url, archive.sha256 or None, archive.bytes)
    try:
        from_origin(origin, part, network, progress, say)
    except Refused as error:
        kept = f"; {megabytes(part.size())} are kept" if part.size() else ""
        raise UserError(
            f"fetch {archive.name}",
            f"{archive.url}: {error}",
            f"md5 {archive.md5}" if archive.md5 else f"sha256 {archive.sha256}",
            f"try again later{kept}, or give a local file: intrinsic-bench fetch {archive.name} --from PATH",
        ) from error
    os.replace(part.path, path)
    part.remove()


def _local(archive: Archive, given: Path) -> Path:
    if not given.is_file():
        wrong = "it is a folder" if given.is_dir() else "there is no such file"
        raise UserError(f"fetch {archive.name} --from {given}", wrong, "", f"give {_target(archive).name}")
    return given


# Whether it is the published file.


def _verify(archive: Archive, path: Path, given: Path | None, progress: Progress, say: Say) -> None:
    """Raise UserError, and remove a downloaded file, unless its md5 is the published one."""
    size = path.stat().st_size
    if given is None and read_json(beside(path)) == {"md5": archive.md5, "bytes": size}:
        return
    say(f"verifying {megabytes(size)}")
    found = _md5(path, progress)
    if found == archive.md5:
        if given is None:
            write_json(beside(path), {"md5": found, "bytes": size})
        return
    wrong = _half(archive, path, size) or f"it is another file: its md5 is {found}"
    asked, todo = f"fetch {archive.name}", "run it again: it is fetched anew"
    if given is None:
        path.unlink()
    else:
        asked, todo = f"{asked} --from {given}", "give another copy of the file"
    raise UserError(asked, wrong, f"expected: md5 {archive.md5}", todo)


def _md5(path: Path, progress: Progress) -> str:
    digest, done, size = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done, size)
    return digest.hexdigest()


def _half(archive: Archive, path: Path, size: int) -> str:
    """What is said of a file that ends in the middle; "" for a whole one."""
    if archive.bytes is not None and size < archive.bytes:
        return f"it is not the whole file: {size:,} of {archive.bytes:,} bytes"
    try:
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass
    except EOFError:
        return f"it is not the whole file: it ends in the middle, after {size:,} bytes"
    except (OSError, zlib.error):
        return ""
    return ""


# What is in it.


def _unpack(archive: Archive, path: Path, root: Path, only: str, progress: Progress, say: Say) -> int:
    """How many files of an archive are on the disk; each appears under its name only when it is whole."""
    count, others, size = 0, 0, path.stat().st_size
    say(f"unpacking {path.name} into {root / archive.partition}")
    try:
        with path.open("rb") as packed, tarfile.open(fileobj=packed, mode="r|gz") as tar:
            for member in tar:
                progress(packed.tell(), size)
                inside = _inside(archive, member, root)
                if inside is None:
                    others += member.isfile()
                elif not only or fnmatchcase(inside, only):
                    content = tar.extractfile(member)
                    if content is not None:
                        _write(content, root / archive.partition / inside, member.size)
                        count += 1
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        wrong = f"{path} cannot be unpacked: {type(error).__name__}: {error}"
        known = "what was unpacked so far is whole"
        raise UserError(f"fetch {archive.name}", wrong, known, "give another copy of the file") from error
    if others:
        say(f"{others} files of other kinds were left out")
    if not count:
        wrong = f"none of its files fits {only!r}" if only else "it holds no file of DIODE"
        known = "paths as in indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png"
        raise UserError(f"fetch {archive.name}", wrong, known, "give another pattern: --only 'indoors/*'")
    return count


def _inside(archive: Archive, member: tarfile.TarInfo, root: Path) -> str | None:
    """PLACE/SCENE/SCAN/FILE of a member, None for what is no file of the data set.

    Raises:
        UserError: a member that would be written elsewhere, or is neither a file nor a folder.
    """
    try:
        tarfile.data_filter(member, str(root))
    except tarfile.FilterError as error:
        raise _unsafe(archive, member, str(error)) from error
    if not member.isfile() and not member.isdir():
        raise _unsafe(archive, member, "it is a link")
    found = MEMBER.fullmatch(member.name) if member.isfile() else None
    if found is None:
        return None
    if found[1] not in (None, archive.partition):
        raise _unsafe(archive, member, f"it belongs to {found[1]}, not to {archive.partition}")
    return found[2]


def _unsafe(archive: Archive, member: tarfile.TarInfo, why: str) -> UserError:
    return UserError(f"{member.name!r} of {archive.name}", f"it is not unpacked: {why}", "", "")


def _write(content: IO[bytes], path: Path, size: int) -> None:
    if path.is_file() and path.stat().st_size == size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK)
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, f"write {path}") or error from error
    finally:
        temporary.unlink(missing_ok=True)


def _report(archive: Archive, count: int, only: str) -> None:
    """Note what was unpacked; a part adds to the parts before it."""
    before = read_json(_record(archive)).get("only") if only else None
    patterns = ", ".join(dict.fromkeys([*(before or "").split(", "), only]) if before else [only])
    files = len(_on_disk(archive)) if only else count
    write_json(_record(archive), {"md5": archive.md5, "files": files, "only": patterns, "licence": LICENCE})


def _list(
    archive: Archive, target: Path, given: Path | None, progress: Progress, say: Say, network: Network
) -> Path:
    """diode_meta.json in place; raises UserError if a given file is another one."""
    if given is None:
        path = _target(archive)
        _download(archive, path, progress, say, network)
    else:
        path = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(_local(archive, given), path)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != archive.sha256:
            asked = f"fetch {archive.name}" + (f" --from {given}" if given else "")
            wrong = f"it is another file: its sha256 is {found}"
            raise UserError(asked, wrong, f"expected is {archive.sha256}", "give another copy of the file")
        read_meta(path)
        os.replace(path, target)
    finally:
        path.unlink(missing_ok=True)
    return target


def rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Name, size, licence, whether it must be accepted, and state of each archive."""
    for archive in ARCHIVES.values():
        yield archive.name, megabytes(archive.about), LICENCE, "-", state(archive)
