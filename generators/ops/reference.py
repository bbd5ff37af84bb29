"""The three operations of the StyleGAN generators in plain PyTorch: what the compiled kernels are held to.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), appendix B, and
"Alias-Free Generative Adversarial Networks" (2021), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Activation(NamedTuple):
    """An activation of `bias_act` with the gain and alpha it has where the caller names none."""

    function: Callable[[Tensor, float], Tensor]  # of x and alpha
    gain: float
    alpha: float


ACTIVATIONS = {
    "linear": Activation(lambda x, alpha: x, 1.0, 0.0),
    "relu": Activation(lambda x, alpha: functional.relu(x), math.sqrt(2), 0.0),
    "lrelu": Activation(lambda x, alpha: functional.leaky_relu(x, alpha), math.sqrt(2), 0.2),
    "tanh": Activation(lambda x, alpha: torch.tanh(x), 1.0, 0.0),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x), 1.0, 0.0),
    "elu": Activation(lambda x, alpha: functional.elu(x), 1.0, 0.0),
    "selu": Activation(lambda x, alpha: functional.selu(x), 1.0, 0.0),
    "softplus": Activation(lambda x, alpha: functional.softplus(x), 1.0, 0.0),
    "swish": Activation(lambda x, alpha: torch.sigmoid(x) * x, math.sqrt(2), 0.0),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias along `dim`, activate, multiply by `gain`, clamp to [-clamp, clamp]; in this order."""
    activation = ACTIVATIONS[act]
    if b is not None:
        x = x + b.reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
    x = activation.function(x, activation.alpha if alpha is None else alpha)
    gain = activation.gain if gain is None else gain
    x = x if gain == 1 else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert up - 1 zeros after every sample of x (b c h w), pad, filter, keep every down-th sample.

    Args:
        f: float32 filter, (h w), or (n) for both axes; None for the 1x1 filter of one.
        up, down: factors, one or (x, y).
        padding: of the upsampled picture; one, (x, y) or (x0, x1, y0, y1); negative crops.
        flip_filter: False for convolution, True for correlation.
        gain: factor of the result.
    """
    upx, upy = pair(up)
    downx, downy = pair(down)
    x0, x1, y0, y1 = four(padding)
    b, c, h, w = x.shape
    x = functional.pad(x.reshape(b, c, h, 1, w, 1), (0, upx - 1, 0, 0, 0, upy - 1)).reshape(
        b, c, h * upy, w * upx
    )
    x = functional.pad(x, (x0, x1, y0, y1))
    f = torch.ones(1, 1, device=x.device) if f is None else f
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    f = f if flip_filter else f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        x = functional.conv2d(x, f[None, None].repeat(c, 1, 1, 1), groups=c)
    else:
        x = functional.conv2d(x, f[None, None, None].repeat(c, 1, 1, 1), groups=c)
        x = functional.conv2d(x, f[None, None, :, None].repeat(c, 1, 1, 1), groups=c)
    return x[:, :, ::downy, ::downx]


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """Add a bias, upsample by `fu`, leaky ReLU with `gain`, clamp, downsample by `fd`."""
    x = bias_act(x, b)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=up**2, flip_filter=flip_filter)
    x = bias_act(x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x, fd, down=down, flip_filter=flip_filter)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """One number or (x, y) as (x, y)."""
    x, y = (value, value) if isinstance(value, int) else value
    return int(x), int(y)


def four(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Padding as (x0, x1, y0, y1)."""
    value = [value, value] if isinstance(value, int) else list(value)
    x0, x1, y0, y1 = (value[0], value[0], value[1], value[1]) if len(value) == 2 else value
    return int(x0), int(x1), int(y0), int(y1)
