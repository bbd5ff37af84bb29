"""The linear probe in closed form against the same probe trained by gradient descent, in one run.

`python -m benchmarks.speed.linear` takes a few minutes. Both sides get the same cached codes of the
same pictures and must compute the activations themselves; the closed form solves every layer and
all four intrinsics, gradient descent (Adam on upsampled activations, Chen et al. 2023) is timed on
the layer the closed form chose, one probe per intrinsic, which flatters it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from benchmarks.cache import Cache
from benchmarks.cell import Cell
from benchmarks.session import Session
from benchmarks.suite import make_cell
from probes.intrinsics import INTRINSICS
from probes.linear import LinearProbe, fit
from probes.task import Examples, Task


def _task(session: Session, cell: Cell) -> Task:
    intrinsic = INTRINSICS[cell.intrinsic]
    train, validation = (session.examples(cell, split, intrinsic) for split in ("train", "validation"))
    return Task(session.generator(cell), intrinsic, train, validation, cell.options, cell.seed)


def closed_form(session: Session, cells: list[Cell]) -> tuple[float, list[LinearProbe]]:
    """Seconds for all intrinsics and layers together, and the probes."""
    tasks = [_task(session, cell) for cell in cells]
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def remember(key: str, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    start = time.perf_counter()
    probes = []
    for task in tasks:
        task.remember = remember
        probes.append(fit(task))
    return time.perf_counter() - start, probes


def by_descent(task: Task, layer: str, epochs: int, rate: float) -> tuple[float, torch.nn.Conv2d]:
    """Seconds of Adam on one layer's upsampled activations, and the trained 1 x 1 convolution."""
    truth = task.train.maps[task.intrinsic.name]
    size = truth.shape[2:]
    torch.manual_seed(0)
    start = time.perf_counter()
    head: torch.nn.Conv2d | None = None
    optimizer: torch.optim.Optimizer | None = None
    steps = epochs * ((len(truth) + 15) // 16)
    for step in range(steps):
        rows = torch.randint(len(truth), (16,))
        with torch.no_grad():
            f = task.model.features({k: v[rows] for k, v in task.train.code.items()})[layer]
            large = functional.interpolate(f, size=size, mode="bilinear", align_corners=False)
        if head is None or optimizer is None:
            head = torch.nn.Conv2d(f.shape[1], truth.shape[1], 1)
            optimizer = torch.optim.Adam(head.parameters(), lr=rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        loss = (head(large) - truth[rows]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    if head is None:
        raise ValueError("gradient descent needs at least one epoch")
    return time.perf_counter() - start, head


def error_of(task: Task, layer: str, head: torch.nn.Conv2d, examples: Examples) -> float:
    """The intrinsic's own error of a trained head."""
    truth = examples.maps[task.intrinsic.name]
    with torch.no_grad():
        f = task.model.features(examples.code)[layer]
        maps = head(functional.interpolate(f, size=truth.shape[2:], mode="bilinear", align_corners=False))
    if task.intrinsic.name == "normal":
        maps = task.intrinsic.from_picture(maps)
    return float(task.intrinsic.error(maps, truth, examples.mask))


@click.command()
@click.option("--model", default="sd.rooms64-s5", show_default=True)
@click.option("--train", default=250, show_default=True, help="Training pictures.")
@click.option("--epochs", default=30, show_default=True, help="Passes of gradient descent.")
@click.option("--rate", default=0.02, show_default=True, help="Adam's learning rate, decayed to zero.")
@click.option("--cache", type=click.Path(path_type=Path), help="Cache folder; none by default.")
def main(model: str, train: int, epochs: int, rate: float, cache: Path | None) -> None:
    """Time both ways to the same probes on one thread."""
    torch.set_num_threads(1)
    session = Session(Cache(cache))
    cells = [make_cell(model, name, "linear", train=train) for name in INTRINSICS]
    seconds, probes = closed_form(session, cells)
    table = Table(
        title=f"linear probe, {model}, {train} pictures, closed form {seconds:.1f} s for all layers"
    )
    for column in (
        "intrinsic",
        "layer",
        "error closed form",
        "error descent",
        "descent, one layer [s]",
        "ratio",
    ):
        table.add_column(column, justify="right")
    total = 0.0
    for cell, probe in zip(cells, probes, strict=True):
        task = _task(session, cell)
        spent, head = by_descent(task, probe.layer, epochs, rate)
        total += spent
        held = task.validation
        truth = held.maps[cell.intrinsic]
        ours = float(task.intrinsic.error(probe.predict(held), truth, held.mask))
        theirs = error_of(task, probe.layer, head, held)
        share = spent / (seconds / len(cells))
        table.add_row(
            cell.intrinsic, probe.layer, f"{ours:.4f}", f"{theirs:.4f}", f"{spent:.1f}", f"{share:.1f}"
        )
    table.add_row("all four", "", "", "", f"{total:.1f}", f"{total / seconds:.1f}")
    layers = len(probes[0].details["validation_by_layer"])
    table.add_row(
        f"{layers} layers, extrapolated",
        "",
        "",
        "",
        f"{total * layers:.0f}",
        f"{total * layers / seconds:.0f}",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
