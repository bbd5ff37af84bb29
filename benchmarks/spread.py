"""One cell over several GPUs: every process trains the same probe on its rows of each batch.

`accelerate launch --num_processes 2 -m benchmarks spread SUITE`, or with torchrun, which can start
processes on a CPU, too. The first process computes cells as `run` does, one after the other, and alone
predicts, scores and writes; the others fit with it. A batch is the same whatever the number of processes.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import click

from .claims import PULSE
from .files import StoreError

if TYPE_CHECKING:
    from .cell import Cell, Record
    from .store import Store

END = -1  # told instead of a cell's number: there are no more
# Longest wait for the others, who may be predicting; a process that is gone is noticed at once, not by this.
PATIENCE = timedelta(days=1)


class Failed(RuntimeError):
    """What went wrong in one of the processes."""


@dataclass(frozen=True)
class Place:
    """This process among those of the run, and its device."""

    rank: int
    count: int
    device: str

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def tell(self, number: int) -> int:
        """A number from the first process to all; what the others give is not heard."""
        import torch
        from torch import distributed

        if self.count == 1:
            return number
        told = torch.tensor([number], device=self.device)
        distributed.broadcast(told, 0)
        return int(told)


@contextmanager
def together(cpu: bool) -> Iterator[Place]:
    """This process's place in the run that a launcher started; one of one without a launcher."""
    from accelerate import PartialState

    state = PartialState(cpu=cpu, timeout=PATIENCE)
    try:
        device = "cpu" if state.device.type == "cpu" else str(state.device)
        yield Place(state.process_index, state.num_processes, device)
    finally:
        state.destroy_process_group()


def follow(cell: Cell, device: str) -> None:
    """Fit a cell with the first process, which does all the rest of it."""
    from probes.methods import method, method_fit

    from .execute import Clock, make_task, session

    if method(cell.method).needs != "model":
        return
    here = session(device)
    task = make_task(cell, here, Clock(lambda share, phase: None))
    try:
        method_fit(cell.method)(task).release()
    except BaseException:
        here.forget_generator()
        raise


def lead(cell: Cell, store: Store, device: str) -> None:
    """Compute a cell and record it, as a worker of `run` does."""
    from .worker import Settings, compute

    compute(cell, store, Settings(device=device), lambda message: None)


@contextmanager
def pulsing(store: Store) -> Iterator[None]:
    """Say again and again that this process is alive, so that nobody takes its cells over."""
    over = Event()

    def say() -> None:
        while True:
            with suppress(StoreError):  # the way to a remote store is broken: the next one may arrive
                store.pulse()
            if over.wait(PULSE):
                return

    thread = Thread(target=say, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        store.end_pulse()


def _failure(
    cell: Cell, store: Store, error: Exception, seconds: float, before: tuple[int, int] | None
) -> Record:
    """Record that a cell came to no number, and why, unless another has written its record since."""
    from .cell import Record
    from .runner import facts_of
    from .worker import reason

    record = Record(cell, "failed", reason(error), generator=facts_of(cell.model))
    record.seconds = {"total": round(seconds, 3)}
    record.log = f"logs/{store.log(cell).name}"
    text = "".join(traceback.format_exception(error))
    store.append_log(cell, f"{cell}\n{record.reason}\n\n{text}")
    store.publish(store, record, before)
    return record


def _same_everywhere(error: Exception) -> bool:
    """Whether every process fails in the same way, so that all can go on to the next cell."""
    from generators.errors import UserError
    from probes.fit import Diverged

    from .worker import Diverged as NoNumber

    own = StoreError | MemoryError  # of this process alone: probes.memory.OutOfMemory is both
    return isinstance(error, UserError | Diverged | NoNumber) and not isinstance(error, own)


def _compute(cell: Cell, store: Store, device: str) -> None:
    """One cell in the first process; raises where the others cannot know that it failed."""
    started, before = time.monotonic(), store.stamp(cell)
    try:
        lead(cell, store, device)
        click.echo(f"done: {cell}, {time.monotonic() - started:.0f} s")
    except Exception as error:
        record = _failure(cell, store, error, time.monotonic() - started, before)
        click.echo(f"failed: {cell} (log: {store.log(cell)})\n{record.reason}", err=True)
        if not _same_everywhere(error):
            raise
    finally:
        store.release(cell)


def _done(store: Store, cell: Cell) -> bool:
    record = store.read(cell)
    return record is not None and record.status == "done"


def first_process(cells: Sequence[Cell], store: Store, place: Place) -> None:
    """Compute what the store lacks, telling the others each cell's number before it."""
    for number, cell in enumerate(cells):
        if _done(store, cell):
            continue
        owner = store.claim(cell)
        if owner is not None:
            click.echo(f"left out: {cell}: {owner} computes it", err=True)
            continue
        if _done(store, cell):  # another has ended it between the two looks
            store.release(cell)
            continue
        store.forget_log(cell)  # of an earlier attempt
        place.tell(number)
        _compute(cell, store, place.device)
    place.tell(END)


def other_process(cells: Sequence[Cell], place: Place) -> None:
    """Fit with the first process whatever it computes."""
    while (number := place.tell(END)) != END:
        try:
            follow(cells[number], place.device)
        except Exception as error:
            if not _same_everywhere(error):
                raise


@contextmanager
def _named(place: Place) -> Iterator[None]:
    """Say which process failed: the launcher then ends the others."""
    try:
        yield
    except Exception as error:
        from generators.errors import UserError

        if isinstance(error, UserError):
            raise
        what = f"{type(error).__name__}: {error}"
        raise Failed(f"process {place.rank + 1} of {place.count}: {what}") from error


def run_together(suite: str, store: str | Path | None, only: str | None, device: str) -> int:
    """Compute a suite with all processes of this run; how many of its cells are not done.

    Args:
        store: folder or URL of the records; None for results/NAME of the suite.

    Raises UserError, as `run`, in every process before they meet, and Failed with the number of one.
    """
    from .devices import check_device
    from .needs import refuse_missing
    from .plan import default_store, select
    from .runner import open_store
    from .store import store_at
    from .suite import load_suite

    check_device(device)
    loaded = load_suite(suite)
    cells = select(loaded.cells, only)
    there = store_at(store or default_store(loaded))
    refuse_missing([cell for cell in cells if not _done(there, cell)])
    with together(device == "cpu") as place, _named(place):
        if not place.first:
            other_process(cells, place)
            return 0
        kept = open_store(loaded, store)
        click.echo(f"{loaded.name}: {len(cells)} cells on {place.count} processes, {place.device}")
        with pulsing(kept):
            first_process(cells, kept, place)
        return sum(not _done(kept, cell) for cell in cells)


def _device(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    import torch

    return value or ("cuda" if torch.cuda.is_available() else "cpu")


@click.command()
@click.argument("suite")
@click.option("--store", metavar="PLACE", help="Folder, or URL, of the records; results/SUITE.")
@click.option("--only", metavar="GLOB", help="MODEL/INTRINSIC/METHOD or hash, as in '*/normal/lora'.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), callback=_device, help="cuda where there is one."
)
def spread(suite: str, **options: Any) -> None:
    """Compute what SUITE lacks, each cell by all processes that a launcher started.

    `accelerate launch --num_processes 2 -m benchmarks spread SUITE` takes two GPUs; records say so. Exit
    status: 0 all is done, 3 some cells failed.
    """
    missing = run_together(suite, **options)
    if missing:
        click.echo(f"{missing} cells are not done", err=True)
        sys.exit(3)
