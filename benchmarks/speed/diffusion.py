"""Training steps of Stable Diffusion at its full size by the naive protocol and by ours, in one process.

`python -m benchmarks.speed.diffusion` takes six minutes on one thread of a CPU, at 128 x 128; on a GPU
`--device cuda` measures 512 x 512, four pictures a step. The naive protocol encodes picture and map with the
VAE and the prompt with CLIP in every step, in float32, with attention written out. The ladder takes from it
to ours one change at a time; the last row is what `intrinsic-bench run` does. The rows take turns, each
begins with a step that does not count. Weights are random.

`--curves` asks instead whether both learn the same, on the small model of the rooms: same seeds, same
batches, losses compared in tenths of the training.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.execute import environment
from generators.stable_diffusion import PROMPTS, SingleStep
from probes.fit import CLIP, descend, loss_of
from probes.intrinsics import INTRINSICS
from probes.lora import target_pattern
from probes.precision import cast_frozen, optimizer_for
from probes.task import Examples, Task

from . import curves, full_size
from .meters import matmul_peak, peak_memory, spread, wait

BF16, F32 = torch.bfloat16, torch.float32
RATE = 1e-3


@dataclass(frozen=True)
class Rung:
    """A way to train: one row of the ladder.

    Attributes:
        encodes: whether VAE and text encoder run in every step.
        plain: whether attention is written out, every score in memory.
        dtype: of the products, under autocast.
        cast: whether frozen weights are cast once instead of in every step.
        channels_last: whether convolutions' weights lie as (b h w c).
        fused: whether AdamW is one kernel.
        ours: options of the real loop (probes.fit), which then does the steps; None for a loop written out.
    """

    name: str
    encodes: bool = False
    plain: bool = False
    dtype: torch.dtype = F32
    cast: bool = False
    channels_last: bool = False
    fused: bool = False
    ours: dict[str, Any] | None = None


def ladder(device: str, compile_too: bool) -> list[Rung]:
    """From the naive protocol to ours."""
    low: dict[str, Any] = {"precision": "bfloat16"}
    rungs = [
        Rung("naive", encodes=True, plain=True),
        Rung("+ latents and prompt cached", plain=True),
        Rung("+ scaled-dot-product attention"),
        Rung("+ bfloat16 autocast", dtype=BF16),
        Rung("+ frozen weights cast once", dtype=BF16, cast=True),
        Rung("+ channels last", dtype=BF16, cast=True, channels_last=True),
    ]
    if device.startswith("cuda"):
        rungs.append(Rung("+ fused AdamW", dtype=BF16, cast=True, channels_last=True, fused=True))
    rungs += [
        Rung("ours, float32", ours={}),
        Rung("ours, bfloat16", dtype=BF16, ours=low),
        Rung("ours, bfloat16, checkpointing", dtype=BF16, ours=low | {"checkpointing": True}),
    ]
    if compile_too:
        rungs.append(Rung("ours, bfloat16, compiled", dtype=BF16, ours=low | {"compile": True}))
    return rungs


@dataclass
class Bench:
    """A full-size model with an adapter on its attention, and pictures of noise to train on."""

    model: SingleStep
    parameters: list[nn.Parameter]
    pictures: Tensor  # (b 3 h w) in [-1, 1]
    maps: Tensor
    code: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor = field(default_factory=lambda: torch.empty(0))


def make(device: str, size: int, batch: int) -> Bench:
    """The bench on a device; codes and targets are what the model's autoencoder makes of the pictures."""
    from peft import LoraConfig, get_peft_model

    model = full_size.single_step(device)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=target_pattern(model, "all"))
    adapted = get_peft_model(model.network, config)
    random = torch.Generator().manual_seed(0)
    pictures, maps = (torch.rand(batch, 3, size, size, generator=random) * 2 - 1 for _ in range(2))
    bench = Bench(model, [p for p in adapted.parameters() if p.requires_grad], pictures, maps)
    with torch.no_grad():
        bench.code, bench.target = model.embed(pictures), model.encode(maps)
    return bench


