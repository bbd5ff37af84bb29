"""The worker process: one thread, one cell after the other, until its runner closes the connection.

It is started as a fresh interpreter (never a fork, and without importing the runner's main module),
so a cell gives the same numbers whatever ran before it, and however many workers there are.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from generators.errors import UserError

from .cell import Cell, Record
from .claims import machine, now_text
from .engine import Message
from .files import StoreError, storage_error
from .store import Store, store_at
from .trackers import begin

THREADS = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
}
# The GNU C library gives large blocks back to the system when they are freed, and takes them anew in the next
# step: pages that have to be cleared again. A worker keeps them; its peak is the same.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
Execute = Callable[..., Record]  # execute(cell, store, progress, device)
_QUIET = 0.1  # seconds between two reports of progress
_BEAT = 2.0  # seconds between two reports of progress in the store
LIFE = 20.0  # seconds between two signs of life where there is no progress to report


@dataclass(frozen=True)
class Settings:
    """How cells are computed, whichever machine does it.

    Attributes:
        execute: "module:function" that does the work.
        device: as torch names it.
        deterministic: whether operations that may differ from run to run are refused or replaced.
        track: a tracker's name (see benchmarks.trackers), "" for none.
        patience: seconds without a sign of life after which a cell has failed; 0 to judge by what is
            expected of the cell.
    """

    execute: str = "benchmarks.execute:execute"
    device: str = "cpu"
    deterministic: bool = False
    track: str = ""
    patience: float = 0.0

    def to_json(self) -> str:
        """As text, for another process; Settings(**json.loads(text)) is the inverse."""
        return json.dumps(asdict(self))


def environment(settings: Settings) -> dict[str, str]:
    """Variables that a process must be started with to compute cells."""
    if not settings.deterministic:
        return THREADS | MEMORY
    from probes.determinism import ENVIRONMENT

    return THREADS | MEMORY | ENVIRONMENT


def set_up(settings: Settings) -> None:
    """Make this process ready to compute cells; more than once does no harm."""
    if settings.deterministic:
        from probes.determinism import deterministic

        deterministic()


class Diverged(Exception):
    """A cell came to no number: NaN or Inf among its scores, or no scores at all."""


def find(reference: str) -> Execute:
    """The function of "module:function"."""
    module, _, name = reference.partition(":")
    found: Execute = getattr(importlib.import_module(module), name)
    return found


def check(record: Record, cell: Cell) -> None:
    """Raise unless a record is what came of this cell: done, with finite scores."""
    if record.cell.hash != cell.hash:
        raise RuntimeError(f"the record is of the cell {record.cell.hash}, asked was {cell.hash}")
    if record.status != "done" or not record.scores:
        raise Diverged(f"no scores (status {record.status!r} {record.reason})".rstrip())
    values = {name: [value] for name, value in record.scores.items()}
    for name, found in [*values.items(), *record.per_image.items()]:
        wrong = [value for value in found if not math.isfinite(value)]
        if wrong:
            raise Diverged(f"{name} is {wrong[0]} ({len(wrong)} of {len(found)} values)")


def reason(error: BaseException) -> str:
    """Why a cell failed, for its record: the four parts, or type and message."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def death(status: int) -> str:
    """Why a worker is gone, of its exit status."""
    if status >= 0:
        return f"the worker process ended with exit status {status}"
    name = signal.Signals(-status).name
    memory = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return f"the worker process was killed by {name}{memory}"


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Everything this process writes to its standard output and error goes to the end of a file.

    The descriptors are turned, so that what compiled code and a crash (faulthandler) say is there, too.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(log, 1), os.dup2(log, 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, old in enumerate(before, start=1):
            os.dup2(old, number)
            os.close(old)
        os.close(log)


class Beat:
    """What is told while a cell is computed: to its runner, to its log, and to whoever reads the store.

    While it is entered the store hears of the process again and again, however long a phase takes in which
    nothing is reported: that is a sign of life, though none of progress.

    Args:
        tell: takes a message for the runner.
    """

    def __init__(self, cell: Cell, store: Store, tell: Callable[[Message], None]) -> None:
        self.cell, self.store, self.tell = cell, store, tell
        self.since, self.began = now_text(), time.monotonic()
        self.told = self.wrote = -math.inf
        self.share, self.phase, self.moved = 0.0, "", self.since
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __call__(self, share: float, phase: str) -> None:
        """Report how far the cell is, 0 to 1, and what it is at; not too often."""
        now = time.monotonic()
        if phase != self.phase:
            self.told, self.wrote = -math.inf, -math.inf
            print(f"{now - self.began:8.1f} s  {phase}", flush=True)
        self.share, self.phase, self.moved = float(share), str(phase), now_text()
        if now - self.told >= _QUIET:
            self.told = now
            self.tell({"kind": "progress", "share": self.share, "phase": self.phase})
        if now - self.wrote >= _BEAT:
            self._write()

    def _write(self) -> None:
        with self._lock:
            self.wrote = time.monotonic()
            self.store.beat(self.cell, self.share, self.phase, self.since, self.moved)

    def _live(self) -> None:
        while not self._end.wait(LIFE):
            if time.monotonic() - self.wrote >= LIFE:
                self._write()

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join()


def _cut(times: int) -> None:
    """Let the next cell begin with fewer pictures at once; what never loaded a model has nothing to cut."""
    if times > 1 or "probes.memory" in sys.modules:
        from probes import memory

        memory.cut(times)


def compute(
    cell: Cell, store: Store, settings: Settings, tell: Callable[[Message], None], cut: int = 1
) -> Record:
    """One cell to one record in the store; raises whatever went wrong.

    What it makes lies in a folder of this attempt until the record is there: a process that dies, or comes
    after another that was given the same cell, leaves nothing behind and replaces nothing.

    Args:
        tell: takes messages of the kind "progress".
        cut: how many times fewer pictures than planned are in memory at once, as the record then says.
    """
    _cut(cut)
    start, before = time.perf_counter(), store.stamp(cell)
    beat = Beat(cell, store, tell)
    with store.attempt(cell) as own, store.beating(cell), beat, logging_to(store.log(cell)):
        print(f"{cell} ({cell.hash}), process {os.getpid()} on {machine()}, {beat.since}")
        beat(0.0, "starting")
        with begin(cell, store, settings.track):
            record = find(settings.execute)(cell, own, beat, settings.device)
        check(record, cell)
        record.seconds.setdefault("total", round(time.perf_counter() - start, 3))
        record.log = f"logs/{store.log(cell).name}"
        if settings.deterministic:
            record.environment["deterministic"] = True
        if not store.publish(own, record, before):
            print("another was faster: its record stays")
    return record


def failure(error: Exception, cell: Cell, device: str) -> Message:
    """What is told of an error: the cell failed, or the store cannot be written."""
    known = storage_error(error, f"compute {cell}", writing=False) if isinstance(error, OSError) else None
    fatal = known or (error if isinstance(error, StoreError) else None)
    if fatal:
        return {"kind": "fatal", "parts": [fatal.asked, fatal.wrong, fatal.known, fatal.todo]}
    # After these, memory may be short or the device unusable: the next cell gets a new process.
    retire = isinstance(error, MemoryError) or (
        device != "cpu" and not isinstance(error, UserError | Diverged)
    )
    text = "".join(traceback.format_exception(error))
    return {"kind": "failed", "reason": reason(error), "traceback": text, "retire": retire}


class Worker:
    """The worker's side of the connection.

    Args:
        connection: to the runner; each message is one JSON text.
        store: where records go.
        settings: how cells are computed.
    """

    def __init__(self, connection: Connection, store: Store, settings: Settings) -> None:
        self.connection, self.store, self.settings = connection, store, settings
        self.jobs: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen(self) -> None:
        """Take in jobs; when the runner is gone, however it went, so is this process."""
        while True:
            try:
                self.jobs.put(json.loads(self.connection.recv_bytes()))
            except (EOFError, OSError):
                os._exit(0)  # in the middle of a cell perhaps: nothing half-written has a name

    def say(self, message: Message) -> None:
        """Send one message to the runner."""
        self.connection.send_bytes(json.dumps(message).encode())

    def serve(self) -> None:
        """Compute cells until told otherwise; what a cell raises is its own failure, not the worker's."""
        while True:
            job = self.jobs.get()
            cell = Cell(**job["cell"])
            try:
                record = compute(cell, self.store, self.settings, self.say, job["cut"])
            except Exception as error:
                self.say(failure(error, cell, self.settings.device))
            else:
                memory = record.environment.get("peak_memory_mib")
                self.say({"kind": "done", "seconds": record.seconds["total"], "memory": memory})


def main(descriptor: int, address: str, settings: str) -> None:
    """Entry point of the process; `descriptor` is the worker's end of a socket pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's: it closes the connection
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    asked = Settings(**json.loads(settings))
    set_up(asked)
    worker = Worker(Connection(descriptor), store_at(address), asked)
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.serve()
