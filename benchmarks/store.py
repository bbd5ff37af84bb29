"""The store: one folder, one file per record; that a file is there is the only state there is.

records/HASH.json, maps/HASH.npz, samples/HASH.png, adapters/HASH/, logs/HASH.log, claims/HASH.json
and suite.json; progress/HASH.json and attempts/HASH.HOST.PID/ of cells that are being computed.
Every file is written under a temporary name in its own folder, synced and renamed, so a run that
is killed, or a disk that fills, leaves only whole files behind.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from generators.errors import UserError
from generators.plain import parse_json

from .cell import Cell, Record
from .claims import Claim, alive, is_gone, machine, now_text
from .files import (
    StoreError,
    atomic,
    atomic_folder,
    discard,
    is_forgotten,
    remove,
    storage_error,
    sweep_temporary,
    sync_all,
    sync_folder,
    temporary_name,
)
from .record_shape import check_claim, check_suite

FOLDERS = ("records", "maps", "samples", "adapters", "logs", "claims", "progress")
ATTEMPTS = "attempts"  # beside them, while cells are computed
_TRIES = 100  # to make a folder that others remove
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Store:
    """A folder of records, with the maps, samples, adapters and logs that belong to them.

    Args:
        folder: made on `prepare`; reading one that is not there finds no records.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.records, self.maps, self.samples, self.adapters, self.logs, self.claims, self.progress = (
            self.folder / name for name in FOLDERS
        )

    @property
    def address(self) -> str:
        """What `store_at` makes this store of, in another process."""
        return str(self.folder)

    @property
    def root(self) -> Store:
        """The store that an attempt's files are for: this one, if it is none."""
        return self

    def prepare(self) -> None:
        """Make the folders and sweep what killed writers left; raises StoreError if that cannot be."""
        try:
            for name in FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise (
                storage_error(error, f"make the store {self.folder}", option="--store DIR") or error
            ) from error
        self.sweep()

    def sweep(self) -> None:
        """Remove temporary files, attempts, claims and pulses of processes of this machine that are gone.

        Of other machines what nobody has touched for a week: attempts that have lost and, where the store
        is a folder, pulses.
        """
        sweep_temporary(self.folder)
        for path in (self.folder / ATTEMPTS).glob("*"):
            cell, _, writer = path.name.partition(".")
            if is_gone(writer) or (is_forgotten(path) and self._has_lost(cell)):
                discard(path)
        self._forget_attempts()
        for path in self.progress.glob("*.json"):
            if not _at_work(path):
                discard(path)
        for path in self.claims.glob("*.json"):
            owner = self.owner(path)
            if owner is not None and owner.dead:
                self._bury(path)
        for name in self._pulses():
            if is_gone(name[1:].removesuffix(".pulse")) or is_forgotten(self.claims / name):
                self._forget_pulse(name)

    def _has_lost(self, cell: str) -> bool:
        """Whether an attempt comes too late: the cell has its number, and no sign of life that is new."""
        sign = self.progress / f"{cell}.json"
        with suppress(UserError):  # a record that cannot be read is not the sweep's business
            return self._is_done(cell) and (is_forgotten(sign) or not sign.exists())
        return False

    def pull(self, *folders: str) -> None:
        """Bring the folder up to date with what it mirrors: nothing, if it is no mirror (see .remote)."""

    def path(self, cell: Cell | str) -> Path:
        """Where the record of a cell, or of a hash, is."""
        return self.records / f"{cell if isinstance(cell, str) else cell.hash}.json"

    def log(self, cell: Cell) -> Path:
        """Where everything is that was written while a cell was computed, and why it failed if it did."""
        return self.logs / f"{cell.hash}.log"

    def append_log(self, cell: Cell, text: str) -> None:
        """Add to the log of a cell; raises StoreError if it cannot be written."""
        try:
            with self.log(cell).open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            raise storage_error(error, f"write {self.log(cell)}") or error from error

    def forget_log(self, cell: Cell) -> None:
        """Remove the log of a cell; raises StoreError if that cannot be."""
        try:
            self.log(cell).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, f"remove {self.log(cell)}") or error from error

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
            for name in ("maps", "samples", "adapter", "log"):
                kept = getattr(record, name)
                if kept is not None and not self._copy(other.folder / kept, self.folder / kept):
                    setattr(record, name, None)
            self.write(record)
            return other
        return None

    def _copy(self, source: Path, target: Path) -> bool:
        """A file or a folder; False if it is not there: a store in git is without its adapters, as told."""
        if source.is_dir():
            with atomic_folder(target) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
        elif source.is_file():
            with atomic(target) as file:
                file.write(source.read_bytes())
        return target.exists()

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

    def stamps(self, cells: Iterable[Cell]) -> dict[str, tuple[int, int] | None]:
        """Hash to stamp of many cells."""
        return {cell.hash: self.stamp(cell) for cell in cells}

    def write(self, record: Record) -> Path:
        """Record a cell, replacing its earlier record; raises ValueError on NaN, StoreError."""
        return self.write_text(self.path(record.cell), record.to_json() + "\n")

    def write_text(self, path: Path, text: str) -> Path:
        """Write a text file atomically."""
        with atomic(path) as file:
            file.write(text.encode())
        return path

    # Attempts: what is made of a cell has no name before its record is there.

    @contextmanager
    def attempt(self, cell: Cell) -> Iterator[Attempt]:
        """A private folder for what this process makes of a cell; gone when it is left."""
        own = Attempt(self, cell)
        remove(own.folder)
        own.prepare()
        try:
            yield own
        finally:
            discard(own.folder)
            self._forget_attempts()

    def _forget_attempts(self) -> None:
        with suppress(OSError):  # another attempt is in it, or it is gone
            (self.folder / ATTEMPTS).rmdir()

    def publish(self, attempt: Store, record: Record, before: tuple[int, int] | None) -> bool:
        """Move an attempt's files to their places, then write the record: the first writer wins.

        Args:
            before: stamp of the cell's record when the attempt began.

        Returns:
            False, with nothing moved, if another has written the record since.
        """
        with self._locked(self.records / ".publish"):
            if self.stamp(record.cell) != before and self._is_done(record.cell):
                return False
            made = [kept for kept in (record.maps, record.samples, record.adapter) if kept is not None]
            with atomic(self.path(record.cell)) as file:
                file.write((record.to_json() + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
                if made:  # from here on there is room for all; no record names what another attempt made
                    discard(self.path(record.cell))
                for kept in made:
                    _move(attempt.folder / kept, self.folder / kept)
        return True

    def _is_done(self, cell: Cell | str) -> bool:
        record = self.read(cell)
        return record is not None and record.status == "done"

    def beat(self, cell: Cell, share: float, phase: str, since: str, moved: str) -> None:
        """Say in the store how far a cell is, for whoever looks; that a disk is full is not said here.

        Args:
            since: when it began; moved: when it last reported progress.
        """
        named: dict[str, Any] = {"hash": cell.hash, "model": cell.model, "intrinsic": cell.intrinsic}
        named |= {"method": cell.method, "seed": cell.seed, "host": machine(), "pid": os.getpid()}
        state = named | {"share": share, "phase": phase, "since": since, "moved": moved, "at": now_text()}
        _tell(self.progress / f"{cell.hash}.json", json.dumps(state))

    @contextmanager
    def beating(self, cell: Cell) -> Iterator[None]:
        """Take away what `beat` wrote when a cell ends."""
        try:
            yield
        finally:
            path = self.progress / f"{cell.hash}.json"
            if _at_work(path, os.getpid()):
                discard(path)

    def write_suite(self, name: str, title: str, question: str, cells: Iterable[Cell]) -> Path:
        """Say what is planned, so that reports can show what is missing."""
        planned = [cell.facts() | {"hash": cell.hash} for cell in cells]
        suite = {"name": name, "title": title, "question": question, "cells": planned}
        return self.write_text(self.folder / "suite.json", json.dumps(suite, indent=1) + "\n")

    def add_cells(self, cells: Iterable[Cell]) -> None:
        """Add cells that belong to no suite to what is planned; a store of a suite stays as it is."""
        self.prepare()
        with self._locked(self.records / ".publish"):
            found = self.suite()
            if found is None or found["name"] == "cells":
                told = (found or {"cells": []})["cells"]
                earlier = [Cell(**{k: v for k, v in cell.items() if k != "hash"}) for cell in told]
                unique = {cell.hash: cell for cell in [*earlier, *cells]}
                self.write_suite("cells", "Single cells", "Asked from Python.", unique.values())

    def suite(self) -> dict[str, Any] | None:
        """What `write_suite` wrote, None if it did not; raises UserError if the file is corrupt."""
        path = self.folder / "suite.json"
        if not path.exists():
            return None
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
            check_suite(found)
        except ValueError as error:
            raise corrupt(path, str(error), "delete it: the next run writes it again") from error
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
        """Give a cell of this process back; it is another's if this one was believed dead."""
        path = self.claims / f"{cell.hash}.json"
        try:
            owner = self.owner(path)
        except StoreError:  # the store cannot be reached
            raise
        except UserError:  # a claim that cannot be read is not ours
            return
        if owner is not None and owner.mine:
            self._remove_claim(path)

    def is_of(self, cell: Cell, owner: Claim) -> bool:
        """Whether a cell is claimed, and by this owner."""
        return self.owner(self.claims / f"{cell.hash}.json") == owner

    def take_from(self, cell: Cell, owner: Claim) -> None:
        """Remove the claim of a runner that is believed dead, if it is still its, and its last pulse."""
        self._bury(self.claims / f"{cell.hash}.json", owner)
        self._forget_pulse(owner.pulse)

    def pulse(self) -> None:
        """Say that this process is alive; nothing is said on a full disk."""
        own = Claim.own()
        _tell(self.claims / own.pulse, f"{own.started} {time.monotonic_ns()}")

    def pulse_of(self, owner: Claim) -> str:
        """What a process last said of its being alive, "" if it says nothing (any more)."""
        try:
            return (self.claims / owner.pulse).read_bytes()[:99].decode(errors="replace")
        except OSError:
            return ""

    def end_pulse(self) -> None:
        """Say nothing any more."""
        self._forget_pulse(Claim.own().pulse)

    def _forget_pulse(self, name: str) -> None:
        discard(self.claims / name)

    def _pulses(self) -> list[str]:
        """Names of all pulses."""
        return [path.name for path in self.claims.glob(".*.pulse")]

    def owner(self, path: Path) -> Claim | None:
        """Who holds a claim file; None if it is gone."""
        try:
            said = parse_json(path.read_text(encoding="utf-8"))
            check_claim(said)
            return Claim(**said)
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise corrupt(
                path, f"not a claim: {error}", "delete it if no other run is at work here"
            ) from error

    def _take(self, path: Path) -> bool:
        """A hard link appears with its content, or not at all: no reader sees half a claim."""
        temporary = temporary_name(path)
        try:
            temporary.write_text(json.dumps(asdict(Claim.own())), encoding="utf-8")
            sync_all(temporary)
            os.link(temporary, path)
        except FileExistsError:
            # Where the answer to a link that was made is lost (NFS), the second asking finds it: open(2).
            return temporary.stat().st_nlink == 2
        except OSError as error:
            known = storage_error(error, f"claim {path}")
            if known is None:
                raise
            raise known from error
        finally:
            discard(temporary)
        return True

    def _bury(self, path: Path, lost: Claim | None = None) -> None:
        """Remove the claim of a dead process of this machine, or a lost one, one taker at a time."""
        with self._locked(self.claims / ".bury"):
            owner = self.owner(path)  # another taker may have been first: then it is alive now
            if owner is not None and (owner.dead or owner == lost):
                self._remove_claim(path)

    def _remove_claim(self, path: Path) -> None:
        discard(path)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One process at a time; on a file system without locks, by its rename alone."""
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            yield


class Attempt(Store):
    """What one process makes of a cell, until it is published."""

    def __init__(self, root: Store, cell: Cell) -> None:
        super().__init__(root.folder / ATTEMPTS / f"{cell.hash}.{machine()}.{os.getpid()}")
        self._root = root

    @property
    def root(self) -> Store:
        """The store its files are for."""
        return self._root

    def prepare(self) -> None:
        """Make the folders that files are made in; raises StoreError if that cannot be."""
        for again in reversed(range(_TRIES)):
            try:
                for folder in (self.maps, self.samples, self.adapters):
                    folder.mkdir(parents=True, exist_ok=True)
                return
            except OSError as error:
                # Another process may remove the folder of all attempts while it is empty.
                if not (again and isinstance(error, FileNotFoundError | FileExistsError)):
                    raise storage_error(error, f"make {self.folder}") or error from error


def store_at(where: str | Path) -> Store:
    """The store at a path, or at a URL that fsspec knows (s3://bucket/folder)."""
    if "://" not in str(where):
        return Store(where)
    from .remote import RemoteStore

    return RemoteStore(str(where))


def _tell(path: Path, text: str) -> None:
    """Write what is old in a minute: whole or not at all, but not worth an error nor a wait for the disk."""
    temporary = temporary_name(path)
    with suppress(OSError):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _move(source: Path, target: Path) -> None:
    """Put a file or a folder in its place, over what was there; on the disk when it returns."""
    if source.is_dir() and target.is_dir():
        remove(target)
    os.replace(source, target)
    sync_folder(target.parent)


def _at_work(path: Path, pid: int | None = None) -> bool:
    """Whether a progress file is a living process's (of this machine, or of another: nothing is known)."""
    try:
        said = parse_json(path.read_text(encoding="utf-8"))
        host, number = said["host"], said["pid"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if type(number) is not int or not 0 < number < 2**31:
        return False
    if pid is not None:
        return host == machine() and number == pid
    return host != machine() or alive(number)


def corrupt(path: Path, wrong: str, todo: str = "") -> UserError:
    """The error for a file of the store that cannot be read."""
    return UserError(
        f"read {path}",
        f"the file is corrupt: {wrong}",
        "nothing was changed; the other records are unaffected",
        todo or f"look at it, then move it away or delete it, and its cell is computed again: rm {path}",
    )
