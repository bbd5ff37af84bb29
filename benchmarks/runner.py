"""The runner: cells to workers, results to the store; running again computes what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, overload

from generators import registry
from generators.errors import UserError, unknown

from .cell import Cell, Record
from .needs import refuse_missing
from .plan import RESULTS, Estimates, Queue, default_store, estimates, select, shared_training
from .progress import Display, Silent, display
from .store import Store, StoreError
from .suite import Suite, load_suite
from .worker import THREADS, death

EXECUTE = "benchmarks.execute:execute"
# Which records a run replaces: none; failed ones (the default: a failure is retried); all.
OVERWRITE = ("never", "failed", "always")
SOME_FAILED = 3  # exit status
_TICK = 0.25  # seconds between two looks at workers that say nothing


class Stopped(KeyboardInterrupt):
    """A run that was stopped by a signal, after its workers are gone and its claims given back."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # exit status: 130 for Ctrl-C, 143 for SIGTERM


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        records: of the cells asked for, in their order; without those another machine computes.
        computed: how many cells this run computed, failed ones included.
        elsewhere: cells that runners on other machines have claimed, and who has.
    """

    records: list[Record]
    computed: int = 0
    elsewhere: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Record]:
        """Records of cells that came to no number."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def status(self) -> int:
        """Exit status: 0 if every cell is done, else SOME_FAILED."""
        return SOME_FAILED if self.failed or self.elsewhere else 0


def _environment() -> dict[str, str]:
    """The worker's: one thread, and the same import path as here."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return os.environ | THREADS | {"PYTHONPATH": path}


class Hand:
    """The runner's side of one worker; its process starts with its first cell and is replaced if it dies."""

    def __init__(self, number: int, store: Store, execute: str, device: str) -> None:
        self.number = number
        self.arguments = (str(store.folder), execute, device)
        self.process: subprocess.Popen[bytes] | None = None
        self.cell: Cell | None = None
        self.model, self.share, self.began = "", 0.0, 0.0

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process lives)
        code = f"from benchmarks.worker import main; main({theirs.fileno()}, *{self.arguments!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            env=_environment(),
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C reaches the runner only
        )
        theirs.close()

    def give(self, cell: Cell) -> None:
        """Start a cell."""
        self.cell, self.model, self.share, self.began = cell, cell.model, 0.0, time.monotonic()
        if self.process is None:
            self._start()
        try:
            self.connection.send_bytes(json.dumps({"cell": _plain(cell)}).encode())
        except (BrokenPipeError, ConnectionResetError):  # it died idle: a fresh one takes the cell
            self.close()
            self._start()
            self.connection.send_bytes(json.dumps({"cell": _plain(cell)}).encode())

    def hear(self) -> dict[str, Any] | None:
        """The next message; None if the worker is gone."""
        try:
            message: dict[str, Any] = json.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            return None
        return message

    def said(self) -> str:
        """The end of what the process wrote to its standard output and error."""
        self.output.seek(max(0, self.output.seek(0, os.SEEK_END) - 8000))
        return self.output.read().decode(errors="replace")

    def close(self) -> int:
        """End the process, whatever it is at; its exit status."""
        if self.process is None:
            return 0
        self.connection.close()
        try:
            status = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.output.close()
        self.process, self.model = None, ""
        return status


def _plain(cell: Cell) -> dict[str, Any]:
    return vars(cell) | {"options": dict(cell.options)}


def facts_of(model: str) -> dict[str, Any]:
    """What reports need to know of a model whose cell failed."""
    names = ("name", "family", "title", "domain", "trained", "control", "takes")
    return next(({n: getattr(s, n) for n in names} for s in registry.specs() if s.name == model), {})


