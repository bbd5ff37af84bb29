"""Cells of a given length, computed on the nodes of a cluster, which import this by name.

The option `layer` of a linear probe is how many seconds it pretends to work. A host whose name ends in
LONELY waits, once the file `cut` is in the store, until others have recorded its cell: it returns too late.
"""

import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import Cell, Record
from benchmarks.claims import alive
from benchmarks.files import atomic
from benchmarks.progress import Silent
from benchmarks.runner import Outcome, compute
from benchmarks.store import Store, store_at
from tests.runner.fakes import cell, numbers

EXECUTE = "tests.cluster.fakes:execute"
LONELY = "-lonely"
LATE = 60  # seconds one waits at most


def cells(count: int, seconds: float = 0.3) -> list[Cell]:
    """So many cells of so many seconds, over all models and intrinsics."""
    return [cell(number, str(seconds)) for number in range(count)]


def execute(cell: Cell, store: Store, progress: Callable[[float, str], None], device: str = "cpu") -> Record:
    """Scores that are a function of the cell, after its time; who began it is in computed.txt."""
    root = Path(os.environ.get("INTRINSIC_BENCH_BEGUN") or store.root.folder)
    with (root / "computed.txt").open("a") as file:
        file.write(f"{cell.hash} {os.getpid()} {os.getppid()} {os.environ['OMP_NUM_THREADS']}\n")
    seconds = float(cell.options["layer"])
    for part in range(10):
        progress(part / 10, "pretending")
        time.sleep(seconds / 10)
    if socket.gethostname().endswith(LONELY) and (root / "cut").exists():
        _wait_for_others(cell, store.root, progress)
    end = time.monotonic() + LATE
    while (root / "together").exists() and time.monotonic() < end:
        time.sleep(0.05)
    with atomic(store.maps / f"{cell.hash}.npz") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}".encode())
    values = numbers(cell, 5)
    scores = {"rms": sum(values) / len(values)}
    return Record(cell, "done", scores=scores, per_image={"rms": values}, maps=f"maps/{cell.hash}.npz")


def _wait_for_others(cell: Cell, root: Store, progress: Callable[[float, str], None]) -> None:
    end = time.monotonic() + LATE
    while not root.path(cell).exists() and time.monotonic() < end:
        progress(0.9, "cut off")
        time.sleep(0.1)
    (root.folder / "late").touch()


def computed(store: Path) -> list[tuple[str, int, int]]:
    """Hash, process and its parent (the node's own process) of each cell that was begun, in order."""
    path = store / "computed.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(line[0], int(line[1]), int(line[2])) for line in lines]


def at_work(store: Path) -> list[tuple[str, int, int]]:
    """Hashes of the cells that are being computed now, their processes, and the parents of these."""
    done = {path.stem for path in (store / "records").glob("*.json")}
    return [begun for begun in computed(store) if begun[0] not in done and alive(begun[1])]


def stopped(store: Path, parent: int = 0) -> tuple[str, int] | None:
    """Stop a process in the middle of a cell (one of this parent): however it ends now, the cell is lost.

    Returns:
        The hash of the cell and the process; None where there is none.
    """
    for begun in reversed(at_work(store)):
        name, process, its = begun
        if parent not in (0, its):
            continue
        os.kill(process, signal.SIGSTOP)
        if begun in at_work(store):
            return name, process
        os.kill(process, signal.SIGCONT)  # it was faster
    return None


def begun_again(store: Path) -> set[str]:
    """Hashes of the cells that were begun more than once."""
    return {name for name, times in Counter(name for name, *_ in computed(store)).items() if times > 1}


class Told(Silent):
    """What the runner says of lost cells."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)
        print(text, file=sys.stderr, flush=True)


def ask(
    which: list[Cell], store: Path | str, address: str, workers: int, told: Told | None = None
) -> Outcome:
    """Compute cells on a cluster."""
    show = told or Told()
    place = store_at(store)
    return compute(which, place, execute=EXECUTE, engine="ray", address=address, workers=workers, show=show)


if __name__ == "__main__":  # python -m tests.cluster.fakes STORE COUNT SECONDS ADDRESS WORKERS
    store, count, seconds, address, workers = sys.argv[1:]
    outcome = ask(cells(int(count), float(seconds)), store, address, int(workers))
    sys.exit(outcome.status)
