"""Stable Diffusion v1 at its full size, with random weights, on one thread: what users of real models run.

The parts are made in memory (benchmarks.speed.full_size), since files of them would be four gigabytes; the
tokenizer is the zoo's. Pictures are small, 64 x 64: the networks are what is tested.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.peak import resident
from benchmarks.speed import full_size
from benchmarks.speed.meters import forget_resident_peak
from generators import registry
from generators.multi_step import widened
from generators.stable_diffusion import SingleStep
from probes import lora
from probes.fit import predict
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options
from probes.task import Examples, Task

pytestmark = pytest.mark.slow
SIDE = 64
MOST = 24 * 2**30  # bytes of memory a machine must have
V1_AT_RANK_8 = 1_594_368  # trainable parameters, as in the paper


@pytest.fixture(scope="module")
def memory() -> None:
    """Count the peak of this process from here, before the networks are made."""
    forget_resident_peak()


@pytest.fixture(scope="module")
def single(memory: None) -> SingleStep:
    return full_size.single_step()


@pytest.fixture(scope="module")
def shown(single: SingleStep) -> Examples:
    """Two pictures with maps, encoded by the full-size autoencoder."""
    random = torch.Generator().manual_seed(0)
    pictures, maps = (torch.rand(2, 3, SIDE, SIDE, generator=random) for _ in range(2))
    mask = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    with torch.no_grad():
        code = single.embed(pictures * 2 - 1)
        return Examples(pictures * 2 - 1, {"albedo": maps}, mask, code, single.encode(maps * 2 - 1))


def sums(network: torch.nn.Module) -> dict[str, float]:
    """Sum of every frozen tensor: enough to see whether any was changed."""
    return {
        name.replace(".base_layer", "").removeprefix("base_model.model."): float(value.sum())
        for name, value in network.state_dict().items()
        if "lora_" not in name
    }


def one_step(model: Any, shown: Examples, **options: Any) -> lora.LoraProbe:
    """An adapter after one step on two pictures."""
    asked = fill_options("lora", {"steps": 1, "batch": 2} | options)
    return lora.fit(Task(model, INTRINSICS["albedo"], shown, shown, asked, 0))


def checked(model: Any, shown: Examples, parameters: int, **options: Any) -> lora.LoraProbe:
    """One step whose loss is finite, that moves the adapter and nothing else."""
    before = sums(model.network)
    probe = one_step(model, shown, **options)
    assert probe.parameters == parameters
    assert all(torch.isfinite(torch.tensor(v)) for v in probe.details.values())
    assert sums(model.network) == before
    moved = [p.abs().max() for n, p in model.network.named_parameters() if "lora_B" in n]
    assert moved and all(value > 0 for value in moved)  # they start at zero
    return probe


def maps_of(model: Any, shown: Examples, probe: lora.LoraProbe) -> Tensor:
    return predict(model, INTRINSICS["albedo"], {k: v[:1] for k, v in shown.code.items()}, probe.forward)


def test_single_step(single: SingleStep, shown: Examples) -> None:
    """LoRA and a map of the trained adapter, in bfloat16, too."""
    probe = checked(single, shown, V1_AT_RANK_8)
    found = maps_of(single, shown, probe)
    assert found.shape == (1, 3, SIDE, SIDE) and torch.isfinite(found).all()
    probe.release()
    low = checked(single, shown, V1_AT_RANK_8, precision="bfloat16", checkpointing=True)
    low.release()
    assert low.details["loss_first"] == pytest.approx(probe.details["loss_first"], rel=0.02)


def test_augmented(single: SingleStep, shown: Examples) -> None:
    """AUG's step with eight input channels, and a map sampled in two steps."""
    from generators.denoiser import MultiStep

    first = single.network.conv_in
    weight = torch.randn(320, 4, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.01
    model = MultiStep(registry.spec("sd-aug.v1-5"), single, widened(single.network, 4, weight), "cpu")
    model.ask(sampler_steps=2)
    try:
        probe = checked(model, shown, V1_AT_RANK_8)
        found = maps_of(model, shown, probe)
        probe.release()
    finally:
        single.network.conv_in = first  # type: ignore[assignment]
    assert found.shape == (1, 3, SIDE, SIDE) and torch.isfinite(found).all()


def test_all_of_it_fits_into_24_gibibytes(memory: None, record_property: Callable[..., None]) -> None:
    """The last test of this file: the peak of all before it."""
    found = resident()
    record_property("peak memory (GiB)", round(found / 2**30, 2))
    print(f"peak memory {found / 2**30:.2f} GiB")
    assert 4 * 2**30 < found < MOST
