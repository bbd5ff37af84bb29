"""Files that are there when they are whole, and not before; what a disk that cannot be written is told as."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from generators.errors import UserError

from .claims import is_gone, machine

FORGOTTEN = 7 * 24 * 3600  # seconds after which what nobody has touched is nobody's, whoever wrote it
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


class StoreError(UserError):
    """The store itself cannot be written: no cell can be recorded, so the run has to stop."""


def storage_error(error: OSError, asked: str, writing: bool = True, option: str = "") -> StoreError | None:
    """The error in four parts if an OSError means a full or read-only disk, else None.

    Args:
        error: what the system raised.
        asked: what was being done.
        writing: whether it was surely the store that was written: then a lack of permission counts too.
        option: of the command, that names another place.
    """
    if error.errno in _FULL:
        wrong, todo = "no space left", "free some space, then run the same command again: it continues"
    elif error.errno == errno.EROFS or (writing and error.errno in _CLOSED):
        wrong, todo = "it cannot be written", "choose a place you may write" + f": {option}" * bool(option)
    else:
        return None
    reason = os.strerror(error.errno or 0)
    known = "everything recorded so far is whole and stays as it is"
    return StoreError(asked, f"{wrong} ({reason}: {error.filename or 'unnamed file'})", known, todo)


def temporary_name(path: Path) -> Path:
    """Name to write a file under; it names its writer so that leftovers of the dead are known.

    Names of files and of hosts may have dots; no host's has an @.
    """
    return path.with_name(f".{path.name}@{machine()}.{os.getpid()}.tmp")


def writer_of(name: str) -> str:
    """HOST.PID of the writer of a temporary file; "" if its name is none, or leaves open where a host begins.

    An earlier version had a dot for the @: there a host begins after what names of a store end in.
    """
    if not (name.startswith(".") and name.endswith(".tmp")):
        return ""
    _, told, writer = name.removesuffix(".tmp").rpartition("@")
    if told:
        return writer
    earlier = re.fullmatch(r"\..+\.(?:json|npz|png)\.(.+)\.tmp", name)
    return earlier[1] if earlier else ""


def sweep_temporary(folder: Path) -> None:
    """Remove what was written below a folder by processes of this machine that are gone."""
    for place, folders, files in os.walk(folder):  # it passes over what vanishes meanwhile
        for name in (*folders, *files):
            if is_gone(writer_of(name)):
                discard(Path(place, name))


def is_forgotten(path: Path) -> bool:
    """Whether nobody has touched a file or folder for a week; False if it is not there."""
    try:
        return time.time() - path.stat().st_mtime > FORGOTTEN
    except OSError:
        return False


def _create(path: Path) -> BinaryIO:
    return path.open("wb")


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(path: Path) -> None:
    """Put a file, or a folder with all that is in it, on the disk: it may have its name then."""
    for inside in path.iterdir() if path.is_dir() else ():
        sync_all(inside)
    sync_folder(path)  # a file is synced as a folder is


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under its name only when it is whole and on the disk.

    Raises StoreError if the disk is full or read-only; whatever is raised, the temporary file is
    removed and a file of that name from before is untouched.
    """
    temporary = temporary_name(path)
    try:
        with _create(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, f"write {path}") or error from error
    finally:
        discard(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove what has no name yet; on a disk that has become read-only, the next `sweep` does."""
    with suppress(OSError):
        remove(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that appears under its name when it is full and on the disk.

    It replaces an earlier one; raises StoreError if the disk is full or read-only.
    """
    temporary = temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
        sync_all(temporary)
        remove(path)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, f"write {path}") or error from error
    finally:
        discard(temporary)
