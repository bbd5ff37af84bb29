"""The state of a store as its files tell it, of a run that is at work or dead; nothing is ever written.

What is done is known from the names of the records, whether one failed from its first bytes: of 100,000
records none is parsed. Files may come and go while they are read.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from generators import registry
from generators.errors import UserError

from .at_work import Leftover, Work, closed, leftovers, listed, read_json, works_of
from .cell import NO_MODEL, Cell
from .glance import glance
from .plan import Estimates
from .progress import first_line
from .store import Store

ALL_DONE, SOME_FAILED, AT_WORK, NOBODY = 0, 3, 4, 5  # exit statuses
HOUR = 3600.0
SLACK = 5.0  # seconds by which clocks of files and of this process may differ without a word
SAMPLE, SAMPLES = 3, 600  # records read whole to learn durations: of each model and method, and of all
_HEAD = 4096  # bytes of a record that hold its cell and its status
_STATUS = re.compile(rb'\n "status": "(done|failed)",\n')  # of a whole line: no text in JSON has a line break


@dataclass(frozen=True)
class Failure:
    """A failed cell: its names, why in one line, and where its log is ("" if there is none)."""

    hash: str
    cell: str
    reason: str
    log: str


@dataclass(frozen=True)
class State:
    """What a store holds at a moment.

    Attributes:
        name: of the suite; store: the folder.
        planned: cells of the suite, the sum of the next five.
        done, failed, running, missing, corrupt: cells by what is known of them; a cell that is computed
            again counts as running.
        works: every claimed cell, those of the dead among them.
        workers: how many are at work.
        last_hour: records written within the last hour; last: seconds since the last one, None if none.
        seconds: expected to the finish with these workers (with one, if there is none); None if unknown.
        failures: of planned cells; broken: names of corrupt records and why.
        leftovers: temporary files and attempts of the dead, or of nobody knows whom.
        copied: whether it is a copy of a store elsewhere: then dates of records are those of the copy.
        ahead: seconds by which a file is dated after now at the most; 0 if the clocks agree.
        other: records of cells that are not planned.
    """

    name: str
    store: str
    planned: int
    done: int
    failed: int
    running: int
    missing: int
    corrupt: int
    works: tuple[Work, ...]
    workers: int
    last_hour: int
    last: float | None
    seconds: float | None
    failures: tuple[Failure, ...]
    broken: Mapping[str, str]
    leftovers: tuple[Leftover, ...]
    ahead: float
    other: int
    copied: bool

    @property
    def exit(self) -> int:
        """ALL_DONE, SOME_FAILED, AT_WORK or NOBODY."""
        if self.workers:
            return AT_WORK
        if self.missing or self.corrupt:
            return NOBODY
        return SOME_FAILED if self.failed else ALL_DONE

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"exit": self.exit}


@dataclass(frozen=True)
class _Head:
    """What the first bytes of a record say; `status` is "done", "failed" or "corrupt", with why."""

    stamp: tuple[int, int]
    written: float
    status: str
    why: str = ""


@dataclass
class Reader:
    """Reads the state of one store, again and again: what has not changed is not read twice.

    Args:
        folder: of the store; it is never written.
        copy: of a store elsewhere, what brings the folder, its copy, up to date; None for a folder.
        name: how the store is called; "" for the folder.
    """

    folder: Path
    copy: Callable[[], None] | None = None
    name: str = ""
    _heads: dict[str, _Head] = field(default_factory=dict)
    _suite: tuple[tuple[int, int], dict[str, Any]] | None = None
    _learned: tuple[int, Estimates] | None = None

    def look(self, now: float | None = None) -> State:
        """The state now (seconds of the epoch); raises UserError if there is no store, or no reading it."""
        if self.copy is not None:
            self.copy()
        now = time.time() if now is None else now
        suite = self._planned()
        planned = {str(cell["hash"]): cell for cell in suite["cells"]}
        heads = self._records()
        works = works_of(self.folder, planned, heads, now)
        at_work = {work.hash: work for work in works if work.working}
        kinds = {name: "running" if name in at_work else _status(heads, name) for name in planned}
        count = Counter(kinds.values())
        expected = self._expected(planned, kinds, heads, at_work)
        times = [head.written for head in heads.values()]
        failures = [name for name, kind in kinds.items() if kind == "failed"]
        return State(
            name=str(suite["name"]),
            store=self.name or str(self.folder),
            planned=len(planned),
            **{kind: count[kind] for kind in ("done", "failed", "running", "missing", "corrupt")},
            works=works,
            workers=len(at_work),
            last_hour=sum(now - HOUR <= written <= now + SLACK for written in times),
            last=max(0.0, now - max(times)) if times else None,
            seconds=expected,
            failures=tuple(filter(None, (self._failure(planned[name]) for name in failures))),
            broken={name: heads[name].why for name, kind in kinds.items() if kind == "corrupt"},
            leftovers=leftovers(self.folder, {work.hash for work in works if work.working}, now),
            ahead=_ahead(times, now),
            other=len(heads.keys() - planned.keys()),
            copied=self.copy is not None,
        )

    def _planned(self) -> dict[str, Any]:
        """suite.json, read again only when it was replaced."""
        path = self.folder / "suite.json"
        try:
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns)
            if self._suite is None or self._suite[0] != stamp:
                found = Store(self.folder).suite()
                if found is None:
                    raise FileNotFoundError
                self._suite = (stamp, found)
        except FileNotFoundError:
            raise no_store(f"status {self.folder}") from None
        except PermissionError as error:
            raise closed(path, error) from error
        return self._suite[1]

    def _records(self) -> dict[str, _Head]:
        """Hash to what the first bytes of its record say; those that vanish meanwhile are left out."""
        heads: dict[str, _Head] = {}
        for name, stat in listed(self.folder / "records", ".json"):
            hash_, stamp = name.removesuffix(".json"), (stat.st_ino, stat.st_mtime_ns)
            known = self._heads.get(hash_)
            if known is not None and known.stamp == stamp:
                heads[hash_] = known
                continue
            found = _read_head(self.folder / "records" / name, hash_)
            if found is not None:
                heads[hash_] = _Head(stamp, stat.st_mtime, *found)
        self._heads = heads
        return heads

    def _failure(self, cell: Mapping[str, Any]) -> Failure | None:
        """Why a cell failed; None if its record is gone by now."""
        name = str(cell["hash"])
        record = read_json(self.folder / "records" / f"{name}.json")
        if record is None:
            return None
        log = self.folder / str(record.get("log") or f"logs/{name}.log")
        return Failure(name, _text(cell), first_line(str(record.get("reason"))), str(log) * log.exists())

    # What is to be expected.

    def _expected(
        self,
        planned: Mapping[str, Mapping[str, Any]],
        kinds: Mapping[str, str],
        heads: Mapping[str, _Head],
        at_work: Mapping[str, Work],
    ) -> float | None:
        """Seconds to the finish; None where a cell is of a model nobody here knows."""
        left = [name for name, kind in kinds.items() if kind in ("missing", "running")]
        if not left:
            return 0.0
        known = {spec.name for spec in registry.specs()} | {NO_MODEL}
        if any(planned[name]["model"] not in known for name in left):
            return None
        learned, once = self._learn(planned, heads, known), {}
        work = 0.0
        for name in left:
            cell = planned[name]
            same = json.dumps([value for key, value in cell.items() if key not in ("hash", "seed")])
            if same not in once:
                once[same] = learned.seconds(_cell(cell))
            share = at_work[name].share if name in at_work else 0.0
            work += once[same] * (1 - (share or 0.0))
        return work / max(1, min(len(at_work), len(left)))

    def _learn(
        self, planned: Mapping[str, Mapping[str, Any]], heads: Mapping[str, _Head], known: set[str]
    ) -> Estimates:
        """Durations of the newest records of each model and method, learned anew when a hundredth is new."""
        if self._learned is not None and abs(len(heads) - self._learned[0]) <= len(heads) // 100:
            return self._learned[1]
        newest: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
        for name, head in heads.items():
            if head.status == "done" and name in planned and planned[name]["model"] in known:
                newest[planned[name]["model"], planned[name]["method"]].append((head.written, name))
        chosen = [name for group in newest.values() for _, name in sorted(group, reverse=True)[:SAMPLE]]
        learned = Estimates()
        for name in chosen[:SAMPLES]:
            with suppress(OSError, ValueError):  # gone by now, or corrupt
                learned.learn(_cell(planned[name]), glance(self.folder / "records" / f"{name}.json").seconds)
        self._learned = (len(heads), learned)
        return learned


def _status(heads: Mapping[str, _Head], name: str) -> str:
    return heads[name].status if name in heads else "missing"


def _cell(facts: Mapping[str, Any]) -> Cell:
    return Cell(**{name: value for name, value in facts.items() if name not in ("hash", "impossible")})


def _text(facts: Mapping[str, Any]) -> str:
    return " / ".join([*(str(facts.get(k, "")) for k in ("model", "intrinsic", "method")),
                       f"seed {facts.get('seed')}"])  # fmt: skip


def _ahead(times: Iterable[float], now: float) -> float:
    """Seconds by which the newest file is dated after now, 0 if that is within SLACK."""
    found = max(times, default=now) - now
    return found if found > SLACK else 0.0


def no_store(asked: str) -> UserError:
    """The error for what no store is there for."""
    return UserError(
        asked,
        "there is no store with a suite.json",
        "a store is the folder that a run fills, by default results/SUITE",
        "intrinsic-bench run SUITE",
    )


def _read_head(path: Path, name: str) -> tuple[str, str] | None:
    """Status of a record, and why it is corrupt; None if it is gone.

    Its beginning and its end are read: a record that is cut off or of another cell is noticed; one that is
    damaged in between is not (`doctor` reads records whole).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        return "corrupt", os.strerror(error.errno or 0)
    try:
        size = os.fstat(descriptor).st_size
        head, end = os.read(descriptor, _HEAD), os.pread(descriptor, 3, max(0, size - 3))
    except OSError as error:
        return "corrupt", os.strerror(error.errno or 0)
    finally:
        os.close(descriptor)
    found = _STATUS.search(head)
    if end == b"\n}\n" and found and head.startswith(b'{\n "hash": "%s",' % name.encode()):
        return found[1].decode(), ""
    return _read_whole(path, name)


def _read_whole(path: Path, name: str) -> tuple[str, str] | None:
    """As _read_head, of a record that is not laid out as the store writes it."""
    try:
        record = Store(path.parent.parent).read(name)
    except UserError as error:
        return "corrupt", error.wrong
    if record is None:
        return None
    known = record.status in ("done", "failed")
    return (record.status, "") if known else ("corrupt", f"its status is {record.status!r}")
