"""Files that are there when they are whole, and not before; what a disk that cannot be written is told as."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from generators.errors import UserError

from .claims import alive, machine

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
    """Name to write a file under; it names its writer so that leftovers of the dead are known."""
    return path.with_name(f".{path.name}.{machine()}.{os.getpid()}.tmp")


def sweep_temporary(folder: Path) -> None:
    """Remove what was written below a folder by processes of this machine that are gone."""
    here = f".{machine()}."
    for place, folders, files in os.walk(folder):  # it passes over what vanishes meanwhile
        for name in (*folders, *files):
            pid = name.split(".")[-2] if name.startswith(".") and name.endswith(".tmp") else ""
            if pid.isdigit() and here in name and not alive(int(pid)):
                discard(Path(place, name))


def _create(path: Path) -> BinaryIO:
    return path.open("wb")


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """An empty folder to fill that appears under its name only when it is full, replacing an earlier one."""
    temporary = temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
        remove(path)
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, f"write {path}") or error from error
    finally:
        discard(temporary)
