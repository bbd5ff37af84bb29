"""Fresh weights for an existing architecture, and anything between them and the trained ones."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def reinitialized(network: nn.Module, seed: int) -> nn.Module:
    """A copy on the CPU whose every layer was reset by its own `reset_parameters`, in order, from one seed.

    On the CPU whatever device the network is on: a GPU draws other numbers from the same seed.
    A module with a method `reinitialize` resets itself and all below it: transformers' models and StyleGAN2
    have rules of their own for that. Raises ValueError if parameters belong to a module that cannot reset
    them.
    """
    import torch

    fresh = copy.deepcopy(network).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _reset("network", fresh, set())
    return fresh


def _reset(name: str, module: nn.Module, seen: set[int]) -> None:
    """Reset a module and those below it, each once."""
    if id(module) in seen:
        return
    seen.add(id(module))
    whole = getattr(module, "reinitialize", None)
    if callable(whole):
        whole()
        return
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    elif next(module.parameters(recurse=False), None) is not None:
        raise ValueError(f"{name} ({type(module).__name__}) has parameters and no reset_parameters")
    for below, child in module.named_children():
        _reset(f"{name}.{below}", child, seen)


def blend_noise(network: nn.Module, share: float, seed: int, head: str = "") -> None:
    """Replace weights by (1 - share) * weights + share * random-init weights, in place.

    So, too, for what a network holds beside its parameters and random initialization resets.

    Args:
        share: 0 leaves the network as it is, 1 is the randomly initialized architecture.
        head: name of a module that is new anyway and stays as it is, "" for none.
    """
    import torch

    if not 0 <= share <= 1:
        raise ValueError(f"the share of noise is {share}; it must lie in [0, 1]")
    if share == 0:
        return
    fresh = reinitialized(network, seed)
    news: dict[str, Tensor] = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    moving: list[tuple[str, Tensor]] = list(network.named_parameters())
    moving += [
        (name, buffer)
        for name, buffer in network.named_buffers()
        if buffer.is_floating_point() and not torch.equal(buffer, news[name].to(buffer))
    ]
    with torch.no_grad():
        for name, old in moving:
            if not head or not name.startswith(f"{head}."):
                old.lerp_(news[name].to(old), share)