class Runner:
    """One run over one store.

    Args:
        store: prepared.
        cells: to compute.
        before: hash to stamp of their records when they were chosen; another stamp means that another
            runner has been faster.
        hands: the workers.
        expected: what is known about durations.
        show: what the user sees.
        device: for the records of failures.
    """

    def __init__(
        self,
        store: Store,
        cells: Sequence[Cell],
        before: Mapping[str, tuple[int, int] | None],
        hands: Sequence[Hand],
        expected: Estimates,
        show: Display,
        device: str,
    ) -> None:
        self.store, self.hands, self.expected, self.show, self.device = store, hands, expected, show, device
        self.queue = Queue(cells, expected.seconds)
        self.total = len(cells)
        self.before = before
        self.waiting: list[Cell] = []  # claimed by other runners on this machine
        self.elsewhere: dict[str, str] = {}
        self.trained: set[str] = set()  # shared trainings that are in the cache by now
        self.computed = 0
        self.stopping = 0
        self._left = (0.0, 0.0)

    def run(self) -> None:
        """Compute every cell; raises Stopped on a signal, StoreError if the store cannot be written."""
        self.show.start(self.total, self.left)
        try:
            while self.queue or self.waiting or self._busy():
                self._hand_out()
                self._listen()
                if self.stopping:
                    raise Stopped(self.stopping)
        finally:
            self._close()

    def left(self) -> float:
        """Expected seconds to the finish, worked out once a second."""
        now = time.monotonic()
        if now - self._left[0] > 1 or not (self.queue or self._busy()):
            cells = [(cell, 0.0) for cell in self.queue.cells() + self.waiting]
            cells += [(hand.cell, hand.share) for hand in self.hands if hand.cell]
            work = sum(self.expected.seconds(cell) * (1 - share) for cell, share in cells)
            self._left = (now, work / max(1, min(len(self.hands), len(cells))))
        return self._left[1]

    def _busy(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.cell]

    def _hand_out(self) -> None:
        again, self.waiting = self.waiting, []
        for claimed in again:
            self.queue.put_back(claimed)
        for hand in self.hands:
            while not hand.cell and self.queue:
                busy = self._busy()
                cell = self.queue.take(hand.model, [other.model for other in busy], self._training(busy))
                if cell is None:
                    return  # what is left shares a training that somebody is at
                self._try(hand, cell)

    def _training(self, busy: Sequence[Hand]) -> set[str]:
        """Shared trainings that workers are at and that no cell of this run has ended yet."""
        return {shared_training(hand.cell) for hand in busy if hand.cell} - self.trained - {""}

    def _try(self, hand: Hand, cell: Cell) -> None:
        """Give a cell to a worker, unless another runner has it or has just finished it."""
        owner = self.store.claim(cell)
        if owner is None and self.store.stamp(cell) == self.before[cell.hash]:
            hand.give(cell)
            self.show.working(hand.number, cell, 0.0, "starting")
        elif owner is None:
            self.store.release(cell)
            self.show.finished(hand.number, cell, 0.0)
        elif owner.here:
            self.waiting.append(cell)
        else:
            self.elsewhere[cell.hash] = str(owner)

    def _listen(self) -> None:
        busy = self._busy()
        if not busy:
            if self.waiting:
                time.sleep(_TICK)  # another runner computes what is left
            return
        ready = wait([hand.connection for hand in busy], _TICK)
        for hand in busy:
            process = hand.process
            if hand.connection in ready or (process and process.poll() is not None):
                self._take(hand, hand.hear())

    def _take(self, hand: Hand, message: dict[str, Any] | None) -> None:
        if message is None:
            self._died(hand)
        elif message["kind"] == "progress" and hand.cell:
            hand.share = min(1.0, max(0.0, message["share"]))
            self.show.working(hand.number, hand.cell, hand.share, message["phase"])
        elif message["kind"] == "done":
            self._done(hand, message["seconds"], message["memory"])
        elif message["kind"] == "failed":
            self._failed(hand, message["reason"], message["traceback"] + hand.said())
            if message["retire"]:
                hand.close()
        elif message["kind"] == "fatal":
            raise StoreError(*message["parts"])

    def _done(self, hand: Hand, seconds: float, memory: float | None) -> None:
        cell = self._free(hand)
        self.trained.add(shared_training(cell))
        self.expected.learn(cell, seconds, memory)
        self.store.log(cell).unlink(missing_ok=True)  # of an earlier failure
        self.show.finished(hand.number, cell, seconds)

    def _died(self, hand: Hand) -> None:
        """A worker is gone: its cell failed, unless it was recorded in the last moment."""
        said, status = hand.said(), hand.close()
        cell, seconds = hand.cell, time.monotonic() - hand.began
        if cell and self.store.stamp(cell) != self.before[cell.hash]:
            self._done(hand, seconds, None)
        else:
            self._failed(hand, death(status), said)

    def _failed(self, hand: Hand, reason: str, log: str) -> None:
        cell, seconds = hand.cell, time.monotonic() - hand.began
        assert cell is not None
        record = Record(cell, "failed", reason, generator=facts_of(cell.model))
        record.seconds, record.environment = {"total": round(seconds, 3)}, {"device": self.device}
        self.store.write_text(self.store.log(cell), f"{cell}\n{reason}\n\n{log}")
        self.store.write(record)
        self._free(hand)
        self.show.finished(hand.number, cell, seconds, reason)

    def _free(self, hand: Hand) -> Cell:
        cell = hand.cell
        assert cell is not None
        hand.cell = None
        self.store.release(cell)
        self.computed += 1
        return cell

    def _close(self) -> None:
        self.show.stop()
        for hand in self.hands:
            hand.close()
            if hand.cell:
                self.store.release(hand.cell)
        self.store.sweep()


@contextmanager
def _signals(runner: Runner) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop a run between two messages; a second Ctrl-C stops it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if runner.stopping:
            raise KeyboardInterrupt
        runner.stopping = number

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _keeps(record: Record | None, overwrite: str) -> bool:
    """Whether what is recorded stays."""
    if record is None or overwrite == "always":
        return False
    return record.status == "done" or overwrite == "never"


