"""Random weights of StyleGAN2 as training starts from, for a whole generator or a part of one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


@torch.no_grad()
def redraw(
    module: nn.Module,
    gains: Mapping[str, float],
    draws: torch.Generator | None = None,
    multipliers: Mapping[str, float] | None = None,
) -> None:
    """N(0, 1) before the gains, biases 0, style biases 1; fresh constant noise. In place.

    Args:
        gains: equalized gain by parameter.
        draws: where numbers come from, None for torch's own stream.
        multipliers: of the learning rate by parameter, which initialization makes up for.
    """
    slower = multipliers or {}
    for name, parameter in module.named_parameters():
        if name.endswith(("weight", "const")):
            drawn = torch.randn(parameter.shape, generator=draws)
            parameter.copy_(drawn * gains.get(name, 1.0) / slower.get(name, 1.0))
        else:
            parameter.fill_(gains.get(name, 1.0) if name.endswith("affine.bias") else 0.0)
    for name, buffer in module.named_buffers():
        if name.endswith("noise_const"):
            buffer.copy_(torch.randn(buffer.shape, generator=draws))
