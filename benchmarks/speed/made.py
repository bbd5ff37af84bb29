"""Suites and stores of any size that nobody computed: what a plan and a report of 100,000 cells are timed on.

Ten models of the zoo are asked for four intrinsics with five seeds: by linear probe and fine-tuning once, by
LoRA at as many settings as the size takes. Records hold what real ones do, every metric of 100 test pictures
among it (about 10 kB each), but no maps. Numbers come of a stream named by the cell, so that a store of one
size is the same everywhere. Imports no torch.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cell import NO_INTRINSIC, NO_MODEL, Cell, Record, sealed, unsealed
from benchmarks.loop import facts_of
from benchmarks.metrics import METRICS
from benchmarks.store import Store
from benchmarks.suite import Suite

MODELS = tuple(f"sd.rooms64-{tag}" for tag in ("random", "s1", "s2", "s3", "s4", "s5", "scrambled"))
MODELS += tuple(f"vqgan.rooms64-{tag}" for tag in ("random", "s4", "scrambled"))
INTRINSICS = ("normal", "depth", "albedo", "shading")
SEEDS = 5
RANKS, TRAIN = (1, 2, 4, 8, 16, 32), (16, 32, 64, 125, 250, 500, 750, 1000)
RATES = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.02)
NOISE = (0.25, 0.5, 0.75)
# Cells -> sweeps of LoRA, in TOML: so many that with the other methods there are as many cells; beside
# them are 18 controls and Frechet distances.
SWEEPS: dict[int, tuple[str, ...]] = {
    1_000: (f"sweep = {{ rank = {[2, 8, 32]} }}",),
    10_000: (f"sweep = {{ rank = {[*RANKS]} }}\ntrain = {[*TRAIN]}",),
    100_000: (
        f"sweep = {{ rank = {[*RANKS]}, rate = {[*RATES]} }}\ntrain = {[*TRAIN]}",
        f"sweep = {{ rank = {[*RANKS]}, noise = {[*NOISE]} }}",
    ),
}
BASE = {"normal": 30.0, "depth": 1.0, "albedo": 0.15, "shading": 0.13}  # mean error, in the metric's unit
PER_IMAGE = {
    i: [m.name for m in METRICS.values() if i in m.intrinsics and m.name != "skill"] for i in INTRINSICS
}


def suite_text(cells: int) -> str:
    """The TOML of a suite of this many cells, one of SWEEPS, and 18 more."""
    asked = f"models = {list(MODELS)}\nintrinsics = {list(INTRINSICS)}"
    text = f'name = "scale-{cells}"\ntitle = "{cells:,} made-up cells"\nquestion = "How long does it take?"\n'
    text += f"seeds = {list(range(SEEDS))}\n"
    text += f'\n[[grid]]\n{asked}\nmethods = ["linear", "finetune"]\n'
    for sweep in SWEEPS[cells]:
        text += f'\n[[grid]]\n{asked}\nmethods = ["lora"]\noptions = {{ steps = 100, batch = 8 }}\n{sweep}\n'
    text += f'\n[[grid]]\nintrinsics = {list(INTRINSICS)}\nmethods = ["constant", "pixels"]\nseeds = [0]\n'
    text += f'\n[[grid]]\nmodels = {list(MODELS)}\nmethods = ["frechet"]\nseeds = [0]\n'
    return text.replace("'", '"')


def _stream(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))


def _errors(cell: Cell, share: float) -> NDArray[np.float64]:
    """Errors (test,): pictures are as hard for every model, seeds and settings move them a little."""
    hard = _stream(f"pictures of {cell.data} {cell.intrinsic}").lognormal(0, 0.3, cell.test)
    factor = 1.5 if cell.model == NO_MODEL else 1.4 - 0.4 * share**0.4
    factor *= (250 / cell.train) ** 0.05 * (8 / float(cell.options.get("rank", 8))) ** 0.03
    factor *= 1 + 0.3 * float(cell.options.get("noise", 0))
    own = _stream(cell.hash)
    return BASE[cell.intrinsic] * factor * own.normal(1, 0.02) * hard * own.lognormal(0, 0.1, cell.test)


def made_record(cell: Cell) -> Record:
    """A finished record of a cell, as the runner leaves them."""
    told = facts_of(cell.model)
    share = 0.2 if told.get("control") else float(told.get("trained") or 0.0)
    environment: dict[str, Any] = {"python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.4.6"}
    environment |= {"commit": "0" * 40, "device": "cpu (made up)", "threads": 1, "peak_memory_mib": 1100}
    record = Record(cell, "done", generator=told, environment=environment)
    record.seconds = {"load": 0.05, "freeze": 2.5, "fit": 12.0, "predict": 1.7, "score": 0.3, "total": 16.55}
    if cell.intrinsic == NO_INTRINSIC:
        distance = (8 + 45 * (1 - share**0.5)) * float(_stream(cell.model).lognormal(0, 0.1))
        record.scores = {"frechet_distance": distance, "kernel_distance": distance / 40}
        record.details = {"samples": 256, "reference": 2048, "extractor": "made up"}
        return record
    errors = _errors(cell, share)
    for number, name in enumerate(PER_IMAGE[cell.intrinsic]):
        good = 100 * np.exp(-errors / errors.max())
        values = errors * 0.9**number if METRICS[name].lower_is_better else good
        record.per_image[name] = values.round(6).tolist()
        record.scores[name] = float(np.mean(record.per_image[name]))
    record.parameters = {"trainable": 63_744, "total": 517_219}
    record.details = {"loss_first": 1.46, "loss_last": 0.66, "validation_error": float(errors.mean())}
    return record


def record_text(record: Record) -> str:
    """What Record.to_json says, faster: the numbers of 100,000 records are most of the work."""
    rows = (
        f"  {json.dumps(name)}: [\n   " + ",\n   ".join(map(repr, values)) + "\n  ]"
        for name, values in record.per_image.items()
    )
    numbers, empty = "{\n" + ",\n".join(rows) + "\n }", ' "per_image": {},\n'
    kept, record.per_image = record.per_image, {}
    text = unsealed(record.to_json())
    record.per_image = kept
    return sealed(text.replace(empty, f' "per_image": {numbers},\n', 1) if kept else text)


def fill(store: Store, suite: Suite, cells: Sequence[Cell] | None = None) -> Iterator[int]:
    """Make the store of a suite with a record of every cell (or of some); counts as it goes.

    It is written without the store's own care (sync, rename), which 100,000 records need not have here.
    """
    store.prepare()
    store.write_suite(suite.name, suite.title, suite.question, suite.cells)
    for number, cell in enumerate(suite.cells if cells is None else cells, 1):
        store.path(cell).write_text(record_text(made_record(cell)) + "\n", encoding="utf-8")
        yield number


def write_suite_file(folder: Path, cells: int) -> Path:
    """The suite's TOML file in a folder."""
    path = folder / f"scale-{cells}.toml"
    path.write_text(suite_text(cells), encoding="utf-8")
    return path
