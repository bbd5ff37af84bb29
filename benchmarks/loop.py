"""The runner's loop: cells to the slots of an engine, what is said of them to the store and the user."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from generators import registry

from .cell import Cell, Record
from .claims import LEASE, PULSE, Claim, Watch
from .engine import Engine, Message, Slot
from .files import StoreError
from .plan import Estimates, Queue, shared_training
from .progress import Display
from .store import Store
from .worker import Settings

LOST = 3  # times a cell is given out again when its machine is lost
PATIENCE = 1800.0  # seconds of silence every cell is granted, or SLACK times what is expected of it
SLACK = 20
_TICK = 0.25  # seconds between two looks at workers that say nothing
_LOOK = 5.0  # and at runners of other machines


class Stopped(KeyboardInterrupt):
    """A run that was stopped by a signal, after its workers are gone and its claims given back."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number  # exit status: 130 for Ctrl-C, 143 for SIGTERM


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
        engine: where they are computed.
        expected: what is known about durations.
        show: what the user sees.
        settings: how they are computed.
    """

    def __init__(
        self,
        store: Store,
        cells: Sequence[Cell],
        before: Mapping[str, tuple[int, int] | None],
        engine: Engine,
        expected: Estimates,
        show: Display,
        settings: Settings,
    ) -> None:
        self.store, self.engine, self.expected, self.show = store, engine, expected, show
        self.settings = settings
        self.queue = Queue(cells, expected.seconds)
        self.total = len(cells)
        self.before = before
        self.waiting: list[Cell] = []  # claimed by other runners on this machine
        self.far: dict[str, tuple[Cell, Claim]] = {}  # claimed by runners of other machines
        self.watch = Watch(store.pulse_of)
        self.trained: set[str] = set()  # shared trainings that are in the cache by now
        self.lost: Counter[str] = Counter()  # times a cell was given out in vain
        self.short: Counter[str] = Counter()  # and of these, how often memory ran out
        self.computed = 0
        self.stopping = 0
        self._left = (0.0, 0.0)
        self._pulsed = self._looked = -math.inf
        self._open = self._told = False  # whether it is open who computes what is far; whether that was said

    @property
    def elsewhere(self) -> dict[str, str]:
        """Hashes of the cells that living runners of other machines have claimed, and who has."""
        return {name: str(owner) for name, (_, owner) in self.far.items()}

    def run(self) -> None:
        """Compute every cell; raises Stopped on a signal, StoreError if the store cannot be written."""
        self.show.start(self.total, self.left)
        try:
            while self._more():
                self._pulse()
                self._look_afar()
                self._hand_out()
                self._listen()
                if self.stopping:
                    raise Stopped(self.stopping)
        finally:
            self._close()

    def _more(self) -> bool:
        """Whether there is anything to do; before it says no, it looks at what others have claimed."""
        if self.queue or self.waiting or self._busy() or self._open:
            return True
        self._looked = -math.inf
        self._look_afar()
        return bool(self.queue) or self._open

    def left(self) -> float:
        """Expected seconds to the finish, worked out once a second."""
        now = time.monotonic()
        if now - self._left[0] > 1 or not (self.queue or self._busy()):
            cells = [(cell, 0.0) for cell in self.waiting]
            cells += [(slot.cell, slot.share) for slot in self.engine.slots if slot.cell]
            work = sum(self.expected.seconds(cell) * (1 - share) for cell, share in cells)
            count = len(cells) + len(self.queue)
            self._left = (now, (work + self.queue.seconds()) / max(1, min(len(self.engine.slots), count)))
        return self._left[1]

    def _busy(self) -> list[Slot]:
        return [slot for slot in self.engine.slots if slot.cell]

    def _hand_out(self) -> None:
        again, self.waiting = self.waiting, []
        for claimed in again:
            self.queue.put_back(claimed)
        for slot in self.engine.slots:
            while not slot.cell and self.queue and not self.stopping:
                self._pulse()
                busy = self._busy()
                cell = self.queue.take(slot.model, [other.model for other in busy], self._training(busy))
                if cell is None:
                    return  # what is left shares a training that somebody is at
                self._try(slot, cell)

    def _training(self, busy: Sequence[Slot]) -> set[str]:
        """Shared trainings that workers are at and that no cell of this run has ended yet."""
        return {shared_training(slot.cell) for slot in busy if slot.cell} - self.trained - {""}

    def _try(self, slot: Slot, cell: Cell) -> None:
        """Give a cell to a worker, unless another runner has it or has just finished it."""
        owner = self.store.claim(cell)
        if owner is None and self.store.stamp(cell) in (None, self.before[cell.hash]):
            if not self.lost[cell.hash]:
                self.store.forget_log(cell)  # of an earlier run
            slot.take(cell, 2 ** self.short[cell.hash])
            self.engine.give(slot, cell)
            self.show.working(slot.number, cell, 0.0, "starting")
        elif owner is None:
            self.store.release(cell)
            record = self.store.read(cell)
            reason = record.reason or record.status if record and record.status == "failed" else ""
            self.show.finished(slot.number, cell, 0.0, reason)
        elif owner.here:
            self.waiting.append(cell)
        else:
            self.far[cell.hash] = cell, owner
            self._open = True

    def _pulse(self) -> None:
        """Let other machines see that this runner is alive."""
        if time.monotonic() - self._pulsed >= PULSE:
            self._pulsed = time.monotonic()
            self.store.pulse()

    def _look_afar(self) -> None:
        """Queue what a dead runner of another machine had claimed, or a living one has given back."""
        now = time.monotonic()
        if not self.far or now - self._looked < _LOOK:
            return
        self._looked = now
        alive = {owner.pulse: self.watch.alive(owner) for _, owner in self.far.values()}
        for name, (cell, owner) in list(self.far.items()):
            if alive[owner.pulse] is False:
                self.show.say(f"taken over: {cell}: no sign of life of {owner} for {LEASE:.0f} s")
                self.store.take_from(cell, owner)
            if alive[owner.pulse] is False or not (self._busy() or self.store.is_of(cell, owner)):
                del self.far[name]
                self.queue.put_back(cell)
        unknown = {f"process {o.pid} on {o.host}" for _, o in self.far.values() if alive[o.pulse] is None}
        self._open = bool(unknown)
        if unknown and not self._busy() and not self.queue and not self._told:
            self._told = True
            self.show.say(f"waiting {LEASE:.0f} s at most for a sign of life of {', '.join(sorted(unknown))}")

    def _listen(self) -> None:
        if not self._busy():
            if self.waiting or self.far:
                time.sleep(_TICK)  # another runner computes what is left
            return
        for slot, message in self.engine.listen(_TICK):
            if slot.cell:
                self._take(slot, slot.cell, message)
        for slot in self._busy():
            self._lose_patience(slot)

    def _take(self, slot: Slot, cell: Cell, message: Message) -> None:
        slot.heard = time.monotonic()
        match message["kind"]:
            case "progress":
                slot.share, slot.phase = min(1.0, max(0.0, message["share"])), message["phase"]
                self.show.working(slot.number, cell, slot.share, slot.phase)
            case "done":
                self._done(slot, message["seconds"], message["memory"])
            case "failed":
                self._failed(slot, message["reason"], message["traceback"])
            case "gone" if not message.get("short"):
                self._failed(slot, message["reason"], message["log"])
            case "gone" | "lost":
                self._lost(slot, cell, message)
            case "fatal":
                raise StoreError(*message["parts"])

    def _lose_patience(self, slot: Slot) -> None:
        """A worker that has been silent for too long hangs: its cell has failed, the others go on."""
        assert slot.cell is not None
        granted = self.settings.patience or max(PATIENCE, SLACK * self.expected.seconds(slot.cell))
        if slot.silent() > granted:
            said = self.engine.end(slot, dump=True)
            reason = f"no sign of life for {granted:.0f} s in the phase {slot.phase!r}: it was ended"
            self._failed(slot, f"{reason}; --timeout grants more", said)

    def _done(self, slot: Slot, seconds: float, memory: float | None) -> None:
        cell = self._free(slot)
        self.computed += 1
        self.trained.add(shared_training(cell))
        self.expected.learn(cell, seconds, memory)
        self.show.finished(slot.number, cell, seconds)

    def _lost(self, slot: Slot, cell: Cell, message: Message) -> None:
        """Its machine or memory is gone: the cell goes out again, unless it is recorded, or lost too often.

        Where memory ran out, half as many pictures are in it at once.
        """
        reason = message["reason"]
        self.lost[cell.hash] += 1
        self.short[cell.hash] += bool(message.get("short"))
        again = self.lost[cell.hash] <= LOST and not self._recorded(cell)
        if not again:
            self._failed(slot, f"{reason}, {self.lost[cell.hash]} times", message.get("log", ""))
            return
        how = ", with half as many pictures at once" if message.get("short") else ""
        self.show.say(f"given out again{how}: {cell}: {reason}")
        self.queue.put_back(self._free(slot))

    def _recorded(self, cell: Cell) -> bool:
        """Whether a number of a cell has come into the store since it was chosen."""
        if self.store.stamp(cell) == self.before[cell.hash]:
            return False
        record = self.store.read(cell)
        return record is not None and record.status == "done"

    def _failed(self, slot: Slot, reason: str, log: str) -> None:
        """Record why there is no number, unless it was recorded in the last moment."""
        cell, seconds = slot.cell, time.monotonic() - slot.began
        assert cell is not None
        if self._recorded(cell):
            self._done(slot, seconds, None)
            return
        record = Record(cell, "failed", reason, generator=facts_of(cell.model))
        record.seconds, record.environment = {"total": round(seconds, 3)}, {"device": self.settings.device}
        record.log = f"logs/{self.store.log(cell).name}"
        self.store.append_log(cell, f"{cell}\n{reason}\n\n{log}")
        if not self.store.publish(self.store, record, self.before[cell.hash]):
            self._done(slot, seconds, None)
            return
        self._free(slot)
        self.computed += 1
        self.show.finished(slot.number, cell, seconds, reason)

    def _free(self, slot: Slot) -> Cell:
        cell = slot.cell
        assert cell is not None
        slot.cell = None
        self.store.release(cell)
        return cell

    def _close(self) -> None:
        self.show.stop()
        self.engine.close()
        for slot in self._busy():
            assert slot.cell is not None
            self.store.release(slot.cell)
        self.store.end_pulse()
        self.store.sweep()


@contextmanager
def signals(runner: Runner) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop a run between two messages; a second Ctrl-C stops it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if runner.stopping:
            raise Stopped(number)
        runner.stopping = number

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
