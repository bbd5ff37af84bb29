"""A deterministic stand-in for benchmarks.execute: workers import it by name; torch is not needed.

What it does is told by the option `layer` of a linear probe, which any text may be.
"""

import faulthandler
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import benchmarks.files
from benchmarks import Cell, Record, make_cell, run
from benchmarks.files import atomic
from benchmarks.store import Store
from generators.errors import UserError

EXECUTE = "tests.runner.fakes:execute"
ROOT = Path(__file__).parents[2]


def cell(number: int = 0, does: str = "best") -> Cell:
    """The number-th of many cheap cells, over all models and intrinsics."""
    models = ("sd.rooms64-random", "sd.rooms64-s1", "sd.rooms64-s5")
    intrinsics = ("normal", "depth", "albedo", "shading")
    name, intrinsic = models[number % 3], intrinsics[number // 3 % 4]
    made = make_cell(name, intrinsic, "linear", {"layer": does}, seed=number // 12)
    return made.with_(weights="fixed", world="fixed")  # weights may change while a test runs


def cells(count: int) -> list[Cell]:
    return [cell(number) for number in range(count)]


def full(path: Path) -> BinaryIO:
    """What a file on a full disk is: it can be opened, not filled."""
    path.touch()
    return open("/dev/full", "wb")


def _die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def _fill_disk() -> None:
    benchmarks.files._create = full


def _talk() -> None:
    print("printed")
    os.write(2, b"by a C library\n")


def _raise(error: Exception) -> None:
    raise error


def _take_memory() -> None:
    """A gigabyte, or as much less as this attempt has been told to begin with."""
    from probes import memory

    taken = bytearray(2**30 // memory._cut)
    taken[:: 2**12] = b"x" * len(taken[:: 2**12])  # the system gives a page when it is written


def _die_of_memory() -> None:
    """As the system ends a process that is too large, unless it has become small enough."""
    from probes import memory

    if memory._cut < 4:
        _die(signal.SIGKILL)


DOES: dict[str, Callable[[], None]] = {
    "raise": lambda: _raise(RuntimeError("the layer is broken")),
    "user": lambda: _raise(UserError("rank 4096", "the layer has 64 columns", "at most 64", "lower rank")),
    "memory": lambda: _raise(MemoryError()),
    "killed": lambda: _die(signal.SIGKILL),
    "large": _take_memory,
    "too large": _die_of_memory,
    "segfault": faulthandler._sigsegv,
    "exit": lambda: os._exit(5),
    "full": _fill_disk,
    "hang": lambda: time.sleep(600),
    "nap": lambda: time.sleep(1.5),
    "talk": lambda: _talk(),
}


def numbers(cell: Cell, count: int) -> list[float]:
    digest = hashlib.sha256(cell.hash.encode()).digest()
    return [byte / 7 for byte in digest[:count]]


def execute(cell: Cell, store: Store, progress: Callable[[float, str], None], device: str = "cpu") -> Record:
    """Scores that are a function of the cell, after a moment."""
    with (store.root.folder / "computed.txt").open("a") as file:
        file.write(f"{cell.hash} {os.getppid()} {os.environ['OMP_NUM_THREADS']}\n")
    progress(0.5, "pretending")
    does = cell.options["layer"]
    DOES.get(does, lambda: None)()
    time.sleep(0.04)
    if does == "slow":
        for step in range(16):
            time.sleep(0.25)
            progress(step / 16, "fit")
    with atomic(store.maps / f"{cell.hash}.npz") as file:
        file.write(cell.hash.encode() * 1000)
    if does == "map, then killed":
        _die(signal.SIGKILL)
    values = numbers(cell, 5)
    if does == "nan":
        values[2] = float("nan")
    scores = {"rms": sum(values) / len(values)}
    return Record(cell, "done", scores=scores, per_image={"rms": values}, maps=f"maps/{cell.hash}.npz")


def samplers(count: int, rate: float = 1e-3) -> list[Cell]:
    """Cells of one training, which differ in how the trained model samples."""
    made = [
        make_cell("sd-aug.rooms64-random", "normal", "lora", {"sampler_steps": n + 1, "rate": rate})
        for n in range(count)
    ]
    return [cell.with_(weights="fixed", world="fixed") for cell in made]


def execute_slowly(cell: Cell, store: Store, progress: Callable[..., None], device: str = "cpu") -> Record:
    """A score, after writing down when it was begun, and before, when it was ended."""
    begun = time.time()
    time.sleep(0.3)
    with (store.root.folder / "times.txt").open("a") as file:
        file.write(f"{cell.hash} {begun} {time.time()}\n")
    return Record(cell, "done", scores={"rms": 1.0}, per_image={"rms": [1.0]})


def computed(store: Path) -> list[str]:
    """Hashes of the cells that were begun, in order."""
    path = store / "computed.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":  # python -m tests.runner.fakes STORE COUNT WORKERS
    run(cells(int(sys.argv[2])), store=sys.argv[1], workers=int(sys.argv[3]), execute=EXECUTE)
