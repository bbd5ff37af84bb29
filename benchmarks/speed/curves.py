"""Whether the fast protocol learns what the naive one learns: their losses, step by step, at zoo size."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.cache import Cache
from benchmarks.execute import environment
from benchmarks.session import Session
from benchmarks.suite import make_cell
from generators.draws import Draws
from generators.stable_diffusion import SingleStep
from probes.fit import descend, loss_of
from probes.intrinsics import INTRINSICS
from probes.lora import target_pattern
from probes.task import Examples, Task, seed_for

MODEL, INTRINSIC = "sd.rooms64-s5", "normal"
SEEDS = (0, 1, 2)
STEPS = 100
PARTS = 10


def _task(session: Session, seed: int, steps: int, precision: str) -> Task:
    cell = make_cell(MODEL, INTRINSIC, "lora", {"steps": steps}, seed=seed)
    shown = session.examples(cell, "train", INTRINSICS[INTRINSIC])
    options = dict(cell.options) | {"precision": precision}
    return Task(session.generator(cell), INTRINSICS[INTRINSIC], shown, shown, options, seed)


def _parameters(model: SingleStep, seed: int) -> list[torch.nn.Parameter]:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=8, target_modules=target_pattern(model, "all"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "adapter"))
        adapted = get_peft_model(model.network, config)
    return [p for p in adapted.parameters() if p.requires_grad]


def naive(task: Task) -> Task:
    """The same task whose code is the pictures and whose targets are the maps as pictures, nothing cached."""
    maps = task.intrinsic.to_picture(task.train.maps[task.intrinsic.name])
    pictures = task.train.pictures
    shown = Examples(pictures, {}, task.train.mask, {"pictures": pictures}, maps)
    return replace(task, train=shown, options=dict(task.options) | {"precision": "float32"})


def losses(task: Task, seed: int, encodes: bool) -> list[float]:
    """Of every step, with a fresh adapter that is taken off again."""
    model = task.model
    if not isinstance(model, SingleStep):
        raise TypeError(f"{MODEL} is no single-step Stable Diffusion model")
    parameters = _parameters(model, seed)

    def encoding(code: Mapping[str, Tensor], target: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad():
            fresh, wanted = model.embed(code["pictures"]), model.encode(target)
        model.forget_texts()
        return torch.nn.functional.mse_loss(model.forward(fresh, INTRINSIC), wanted)

    if encodes:
        task = naive(task)
    return descend(task, parameters, encoding if encodes else loss_of(task, model.forward))[0]


def compare(device: str, seeds: tuple[int, ...], steps: int) -> tuple[list[list[float]], list[list[float]]]:
    """Losses of every step, by seed: the naive protocol's, and ours in bfloat16."""
    from .diffusion import attention

    theirs: list[list[float]] = []
    ours: list[list[float]] = []
    for seed in seeds:
        for found, encodes in ((theirs, True), (ours, False)):
            session = Session(Cache(None), device)  # the network as it was, without the adapter of before
            task = _task(session, seed, steps, "bfloat16")
            with attention(task.model.network, plain=encodes):
                found.append(losses(task, seed, encodes))
    return theirs, ours


def parts(losses: list[float], count: int = PARTS) -> list[float]:
    """Means of equal parts of a curve."""
    size = len(losses) // count
    return [statistics.mean(losses[k * size : (k + 1) * size]) for k in range(count)]


def table(device: str, seeds: tuple[int, ...] = SEEDS, steps: int = STEPS) -> Table:
    """Both curves in tenths: means over seeds, their difference, and the spread over seeds beside it."""
    theirs, ours = ([parts(curve) for curve in found] for found in compare(device, seeds, steps))
    made = Table(
        title=f"loss of LoRA on {MODEL}, {INTRINSIC}, {steps} steps, {len(seeds)} seeds\n"
        f"{environment(device)['device']}"
    )
    columns = (
        "naive, float32",
        "ours, bfloat16",
        "difference",
        "greatest of a seed",
        "spread of seeds",
    )
    for column in ("tenth", *columns):
        made.add_column(column, justify="right")
    for k in range(PARTS):
        a, b = [curve[k] for curve in theirs], [curve[k] for curve in ours]
        single = max((y - x for x, y in zip(a, b, strict=True)), key=abs)
        numbers = (statistics.mean(a), statistics.mean(b), statistics.mean(b) - statistics.mean(a), single)
        made.add_row(str(k + 1), *(f"{value:.5f}" for value in numbers), f"{statistics.stdev(a):.5f}")
    return made
