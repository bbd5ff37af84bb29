"""A StyleGAN-XL generator from what a file says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from generators.checkpoints import NetworkFile
from generators.errors import UserError

from .stylegan_xl import (
    Generator,
    generator_from_kwargs,
    generator_from_specs,
    input_from_module,
    load_official,
    specs_from_modules,
)


def generator_from_file(file: NetworkFile) -> Generator:
    """The generator a file holds, weights loaded.

    A pickled network, stem or super-resolution, is rebuilt from the attributes of its layers: released
    models mix kernel sizes and filters, and the constructor's arguments of a super-resolution network do
    not say which. A bare state dict is rebuilt from its constructor's arguments.

    Raises:
        UserError: if the file holds another network, or does not say what is needed.
    """
    if "synthesis" in file.modules:
        network = _from_modules(file)
    else:
        try:
            network = generator_from_kwargs(**file.init_kwargs)
        except (TypeError, ValueError, KeyError) as error:
            raise _other_network(file, str(error)) from error
    load_official(network, file.state)
    return network.eval()


def _other_network(file: NetworkFile, wrong: str) -> UserError:
    return UserError(
        "a StyleGAN-XL generator",
        wrong,
        f"the file holds a {file.class_name} with {', '.join(sorted(file.init_kwargs)) or 'no arguments'}",
        "check that the file is a StyleGAN-XL network, not of another family",
    )


def _from_modules(file: NetworkFile) -> Generator:
    facts = {name: module.attributes for name, module in file.modules.items()}
    synthesis = facts["synthesis"]
    for name in ("layer_names", "output_scale", "w_dim"):
        if name not in synthesis:
            raise _other_network(file, f"its synthesis network has no {name}")
    if "synthesis.input" not in facts or "mapping" not in facts:
        raise _other_network(file, "it has no mapping network or no Fourier features")
    names = synthesis["layer_names"]
    layers = {n: _layer(n, facts[f"synthesis.{n}"], file.state) for n in names if f"synthesis.{n}" in facts}
    return generator_from_specs(
        _mapping(facts, file.state),
        input_from_module(facts["synthesis.input"]),
        specs_from_modules(names, layers),
        float(synthesis["output_scale"]),
        _embedding(file.state),
    )


def _layer(name: str, attributes: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Attributes of a layer; kernel and filter as its tensors have them."""
    found = dict(attributes)
    weight, down = state.get(f"synthesis.{name}.weight"), state.get(f"synthesis.{name}.down_filter")
    if weight is not None:
        found["conv_kernel"] = weight.shape[-1]
    found["down_filter_shape"] = None if down is None else tuple(down.shape)
    found["down_radial"] = down is not None and down.ndim == 2
    return found


def _mapping(facts: Mapping[str, Mapping[str, Any]], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes as the tensors have them; the center of truncation is one for each class, if there are any."""
    center, first = state.get("mapping.w_avg"), state.get("mapping.fc0.weight")
    if center is None or first is None or center.ndim not in (1, 2) or first.ndim != 2:
        raise UserError(
            "a StyleGAN-XL generator",
            "the file has no mapping.w_avg or no mapping.fc0.weight of the right shape",
            f"{len(state)} tensors, the first: {', '.join(list(state)[:3])}",
            "check that the file was not cut short",
        )
    classes = center.shape[0] if center.ndim == 2 else 0
    projection = state.get("mapping.embed_proj.weight")
    found: dict[str, Any] = {"c_dim": classes, "w_dim": center.shape[-1]}
    found["z_dim"] = first.shape[1] if projection is None else projection.shape[0]
    found["num_layers"] = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in state)
    found["lr_multiplier"] = float(facts.get("mapping.fc0", {}).get("bias_gain", 0.01))
    found["w_avg_beta"] = float(facts["mapping"].get("w_avg_beta", 0.998))
    return found


def _embedding(state: Mapping[str, Tensor]) -> tuple[int, int]:
    weight = state.get("mapping.embed.weight")
    if weight is None or weight.ndim != 2:
        raise UserError(
            "a StyleGAN-XL generator",
            "the file has no class embedding mapping.embed.weight, which every StyleGAN-XL has",
            f"{len(state)} tensors, the first: {', '.join(list(state)[:3])}",
            "check that the file is a StyleGAN-XL network, not of StyleGAN3",
        )
    return weight.shape[0], weight.shape[1]
