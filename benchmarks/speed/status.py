"""What `status` costs on a large store: names, the first look, later ones, and every record parsed.

Side by side in one run.

`python -m benchmarks.speed.status --out results/speed/status.txt` makes a store of so many records, each with
six scores of 100 pictures as those of results/rooms have, and prints seconds by the clock.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.cell import Cell, Record
from benchmarks.state import Reader
from benchmarks.store import Store
from benchmarks.suite import make_cell

FAILING = 1000  # one record in so many has failed
PICTURES, SCORES = 100, 6


def record(cell: Cell, number: int) -> Record:
    """A record of the size real ones have."""
    if number % FAILING == 0:
        return Record(cell, "failed", "RuntimeError: it is broken")
    names = [f"score_{n}" for n in range(SCORES)]
    per_image = {name: [round(7.0 + number / (n + 3), 6) for n in range(PICTURES)] for name in names}
    scores = {name: sum(values) / PICTURES for name, values in per_image.items()}
    return Record(cell, "done", scores=scores, per_image=per_image, seconds={"total": 10.0})


def fill(store: Store, count: int) -> None:
    """Nine of ten planned cells get a record; nothing is synced: only reading is timed."""
    first = make_cell("sd.rooms64-s5", "normal", "linear")
    cells = [first.with_(seed=number) for number in range(count * 10 // 9)]
    store.prepare()
    for number, cell in enumerate(cells[:count]):
        store.path(cell).write_text(record(cell, number).to_json() + "\n", encoding="utf-8")
    store.write_suite("large", "Large", "How long does a look take?", cells)


@click.command()
@click.option("--records", default=100_000, show_default=True, help="In the store.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there, too.")
def main(records: int, out: Path | None) -> None:
    """Print what each way of looking costs."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        fill(store, records)
        size = sum(entry.stat().st_size for entry in os.scandir(store.records)) / records
        reader = Reader(store.folder)
        ways: dict[str, Callable[[], object]] = {
            "names of the records alone": lambda: len(os.listdir(store.records)),
            "status, the first look": reader.look,
            "status, the next one (--watch)": reader.look,
            "every record parsed (Store.all)": lambda: len(store.all()),
        }
        lines = [f"seconds by the clock, {records:,} records of {size / 1000:.1f} kB, from the page cache"]
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            lines.append(f"{name:32} {time.perf_counter() - start:7.2f}")
            click.echo(lines[-1])
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
