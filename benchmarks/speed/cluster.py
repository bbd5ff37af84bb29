"""The same cells by the local engine and by Ray on this machine: what Ray costs, and that no number changes.

`python -m benchmarks.speed.cluster > results/speed/cluster.txt` takes a few minutes. Both have one worker;
each takes its turns, with an empty store and a cache that is filled before. What is told: seconds until the
first record is there, seconds of each cell after it, and how many processes computed cells (a process keeps
the models it has loaded).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click

from benchmarks.cell import Cell
from benchmarks.execute import environment
from benchmarks.runner import compute
from benchmarks.store import Store
from benchmarks.suite import make_cell

MODELS = ("sd.rooms64-s1", "sd.rooms64-s5")
INTRINSICS = ("normal", "depth", "albedo")


@dataclass(frozen=True)
class Run:
    """What one engine took.

    Attributes:
        first: seconds to the first record; rest: to the last one, by the clock; cells: how many.
        processes: that computed cells.
        outcomes: of the records, in the order of the hashes.
    """

    first: float
    rest: float
    cells: int
    processes: int
    outcomes: list[dict[str, object]]

    def row(self, name: str) -> str:
        """As a line of the table."""
        each = (self.rest - self.first) / (self.cells - 1)
        return f"{name:8}{self.first:14.1f}{each:18.2f}{self.rest:10.1f}{self.processes:12}"


def asked(train: int) -> list[Cell]:
    """Linear probes of every intrinsic."""
    return [
        make_cell(model, intrinsic, "linear", train=train) for model, intrinsic in product(MODELS, INTRINSICS)
    ]


def timed(cells: Sequence[Cell], engine: str) -> Run:
    """Compute cells with one worker of an engine, in a store of their own."""
    with tempfile.TemporaryDirectory() as folder:
        store, started = Store(folder), time.time()
        outcome = compute(cells, store, engine=engine, workers=1)
        assert outcome.status == 0, [record.reason for record in outcome.failed]
        written = sorted(path.stat().st_mtime for path in Path(folder, "records").glob("*.json"))
        records = store.all()
        processes = {record.environment["pid"] for record in records}
        found = [record.outcome() for record in records]
    return Run(written[0] - started, written[-1] - started, len(cells), len(processes), found)


@click.command()
@click.option("--repeats", default=2, show_default=True, help="Turns of each engine.")
@click.option("--train", default=64, show_default=True, help="Training pictures of a cell.")
def main(repeats: int, train: int) -> None:
    """Time both engines in turns."""
    cells = asked(train)
    timed(cells, "local")  # fills the cache
    click.echo(f"$ python -m benchmarks.speed.cluster --repeats {repeats} --train {train}")
    click.echo(
        f"{environment('cpu')['device']}; {len(cells)} linear probes of {len(MODELS)} models, one worker"
    )
    click.echo(f"\n{'engine':8}{'first record':>14}{'s/cell after it':>18}{'all':>10}{'processes':>12}")
    runs = []
    for engine in ("local", "ray") * repeats:
        runs.append(timed(cells, engine))
        click.echo(runs[-1].row(engine))
    same = all(run.outcomes == runs[0].outcomes for run in runs)
    click.echo(
        f"\nscores, per picture, parameters and details are the same in all: {'yes' if same else 'NO'}"
    )


if __name__ == "__main__":
    main()
