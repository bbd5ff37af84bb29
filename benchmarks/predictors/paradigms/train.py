"""Trains the network on paradigms alone: `python -m benchmarks.predictors.paradigms.train --out FILE`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from generators.zoo.loop import Budget, Run, train, warmup_then_linear_decay

from .network import ParadigmsNetwork, split
from .paradigms import Paradigms, paradigms

CPU_BUDGET = Budget(steps=5000, batch=16)  # batch: pictures of 64 x 64 pixels; fewer of larger ones
GPU_BUDGET = Budget(steps=60_000, batch=128)
RATE, SEED = 1e-3, 31
EMA = 4000.0  # half life of the averaged weights, in pictures
SIZES = (64, 64, 64, 96, 128)  # pixels a side, one of them for each step
NOISE = 0.01  # largest deviation of the noise added to some pictures, of a range of 2


def seen(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as a camera or a file gives them: some noise in half of them, then 8 bit."""
    deviation = NOISE * torch.rand(len(picture), 1, 1, 1, generator=generator)
    deviation = deviation * (torch.rand(len(picture), 1, 1, 1, generator=generator) < 0.5)
    noise = torch.randn(picture.shape, generator=generator) * deviation
    noisy = (picture + noise.to(picture.device)).clamp(-1, 1)
    return ((noisy + 1) * 127.5).round() / 127.5 - 1


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _edge_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the differences between neighbors."""
    pairs = zip(_edges(a), _edges(b), strict=True)
    return torch.stack([(x - y).abs().mean() for x, y in pairs]).mean()


def _rms(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square per picture, then the mean: what the maps are scored by."""
    return ((a - b).square().mean((1, 2, 3)) + 1e-6).sqrt().mean()


def losses(network: nn.Module, truth: Paradigms, picture: Tensor) -> dict[str, Tensor]:
    """Terms after Forsyth and Rock: albedo, shading, their edges, and the picture made of them again."""
    log_shading, residual = network(picture)
    albedo, shading = split(picture, log_shading, residual)
    diffuse = (truth.albedo * truth.shading).clamp(0, 1)
    terms = {
        "albedo": _rms(albedo, truth.albedo) + (albedo - truth.albedo).abs().mean(),
        "shading": _rms(shading, truth.shading) + (shading - truth.shading).abs().mean(),
        "edges": _edge_error(albedo, truth.albedo) + _edge_error(shading, truth.shading),
        "picture": (albedo * shading - diffuse).abs().mean(),
    }
    return {"loss": terms["albedo"] + terms["shading"] + terms["edges"] + terms["picture"], **terms}


def _run(budget: Budget, device: str) -> Run:
    torch.manual_seed(SEED)
    network = ParadigmsNetwork()

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        size = SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
        count = max(1, round(budget.batch * (SIZES[0] / size) ** 2))
        truth = paradigms(count, size, generator, device)
        return losses(network, truth, seen(truth.picture, generator))

    rate = warmup_then_linear_decay(RATE, 200, budget.steps)
    return Run(network, loss, budget.steps, budget.batch, rate, seed=SEED, ema=EMA)


def train_paradigms(folder: Path, budget: Budget, device: str = "cpu") -> nn.Module:
    """Train to the end, resuming from `folder`; the averaged network."""
    return train(_run(budget, device), folder, device)


def save_weights(network: nn.Module, path: Path, budget: Budget) -> None:
    """Write the weights in half precision with how they were trained, whole or not at all."""
    from safetensors.torch import save_file

    how = {"steps": budget.steps, "batch": budget.batch, "rate": RATE, "seed": SEED}
    told = {name: str(value) for name, value in how.items()} | {"torch": torch.__version__}
    temporary = path.with_suffix(".tmp")
    weights = {name: value.half().contiguous().cpu() for name, value in network.state_dict().items()}
    save_file(weights, str(temporary), told)
    os.replace(temporary, path)


def steps_in(minutes: float, budget: Budget, device: str, measured: int = 20) -> int:
    """How many steps fit into so many minutes: some are taken, measured and thrown away."""
    run = _run(replace(budget, steps=measured + 5), device)
    network = run.network.to(device).train()
    started = time.monotonic()
    for step in range(measured + 5):
        if step == 5:
            started = time.monotonic()
        run.loss(step, torch.Generator().manual_seed(step))["loss"].backward()
        network.zero_grad()
    return max(1, int(60 * minutes / ((time.monotonic() - started) / measured)))


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Weights to write."
)
@click.option("--steps", type=click.IntRange(1), help="Steps instead of the device's budget.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="As many steps as fit into them.")
@click.option("--batch", type=click.IntRange(1), help="Pictures of 64 x 64 a step.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(
    out: Path,
    steps: int | None,
    minutes: float | None,
    batch: int | None,
    device: str,
    threads: int,
) -> None:
    """Train on paradigms and write the weights; run it again with the same --out to resume."""
    torch.set_num_threads(threads)
    budget = CPU_BUDGET if device == "cpu" else GPU_BUDGET
    budget = replace(budget, batch=batch or budget.batch)
    if minutes:
        steps = steps_in(minutes, budget, device)
    budget = replace(budget, steps=steps or budget.steps)
    click.echo(f"{budget.steps} steps of {budget.batch} pictures on {device}")
    save_weights(train_paradigms(out.with_suffix(""), budget, device), out, budget)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
