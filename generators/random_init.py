"""Fresh weights for an existing architecture, and anything between them and the trained ones."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def reinitialized(network: nn.Module, seed: int) -> nn.Module:
    """A copy whose every layer was reset by its own `reset_parameters`, in order, from one seed.

    Raises ValueError if parameters belong to a module that cannot reset them.
    """
    import torch

    fresh = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(f"{name} ({type(module).__name__}) has parameters and no reset_parameters")
    return fresh


def blend_noise(network: nn.Module, share: float, seed: int) -> None:
    """Replace weights by (1 - share) * weights + share * random-init weights, in place.

    Args:
        share: 0 leaves the network as it is, 1 is the randomly initialized architecture.
    """
    import torch

    if not 0 <= share <= 1:
        raise ValueError(f"the share of noise is {share}; it must lie in [0, 1]")
    if share == 0:
        return
    fresh = dict(reinitialized(network, seed).named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.lerp_(fresh[name].to(parameter), share)
