"""Training steps per second with frozen parts cached and with the upstream protocol, in one run.

The paper's trainer encodes picture and map with the VAE and the prompt with the text encoder in
every step. `python -m benchmarks.speed.cache` times both on the same LoRA, by turns, and the renderer alone;
it takes a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table

from benchmarks.data.load import load_pictures
from benchmarks.data.rooms.render import render
from generators.stable_diffusion import SingleStep
from probes.intrinsics import INTRINSICS
from probes.lora import target_pattern

from .meters import Timed, in_turns, spread


def _training(
    loss: Callable[[], torch.Tensor], parameters: Sequence[torch.nn.Parameter], steps: int
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def train() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()

    return train


def measure(name: str, batch: int, steps: int, rounds: int) -> dict[str, Timed[None]]:
    """Seconds of `steps` steps by protocol."""
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
        model.forget_texts()
        return (model.forward(fresh, "normal") - wanted).square().mean()

    ways = {
        "upstream: VAE and text encoder in every step": _training(naive, parameters, steps),
        "ours: codes, targets and prompts cached": _training(cached, parameters, steps),
    }
    return in_turns(ways, rounds)


@click.command()
@click.option("--model", default="sd.rooms64-s5", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Of a round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--scenes", default=256, show_default=True, help="Scenes rendered for the renderer's rate.")
def main(model: str, batch: int, steps: int, rounds: int, scenes: int) -> None:
    """Print steps per second of both protocols on one thread, and scenes per second."""
    torch.set_num_threads(1)
    found = measure(model, batch, steps, rounds)
    first = next(iter(found.values())).median
    table = Table(
        title=f"LoRA rank 8 on {model}, batch {batch}, one thread\n"
        f"processor time, median of {rounds} rounds of {steps} steps by turns"
    )
    for column in ("protocol", "steps/s", "least-most", "ratio"):
        table.add_column(column, justify="right")
    for name, one in found.items():
        each = spread(steps / seconds for seconds in one.seconds)
        table.add_row(name, f"{steps / one.median:.2f}", each, f"{first / one.median:.2f}")
    console = Console(width=110)
    console.print(table)
    drawn = in_turns({"renderer": lambda: render("train", range(scenes))}, rounds)["renderer"]
    each = spread((scenes / seconds for seconds in drawn.seconds), ".0f")
    console.print(
        f"renderer: {scenes / drawn.median:.0f} scenes/s ({each}) at 64 x 64 on one thread", highlight=False
    )


if __name__ == "__main__":
    main()
