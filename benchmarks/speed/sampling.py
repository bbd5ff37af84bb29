"""Codes drawn from VQGAN's transformer with its key-value cache and as the public code does, in one run.

`python -m benchmarks.speed.sampling` takes a few minutes: one thread, both ways in turns, the best of the
rounds, in seconds of the processor, which other work on the machine changes little. The public loop reads
the whole sequence again for each code; the cache reads every place once. Both give the same codes, which
is checked.
"""

from __future__ import annotations

import time

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from generators.networks.mingpt import GPT
from generators.networks.net2net import transformer
from generators.networks.sampling import draw, gumbel
from generators.vqgan import ROOMS

TOKENS = 256  # 16 x 16 codes, a picture of 256 pixels a side
_ZOO = ROOMS["transformer_config"]["params"]
# Name -> a transformer's shape, codes of a condition that stand before the picture's, pictures at once.
SHAPES: dict[str, tuple[dict[str, int], int, int]] = {
    "zoo": (_ZOO | {"block_size": TOKENS}, 1, 1),
    "zoo, eight at once": (_ZOO | {"block_size": TOKENS}, 1, 8),
    "zoo, coordinates": (_ZOO | {"block_size": 2 * TOKENS}, TOKENS, 1),
    "middle": (_ZOO | {"block_size": TOKENS, "n_layer": 8, "n_head": 8, "n_embd": 512}, 1, 1),
}


def made(shape: dict[str, int]) -> GPT:
    """A transformer of random weights, in which one code depends on those before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = transformer(shape).eval().requires_grad_(False)
        found.pos_emb.normal_()
    return found


def _timed(gpt: GPT, start: Tensor, noise: Tensor, cached: bool) -> tuple[float, Tensor]:
    began = time.process_time()
    codes = draw(gpt, start, noise.shape[1], noise, cached=cached)
    return time.process_time() - began, codes


def measure(gpt: GPT, given: int, batch: int, rounds: int, tokens: int) -> tuple[float, float]:
    """Seconds for `tokens` codes of `batch` pictures after `given` ones: the whole sequence, the cache."""
    start = torch.randint(gpt.vocab_size, (batch, given), generator=torch.Generator().manual_seed(1))
    noise = gumbel(range(batch), tokens, gpt.vocab_size)
    best = {False: float("inf"), True: float("inf")}
    for _ in range(rounds):
        found = {}
        for cached in best:
            seconds, found[cached] = _timed(gpt, start, noise, cached)
            best[cached] = min(best[cached], seconds)
        if not torch.equal(found[True], found[False]):
            raise ArithmeticError("the cache changes the codes that are drawn")
    return best[False], best[True]


@click.command()
@click.option("--rounds", default=2, show_default=True, help="Turns each way takes.")
@click.option("--tokens", default=TOKENS, show_default=True, help="Codes drawn for a picture.")
def main(rounds: int, tokens: int) -> None:
    """Print seconds for the codes of pictures, both ways, on one thread."""
    torch.set_num_threads(1)
    table = Table(title=f"{tokens} codes a picture, random weights, one thread, best of {rounds}")
    for column in ("transformer", "parameters", "given", "pictures", "whole (s)", "cache (s)", "ratio"):
        table.add_column(column, justify="left" if column == "transformer" else "right")
    for name, (shape, given, batch) in SHAPES.items():
        gpt = made(shape)
        size = f"{sum(p.numel() for p in gpt.parameters()) / 1e6:.1f} M"
        whole, cached = measure(gpt, given, batch, rounds, tokens)
        numbers = (f"{whole:.2f}", f"{cached:.2f}", f"{whole / cached:.1f}")
        table.add_row(name, size, str(given), str(batch), *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
