"""StyleGAN2 generators: built from constructor arguments, official weights in and out.

Equalized learning-rate gains are folded into the weights when a state dict is loaded (`fold`) and taken out
again by `unfold`. Adam on a folded parameter at rate `lr * gain` is Adam on the official one at rate `lr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from generators.errors import UserError

from .stylegan2_modules import ARCHITECTURES as ARCHITECTURES
from .stylegan2_modules import Generator as Generator
from .stylegan2_modules import MappingNetwork as MappingNetwork
from .stylegan2_modules import SynthesisBlock as SynthesisBlock
from .stylegan2_modules import SynthesisLayer as SynthesisLayer
from .stylegan2_modules import SynthesisNetwork as SynthesisNetwork
from .stylegan2_modules import ToRGBLayer as ToRGBLayer
from .stylegan2_modules import modulated_conv2d as modulated_conv2d
from .stylegan2_modules import normalize_2nd_moment as normalize_2nd_moment


def fold(state: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """An official state dict with the gains multiplied into the weights; float32.

    Raises:
        UserError: if names or shapes are not those of the network; the first one is named.
    """
    gains, expected = network.gains(), network.state_dict()
    for name in [*(n for n in expected if n not in state), *(n for n in state if n not in expected)]:
        what = "is missing" if name in expected else "is unknown to this network"
        raise _mismatch(f"{name!r} {what}", expected)
    for name, value in state.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(expected[name].shape)}"
            raise _mismatch(f"{name!r} has shape {shapes}", expected)
    return {name: value.float() * gains.get(name, 1.0) for name, value in state.items()}


def unfold(network: Any) -> dict[str, Tensor]:
    """The network's state dict as the official code stores it."""
    gains = network.gains()
    return {name: value / gains.get(name, 1.0) for name, value in network.state_dict().items()}


def _mismatch(wrong: str, expected: Mapping[str, Tensor]) -> UserError:
    return UserError(
        "weights for a StyleGAN generator",
        wrong,
        f"the network built from the file's own configuration has {len(expected)} tensors",
        "check that the file holds G_ema of this architecture and was not cut short",
    )


@torch.no_grad()
def initialize(network: Generator, seed: int) -> Generator:
    """Random weights as training starts from: N(0, 1) before the gains, biases 0, style biases 1."""
    draws, gains = torch.Generator().manual_seed(seed), network.gains()
    for name, parameter in network.named_parameters():
        if name.endswith(("weight", "const")):
            multiplier = network.mapping.lr_multiplier if name.startswith("mapping.fc") else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * gains.get(name, 1.0) / multiplier)
        else:
            parameter.fill_(gains.get(name, 1.0) if name.endswith("affine.bias") else 0.0)
    for name, buffer in network.named_buffers():
        if name.endswith("noise_const"):
            buffer.copy_(torch.randn(buffer.shape, generator=draws))
    return network


def build(state: Mapping[str, Tensor], init_kwargs: Mapping[str, Any]) -> Generator:
    """A generator in evaluation mode from an official state dict and its constructor's arguments."""
    with torch.device("meta"):
        shell = Generator(**init_kwargs)
    network = shell.to_empty(device="cpu")
    network.load_state_dict(fold(state, network))
    return network.eval()
