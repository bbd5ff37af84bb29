"""A store at a URL (s3://bucket/folder, gs://, file://, ...): the same files, and a mirror on this disk.

What is read is read in the mirror, after what has changed was fetched; what is written goes to both. A
record is uploaded last, after all it names, and created rather than replaced where the file system knows
that (object stores do): of two who computed the same cell the first stays. What a record names carries its
writer in its name, so the later one never touches the files of the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from generators.plain import parse_json

from .cell import Cell, Record
from .claims import Claim
from .files import atomic, remove, sync_all, temporary_name
from .place import Place
from .record_shape import check_claim
from .store import FOLDERS, Store, corrupt

_FRESH = 2.0  # seconds a listing is believed
_AT_ONCE = 200  # files that are asked for together


def mirror_of(url: str) -> Path:
    """Folder in the user's cache that mirrors a store at a URL."""
    from .cache import cache_folder

    name = re.sub(r"[^\w.-]+", "-", url.partition("://")[2]).strip("-")[-60:]
    return cache_folder() / "stores" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


class RemoteStore(Store):
    """A store at a URL.

    Args:
        url: as fsspec knows it.
        mirror: folder of the copy on this disk; None for one in the user's cache. Processes of one machine
            share it.
    """

    def __init__(self, url: str, mirror: str | Path | None = None) -> None:
        super().__init__(mirror or mirror_of(url))
        self.url, self.place = url, Place(url)
        for name in (*FOLDERS, ".stamps"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._listing: tuple[float, dict[str, tuple[int, int]]] = (-_FRESH, {})

    @property
    def address(self) -> str:
        """Its URL."""
        return self.url

    # Reading: the mirror, brought up to date.

    def prepare(self) -> None:
        """Make the mirror, fetch every record, and sweep what killed writers left."""
        super().prepare()
        self.pull()

    def pull(self, *folders: str) -> None:
        """Fetch what the mirror lacks or has in an older form.

        Args:
            folders: "records" and suite.json if none is named; "maps", "samples", "adapters" fetch what the
                records name of them, "progress" and "logs" what is there.
        """
        for folder in folders or ("records",):
            if folder == "records":
                self._refresh("suite.json", self.place.list("").get("suite.json"))
            if folder in ("maps", "samples", "adapters"):
                self._pull_named(folder)
            else:
                self._pull_all(folder)

    def _pull_all(self, folder: str) -> None:
        listed = self._records() if folder == "records" else self.place.list(folder)
        told = {f"{folder}/{name}": stamp for name, stamp in listed.items() if not name.startswith(".")}
        stale = [name for name, stamp in told.items() if not self._has(name, stamp)]
        for first in range(0, len(stale), _AT_ONCE):
            for name, data in self.place.get_all(stale[first : first + _AT_ONCE]).items():
                self._keep(name, data, told[name])
        for path in (self.folder / folder).glob("*.json"):
            if path.name not in listed:
                path.unlink(missing_ok=True)  # deleted there, to be computed again

    def _pull_named(self, folder: str) -> None:
        """Of one kind, what records name; such files never change, their names do."""
        for record in self.all():
            kept = {"maps": record.maps, "samples": record.samples, "adapters": record.adapter}[folder]
            if kept is not None:
                self.fetch(kept)

    def fetch(self, kept: str) -> Path:
        """A file or folder that a record names, in the mirror; raises FileNotFoundError if it is nowhere."""
        path = self.folder / kept
        if not path.exists():
            part = temporary_name(path)
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.place.download(kept, part)
                sync_all(part)  # once it is there it is never fetched again
                os.replace(part, path)
            finally:
                remove(part)
        return path

    def _records(self) -> dict[str, tuple[int, int]]:
        """Stamps of the records, at most _FRESH old."""
        at, listed = self._listing
        if time.monotonic() - at > _FRESH:
            listed = self.place.list("records")
            self._listing = (time.monotonic(), listed)
        return listed

    def _refresh(self, name: str, stamp: tuple[int, int] | None) -> None:
        """Fetch one file unless the mirror has it with this stamp; remove it there if there is none."""
        if stamp is None:
            (self.folder / name).unlink(missing_ok=True)
        elif not self._has(name, stamp):
            try:
                self._keep(name, self.place.get(name), stamp)
            except FileNotFoundError:  # gone since it was listed
                (self.folder / name).unlink(missing_ok=True)

    def _has(self, name: str, stamp: tuple[int, int]) -> bool:
        """Whether the mirror has a file as it is there."""
        try:
            kept = (self.folder / ".stamps" / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        return kept == json.dumps(stamp) and (self.folder / name).exists()

    def _keep(self, name: str, data: bytes, stamp: tuple[int, int]) -> None:
        """Write a file of the mirror, and its stamp: they belong together."""
        with self._locked(self.folder / ".stamps" / ".lock"):
            for path, content in ((name, data), (f".stamps/{name}", json.dumps(stamp).encode())):
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                with atomic(self.folder / path) as file:
                    file.write(content)

    def stamp(self, cell: Cell) -> tuple[int, int] | None:
        """What changes whenever the record of a cell is replaced there; None if there is none."""
        return self.place.stamp(f"records/{cell.hash}.json")

    def stamps(self, cells: Iterable[Cell]) -> dict[str, tuple[int, int] | None]:
        """Hash to stamp of many cells, from one listing."""
        listed = self._records()
        return {cell.hash: listed.get(f"{cell.hash}.json") for cell in cells}

    def read(self, cell: Cell | str) -> Record | None:
        """The record of a cell, None if there is none; raises UserError if the file is corrupt."""
        name = self.path(cell).name
        self._refresh(f"records/{name}", self._records().get(name))
        return super().read(cell)

    def all(self) -> list[Record]:
        """Every record, in the order of the hashes."""
        self.pull("records")
        return super().all()

    def suite(self) -> dict[str, Any] | None:
        """What `write_suite` wrote, None if it did not."""
        self._refresh("suite.json", self.place.list("").get("suite.json"))
        return super().suite()

    # Writing: here and there.

    def write_text(self, path: Path, text: str) -> Path:
        """Write a text file, here and there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        super().write_text(path, text)
        self.place.put(path.relative_to(self.folder).as_posix(), text.encode())
        self._listing = (-_FRESH, {})
        return path

    def append_log(self, cell: Cell, text: str) -> None:
        """Add to the log of a cell: to what this machine wrote while it was computed, or else another."""
        if not self.log(cell).exists():
            name = f"logs/{self.log(cell).name}"
            self._refresh(name, self.place.list("logs").get(self.log(cell).name))
        super().append_log(cell, text)
        self._put_log(cell)

    def forget_log(self, cell: Cell) -> None:
        """Remove the log of a cell, here and there."""
        super().forget_log(cell)
        self.place.delete(f"logs/{self.log(cell).name}")

    def _put_log(self, cell: Cell) -> None:
        if self.log(cell).exists():
            self.place.put(f"logs/{self.log(cell).name}", self.log(cell).read_bytes())

    def publish(self, attempt: Store, record: Record, before: tuple[int, int] | None) -> bool:
        """Upload an attempt's files, then the record: the first writer wins.

        What is named after the cell alone here gets its writer's name, too: nobody else ever writes it.

        Args:
            before: stamp of the cell's record when the attempt began.

        Returns:
            False, with nothing left behind, if another has written the record since.
        """
        standing = self._standing(record.cell)
        if standing is not None and standing[0] != before and standing[1].status == "done":
            return False
        named = _signed(record, secrets.token_hex(4))
        files = list(zip(_kept(record), _kept(named), strict=True))
        for kept, name in files:
            self.place.upload(attempt.folder / kept, name)
        self._put_log(record.cell)  # the record names it, too
        if not self._enter(named, standing and standing[0]):
            for _, name in files:
                self.place.delete(name)
            return False
        for kept, name in files:
            os.replace(attempt.folder / kept, self.folder / name)
        for kept in _kept(standing[1]) if standing else ():
            self.place.delete(kept)
        return True

    def _standing(self, cell: Cell) -> tuple[tuple[int, int], Record] | None:
        """Stamp of the record that is there now, and the record."""
        stamp = self.stamp(cell)
        self._refresh(f"records/{cell.hash}.json", stamp)
        record = super().read(cell)
        return None if stamp is None or record is None else (stamp, record)

    def _enter(self, record: Record, over: tuple[int, int] | None) -> bool:
        """Write a record where there is none, or over the one with this stamp; whether it was so."""
        path, data = f"records/{self.path(record.cell).name}", (record.to_json() + "\n").encode()
        won = True
        if over is None:
            won = self.place.create(path, data)
        elif self.stamp(record.cell) == over:
            self.place.put(path, data)
        else:
            won = False
        self._listing = (-_FRESH, {})
        return won

    def _copy(self, source: Path, target: Path) -> bool:
        copied = super()._copy(source, target)
        if copied:
            self.place.upload(target, target.relative_to(self.folder).as_posix())
        return copied

    def beat(self, cell: Cell, share: float, phase: str, since: str, moved: str) -> None:
        """Say how far a cell is; that this cannot be written is said where a record cannot."""
        super().beat(cell, share, phase, since, moved)
        with suppress(OSError):
            name = f"progress/{cell.hash}.json"
            self.place.write_once(name, (self.folder / name).read_bytes())

    @contextmanager
    def beating(self, cell: Cell) -> Iterator[None]:
        """Upload the log of a cell when it ends, and take away what `beat` wrote."""
        try:
            with super().beating(cell):
                yield
        finally:
            self._put_log(cell)
            self.place.delete(f"progress/{cell.hash}.json")

    # Claims: there, created by one alone.

    def sweep(self) -> None:
        """Remove what killed processes of this machine left, here and there."""
        self.pull("progress", "claims")
        told = sorted(self.progress.glob("*.json"))
        super().sweep()
        for path in told:
            if not path.exists():
                self.place.delete(f"progress/{path.name}")
        self.place.sweep()

    def release(self, cell: Cell) -> None:
        """Give a cell of this process back."""
        super().release(cell)
        self._listing = (-_FRESH, {})  # what this process gave out was recorded by another

    def pulse(self) -> None:
        """Say that this process is alive."""
        super().pulse()
        name = Claim.own().pulse
        with suppress(OSError):
            self.place.write_once(f"claims/{name}", (self.claims / name).read_bytes())

    def pulse_of(self, owner: Claim) -> str:
        """What a process last said of its being alive, "" if it says nothing (any more)."""
        try:
            return self.place.get(f"claims/{owner.pulse}")[:99].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _forget_pulse(self, name: str) -> None:
        super()._forget_pulse(name)
        self.place.delete(f"claims/{name}")

    def _pulses(self) -> list[str]:
        return [name for name in self.place.list("claims") if name.endswith(".pulse")]

    def owner(self, path: Path) -> Claim | None:
        """Who holds a claim; None if it is gone."""
        try:
            said = parse_json(self.place.get(f"claims/{path.name}"))
            check_claim(said)
            return Claim(**said)
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            todo = f"delete {self.url}/claims/{path.name} if no other run is at work there"
            raise corrupt(path, f"not a claim: {error}", todo) from error

    def _take(self, path: Path) -> bool:
        taken = self.place.create(f"claims/{path.name}", json.dumps(asdict(Claim.own())).encode())
        self._listing = (-_FRESH, {})  # its last owner may have recorded the cell just now
        return taken

    def _remove_claim(self, path: Path) -> None:
        self.place.delete(f"claims/{path.name}")
        path.unlink(missing_ok=True)


def _kept(record: Record) -> list[str]:
    """What a record names, relative to the store."""
    return [kept for kept in (record.maps, record.samples, record.adapter) if kept is not None]


def _signed(record: Record, writer: str) -> Record:
    """The record with its writer's name in those of its files."""

    def sign(kept: str | None) -> str | None:
        path = PurePosixPath(kept or "")
        return kept and str(path.with_name(f"{path.stem}-{writer}{path.suffix}"))

    return replace(record, maps=sign(record.maps), samples=sign(record.samples), adapter=sign(record.adapter))
