"""How plan and report grow with the number of cells, what the runner costs, and two workers against one.

`python -m benchmarks.speed.scale plan|report` times the command itself in a fresh process for 1,000, 10,000
and 100,000 made-up cells (benchmarks.speed.made): wall clock, processor time and the most memory at once, as
the system tells them of an ended process. `runner` times a run whose cells do nothing but wait, and `workers`
real cells with one worker and with two, beside what two plain processes make of this machine. Each writes
results/speed/scale-NAME.txt; `--against DIR` times another checkout beside this one, turn by turn. `plan` and
`report` end with status 1 where 100,000 cells take more than LIMITS.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.store import Store
from benchmarks.suite import load_suite

from .made import SWEEPS, fill, write_suite_file

RESULTS = Path("results/speed")
LIMITED = 100_000  # cells whose plan and report may take so many seconds and MiB
LIMITS: dict[str, tuple[float, float | None]] = {"plan": (10.0, 1024.0), "report": (60.0, None)}
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Spent:
    """What a process took.

    Attributes:
        wall, cpu: seconds; cpu of the process and of the children it waited for.
        peak: most resident memory at once, MiB.
        over: whether it was ended at the limit, unfinished.
    """

    wall: float
    cpu: float
    peak: float
    over: bool = False


def spent(arguments: Sequence[str], root: Path, limit: float, more: Mapping[str, str] | None = None) -> Spent:
    """Run `python ARGUMENTS` with a checkout on its path; what the system says of it once it has ended.

    Args:
        limit: seconds of wall clock after which it is killed.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    environment = os.environ | THREADS | {"PYTHONPATH": str(root)} | dict(more or {})
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", *arguments], stdout=subprocess.DEVNULL, stderr=words, env=environment
        )
        watch = threading.Timer(limit, process.kill)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        watch.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and wall < limit:
            words.seek(0)
            said = words.read()[-2000:].decode()
            raise RuntimeError(f"{arguments} ended with {process.returncode}: {said}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, wall >= limit)


def machine() -> str:
    """Processor, its threads, and what else keeps it busy."""
    from benchmarks.execute import environment

    load = os.getloadavg()[0]
    return f"{environment('cpu')['device']}, {os.cpu_count()} hardware threads, load average {load:.1f}"


def within(name: str, found: Sequence[Spent]) -> bool | None:
    """Whether all that was measured of LIMITED cells is within LIMITS; None if nothing was."""
    seconds, memory = LIMITS[name]
    if not found:
        return None
    return all(not s.over and s.wall <= seconds and s.peak <= (memory or math.inf) for s in found)


def target(name: str, met: bool | None) -> str:
    """The limits as a line of the table, and whether they are met."""
    seconds, memory = LIMITS[name]
    words = {True: "met", False: "missed", None: "not measured"}[met]
    most = f" and {memory:.0f} MiB" if memory else ""
    return f"Target: {name} of {LIMITED:,} cells in at most {seconds:.0f} s{most}: {words}."


@contextmanager
def _store(cells: int, place: Path | None) -> Iterator[tuple[Path, Path]]:
    """A suite file and its full store, kept in `place` if one is given."""
    with tempfile.TemporaryDirectory() as own:
        folder = place or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        suite = write_suite_file(folder, cells)
        loaded, store = load_suite(suite), Store(folder / f"{cells}" / "store")
        there = sum(1 for _ in store.records.glob("*.json"))
        if there < len(loaded.cells):
            for _ in fill(store, loaded):
                pass
        yield suite, store.folder


def _row(table: Table, cells: int, what: str, took: Spent) -> None:
    """One measurement; more than the limit is said as that."""
    sign = "> " if took.over else ""
    each = f"{sign}{1e6 * took.cpu / cells:.0f}"
    table.add_row(
        f"{cells:,}", what, f"{sign}{took.wall:.1f}", f"{sign}{took.cpu:.1f}", each, f"{took.peak:.0f}"
    )


def _columns(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("cells", "", "wall, s", "processor, s", "us a cell", "peak, MiB"):
        table.add_column(name, justify="left" if not name else "right")
    return table


def _write(name: str, asked: Sequence[str], *shown: Table | str) -> None:
    """Print, and write to results/speed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"scale-{name}.txt").open("w", encoding="utf-8") as file:
        for console in (Console(width=110), Console(file=file, width=110)):
            head = f"$ python -m benchmarks.speed.scale {' '.join(asked)}\n{machine()}"
            for part in (head, *shown):
                console.print(part, highlight=False)


@click.group()
def main() -> None:
    """Times the suite runner at sizes nobody has computed."""


_CELLS = click.option("--cells", multiple=True, type=int, default=tuple(SWEEPS), show_default=True)
_PLACE = click.option("--keep", type=click.Path(path_type=Path), help="Folder that keeps the made-up stores.")
_LIMIT = click.option("--limit", default=600.0, show_default=True, help="Seconds until one is ended.")
_AGAINST = click.option(
    "--against", type=click.Path(path_type=Path, exists=True), help="Another checkout to time, too."
)


def _roots(against: Path | None) -> dict[str, Path]:
    here = Path(__file__).parents[2]
    return {"before": against.resolve(), "now": here} if against else {"": here}


def _file(name: str, against: Path | None) -> str:
    return f"{name}-before" if against else name


def _named(version: str, what: str) -> str:
    return f"{what}, {version}" if version else what


@main.command()
@_CELLS
@_PLACE
@_LIMIT
@_AGAINST
def plan(cells: tuple[int, ...], keep: Path | None, limit: float, against: Path | None) -> None:
    """`intrinsic-bench plan`: of an empty store, and of one where every cell is done."""
    table, judged = _columns("intrinsic-bench plan, fresh processes"), []
    for count in cells:
        with _store(count, keep) as (suite, store):
            for what, place in (("nothing done", store.parent / "no" / "store"), ("all done", store)):
                for version, root in _roots(against).items():
                    asked = ("plan", str(suite), "--store", str(place), "--workers", "2")
                    took = spent(["-m", "benchmarks", *asked], root, limit)
                    _row(table, count, _named(version, what), took)
                    judged += [took] if count == LIMITED and version != "before" else []
    met = within("plan", judged)
    _write(_file("plan", against), ["plan"], table, target("plan", met))
    sys.exit(met is False)


@main.command()
@_CELLS
@_PLACE
@_LIMIT
@_AGAINST
def report(cells: tuple[int, ...], keep: Path | None, limit: float, against: Path | None) -> None:
    """`intrinsic-bench report`: the terminal's table, all files and the page."""
    table, sizes, judged = _columns("intrinsic-bench report, fresh processes"), [], []
    for count in cells:
        with _store(count, keep) as (_, store):
            for version, root in _roots(against).items():
                took = spent(["-m", "benchmarks", "report", str(store)], root, limit)
                _row(table, count, version, took)
                judged += [took] if count == LIMITED and version != "before" else []
                page = store / "report" / "index.html"
                if page.exists():
                    sizes.append(f"{count:,} cells: {page.stat().st_size / 2**20:.1f} MiB")
    met, told = within("report", judged), f"The page: {'; '.join(sizes)}."
    _write(_file("report", against), ["report"], table, told, target("report", met))
    sys.exit(met is False)


@main.command()
@click.option("--cells", multiple=True, type=int, default=(1_000, 10_000, 100_000), show_default=True)
def runner(cells: tuple[int, ...]) -> None:
    """The runner's own processor time: of its loop by the number of cells, and while it waits."""
    from . import runs

    loop = Table(title="the loop alone: every cell is done as soon as it is given", title_justify="left")
    for name in ("cells", "processor, s", "us a cell"):
        loop.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for count in cells:
            asked = load_suite(write_suite_file(Path(folder), count)).cells
            took = runs.loop_seconds(asked)
            loop.add_row(f"{count:,}", f"{took:.1f}", f"{1e6 * took / len(asked):.0f}")
    table = Table(title=f"2 workers, 8 cells that sleep {runs.SLEEP:g} s", title_justify="left")
    for name in ("shown", "wall, s", "runner's processor, s", "share of wall, %"):
        table.add_column(name, justify="left" if name == "shown" else "right")
    for name, show in runs.displays().items():
        wall, used = runs.run_seconds(runs.sleepers(8, runs.SLEEP), 2, show())
        table.add_row(name, f"{wall:.1f}", f"{used:.2f}", f"{100 * used / wall:.2f}")
    _write("runner", ["runner"], loop, table, "Target: less than 2 % of the wall clock.")


@main.command()
@click.option("--cells", default=12, show_default=True, help="Of one run.")
@click.option("--steps", default=15, show_default=True, help="Of LoRA in a cell.")
@click.option("--rounds", default=2, show_default=True)
def workers(cells: int, steps: int, rounds: int) -> None:
    """The same real cells by one worker and by two, and by plain processes without a runner."""
    from benchmarks.worker import Settings, environment

    from . import runs

    here = environment(Settings()) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    asked = runs.real_cells(cells, steps)
    runs.plain_seconds([asked], here)  # renders and codes are in the cache from here on
    halves = [asked[: cells // 2], asked[cells // 2 :]]
    ways = {
        "runner": lambda n: runs.runner_seconds(asked, n)[0],
        "plain processes": lambda n: runs.plain_seconds([asked] if n == 1 else halves, here),
        "matrix products": lambda n: runs.product_seconds(n, here) / n,
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append((way(1), way(2)))
    table = Table(title=f"{cells} cells of rooms, {rounds} rounds by turns", title_justify="left")
    for name in ("", "one, s", "two, s", "ratio", "ratios"):
        table.add_column(name, justify="left" if not name else "right")
    for name, times in found.items():
        one, two = (sum(each) / rounds for each in zip(*times, strict=True))
        each = " ".join(f"{a / b:.2f}" for a, b in times)
        table.add_row(name, f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}", each)
    more = "Products: seconds of one process's work, two processes do twice as much: their time is halved."
    aim = "Target: two workers at least 1.8 times as fast as one, on two cores."
    asked_for = ["workers", "--cells", str(cells), "--steps", str(steps), "--rounds", str(rounds)]
    _write("workers", asked_for, table, more, aim)


if __name__ == "__main__":
    main()
