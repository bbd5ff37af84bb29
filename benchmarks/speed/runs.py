"""What the runner itself takes, and two workers against one; see benchmarks.speed.scale for the commands.

The loop is timed with an engine that has done every cell at once, so that nothing but the loop, the claims
and the queue is left; the share of a worker that waits for its cells with cells that only sleep; and real
cells by the runner and by plain processes that call `execute` one cell after the other.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell, Record
from benchmarks.engine import Message, Slot
from benchmarks.hands import plain
from benchmarks.loop import Runner
from benchmarks.plan import Estimates
from benchmarks.progress import Bars, Display, Lines, Silent
from benchmarks.runner import compute
from benchmarks.store import Store
from benchmarks.suite import make_cell
from benchmarks.worker import Settings

SLEEP = 2.0  # seconds of a cell that does nothing
SIDE, PRODUCTS = 768, 400  # of the matrix products that tell what two processes make of this machine


def processor() -> float:
    """Seconds of processor time of this process alone, its workers not counted."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# The loop alone.


class AtOnce:
    """An engine whose cells are done as soon as they are given; each tells of its progress once."""

    def __init__(self, slots: int) -> None:
        self.slots = [Slot(number) for number in range(slots)]
        self.said: list[tuple[Slot, Message]] = []

    def give(self, slot: Slot, cell: Cell) -> None:
        """Say that it is half done, and that it is done."""
        self.said.append((slot, {"kind": "progress", "share": 0.5, "phase": "fit"}))
        self.said.append((slot, {"kind": "done", "seconds": 1.0, "memory": 900.0}))

    def listen(self, seconds: float) -> list[tuple[Slot, Message]]:
        """What was said since."""
        said, self.said = self.said, []
        return said

    def end(self, slot: Slot, dump: bool = False) -> str:
        """Nothing is at work."""
        return ""

    def close(self) -> None:
        """Nothing is at work."""


def loop_seconds(cells: Sequence[Cell], slots: int = 2) -> float:
    """Processor seconds of a run over some cells without any work."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.prepare()
        before = store.stamps(cells)
        start = processor()
        show = Lines(io.StringIO())
        Runner(store, cells, before, AtOnce(slots), Estimates(), show, Settings()).run()
        return processor() - start


# Cells that sleep.


def sleep(cell: Cell, store: Store, progress: Callable[[float, str], None], device: str = "cpu") -> Record:
    """A cell that tells of its progress twenty times a second, for as long as its layer's name says."""
    length = float(cell.options["layer"])
    end = time.monotonic() + length
    while (left := end - time.monotonic()) > 0:
        progress(1 - left / length, "sleeping")
        time.sleep(min(left, 0.05))
    return Record(cell, "done", scores={"rms": 1.0}, per_image={"rms": [1.0] * cell.test})


def sleepers(count: int, seconds: float) -> list[Cell]:
    """Cells of `sleep`."""
    first = make_cell("sd.rooms64-s1", "normal", "linear", {"layer": f"{seconds}"})
    return [first.with_(seed=seed) for seed in range(count)]


def run_seconds(cells: Sequence[Cell], workers: int, show: Display) -> tuple[float, float]:
    """Seconds of wall clock of a run of `sleep`, and of the runner's processor time."""
    with tempfile.TemporaryDirectory() as folder:
        wall, used = time.perf_counter(), processor()
        compute(cells, Store(folder), workers=workers, execute="benchmarks.speed.runs:sleep", show=show)
        return time.perf_counter() - wall, processor() - used


class Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        """As a terminal says."""
        return True


def displays() -> dict[str, Callable[[], Display]]:
    """Name to display."""
    return {
        "nothing shown": Silent,
        "a line per cell": lambda: Lines(io.StringIO()),
        "bars": lambda: Bars(Terminal(), width=120),
    }


# Real cells.


def real_cells(count: int, steps: int) -> list[Cell]:
    """Cells of the suite rooms in small: LoRA and linear probes of two models by turns."""
    models, made = ("sd.rooms64-s5", "sd.rooms64-s3"), []
    for number in range(count):
        model, intrinsic = models[number * 2 // count], ("normal", "depth", "albedo", "shading")[number % 4]
        lora = {"steps": steps, "batch": 8, "rate": 0.005}
        method, options = ("lora", lora) if number % 3 else ("linear", {})
        made.append(make_cell(model, intrinsic, method, options, seed=number, test=50))
    return made


def plain_seconds(parts: Sequence[Sequence[Cell]], environment: Mapping[str, str]) -> float:
    """Seconds until as many processes as there are parts have computed them, without a runner."""
    code = "from benchmarks.speed.runs import plain_main; import sys; plain_main(sys.argv[1])"
    return _together([["-c", code, json.dumps([plain(c) for c in part])] for part in parts], environment)


def plain_main(text: str) -> None:
    """Compute the cells of a JSON text by `execute`, one after the other, and throw away what comes."""
    from benchmarks.execute import execute

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.prepare()
        for facts in json.loads(text):
            execute(Cell(**facts), store, lambda share, phase: None, "cpu")


def product_seconds(processes: int, environment: Mapping[str, str]) -> float:
    """Seconds until so many processes have each made PRODUCTS products of matrices, torch not counted."""
    code = "from benchmarks.speed.runs import products; products()"
    return _together([["-c", code]] * processes, environment)


def products() -> None:
    """Products of matrices in numpy on one thread."""
    import numpy as np

    a = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    for _ in range(PRODUCTS):
        a = a @ a
        a /= np.abs(a).max()


def _together(calls: Sequence[Sequence[str]], environment: Mapping[str, str]) -> float:
    """Seconds until processes that are started at once have all ended; raises RuntimeError if one failed."""
    start = time.perf_counter()
    made: list[subprocess.Popen[bytes]] = [
        subprocess.Popen([sys.executable, "-P", *call], env=dict(os.environ) | dict(environment))
        for call in calls
    ]
    codes = [process.wait() for process in made]
    if any(codes):
        raise RuntimeError(f"a process ended with {codes}")
    return time.perf_counter() - start


def runner_seconds(cells: Sequence[Cell], workers: int) -> tuple[float, float]:
    """Seconds of a run of real cells into a store of its own, and of the runner's processor time."""
    with tempfile.TemporaryDirectory() as folder:
        wall, used = time.perf_counter(), processor()
        outcome: Any = compute(cells, Store(Path(folder) / "store"), workers=workers)
        if outcome.failed:
            raise RuntimeError(f"{outcome.failed[0].cell} failed: {outcome.failed[0].reason}")
        return time.perf_counter() - wall, processor() - used
