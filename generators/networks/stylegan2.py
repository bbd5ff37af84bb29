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

from .stylegan2_init import redraw
from .stylegan2_modules import ARCHITECTURES as ARCHITECTURES
from .stylegan2_modules import Generator as Generator
from .stylegan2_modules import MappingNetwork as MappingNetwork
from .stylegan2_modules import SynthesisBlock as SynthesisBlock
from .stylegan2_modules import SynthesisLayer as SynthesisLayer
from .stylegan2_modules import SynthesisNetwork as SynthesisNetwork
from .stylegan2_modules import ToRGBLayer as ToRGBLayer
from .stylegan2_modules import modulated_conv2d as modulated_conv2d
from .stylegan2_modules import normalize_2nd_moment as normalize_2nd_moment

ARGUMENTS = (
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "mapping_kwargs",
    "synthesis_kwargs",
)
FLAT_CLAMP = 256  # what code that takes the synthesis network's arguments flat clamps activations at


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


def initialize(network: Generator, seed: int) -> Generator:
    """Random weights as training starts from: N(0, 1) before the gains, biases 0, style biases 1."""
    slow = [name for name, _ in network.named_parameters() if name.startswith("mapping.fc")]
    multipliers = dict.fromkeys(slow, network.mapping.lr_multiplier)
    redraw(network, network.gains(), torch.Generator().manual_seed(seed), multipliers)
    return network


def constructor_arguments(init_kwargs: Mapping[str, Any], modules: Mapping[str, Any]) -> dict[str, Any]:
    """The generator's arguments from those of a file, whose code may take the synthesis network's flat.

    Such code clamps activations where its arguments are silent; its layers say at what.

    Args:
        modules: facts of every module of the file by dotted name, where it has any.
    """
    known = {name: value for name, value in init_kwargs.items() if name in ARGUMENTS}
    flat = {name: value for name, value in init_kwargs.items() if name not in ARGUMENTS}
    synthesis = {**(known.get("synthesis_kwargs") or {}), **flat}
    synthesis.pop("fused_modconv_default", None)  # which of two equal computations is the faster
    layer = modules.get("synthesis.b4.conv1")
    if layer is not None and "conv_clamp" in layer.attributes:
        synthesis.setdefault("conv_clamp", layer.attributes["conv_clamp"])
    if flat:
        synthesis.setdefault("conv_clamp", FLAT_CLAMP)
    return known | {"synthesis_kwargs": synthesis}


def build(state: Mapping[str, Tensor], init_kwargs: Mapping[str, Any]) -> Generator:
    """A generator in evaluation mode from an official state dict and its constructor's arguments."""
    with torch.device("meta"):
        shell = Generator(**init_kwargs)
    network = shell.to_empty(device="cpu")
    network.load_state_dict(fold(state, network))
    return network.eval()
