"""The cells whose numbers must be the same in whatever way they are computed, and what came of them.

`python -m tests.determinism.cells STORE WORKERS COUNT` computes the first of them with workers, in a process
of its own.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import Cell, make_cell
from benchmarks.store import Store

ROOT = Path(__file__).parents[2]
FEW = {"train": 16, "validation": 4, "test": 4}
TRAINING = {"steps": 8, "batch": 4}
METHODS: Mapping[str, dict[str, Any]] = {
    "lora": TRAINING | {"rank": 2},
    "linear": {},
    "finetune": TRAINING,
}
# One model of each family of generators; a GAN is asked about its own pictures.
MODELS: Mapping[str, dict[str, str]] = {
    "sd.rooms64-s1": {},
    "stylegan2.rooms64-s1": {"data": "samples", "labels": "rooms-network"},
    "vqgan.rooms64-s1": {},
    "dinov2.rooms64-s1": {},
}
ON_GPU = MODELS | {"stylegan-xl.rooms64-s1": {"data": "samples", "labels": "rooms-network"}}


def cells(models: Mapping[str, dict[str, str]] = MODELS) -> list[Cell]:
    """Every model by every method."""
    return [
        make_cell(model, "albedo", method, options, **FEW, **where)  # type: ignore[arg-type]
        for model, where in models.items()
        for method, options in METHODS.items()
    ]


def came_of(cell: Cell, store: Store) -> dict[str, Any]:
    """A cell's outcome, and the hashes of what was trained and of what was predicted."""
    record = store.read(cell)
    assert record is not None and record.status == "done", record and record.reason
    assert record.adapter and record.maps
    weights = sorted((store.folder / record.adapter).glob("*.safetensors"))
    assert weights
    files = [*weights, store.folder / record.maps]
    return record.outcome() | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def here(which: Iterable[Cell], folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Compute cells in this process, one after the other, and tell what came of each."""
    from benchmarks.execute import execute

    store = Store(folder)
    store.prepare()
    found = {}
    for cell in which:
        store.write(execute(cell, store, lambda share, phase: None, device))
        found[cell.hash] = came_of(cell, store)
    return found


if __name__ == "__main__":
    from benchmarks.runner import compute

    sys.exit(compute(cells()[: int(sys.argv[3])], Store(sys.argv[1]), workers=int(sys.argv[2])).status)
