"""Stores of the paper's suites for tests: records whose numbers are known exactly, and what is written."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell import Cell, Record
from tests.report.synthetic import write_record, write_suite


def cell(model: str, intrinsic: str, method: str = "lora", seed: int = 0, **changes: Any) -> Cell:
    """A cell as the paper's suites have it; `options` are added to those of a plain LoRA."""
    options = {"steps": 10, "batch": 4, "rate": 1e-4, "noise": 0.0, "rank": 8, "targets": "all"}
    options |= {"variant": "lora", "labels": "true"} | changes.pop("options", {})
    fields: dict[str, Any] = {"data": "diode", "world": "w", "size": 512, "train": 4000, "validation": 50}
    fields |= {"test": 20, "alignment": "unit" if intrinsic == "depth" else "none"} | changes
    return Cell(model, f"hash-{model}", intrinsic, method, options, seed=seed, **fields)


def made(c: Cell, **scores: float) -> Record:
    """A record whose scores are these exactly, with pictures that spread around them."""
    spread = np.linspace(-0.1, 0.1, c.test)
    per_image = {name: [float(v) for v in value + spread * value] for name, value in scores.items()}
    return Record(
        c,
        "done",
        scores=dict(scores),
        per_image=per_image,
        parameters={"trainable": 200_000, "total": 100_000_000},
        environment={"steps_per_second": 2.63, "peak_memory_mib": 4000},
    )


def store(results: Path, name: str, records: Sequence[Record], planned: Sequence[Cell] = ()) -> Path:
    """A store of records, and of cells that are planned and not measured."""
    folder = results / name
    (folder / "records").mkdir(parents=True)
    write_suite(folder, [*(r.cell for r in records), *planned], name=name)
    for one in records:
        write_record(folder, one)
    return folder


def draw_maps(folder: Path, record: Record, shade: int) -> Record:
    """Maps of two pictures, the prediction of one color."""
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    picture = np.full((2, 3, 16, 16), 60, np.uint8)
    truth = np.zeros((2, 3, 16, 16), np.float16)
    truth[:, 2] = 1
    prediction = np.full_like(truth, shade / 127.5 - 1)
    path = folder / "maps" / f"{record.cell.hash}.npz"
    np.savez(path, picture=picture, truth=truth, prediction=prediction, error=truth[:, :1])
    record.maps = f"maps/{record.cell.hash}.npz"
    return record


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path) -> list[list[str]]:
    """Cells of every line of a Markdown file's tables."""
    text = path.read_text(encoding="utf-8").replace("\\~", "~")
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
