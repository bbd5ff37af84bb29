"""A store folder as plain data: what the suite plans and what has been recorded."""

from __future__ import annotations

import gc
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from benchmarks.cell import Cell, Record
from benchmarks.glance import record_files
from generators.errors import UserError
from generators.plain import parse_json

RERUN = "move the file away and run the suite again: what is missing is measured anew"


@dataclass(frozen=True)
class Results:
    """One store.

    Attributes:
        store: the folder.
        name, title, question: of the suite.
        planned: every cell of the suite, in its order.
        impossible: cell hash -> why this cell cannot be probed.
        records: cell hash -> record, of planned cells only.
        strangers: hashes of records that belong to no planned cell; they are counted, not shown.
        unmapped: number of records whose maps are not in the store: it was passed on without them.
    """

    store: Path
    name: str
    title: str
    question: str
    planned: tuple[Cell, ...]
    impossible: dict[str, str]
    records: dict[str, Record]
    strangers: tuple[str, ...]
    unmapped: int = 0

    @cached_property
    def done(self) -> list[Record]:
        """Records with scores, in the order of the plan."""
        return [r for r in self._ordered() if r.status == "done"]

    @cached_property
    def failed(self) -> list[Record]:
        """Records without, in the order of the plan."""
        return [r for r in self._ordered() if r.status != "done"]

    def _ordered(self) -> list[Record]:
        return [self.records[cell.hash] for cell in self.planned if cell.hash in self.records]


def read_store(store: Path) -> Results:
    """Reads `suite.json` and `records/*.json` of a store.

    Raises:
        UserError: no store, a file that is no record, or records of different protocols.
    """
    with _uncollected():
        suite = _read_suite(store / "suite.json")
        records = _read_records(store, {cell.hash: cell for cell, _ in suite["cells"]} if suite else {})
    if suite is None and not records:
        raise UserError(
            f"a report on {store}",
            "the folder holds neither suite.json nor records",
            "a store is written by: intrinsic-bench run SUITE --store DIR",
            "name a store, or run a suite first",
        )
    _refuse_mixed_protocols(store, records)
    entries = suite["cells"] if suite else []
    planned = tuple(cell for cell, _ in entries) if suite else _in_order(records)
    known = {cell.hash for cell in planned}
    return Results(
        store=store,
        name=suite["name"] if suite else store.name,
        title=suite["title"] if suite else store.name,
        question=suite["question"] if suite else "",
        planned=planned,
        impossible={cell.hash: why for cell, why in entries if why},
        records={h: r for h, r in records.items() if h in known},
        strangers=tuple(h for h in records if h not in known),
        unmapped=_leave_out_maps(store, records),
    )


def _leave_out_maps(store: Path, records: Mapping[str, Record]) -> int:
    """Take the maps that are not there, as of a store from git, from their records; how many."""
    folder = store / "maps"
    here = {f"maps/{name}" for name in os.listdir(folder)} if folder.is_dir() else set()
    without = [record for record in records.values() if record.maps and record.maps not in here]
    for record in without:
        record.maps = None
    return len(without)


def _read_records(store: Path, planned: Mapping[str, Cell]) -> dict[str, Record]:
    found = {}
    for path in record_files(store / "records"):
        try:
            with open(path, "rb", buffering=0) as file:
                record = Record.from_json(file.read().decode(), planned)
            record.per_image = {name: packed(values) for name, values in record.per_image.items()}
        except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            raise UserError(f"the record {path}", f"it cannot be read: {error}", "", RERUN) from error
        if record.cell.hash != os.path.basename(path).removesuffix(".json"):
            known = f"its content belongs to the cell {record.cell.hash}"
            raise UserError(f"the record {path}", "its name is not the hash of its cell", known, RERUN)
        found[record.cell.hash] = record
    return found


def packed(values: Sequence[float]) -> list[float]:
    """Numbers in a quarter of a list's memory, used as a list's are; raises ValueError at NaN and Inf."""
    found = array("d", values)
    if not math.isfinite(sum(found)):
        raise ValueError("it holds NaN or Inf")
    return cast("list[float]", found)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without searches for cycles, of which there are none among millions of things that stay."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read_suite(path: Path) -> dict[str, Any] | None:
    """The suite as the runner wrote it, its cells as (Cell, why it is impossible or "")."""
    if not path.exists():
        return None
    try:
        suite = parse_json(path.read_text(encoding="utf-8"))
        cells = [_planned(entry) for entry in suite["cells"]]
        name = str(suite["name"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"the suite file {path}",
            f"it cannot be read: {type(error).__name__}: {error}",
            "it is written by the runner",
            "run the suite again on this store: it is written anew and no record is lost",
        ) from error
    unique = {cell.hash: (cell, why) for cell, why in cells}
    title, question = str(suite.get("title") or name), str(suite.get("question") or "")
    return {"name": name, "title": title, "question": question, "cells": list(unique.values())}


def _planned(entry: dict[str, Any]) -> tuple[Cell, str]:
    extra = ("hash", "impossible")
    cell = Cell(**{key: value for key, value in entry.items() if key not in extra})
    if entry.get("hash", cell.hash) != cell.hash:
        raise ValueError(f"a cell says hash {str(entry['hash'])[:40]} and hashes to {cell.hash}")
    return cell, str(entry.get("impossible") or "")


def _in_order(records: dict[str, Record]) -> tuple[Cell, ...]:
    return tuple(sorted((r.cell for r in records.values()), key=lambda c: (str(c), c.hash)))


def _refuse_mixed_protocols(store: Path, records: dict[str, Record]) -> None:
    example = {record.cell.protocol: record.cell for record in records.values()}
    if len(example) < 2:
        return
    listed = "; ".join(f"protocol {p}: {c} (records/{c.hash}.json)" for p, c in sorted(example.items()))
    raise UserError(
        f"a report on {store}",
        f"its records follow {len(example)} protocols, whose numbers cannot be compared",
        listed,
        "keep one store per protocol: move the records of the older one to a folder of their own",
    )
