"""Training steps per second with frozen parts cached and with the upstream protocol, in one run.

The paper's trainer encodes picture and map with the VAE and the prompt with the text encoder in
every step. `python -m benchmarks.speed.cache` times both on the same LoRA, and the renderer alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table

from benchmarks.data.load import load_pictures
from benchmarks.data.rooms.render import render
from generators.stable_diffusion import PROMPTS, SingleStep
from probes.intrinsics import INTRINSICS
from probes.lora import target_pattern


def _steps_per_second(
    step: Callable[[], torch.Tensor], parameters: list[torch.nn.Parameter], steps: int
) -> float:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        step().backward()
        optimizer.step()

    once()
    start = time.perf_counter()
    for _ in range(steps):
        once()
    return steps / (time.perf_counter() - start)


def measure(name: str, batch: int, steps: int) -> dict[str, float]:
    """Steps per second by protocol."""
    from generators import load

    model = load(name)
    if not isinstance(model, SingleStep):
        raise TypeError(f"{name} is no single-step Stable Diffusion model")
    config = LoraConfig(r=8, lora_alpha=8, target_modules=target_pattern(model, "all"))
    adapted = get_peft_model(model.network, config)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    pictures = load_pictures("rooms", "train", range(batch), model.spec.resolution)
    maps = INTRINSICS["normal"].to_picture(pictures.maps["normal"])
    with torch.no_grad():
        code, target = model.embed(pictures.pictures), model.encode(maps)

    def cached() -> torch.Tensor:
        return (model.forward(code, "normal") - target).square().mean()

    def naive() -> torch.Tensor:
        with torch.no_grad():
            fresh, wanted = model.embed(pictures.pictures), model.encode(maps)
            model._texts.pop(PROMPTS["normal"], None)
        return (model.forward(fresh, "normal") - wanted).square().mean()

    return {
        "upstream: VAE and text encoder in every step": _steps_per_second(naive, parameters, steps),
        "ours: codes, targets and prompts cached": _steps_per_second(cached, parameters, steps),
    }


@click.command()
@click.option("--model", default="sd.rooms64-s5", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--scenes", default=256, show_default=True, help="Scenes rendered for the renderer's rate.")
def main(model: str, batch: int, steps: int, scenes: int) -> None:
    """Print steps per second of both protocols on one thread, and scenes per second."""
    torch.set_num_threads(1)
    found = measure(model, batch, steps)
    first = next(iter(found.values()))
    table = Table(title=f"LoRA rank 8 on {model}, batch {batch}, one thread")
    for column in ("protocol", "steps/s", "ratio"):
        table.add_column(column, justify="right")
    for name, rate in found.items():
        table.add_row(name, f"{rate:.2f}", f"{rate / first:.2f}")
    Console().print(table)
    start = time.perf_counter()
    render("train", range(scenes))
    Console().print(
        f"renderer: {scenes / (time.perf_counter() - start):.0f} scenes/s at 64 x 64 on one thread"
    )


if __name__ == "__main__":
    main()
