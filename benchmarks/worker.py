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
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from generators.errors import UserError

from .cell import Cell, Record
from .store import Store, StoreError, storage_error

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
Execute = Callable[..., Record]  # execute(cell, store, progress, device)
_QUIET = 0.1  # seconds between two reports of progress


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


class Worker:
    """The worker's side of the connection.

    Args:
        connection: to the runner; each message is one JSON text.
        store: where records go.
        execute: "module:function" that does the work.
        device: as torch names it.
    """

    def __init__(self, connection: Connection, store: Store, execute: str, device: str) -> None:
        self.connection, self.store, self.execute, self.device = connection, store, execute, device
        self.jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self.last = 0.0

    def listen(self) -> None:
        """Take in jobs; when the runner is gone, however it went, so is this process."""
        while True:
            try:
                self.jobs.put(json.loads(self.connection.recv_bytes()))
            except (EOFError, OSError):
                os._exit(0)  # in the middle of a cell perhaps: nothing half-written has a name

    def say(self, **message: Any) -> None:
        """Send one message to the runner."""
        self.connection.send_bytes(json.dumps(message).encode())

    def progress(self, share: float, phase: str) -> None:
        """Report how far the cell is, 0 to 1, and what it is at; not too often."""
        now = time.monotonic()
        if now - self.last >= _QUIET:
            self.last = now
            self.say(kind="progress", share=float(share), phase=str(phase))

    def compute(self, cell: Cell) -> None:
        """One cell to one record; raises whatever went wrong."""
        start = time.perf_counter()
        record = find(self.execute)(cell, self.store, self.progress, self.device)
        check(record, cell)
        record.seconds.setdefault("total", round(time.perf_counter() - start, 3))
        self.store.write(record)
        memory = record.environment.get("peak_memory_mib")
        self.say(kind="done", seconds=record.seconds["total"], memory=memory)

    def serve(self) -> None:
        """Compute cells until told otherwise; what a cell raises is its own failure, not the worker's."""
        while True:
            cell = Cell(**self.jobs.get()["cell"])
            try:
                self.compute(cell)
            except Exception as error:
                self.fail(cell, error)

    def fail(self, cell: Cell, error: Exception) -> None:
        """Tell the runner why there is no record: the cell failed, or the store cannot be written."""
        known = storage_error(error, f"compute {cell}", writing=False) if isinstance(error, OSError) else None
        fatal = known or (error if isinstance(error, StoreError) else None)
        if fatal:
            self.say(kind="fatal", parts=[fatal.asked, fatal.wrong, fatal.known, fatal.todo])
            return
        # After these, memory may be short or the device unusable: the next cell gets a new process.
        retire = isinstance(error, MemoryError) or (
            self.device != "cpu" and not isinstance(error, UserError | Diverged)
        )
        text = "".join(traceback.format_exception(error))
        self.say(kind="failed", reason=reason(error), traceback=text, retire=retire)


def main(descriptor: int, folder: str, execute: str, device: str) -> None:
    """Entry point of the process; `descriptor` is the worker's end of a socket pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's: it closes the connection
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    worker = Worker(Connection(descriptor), Store(folder), execute, device)
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.serve()
