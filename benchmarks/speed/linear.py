"""The linear probe in closed form against the same probe trained by gradient descent, in one run.

`python -m benchmarks.speed.linear` takes four minutes on one thread. Both sides get the same cached codes of
the same pictures and compute the activations themselves: descent once, and keeps them. Both give every layer
and all four intrinsics, and choose the layer on the validation pictures, whose activations the closed form
computes anew for each intrinsic, as cells do. Descent is Adam on the probe of Chen et al. (2023), all heads
in one loop, and upsampling comes after the head instead of before it: the same map, and cheaper. Both warm
up, then they take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cache import Cache
from benchmarks.cell import Cell
from benchmarks.session import Session
from benchmarks.suite import make_cell
from probes.intrinsics import INTRINSICS
from probes.linear import columns, fit, natural, stacked_targets, validation_features
from probes.task import Task

from .meters import Timed, in_turns, spread

BATCH = 16
Chosen = list[tuple[str, float]]  # for each task the best layer, and its validation error
Heads = dict[str, nn.Conv2d]


def _task(session: Session, cell: Cell) -> Task:
    intrinsic = INTRINSICS[cell.intrinsic]
    train, validation = (session.examples(cell, split, intrinsic) for split in ("train", "validation"))
    return Task(session.generator(cell), intrinsic, train, validation, cell.options, cell.seed)


def closed_form(tasks: Sequence[Task]) -> Chosen:
    """All intrinsics and layers by one pass over the training pictures."""
    kept: dict[str, dict[str, Tensor]] = {}

    def remember(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    found = []
    for task in tasks:
        task.remember = remember
        probe = fit(task)
        found.append((probe.layer, float(probe.details["validation_error"])))
    return found


def mapped(head: nn.Conv2d, f: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (b t h w) of activations (b c h w): a 1 x 1 convolution and bilinear upsampling commute."""
    return functional.interpolate(head(f), size=tuple(size), mode="bilinear", align_corners=False)


def trained(features: dict[str, Tensor], targets: Tensor, epochs: int, rate: float) -> Heads:
    """A head for each layer's activations (n c h w), by Adam on all targets (n t H W); rate falls to zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = {name: nn.Conv2d(f.shape[1], targets.shape[1], 1) for name, f in features.items()}
    optimizer = torch.optim.Adam([p for head in heads.values() for p in head.parameters()], lr=rate)
    random, count = torch.Generator().manual_seed(0), len(targets)
    batches = [rows for _ in range(epochs) for rows in torch.randperm(count, generator=random).split(BATCH)]
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / len(batches))
        optimizer.zero_grad(set_to_none=True)
        for name, head in heads.items():
            maps = mapped(head, features[name][rows], targets.shape[2:])
            functional.mse_loss(maps, targets[rows]).backward()
        optimizer.step()
    return heads


def by_descent(tasks: Sequence[Task], epochs: int, rate: float) -> Chosen:
    """All intrinsics and layers by gradient descent; the network runs once on every picture."""
    model, train, held = tasks[0].model, tasks[0].train, tasks[0].validation
    heads = trained(validation_features(model, train), stacked_targets(train), epochs, rate)
    size = held.mask.shape[2:]
    with torch.no_grad():
        maps = {name: mapped(heads[name], f, size) for name, f in validation_features(model, held).items()}
    return [_best(task, maps) for task in tasks]


def _best(task: Task, maps: dict[str, Tensor]) -> tuple[str, float]:
    held, own = task.validation, columns(task.train)[task.intrinsic.name]
    truth = held.maps[task.intrinsic.name]
    errors = {
        name: float(task.intrinsic.error(natural(task.intrinsic, found[:, own]), truth, held.mask))
        for name, found in maps.items()
    }
    return min(errors.items(), key=lambda item: item[1])


def measure(tasks: Sequence[Task], epochs: int, rate: float, rounds: int) -> dict[str, Timed[Chosen]]:
    """Both ways by turns; descent warms up with one pass over the pictures."""
    ways = {
        "closed form": partial(closed_form, tasks),
        "gradient descent": partial(by_descent, tasks, epochs, rate),
    }
    return in_turns(ways, rounds, warm=(ways["closed form"], partial(by_descent, tasks, 1, rate)))


def seconds_table(found: dict[str, Timed[Chosen]]) -> Table:
    """What both ways took."""
    table, first = Table(), next(iter(found.values())).median
    for column in ("way", "seconds", "least-most", "ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, one in found.items():
        ratio = f"{one.median / first:.1f}"
        table.add_row(name, f"{one.median:.1f}", spread(one.seconds, ".1f"), ratio)
    return table


def errors_table(tasks: Sequence[Task], found: dict[str, Timed[Chosen]]) -> Table:
    """What both ways learned."""
    table = Table(title="validation error of the best layer")
    for column in ("intrinsic", *(part for name in found for part in (name, "layer"))):
        table.add_column(column)
    for number, task in enumerate(tasks):
        chosen = [one.result[number] for one in found.values()]
        parts = (part for layer, error in chosen for part in (f"{error:.4f}", layer))
        table.add_row(task.intrinsic.name, *parts)
    return table


@click.command()
@click.option("--model", default="sd.rooms64-s5", show_default=True)
@click.option("--train", default=250, show_default=True, help="Training pictures.")
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(1), help="Passes of descent.")
@click.option("--rate", default=0.02, show_default=True, help="Adam's learning rate, decayed to zero.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each way.")
@click.option("--cache", type=click.Path(path_type=Path), help="Cache folder; none by default.")
def main(model: str, train: int, epochs: int, rate: float, rounds: int, cache: Path | None) -> None:
    """Time both ways to the same probes on one thread."""
    torch.set_num_threads(1)
    session = Session(Cache(cache))
    tasks = [_task(session, make_cell(model, name, "linear", train=train)) for name in INTRINSICS]
    found = measure(tasks, epochs, rate, rounds)
    console = Console(width=110, highlight=False)
    console.print(
        f"linear probes of all layers and {len(tasks)} intrinsics, {model}, {train} pictures, one thread"
    )
    console.print(f"seconds of the processor, median of {rounds} rounds by turns; {epochs} epochs of descent")
    console.print(seconds_table(found))
    console.print(errors_table(tasks, found))


if __name__ == "__main__":
    main()
