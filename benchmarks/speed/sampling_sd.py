"""What a diffusion model's pictures cost when their Frechet distance is measured, and what saving costs.

`python -m benchmarks.speed.sampling_sd` takes a minute: one thread, the ways to run UNet and VAE decoder in
turns, the median of the rounds, in milliseconds of the processor for each picture. `--distances` takes a
quarter of an hour: for each model the same pictures (same seeds, same captions) are drawn with other steps,
guidance and precision, and each set is compared with renders in both feature spaces.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import make_cell
from benchmarks.cache import Cache, cache_folder
from benchmarks.data import captions
from benchmarks.features import measure_features
from benchmarks.quality import distances, drawn_pictures, reference_features
from benchmarks.session import Session
from generators.stable_diffusion import SingleStep
from probes.precision import autocast, cast_frozen

from .meters import Timed, in_turns, spread

BF16, LAST = torch.bfloat16, torch.channels_last
LOW = {"precision": "bfloat16"}
SPACES = ("rooms", "dinov2-rooms")
# Steps, guidance and precision of the sets that are compared.
SETTINGS: tuple[tuple[int, float, str], ...] = (
    (12, 1.0, "float32"),
    (12, 1.0, "bfloat16"),
    (10, 1.0, "bfloat16"),
    (20, 1.0, "bfloat16"),
    (10, 2.0, "bfloat16"),
    (8, 1.0, "bfloat16"),
    (30, 1.0, "bfloat16"),
    (6, 1.0, "bfloat16"),
    (20, 2.0, "bfloat16"),
    (15, 1.0, "bfloat16"),
)
Way = Callable[[], Tensor]


def ways(model: SingleStep, batch: int) -> dict[str, dict[str, Way]]:
    """Part -> way -> what runs it on a batch; the first way of each part is how a model is loaded."""
    random, timestep = torch.Generator().manual_seed(0), torch.tensor(500)
    unet: Any = model.network
    x = torch.randn(batch, unet.config.in_channels, 16, 16, generator=random)
    text = model._embed_text(captions("rooms", "reference", range(batch)))
    last, vae = copy.deepcopy(unet).to(memory_format=LAST), copy.deepcopy(model.vae).to(memory_format=LAST)

    def denoised(network: Any) -> Tensor:
        found: Tensor = network(x, timestep, encoder_hidden_states=text).sample
        return found

    def low(run: Way) -> Tensor:
        with autocast(unet, LOW):
            return run()

    def cast(run: Way) -> Tensor:
        with cast_frozen(unet, BF16, channels_last=False):
            return low(run)

    return {
        "UNet, once": {
            "float32": lambda: denoised(unet),
            "float32, channels last": lambda: denoised(last),
            "bfloat16 autocast": lambda: low(lambda: denoised(unet)),
            "bfloat16, weights cast once": lambda: cast(lambda: denoised(unet)),
        },
        "VAE decoder": {
            "float32": lambda: model.decode(x),
            "float32, channels last": lambda: vae.decode(x / model.scale).sample,
            "bfloat16 autocast": lambda: low(lambda: model.decode(x)),
        },
        "text encoder": {"float32": lambda: model._embed_text(captions("rooms", "reference", range(batch)))},
    }


@torch.no_grad()
def timed(found: dict[str, Way], rounds: int) -> dict[str, tuple[Timed[Tensor], float]]:
    """Way -> what it took, and its difference from the first way (root mean square, relative)."""
    took = in_turns(found, rounds)
    exact = next(iter(took.values())).result
    return {
        name: (one, float((one.result - exact).float().norm() / exact.norm())) for name, one in took.items()
    }


def _milliseconds(took: Timed[Tensor], batch: int) -> tuple[str, str]:
    """A picture's, median and spread."""
    return f"{1000 * took.median / batch:.2f}", spread(1000 * seconds / batch for seconds in took.seconds)


