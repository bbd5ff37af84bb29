"""StyleGAN-XL generators: built from constructor arguments or from what a pickled network says of itself.

Sauer et al., "StyleGAN-XL: Scaling StyleGAN to Large Diverse Datasets" (2022). Official weights go in and
out through `fold` and `unfold`, which apply the equalized gains that the modules' parameters contain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from generators.errors import UserError, unknown
from generators.networks.xl_modules import EMBEDDING as EMBEDDING
from generators.networks.xl_modules import EqualizedLinear as EqualizedLinear
from generators.networks.xl_modules import Generator as Generator
from generators.networks.xl_modules import MappingNetwork as MappingNetwork
from generators.networks.xl_modules import SynthesisInput as SynthesisInput
from generators.networks.xl_modules import SynthesisLayer as SynthesisLayer
from generators.networks.xl_modules import SynthesisNetwork as SynthesisNetwork
from generators.networks.xl_modules import modulated_conv2d as modulated_conv2d
from generators.networks.xl_schedule import InputSpec as InputSpec
from generators.networks.xl_schedule import LayerSpec as LayerSpec
from generators.networks.xl_schedule import Schedule as Schedule
from generators.networks.xl_schedule import add_superresolution as add_superresolution
from generators.networks.xl_schedule import check_kernel, pair
from generators.networks.xl_schedule import input_spec as input_spec
from generators.networks.xl_schedule import layer_specs as layer_specs
from generators.networks.xl_schedule import specs_from_modules as specs_from_modules

MAPPING = ("num_layers", "lr_multiplier", "w_avg_beta", "rand_embedding")


def schedule_from_kwargs(**synthesis: Any) -> Schedule:
    """The stem's schedule; raises UserError for an unknown name and for a missing kernel size."""
    known = [field.name for field in fields(Schedule)]
    for name in synthesis:
        if name not in known:
            raise unknown("synthesis argument", name, known)
    check_kernel(synthesis.get("conv_kernel"))
    return Schedule(**synthesis)


def generator_from_kwargs(
    z_dim: int,
    c_dim: int,
    w_dim: int,
    img_resolution: int,
    img_channels: int = 3,
    mapping_kwargs: Mapping[str, Any] | None = None,
    stages: Sequence[Mapping[str, Any]] = (),
    embedding: tuple[int, int] = EMBEDDING,
    output_scale: float = 0.25,
    seed: int = 0,
    **synthesis: Any,
) -> Generator:
    """A randomly initialized generator: a stem and any chain of super-resolution stages.

    Args:
        stages: per stage img_resolution and head_layers, and where they differ from the stem's conv_kernel
            and use_radial_filters; up_factor is checked.
        embedding: classes and features of the class embedding.
        seed: of weights, frequencies and phases.
        synthesis: the stem's `Schedule`.

    Raises:
        UserError: for an unknown argument, a missing kernel size, or stages that do not fit.
    """
    schedule = schedule_from_kwargs(img_resolution=img_resolution, img_channels=img_channels, **synthesis)
    specs = chain_specs(schedule, stages)
    options = {"z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim, **(mapping_kwargs or {})}
    return generator_from_specs(options, input_spec(schedule), specs, output_scale, embedding, seed)


def chain_specs(schedule: Schedule, stages: Sequence[Mapping[str, Any]]) -> list[LayerSpec]:
    """The layers of a stem and the stages on top of it."""
    specs, resolution = layer_specs(schedule), schedule.img_resolution
    for stage in stages:
        options = dict(stage)
        factor = options.pop("up_factor", None)
        if factor is not None and resolution * factor != options["img_resolution"]:
            raise UserError(
                f"a stage from {resolution} to {options['img_resolution']}",
                f"its up_factor is {factor}",
                f"{resolution} x {factor} = {resolution * factor}",
            )
        specs = add_superresolution(specs, schedule, **options)
        resolution = options["img_resolution"]
    return specs


def generator_from_specs(
    mapping: Mapping[str, Any],
    source: InputSpec,
    specs: Sequence[LayerSpec],
    output_scale: float = 0.25,
    embedding: tuple[int, int] = EMBEDDING,
    seed: int = 0,
) -> Generator:
    """A randomly initialized generator of explicit layers.

    Args:
        mapping: z_dim, c_dim, w_dim; num_layers, lr_multiplier, w_avg_beta where they differ from 2, 0.01,
            0.998. `rand_embedding` names the origin of the first embedding and changes nothing here.
    """
    options = dict(mapping)
    for name in options:
        if name not in ("z_dim", "c_dim", "w_dim", *MAPPING):
            raise unknown("mapping argument", name, MAPPING)
    options.pop("rand_embedding", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        synthesis = SynthesisNetwork(options["w_dim"], source, specs, output_scale)
        return Generator(MappingNetwork(num_ws=synthesis.num_ws, embedding=embedding, **options), synthesis)


def input_from_module(attributes: Mapping[str, Any]) -> InputSpec:
    """The input of a pickled network, from its plain attributes channels, size, sampling_rate, bandwidth."""
    return InputSpec(
        channels=int(attributes["channels"]),
        size=pair(attributes["size"]),
        sampling_rate=float(attributes["sampling_rate"]),
        bandwidth=float(attributes["bandwidth"]),
    )


def gains(network: nn.Module) -> dict[str, float]:
    """Equalized gain by parameter name: folded parameter = official parameter * gain.

    Adam at rate lr * gain on the folded parameter takes the steps of Adam at rate lr on the official one.
    """
    found = {name: 1.0 for name, _ in network.named_parameters()}
    for path, module in network.named_modules():
        if isinstance(module, EqualizedLinear | SynthesisInput):
            found |= {f"{path}.{name}".lstrip("."): gain for name, gain in module.gains().items()}
    return found


def fold(state: Mapping[str, Tensor], gains: Mapping[str, float]) -> dict[str, Tensor]:
    """Official parameters and buffers by name -> this module's."""
    return {name: value * gains[name] if gains.get(name, 1) != 1 else value for name, value in state.items()}


def unfold(state: Mapping[str, Tensor], gains: Mapping[str, float]) -> dict[str, Tensor]:
    """This module's parameters and buffers by name -> the official ones."""
    return {name: value / gains[name] if gains.get(name, 1) != 1 else value for name, value in state.items()}


def load_official(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fold official weights into the network. Raises UserError naming the first key that does not fit."""
    expected = network.state_dict()
    for name in [*expected, *state]:
        have = tuple(state[name].shape) if name in state else "absent"
        want = tuple(expected[name].shape) if name in expected else "absent"
        if have != want:
            raise UserError(
                "StyleGAN-XL weights",
                f"{name} is {have} in the file and {want} in the network",
                f"{len(state)} tensors in the file, {len(expected)} in the network",
                "the file belongs to another configuration: compare layer names and constructor arguments",
            )
    network.load_state_dict(fold({k: v.to(torch.float32) for k, v in state.items()}, gains(network)))