@contextmanager
def attention(network: Any, plain: bool) -> Iterator[None]:
    """Attention written out, or diffusers' default: scaled-dot-product attention, which is asserted."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    before = dict(network.attn_processors)
    if not all(isinstance(p, AttnProcessor2_0) for p in before.values()):
        raise TypeError("diffusers' default attention is no longer the fused one")
    if plain:
        network.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        network.set_attn_processor(before)


def encoding(bench: Bench) -> tuple[Tensor, Tensor]:
    """Output and target of a step that encodes pictures, maps and prompts.

    The upstream trainer embeds the prompt of every picture, though they are all the same.
    """
    model, count = bench.model, len(bench.pictures)
    with torch.no_grad():
        latent, target = model.encode(bench.pictures), model.encode(bench.maps)
        text = model._embed_text([PROMPTS["normal"]] * count)
    steps = torch.full((count,), model.timestep, device=model.device)
    return model.network(latent, steps, encoder_hidden_states=text).sample, target


def one_step(bench: Bench, rung: Rung, optimizer: torch.optim.Optimizer) -> None:
    """A step of a loop written out."""
    with torch.autocast(bench.model.device.split(":")[0], BF16, enabled=rung.dtype == BF16):
        if rung.encodes:
            output, target = encoding(bench)
        else:
            output, target = bench.model.forward(bench.code, "normal"), bench.target
    loss = nn.functional.mse_loss(output.float(), target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(bench.parameters, CLIP)
    optimizer.step()


def optimizer_of(bench: Bench, rung: Rung) -> torch.optim.Optimizer:
    """AdamW as a trainer of one's own makes it, or ours."""
    if rung.fused:
        return optimizer_for(bench.parameters, RATE)
    return torch.optim.AdamW(bench.parameters, lr=RATE, weight_decay=0.0)


def task_of(bench: Bench, rung: Rung, steps: int) -> Task:
    """The question `intrinsic-bench run` asks, on the bench's pictures."""
    shown = Examples(bench.pictures, {}, torch.empty(0), bench.code, bench.target)
    options = {"steps": steps, "batch": len(bench.target), "rate": RATE} | (rung.ours or {})
    return Task(bench.model, INTRINSICS["normal"], shown, shown, options, 0)


class Watch:
    """Seconds between two looks; of the processor on a CPU: other work changes those less."""

    def __init__(self, device: str) -> None:
        self.device, self.looks = device, [0.0, 0.0]

    def look(self, number: int) -> None:
        """Look for the first (0) or the last (1) time."""
        wait(self.device)
        clock = time.perf_counter if self.device.startswith("cuda") else time.process_time
        self.looks[number] = clock()

    @property
    def seconds(self) -> float:
        """Between the two looks."""
        return self.looks[1] - self.looks[0]


def run_ours(bench: Bench, rung: Rung, steps: int) -> float:
    """Seconds a step by the real loop, after one step that does not count."""
    watch, done = Watch(bench.model.device), 0

    def progress(share: float) -> None:
        nonlocal done
        done += 1
        if done in (1, steps + 1):
            watch.look(0 if done == 1 else 1)

    task = replace(task_of(bench, rung, steps + 1), progress=progress)
    descend(task, bench.parameters, loss_of(task, bench.model.forward))
    return watch.seconds / steps


def run_written_out(bench: Bench, rung: Rung, steps: int) -> float:
    """Seconds a step by a loop written out, after one step that does not count."""
    optimizer, watch = optimizer_of(bench, rung), Watch(bench.model.device)
    with ExitStack() as stack:
        if rung.cast:
            stack.enter_context(cast_frozen(bench.model.network, BF16, rung.channels_last))
        one_step(bench, rung, optimizer)
        watch.look(0)
        for _ in range(steps):
            one_step(bench, rung, optimizer)
        watch.look(1)
        return watch.seconds / steps


@dataclass
class Measured:
    """What came of a rung: seconds a step by round, and the greatest peak of memory in bytes."""

    seconds: list[float] = field(default_factory=list)
    memory: int = 0


def measure(bench: Bench, rungs: Sequence[Rung], rounds: int, steps: int) -> dict[str, Measured]:
    """Every rung once a round, so that what else the machine does falls on all of them."""
    found = {rung.name: Measured() for rung in rungs}
    for _ in range(rounds):
        for rung in rungs:
            way: Callable[[Bench, Rung, int], float] = run_written_out if rung.ours is None else run_ours
            with attention(bench.model.network, rung.plain), peak_memory(bench.model.device) as peak:
                found[rung.name].seconds.append(way(bench, rung, steps))
            found[rung.name].memory = max(found[rung.name].memory, peak.bytes)
    return found