def _check(workers: int = 1, overwrite: str = "failed", device: str = "cpu", **_: Any) -> None:
    """Raise UserError for what no run can be asked for."""
    if workers < 1:
        raise UserError(f"--workers {workers}", "no worker, no work", "at least 1", "--workers 1")
    if overwrite not in OVERWRITE:
        raise unknown("value of --overwrite", overwrite, OVERWRITE, "--overwrite failed")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise unknown("device", device, ("cpu", "cuda", "cuda:0"), "--device cpu")
    if device != "cpu":
        import torch

        count = torch.cuda.device_count()
        if int(device.partition(":")[2] or 0) >= count:
            raise UserError(
                f"device {device}", "it is not there", f"CUDA devices here: {count}", "--device cpu"
            )


def compute(
    cells: Sequence[Cell],
    store: Store,
    *,
    workers: int = 1,
    overwrite: str = "failed",
    device: str = "cpu",
    execute: str = EXECUTE,
    show: Display | None = None,
) -> Outcome:
    """Compute those of some cells that the store has no record of; see `run` for the arguments."""
    _check(workers, overwrite, device)
    store.prepare()
    before = {cell.hash: store.stamp(cell) for cell in cells}  # first: what comes later is another runner's
    missing = [cell for cell in cells if not _keeps(store.read(cell), overwrite)]
    refuse_missing(missing)
    hands = [Hand(number, store, execute, device) for number in range(min(workers, len(missing)))]
    runner = Runner(store, missing, before, hands, estimates(store), show or Silent(), device)
    if missing:
        with _signals(runner):
            runner.run()
    records = (store.read(cell) for cell in cells)
    return Outcome([record for record in records if record], runner.computed, runner.elsewhere)


def open_store(suite: Suite, store: str | Path | None = None) -> Store:
    """The store of a suite, ready to be written; raises UserError if it holds another suite."""
    place = Store(store or default_store(suite))
    found = place.suite()
    if found is not None and found["name"] != suite.name:
        raise UserError(
            f"suite {suite.name!r} in the store {place.folder}",
            f"the store holds the suite {found['name']!r}",
            "a store belongs to one suite",
            "choose another with --store DIR",
        )
    place.prepare()
    place.write_suite(suite.name, suite.title, suite.question, suite.cells)
    return place


def run_suite(
    suite: Suite,
    store: str | Path | None = None,
    *,
    only: str | None = None,
    share: bool = False,
    **options: Any,
) -> Outcome:
    """Compute a suite; `options` are those of `compute`. Refuses a store that holds another suite.

    Args:
        share: whether cells that a store beside this one has are copied, as they were measured there.
    """
    _check(**options)
    chosen = select(suite.cells, only)
    if not Store(store or default_store(suite)).folder.exists():
        refuse_missing(chosen)  # before there is a store of nothing
    place = open_store(suite, store)
    if share and options.get("overwrite") != "always":
        for cell in chosen:
            if not place.path(cell).exists():
                place.adopt(cell)
    return compute(chosen, place, **options)


@overload
def run(
    what: Cell,
    *,
    store: str | Path | None = ...,
    workers: int = ...,
    overwrite: str = ...,
    device: str = ...,
    only: str | None = ...,
    execute: str = ...,
    progress: bool = ...,
) -> Record: ...


@overload
def run(
    what: str | Path | Suite | Sequence[Cell],
    *,
    store: str | Path | None = ...,
    workers: int = ...,
    overwrite: str = ...,
    device: str = ...,
    only: str | None = ...,
    execute: str = ...,
    progress: bool = ...,
) -> list[Record]: ...


def run(
    what: Cell | str | Path | Suite | Sequence[Cell],
    *,
    store: str | Path | None = None,
    workers: int = 1,
    overwrite: str = "failed",
    device: str = "cpu",
    only: str | None = None,
    execute: str = EXECUTE,
    progress: bool = False,
) -> Record | list[Record]:
    """Compute a cell, cells or a suite, and return the record or the records.

    What the store has is not computed again. A cell that fails has a record with status "failed" and
    its reason; nothing is raised for it.

    Args:
        what: a Cell (see make_cell), several, a Suite, a shipped suite's name or a TOML file's path.
        store: folder of the records; None for results/NAME of the suite, results/cells for cells.
        workers: processes of one thread each; the numbers do not depend on it.
        overwrite: "failed" keeps what is done and retries failures; "never" keeps failures too;
            "always" computes everything again.
        device: "cpu", "cuda" or "cuda:N".
        only: pattern on MODEL/INTRINSIC/METHOD or hashes, for suites; None for all cells.
        execute: "module:function" that computes a cell, importable in the workers.
        progress: whether to show bars (or lines) on standard error.

    Raises UserError for what can be mended (a corrupt record, a full disk, an unknown name), Stopped
    (a KeyboardInterrupt) after a signal.
    """
    options: dict[str, Any] = {
        "workers": workers,
        "overwrite": overwrite,
        "device": device,
        "execute": execute,
    }
    options["show"] = display(workers) if progress else Silent()
    if isinstance(what, str | Path | Suite):
        suite = what if isinstance(what, Suite) else load_suite(what)
        return run_suite(suite, store, only=only, **options).records
    cells = select([what] if isinstance(what, Cell) else what, only)
    place = Store(store or RESULTS / "cells")
    _check(**options)
    place.add_cells(cells)
    records = compute(cells, place, **options).records
    return records[0] if isinstance(what, Cell) else records