def parts_table(name: str, batches: Sequence[int], rounds: int) -> Table:
    """Milliseconds a picture of every part in every way."""
    model = Session(Cache(None)).generator(make_cell(name, "none", "frechet"))
    if not isinstance(model, SingleStep):
        raise TypeError(f"{name} is no single-step Stable Diffusion model")
    table = Table(title=f"{name}, one thread, ms of the processor a picture, median (least-most) of {rounds}")
    sizes = (part for b in batches for part in (f"batch {b}", ""))
    for column in ("part", "way", *sizes, f"ratio at {batches[0]}", "difference"):
        table.add_column(column, justify="left" if column in ("part", "way") else "right")
    found = {b: {part: timed(each, rounds) for part, each in ways(model, b).items()} for b in batches}
    for part, each in found[batches[0]].items():
        first = next(iter(each.values()))[0].median
        for way, (one, wrong) in each.items():
            times = [text for b in batches for text in _milliseconds(found[b][part][way][0], b)]
            table.add_row(part, way, *times, f"{first / one.median:.2f}", f"{wrong:.1e}")
    return table


def drawn_set(
    name: str, setting: tuple[int, float, str], samples: int
) -> tuple[Tensor, float, dict[str, float]]:
    """Pictures of a setting, 8 bit, seconds of the processor they took, and their distances by space."""
    steps, guidance, precision = setting
    options = {"samples": samples, "steps": steps, "guidance": guidance, "precision": precision}
    cell = make_cell(name, "none", "frechet", options | {"second": SPACES[1]})
    here = Session(Cache(cache_folder()))
    here.generator(cell)
    began = time.process_time()
    pictures = torch.cat(list(drawn_pictures(cell, here)))
    seconds = time.process_time() - began
    found: dict[str, float] = {}
    for space in SPACES:
        features = measure_features(space, pictures.float() / 127.5 - 1)
        scores, _ = distances(features, reference_features(cell, here, space))
        found |= {f"{score} {space}": value for score, value in scores.items()}
    return pictures, seconds, found


def distances_table(names: Sequence[str], samples: int, say: Callable[[str], None]) -> Table:
    """Distances and cost of every setting; pictures differ from those of the first setting by `pixels`."""
    table = Table(title=f"{samples} pictures of the same seeds against 4096 renders, one thread")
    for column in ("model", "precision", "steps", "guidance", "ms a picture", "pixels", "FD rooms"):
        table.add_column(column, justify="left" if column in ("model", "precision") else "right")
    for column in ("kernel", "FD dinov2-rooms", "kernel"):
        table.add_column(column, justify="right")
    first: dict[str, Tensor] = {}
    for setting, name in product(SETTINGS, names):
        pictures, seconds, found = drawn_set(name, setting, samples)
        apart = (pictures.float() - first.setdefault(name, pictures).float()).abs().mean().item()
        numbers = (f"{apart:.2f}", *(f"{value:.3f}" for value in found.values()))
        steps, guidance, precision = setting
        row = (name, precision, str(steps), f"{guidance:g}", f"{1000 * seconds / samples:.1f}")
        table.add_row(*row, *numbers)
        say(" ".join((*row, *numbers)))
    return table


@click.command()
@click.option("--models", default="sd.rooms64-s5,sd.rooms64-s2", show_default=True)
@click.option("--rounds", default=4, show_default=True, type=click.IntRange(1), help="Turns of each way.")
@click.option("--samples", default=512, show_default=True, help="Pictures of each set.")
@click.option("--distances", "compare", is_flag=True, help="Compare sets of pictures with renders.")
def main(models: str, rounds: int, samples: int, compare: bool) -> None:
    """Print milliseconds a picture of every part, and distances of every setting if asked."""
    torch.set_num_threads(1)
    names = models.split(",")
    console = Console(width=150)
    if compare:
        console.print(distances_table(names, samples, lambda line: click.echo(line, err=True)))
    else:
        console.print(parts_table(names[0], (16, 32, 64), rounds))


if __name__ == "__main__":
    main()
