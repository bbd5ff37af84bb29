"""Adapters small enough to make in a test, with random numbers that no zero hides."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.adapters import write_adapter
from generators import registry
from generators.base import Generator
from probes.adapter_layouts import DOWN, MAGNITUDE, UP, Lora
from probes.adapters import AdapterFacts

ZOO = "sd.rooms64-s1"


def attention(network: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Attention layers of a UNet: name to outputs and inputs."""
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    layers = {n: m for n, m in network.named_modules() if n.endswith(ends)}
    return {name: tuple(layer.weight.shape) for name, layer in layers.items()}  # type: ignore[misc]


def random_lora(
    layers: dict[str, tuple[int, int]], rank: int = 4, dtype: torch.dtype = torch.float32, **more: Any
) -> Lora:
    """A LoRA of some layers, up and down both random; `dora` adds magnitudes."""
    random, dora = torch.Generator().manual_seed(3), more.pop("dora", False)
    tensors: dict[str, Tensor] = {}
    for name, (wide, narrow) in layers.items():
        tensors[f"{name}.{DOWN}"] = (0.1 * torch.randn(rank, narrow, generator=random)).to(dtype)
        tensors[f"{name}.{UP}"] = (0.1 * torch.randn(wide, rank, generator=random)).to(dtype)
        if dora:
            tensors[f"{name}.{MAGNITUDE}"] = torch.rand(wide, generator=random).to(dtype) + 0.5
    return Lora(tensors, rank, {name: float(rank) for name in layers} | more.pop("alphas", {}), **more)


def facts(model: str = ZOO, **more: Any) -> AdapterFacts:
    """Facts of an adapter trained here."""
    weights = more.pop("weights", None)
    weights = registry.identity(model) if weights is None else weights
    given = {"intrinsic": "normal", "method": "lora", "options": {"rank": 4, "timestep": None, "noise": 0.0}}
    return AdapterFacts(**({"model": model, "weights": weights} | given | more))


def zoo_adapter(folder: Path, generator: Generator, **more: Any) -> tuple[Path, Lora]:
    """A folder with a random adapter of the zoo's model."""
    lora = random_lora(attention(generator.network), **more)
    write_adapter(folder, lora, facts(generator.spec.name))
    return folder, lora


def snapshot(network: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_untouched(network: torch.nn.Module, before: dict[str, Tensor], modules: dict[str, Any]) -> None:
    """The very modules, bit-equal weights, frozen, in evaluation mode."""
    after = network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    now = dict(network.named_modules())
    assert now.keys() == modules.keys() and all(now[k] is modules[k] for k in modules)
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(m.training for m in network.modules())
