"""Drawing codes from a GPT one after the other, each from the logits behind all before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mingpt import GPT, Cache, Stepper


def gumbel(seeds: Sequence[int], steps: int, vocab_size: int) -> Tensor:
    """Standard Gumbel noise (b steps v), float64: a row for each picture, from its seed alone."""
    shape = (steps, vocab_size)
    draws = [
        torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(int(seed)))
        for seed in seeds
    ]
    return -(-torch.stack(draws).log()).log()


def keep_top(logits: Tensor, k: int | None) -> Tensor:
    """Logits (b v), those below the k-th greatest at minus infinity; ties with it stay, None keeps all."""
    if k is None:
        return logits
    least = logits.topk(min(k, logits.shape[1])).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def choose(logits: Tensor, noise: Tensor | None, temperature: float, top_k: int | None) -> Tensor:
    """One code (b) for each row of logits (b v): the greatest, after noise if there is any.

    The greatest of logits plus Gumbel noise is a draw from their softmax. Of all ways to draw with given
    random numbers this one hardly ever lets rounding decide: only where the two greatest are as near as the
    error itself. The inverse of the cumulative sum, with one number to a code, depends on the error of
    every sum: with a thousand codes it changes ten times as often (a test compares the two).
    """
    logits = keep_top(logits.double() / temperature, top_k)
    return (logits if noise is None else logits + noise).argmax(1)


def _next(step: Stepper, codes: Tensor, cache: Cache | None) -> Tensor:
    """Logits (b v) of what follows codes (b t), of which a cache holds the first already."""
    if cache is None:
        return step.gpt(codes)[:, -1]
    if cache.length < step.gpt.n_unmasked:
        cache.length = 0  # places there see the ones that came since: read them again
    if codes.shape[1] - cache.length == 1:
        return step(codes[:, -1], cache)
    return step.gpt(codes[:, cache.length :], cache=cache)[:, -1]


def draw(
    gpt: GPT,
    start: Tensor,
    steps: int,
    noise: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    cached: bool = True,
) -> Tensor:
    """Codes (b steps) that follow `start` (b s), by the logits after temperature and top-k.

    Args:
        noise: (b steps v) of `gumbel`; None takes the likeliest code each time.
        cached: whether to read every place once; otherwise the whole sequence is read for each code, as
            the public implementation does. The codes are the same, inside an unmasked prefix, too.

    Raises ValueError if the last code would stand further than the network can see, or nothing is given.
    """
    if not start.shape[1] or start.shape[1] + steps - 1 > gpt.block_size:
        raise ValueError(
            f"{start.shape[1]} codes given and {steps} to draw, for a block of {gpt.block_size} "
            "(at least one is given, the last is not read)"
        )
    codes = start
    with torch.inference_mode():
        cache = gpt.cache(len(start), start.shape[1] + steps) if cached else None
        step = Stepper(gpt)
        for i in range(steps):
            at = None if noise is None else noise[:, i].to(codes.device)
            found = choose(_next(step, codes, cache), at, temperature, top_k)
            codes = torch.cat([codes, found[:, None]], 1)
    return codes[:, start.shape[1] :].clone()  # one that training may use
