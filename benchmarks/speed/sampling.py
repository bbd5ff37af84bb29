"""Codes drawn from VQGAN's transformer with its key-value cache and as the public code does, in one run.

`python -m benchmarks.speed.sampling` takes three minutes: one thread, both ways warm up on a few codes and
take turns; seconds of the processor, which other work on the machine changes little: median, least and
greatest of the rounds. The public loop reads the whole sequence again for each code; the cache reads every
place once. Both give the same codes, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from generators.networks.mingpt import GPT
from generators.networks.net2net import transformer
from generators.networks.sampling import draw, gumbel
from generators.vqgan import ROOMS

from .meters import Timed, in_turns, spread

TOKENS = 256  # 16 x 16 codes, a picture of 256 pixels a side
WARM = 8  # codes drawn before anything is timed
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


def measure(gpt: GPT, given: int, batch: int, rounds: int, tokens: int) -> dict[str, Timed[Tensor]]:
    """Seconds for `tokens` codes of `batch` pictures after `given` ones: "whole" sequence, and "cache"."""
    start = torch.randint(gpt.vocab_size, (batch, given), generator=torch.Generator().manual_seed(1))

    def ways(count: int) -> dict[str, Callable[[], Tensor]]:
        noise = gumbel(range(batch), count, gpt.vocab_size)
        cached = {"whole": False, "cache": True}
        return {name: partial(draw, gpt, start, count, noise, cached=use) for name, use in cached.items()}

    found = in_turns(ways(tokens), rounds, warm=ways(min(WARM, tokens)).values())
    if not torch.equal(found["whole"].result, found["cache"].result):
        raise ArithmeticError("the cache changes the codes that are drawn")
    return found


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each way.")
@click.option("--tokens", default=TOKENS, show_default=True, help="Codes drawn for a picture.")
def main(rounds: int, tokens: int) -> None:
    """Print seconds for the codes of pictures, both ways, on one thread."""
    torch.set_num_threads(1)
    table = Table(
        title=f"{tokens} codes a picture, random weights, one thread\n"
        f"seconds of the processor, median (least-most) of {rounds} rounds by turns"
    )
    for column in ("transformer", "parameters", "given", "pictures", "whole", "", "cache", "", "ratio"):
        table.add_column(column, justify="left" if column == "transformer" else "right")
    for name, (shape, given, batch) in SHAPES.items():
        gpt = made(shape)
        size = f"{sum(p.numel() for p in gpt.parameters()) / 1e6:.1f} M"
        found = measure(gpt, given, batch, rounds, tokens)
        numbers = [part for one in found.values() for part in (f"{one.median:.2f}", spread(one.seconds))]
        ratio = f"{found['whole'].median / found['cache'].median:.1f}"
        table.add_row(name, size, str(given), str(batch), *numbers, ratio)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
