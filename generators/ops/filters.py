"""Resampling filters: made once on the host, and the paddings that keep pictures where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def setup_filter(
    f: Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter for `upfirdn2d`: (n) if it is separable, else (h w).

    Args:
        f: taps (n) or (h w), a number, or None for 1.
        normalize: divide by the sum, so that a constant picture keeps its value.
        flip_filter: flip it in all axes.
        gain: of the picture; a separable filter takes its square root.
        separable: keep it one-dimensional; None does so for 1-D filters of eight taps or more.

    Raises:
        ValueError: if `f` has more than two axes or no taps.
    """
    taps = torch.tensor(1.0 if f is None else f, dtype=torch.float32) if not isinstance(f, Tensor) else f
    taps = taps.to(torch.float32).clone()
    taps = taps[None] if taps.ndim == 0 else taps
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(
            f"a filter has one or two axes and at least one tap; this one is {tuple(taps.shape)}"
        )
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if taps.ndim == 1 and not separable:
        taps = taps.outer(taps)
    if normalize:
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    return taps * gain ** (taps.ndim / 2)