def flops(bench: Bench, encodes: bool) -> int:
    """Of one step, counted where attention is written out: fused it does the same work."""
    from torch.utils.flop_counter import FlopCounterMode

    rung = Rung("counted", encodes=encodes, plain=True)
    with attention(bench.model.network, True), FlopCounterMode(display=False) as counter:
        one_step(bench, rung, optimizer_of(bench, rung))
    return int(counter.get_total_flops())


def table(bench: Bench, rungs: Sequence[Rung], rounds: int, steps: int) -> Table:
    """The ladder with everything measured."""
    batch, size, device = len(bench.target), bench.pictures.shape[-1], bench.model.device
    peaks = {dtype: matmul_peak(device, dtype) for dtype in (F32, BF16)}
    work = {encodes: flops(bench, encodes) for encodes in (True, False)}
    found = measure(bench, rungs, rounds, steps)
    told = ", ".join(f"{str(d).split('.')[1]} {peak / 1e12:.3g}" for d, peak in peaks.items())
    made = Table(
        title=f"LoRA rank 8 on Stable Diffusion v1, {size} x {size}, batch {batch}\n"
        f"{environment(device)['device']}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n"
        f"matrix products at best: {told} TFLOP/s; median of {rounds} rounds of {steps} steps"
        + (", float32 with TF32" if device.startswith("cuda") else ", seconds of the processor")
    )
    columns = ("protocol", "steps/s", "least-most", "pictures/s", "ratio", "memory (GiB)", "share")
    for column in (*columns, "TFLOP/step", "TFLOP/s", "of peak"):
        made.add_column(column, justify="left" if column == "protocol" else "right")
    naive = found[rungs[0].name]
    for rung in rungs:
        seconds, memory = statistics.median(found[rung.name].seconds), found[rung.name].memory
        rate = work[rung.encodes] / seconds
        made.add_row(
            rung.name,
            *(f"{1 / seconds:.3g}", spread((1 / s for s in found[rung.name].seconds), ".3g")),
            f"{batch / seconds:.3g}",
            f"{statistics.median(naive.seconds) / seconds:.2f}",
            *(f"{memory / 2**30:.2f}", f"{memory / naive.memory:.2f}"),
            *(f"{work[rung.encodes] / 1e12:.3g}", f"{rate / 1e12:.3g}", f"{rate / peaks[rung.dtype]:.0%}"),
        )
    return made


def _defaults(device: str) -> dict[str, int]:
    """Picture size, batch, rounds and steps where none are given."""
    if device.startswith("cuda"):
        return {"size": 512, "batch": 4, "rounds": 3, "steps": 20}
    return {"size": 128, "batch": 1, "rounds": 3, "steps": 4}


@click.command()
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
@click.option("--size", type=int, help="Pixels a side; 128 on a CPU, 512 on a GPU.")
@click.option("--batch", type=int, help="Pictures a step; 1 on a CPU, 4 on a GPU.")
@click.option("--rounds", type=click.IntRange(1), help="Turns each row takes; 3.")
@click.option("--steps", type=click.IntRange(1), help="Steps a turn; 4 on a CPU, 20 on a GPU.")
@click.option("--compile", "compile_too", is_flag=True, help="A row with torch.compile, which takes minutes.")
@click.option("--curves", "learn", is_flag=True, help="Compare losses at zoo size instead.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write, too.")
def main(device: str, compile_too: bool, learn: bool, out: Path | None, **given: int | None) -> None:
    """Print both protocols and the ladder between them."""
    torch.set_num_threads(1)
    asked = _defaults(device) | {name: value for name, value in given.items() if value is not None}
    console = Console(record=True, width=150)
    if learn:
        console.print(curves.table(device))
    else:
        bench = make(device, asked["size"], asked["batch"])
        console.print(table(bench, ladder(device, compile_too), asked["rounds"], asked["steps"]))
    if out is not None:
        out.write_text(console.export_text())


if __name__ == "__main__":
    main()
