"""The kernels against their reference: values, first and second derivatives, on small pictures.

The scalar is sum(dy * sin(y)), whose first gradient depends on y, so that its squared norm has a gradient of
its own through every one of the operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from generators.ops import dispatch, reference
from generators.ops.filters import setup_filter

ORDERS = ("values", "gradients", "second gradients")
TOLERANCE = 2e-5  # of float32, as a part of the largest value of the reference
SHAPE = (2, 3, 19, 22)

Operation = Callable[..., Tensor]


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cases() -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Operation, its options, and whether it takes a bias."""
    for act in reference.ACTIVATIONS:
        yield "bias_act", {"act": act, "clamp": 1.5}, True
    short, long = setup_filter([1, 3, 3, 1]), setup_filter(_noise(12, seed=5).abs())
    radial = setup_filter(_noise(12, 12, seed=6).abs())
    yield "upfirdn2d", {"f": short, "up": 2, "padding": [2, 1, 2, 1], "gain": 4.0}, False
    yield "upfirdn2d", {"f": long, "down": 2, "padding": 5}, False
    yield (
        "upfirdn2d",
        {"f": radial, "up": [3, 1], "down": [1, 2], "padding": [9, 4, 7, 6], "flip_filter": True},
        False,
    )
    common = {"fu": long, "up": 2, "down": 2, "padding": [9, 8, 9, 8], "clamp": 1.0}
    yield "filtered_lrelu", {**common, "fd": long}, True
    yield "filtered_lrelu", {**common, "fd": radial, "flip_filter": True}, True


def derivatives(
    operation: Operation, inputs: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Values, gradients and second gradients with respect to the inputs."""
    inputs = [tensor.requires_grad_() for tensor in inputs]
    y = operation(*inputs)
    dy = _noise(*y.shape, seed=9).to(y)
    first = torch.autograd.grad((dy * y.sin()).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), inputs)  # type: ignore[arg-type]
    return [y.detach()], [g.detach() for g in first], list(second)


def _largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """As a part of the largest value; not-a-number counts as infinite."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours.cpu().double() - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3)
        worst = max(worst, float(error.nan_to_num(nan=float("inf"))))
    return worst


def _errors_of(name: str, options: dict[str, Any], biased: bool, device: str) -> list[float]:
    """Of one case, one for each of ORDERS: float32 kernel against float64 reference."""
    arrays = [_noise(*SHAPE, seed=1), *([_noise(SHAPE[1], seed=2)] if biased else [])]
    there = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    kernel = partial(_call, getattr(dispatch, name), there | {"impl": device})
    exact = partial(_call, getattr(reference, name), options)
    ours = derivatives(kernel, [array.to(device) for array in arrays])
    theirs = derivatives(exact, [array.double() for array in arrays])
    return [_largest_error(a, b) for a, b in zip(ours, theirs, strict=True)]


def _call(function: Operation, options: dict[str, Any], x: Tensor, b: Tensor | None = None) -> Tensor:
    return function(x, **options) if b is None else function(x, b=b, **options)


def errors(device: str) -> Iterator[tuple[str, list[float]]]:
    """Every operation with its largest errors over all cases, one for each of ORDERS."""
    for name in ("bias_act", "upfirdn2d", "filtered_lrelu"):
        each = [_errors_of(*case, device) for case in cases() if case[0] == name]
        yield name, [max(column) for column in zip(*each, strict=True)]
