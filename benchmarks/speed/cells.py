"""Seconds of one cell of each family, with the suites' first settings and with a shorter training.

`python -m benchmarks.speed.cells` takes a few minutes; whether the shorter training learns as much is said by
`benchmarks.speed.convergence`, not here. A step is timed on a short training (the median of its steps, after
the first), what a cell predicts on one batch of pictures; a cell is its steps and its 150 validation and test
pictures. All is seconds of processor time on one thread, both settings in one process. A linear probe is
timed with the pass over the training pictures, and with the pass another intrinsic has made.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.cache import Cache, cache_folder
from benchmarks.cell import Cell
from benchmarks.execute import Clock, environment, make_task
from benchmarks.session import Session
from benchmarks.suite import make_cell
from probes.fit import BATCH
from probes.linear import fit as fit_linear
from probes.lora import fit as fit_lora
from probes.task import Task

from .convergence import MODELS

STEPS, PICTURES = 200, 8  # steps and batch of LoRA in the suites until now
SHOWN = 6  # steps that are timed
VALIDATION, TEST = 50, 100  # pictures a cell predicts
AUGMENTED = "sd-aug.rooms64-s5"  # trained like the single-step model, and sampled
BEFORE = {"sampler_steps": 25, "guidance": 3.0}  # its own options
# Fewer steps without guidance are better on rooms, too (results/rooms-aug).
AFTER = {"sampler_steps": 4, "guidance": 1.0}
BASE = "sd.rooms64-s5"


@dataclass(frozen=True)
class Timing:
    """Seconds of one setting.

    Attributes:
        step: of one step; predict: of the validation and test pictures.
    """

    steps: int
    batch: int
    step: float
    predict: float

    @property
    def cell(self) -> float:
        """Seconds of the training and of what is predicted after it."""
        return self.steps * self.step + self.predict


def asked(session: Session, model: str, intrinsic: str, method: str, **more: Any) -> tuple[Cell, Task]:
    """A cell of a model's own data, and its task."""
    data = MODELS[model][0] if model in MODELS else "rooms"
    labels = "exact" if data == "rooms" else "rooms-network"
    cell = make_cell(model, intrinsic, method, data=data, labels=labels, **more)
    return cell, make_task(cell, session, Clock(lambda share, phase: None))


def lora(
    session: Session, model: str, steps: int, batch: int, rate: float, more: Mapping[str, Any]
) -> Timing:
    """Seconds of a LoRA cell on normals."""
    options = {"steps": SHOWN, "batch": batch, "rate": rate, **more}
    _, task = asked(session, model, "normal", "lora", options=options, validation=BATCH)
    task.remember = lambda key, compute: compute()  # a denoiser's training would be recalled
    marks: list[float] = []
    task.watch = lambda step: marks.append(time.process_time())
    fit_lora(task).release()
    predict = time.process_time() - marks[-1]  # after its last step it predicts the validation pictures
    step = statistics.median(b - a for a, b in pairwise(marks))
    return Timing(steps, batch, step, predict * (VALIDATION + TEST) / BATCH)


def linear(session: Session, model: str) -> tuple[float, float]:
    """Seconds of a linear probe's cell, the first of a model and any other."""
    kept: dict[str, dict[str, Tensor]] = {}

    def remember(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    spent = []
    for intrinsic in ("normal", "albedo"):
        cell, task = asked(session, model, intrinsic, "linear", validation=VALIDATION, test=TEST)
        test = session.examples(cell, "test", task.intrinsic)
        started = time.process_time()
        fit_linear(replace(task, remember=remember)).predict(test)
        spent.append(time.process_time() - started)
    return spent[0], spent[1]


def columns(table: Table, names: tuple[str, ...]) -> Table:
    """The table with its columns, numbers to the right."""
    for name in names:
        table.add_column(name, justify="left" if name == "model" else "right")
    return table


def adapters(session: Session, steps: int, batch: int) -> Table:
    """Both settings of LoRA by model."""
    table = Table(
        title=f"LoRA of rank 8 on normals, seconds of a cell\n{environment(session.device)['device']}"
    )
    columns(
        table, ("model", "before", "a step", "predict", "cell", "after", "a step", "predict", "cell", "ratio")
    )
    rates = {model: rate for model, (_, rate) in MODELS.items()} | {AUGMENTED: MODELS[BASE][1]}
    total = [0.0, 0.0]
    for model, rate in rates.items():
        more = (BEFORE, AFTER) if model == AUGMENTED else ({}, {})
        sizes = ((STEPS, PICTURES), (steps, batch))
        pair = [lora(session, model, *size, rate, own) for size, own in zip(sizes, more, strict=True)]
        cells = []
        for number, t in enumerate(pair):
            cells += [f"{t.steps} x {t.batch}", f"{t.step:.3f}", f"{t.predict:.1f}", f"{t.cell:.1f}"]
            total[number] += t.cell
        table.add_row(model, *cells, f"{pair[0].cell / pair[1].cell:.1f}")
    mean = [f"{value / len(rates):.1f}" for value in total]
    table.add_row("mean", "", "", "", mean[0], "", "", "", mean[1], f"{total[0] / total[1]:.1f}")
    return table


def probes(session: Session) -> Table:
    """The linear probe by model: alone, and as a mean over four intrinsics that share one pass."""
    table = columns(
        Table(title="linear probe, seconds of a cell"), ("model", "alone", "one of four", "ratio")
    )
    for model in MODELS:
        first, other = linear(session, model)
        mean = (first + 3 * other) / 4
        table.add_row(model, f"{first:.1f}", f"{mean:.1f}", f"{first / mean:.1f}")
    return table


@click.command()
@click.option("--steps", default=100, show_default=True, help="Of the shorter training.")
@click.option("--batch", default=4, show_default=True, help="Pictures a step of it.")
def main(steps: int, batch: int) -> None:
    """Time cells of every family on one thread."""
    torch.set_num_threads(1)
    session, console = Session(Cache(cache_folder())), Console(width=130)
    console.print(f"$ python -m benchmarks.speed.cells --steps {steps} --batch {batch}")
    console.print(adapters(session, steps, batch))
    console.print(probes(session))


if __name__ == "__main__":
    main()
