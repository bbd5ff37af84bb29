"""The store: one folder, one file per record; that a file is there is the only state there is.

records/HASH.json, maps/HASH.npz, samples/HASH.png, adapters/HASH/, logs/HASH.log, claims/HASH.json
and suite.json.
Every file is written under a temporary name in its own folder, synced and renamed, so a run that
is killed, or a disk that fills, leaves only whole files behind.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from generators.errors import UserError

from .cell import Cell, Record

FOLDERS = ("records", "maps", "samples", "adapters", "logs", "claims")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


class StoreError(UserError):
    """The store itself cannot be written: no cell can be recorded, so the run has to stop."""


def storage_error(error: OSError, asked: str, writing: bool = True) -> StoreError | None:
    """The error in four parts if an OSError means a full or read-only disk, else None.

    Args:
        error: what the system raised.
        asked: what was being done.
        writing: whether it was surely the store that was written: then a lack of permission counts too.
    """
    if error.errno in _FULL:
        wrong, todo = "no space left", "free some space, then run the same command again: it continues"
    elif error.errno == errno.EROFS or (writing and error.errno in _CLOSED):
        wrong, todo = "it cannot be written", "choose a folder you may write: --store DIR"
    else:
        return None
    reason = os.strerror(error.errno or 0)
    known = "everything recorded so far is whole and stays as it is"
    return StoreError(asked, f"{wrong} ({reason}: {error.filename or 'unnamed file'})", known, todo)


def _stat(pid: int) -> list[str]:
    """State, ..., start time (20th) of a process; empty where the system does not tell (not Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no such process, or no /proc: then the pid alone has to do
        return []


def _started(pid: int) -> str:
    """When a process of this machine started, "" where the system does not tell."""
    return (_stat(pid) or [""] * 20)[19]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and is another user's
        return True
    return _stat(pid)[:1] not in (["Z"], ["X"])  # killed, though nobody has asked for its exit status


@dataclass(frozen=True)
class Claim:
    """Who computes a cell: a process, its start (against reused pids), its host, and since when."""

    pid: int
    host: str
    started: str
    since: str

    @staticmethod
    def own() -> Claim:
        """A claim of this process."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return Claim(os.getpid(), socket.gethostname(), _started(os.getpid()), since)

    @property
    def here(self) -> bool:
        """Whether the owner runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def dead(self) -> bool:
        """Whether the owner is known to be gone; of another machine's processes nothing is known."""
        return self.here and not (_alive(self.pid) and _started(self.pid) == self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def _temporary(path: Path) -> Path:
    """Name to write a file under; it names its writer so that leftovers of the dead are known."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _create(path: Path) -> BinaryIO:
    return path.open("wb")


def _sync_folder(folder: Path) -> None:
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
    temporary = _temporary(path)
    try:
        with _create(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, f"write {path}") or error from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that appears under its name only when it is full, replacing an earlier one."""
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        _remove(path)
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, f"write {path}") or error from error
    finally:
        _remove(temporary)


class Store:
    """A folder of records, with the maps, samples, adapters and logs that belong to them.

    Args:
        folder: made on `prepare`; reading one that is not there finds no records.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.records, self.maps, self.samples, self.adapters, self.logs, self.claims = (
            self.folder / name for name in FOLDERS
        )

    def prepare(self) -> None:
        """Make the folders and sweep what killed writers left; raises StoreError if that cannot be."""
        try:
            for name in FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"make the store {self.folder}") or error from error
        self.sweep()

    def sweep(self) -> None:
        """Remove temporary files and claims whose owner, a process of this machine, is gone."""
        for path in self.folder.rglob(f".*.{socket.gethostname()}.*.tmp"):
            pid = path.name.split(".")[-2]
            if pid.isdigit() and not _alive(int(pid)):
                _remove(path)
        for path in self.claims.glob("*.json"):
            owner = self.owner(path)
            if owner is not None and owner.dead:
                self._bury(path)

    def path(self, cell: Cell | str) -> Path:
        """Where the record of a cell, or of a hash, is."""
        return self.records / f"{cell if isinstance(cell, str) else cell.hash}.json"

    def log(self, cell: Cell) -> Path:
        """Where the traceback of a failed cell is."""
        return self.logs / f"{cell.hash}.log"

    def read(self, cell: Cell | str) -> Record | None:
        """The record of a cell, None if there is none; raises UserError if the file is corrupt."""
        path = self.path(cell)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise corrupt(path, str(error)) from error
        try:
            record = Record.from_json(text)
        except ValueError as error:
            raise corrupt(path, str(error)) from error
        if record.cell.hash != path.stem:
            raise corrupt(path, f"it holds the record of the cell {record.cell.hash}")
        return record

    def adopt(self, cell: Cell) -> Store | None:
        """Copy what a store beside this one has of a cell: its maps, samples and adapter, the record last.

        Returns the store it was taken from; None if none has a record of it that is done and whole.
        """
        for path in sorted(self.folder.parent.glob(f"*/records/{cell.hash}.json")):
            other = Store(path.parent.parent)
            try:
                record = other.read(cell)
            except UserError:
                continue  # a broken record is its own store's business
            if record is None or record.status != "done":
                continue
            for kept in (record.maps, record.samples, record.adapter):
                if kept is not None:
                    self._copy(other.folder / kept, self.folder / kept)
            self.write(record)
            return other
        return None

    def _copy(self, source: Path, target: Path) -> None:
        """A file or a folder; what a store was told not to keep (adapters, in git) cannot be copied."""
        if source.is_dir():
            with atomic_folder(target) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
        elif source.is_file():
            with atomic(target) as file:
                file.write(source.read_bytes())

    def all(self) -> list[Record]:
        """Every record, in the order of the hashes."""
        found = (self.read(path.stem) for path in sorted(self.records.glob("*.json")))
        return [record for record in found if record is not None]

    def stamp(self, cell: Cell) -> tuple[int, int] | None:
        """What changes whenever the record of a cell is replaced; None if there is none."""
        try:
            stat = self.path(cell).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def write(self, record: Record) -> Path:
        """Record a cell, replacing its earlier record; raises ValueError on NaN, StoreError."""
        return self.write_text(self.path(record.cell), record.to_json() + "\n")

    def write_text(self, path: Path, text: str) -> Path:
        """Write a text file atomically."""
        with atomic(path) as file:
            file.write(text.encode())
        return path

    def write_suite(self, name: str, title: str, question: str, cells: Iterable[Cell]) -> Path:
        """Say what is planned, so that reports can show what is missing."""
        planned = [cell.facts() | {"hash": cell.hash} for cell in cells]
        suite = {"name": name, "title": title, "question": question, "cells": planned}
        return self.write_text(self.folder / "suite.json", json.dumps(suite, indent=1) + "\n")

    def add_cells(self, cells: Iterable[Cell]) -> None:
        """Add cells that belong to no suite to what is planned; a store of a suite stays as it is."""
        found = self.suite()
        if found is None or found["name"] == "cells":
            told = (found or {"cells": []})["cells"]
            earlier = [Cell(**{k: v for k, v in cell.items() if k != "hash"}) for cell in told]
            unique = {cell.hash: cell for cell in [*earlier, *cells]}
            self.prepare()
            self.write_suite("cells", "Single cells", "Asked from Python.", unique.values())

    def suite(self) -> dict[str, Any] | None:
        """What `write_suite` wrote, None if it did not; raises UserError if the file is corrupt."""
        path = self.folder / "suite.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise corrupt(path, str(error), "delete it: the next run writes it again") from error
        if not isinstance(found, dict) or not {"name", "title", "cells"} <= set(found):
            raise corrupt(path, "it is no suite", "delete it: the next run writes it again")
        return found

    # Claims: two runners on one store never compute the same cell at the same time.

    def claim(self, cell: Cell) -> Claim | None:
        """Take a cell for this process: None if it is ours now, else the living owner's claim."""
        path = self.claims / f"{cell.hash}.json"
        while not self._take(path):
            owner = self.owner(path)
            if owner is not None and not owner.dead:
                return owner
            self._bury(path)
        return None

    def release(self, cell: Cell) -> None:
        """Give a cell of this process back."""
        (self.claims / f"{cell.hash}.json").unlink(missing_ok=True)

    def owner(self, path: Path) -> Claim | None:
        """Who holds a claim file; None if it is gone."""
        try:
            return Claim(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise corrupt(
                path, f"not a claim: {error}", "delete it if no other run is at work here"
            ) from error

    def _take(self, path: Path) -> bool:
        """A hard link appears with its content, or not at all: no reader sees half a claim."""
        temporary = _temporary(path)
        try:
            temporary.write_text(json.dumps(asdict(Claim.own())), encoding="utf-8")
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            known = storage_error(error, f"claim {path}")
            if known is None:
                raise
            raise known from error
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _bury(self, path: Path) -> None:
        """Remove the claim of a dead process of this machine, one taker at a time."""
        with (self.claims / ".bury").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            owner = self.owner(path)  # another taker may have been first: then it is alive now
            if owner is not None and owner.dead:
                path.unlink()


def corrupt(path: Path, wrong: str, todo: str = "") -> UserError:
    """The error for a file of the store that cannot be read."""
    return UserError(
        f"read {path}",
        f"the file is corrupt: {wrong}",
        "nothing was changed; the other records are unaffected",
        todo or f"look at it, then move it away or delete it, and its cell is computed again: rm {path}",
    )


def seconds(record: Mapping[str, Any]) -> float:
    """Seconds a cell took, of a record's JSON."""
    phases = record.get("seconds") or {}
    return float(phases.get("total", sum(phases.values())))
