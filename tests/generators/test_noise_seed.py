"""The option `noise_seed` of models that sample: it decides the noise that a map begins with."""

import pytest
import torch

from generators import load
from generators.denoiser import MultiStep


@pytest.mark.parametrize("name", ["sd-aug.rooms64-random", "sd-multi.rooms64-random"])
def test_a_seed_of_the_noise_gives_one_map_and_another_seed_another(name: str) -> None:
    model = load(name)
    assert isinstance(model, MultiStep)
    code = {"latent": torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))}
    maps = []
    for seed in (0, 1, 0):
        model.ask(noise_seed=seed, sampler_steps=1)
        with torch.no_grad():
            maps.append(model.forward(code, "normal"))
    assert torch.equal(maps[0], maps[2])
    assert not torch.allclose(maps[0], maps[1], atol=1e-2)
