"""Stores as runs leave them, for the tests of `status`: claims, signs of life and records."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from benchmarks.cell import Cell, Record
from benchmarks.claims import Claim, machine
from benchmarks.cli import main
from benchmarks.state import Reader, State
from benchmarks.store import Store
from tests.runner.fakes import cells

HERE = machine()


def text(seconds_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds_ago))


def done(cell: Cell, seconds: float = 10.0) -> Record:
    return Record(cell, "done", scores={"rms": 1.0}, per_image={"rms": [1.0]}, seconds={"total": seconds})


def failed(cell: Cell, reason: str) -> Record:
    return Record(cell, "failed", reason)


def put(store: Store, *records: Record) -> None:
    """Records as the store writes them, without waiting for the disk."""
    for each in records:
        store.path(each.cell).write_text(each.to_json() + "\n")


def claim(store: Store, cell: Cell, pid: int, host: str = HERE, started: str = "", ago: float = 100) -> None:
    content = json.dumps(asdict(Claim(pid, host, started, text(ago))))
    (store.claims / f"{cell.hash}.json").write_text(content)


def sign(store: Store, cell: Cell, pid: int, host: str = HERE, ago: float = 5, **more: Any) -> None:
    facts = {name: getattr(cell, name) for name in ("hash", "model", "intrinsic", "method", "seed")}
    facts |= {
        "host": host,
        "pid": pid,
        "share": 0.25,
        "phase": "training",
        "since": text(90),
        "at": text(ago),
    }
    (store.progress / f"{cell.hash}.json").write_text(json.dumps(facts | more))


def own_claim(store: Store, cell: Cell) -> None:
    """A claim of this very process."""
    assert store.claim(cell) is None


def look(store: Store) -> State:
    return Reader(store.folder).look()


def status(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, arguments)])


def twelve(folder: Path) -> Store:
    """Of twelve cells, the first four of which are done."""
    made = Store(folder)
    made.prepare()
    made.write_suite("twelve", "Twelve", "How far?", cells(12))
    for each in cells(4):
        put(made, done(each))
    return made
