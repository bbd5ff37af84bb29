"""Adversarial training: it learns, resumes as if nothing had happened, and keeps stages in official names."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from generators import stylegan2, stylegan_xl
from generators.networks import stylegan2 as network_stylegan2
from generators.networks import stylegan_xl as network_xl
from generators.zoo import discriminators, features, gan
from generators.zoo.loop import Budget


def pictures(count: int = 64) -> np.ndarray:
    """Bright above, dark below."""
    ramp = np.linspace(220, 30, 64, dtype=np.uint8)[None, None, :, None]
    return np.broadcast_to(ramp, (count, 3, 64, 64)).copy()


def duel(steps: int, stages: gan.Stages | None = None) -> gan.Duel:
    torch.manual_seed(3)
    return gan.projected_duel("stylegan2", features.FeatureNetwork(), Budget(steps, 4), stages or {})


def test_a_resumed_training_equals_an_undisturbed_one(tmp_path: Path) -> None:
    whole = gan.train_gan(duel(4), pictures(), tmp_path / "whole").state_dict()
    gan.train_gan(duel(2), pictures(), tmp_path / "parts")
    parts = gan.train_gan(duel(4), pictures(), tmp_path / "parts").state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and lines[-1]["pictures"] == 16


@pytest.mark.parametrize("family", ["stylegan2", "stylegan-xl"])
def test_a_stage_is_kept_as_the_official_code_stores_it(family: str, tmp_path: Path) -> None:
    player = gan.PLAYERS[family]()
    gan.keep_stage(family, tmp_path / "stage.safetensors", player.network)
    read = {"stylegan2": stylegan2.read, "stylegan-xl": stylegan_xl.read}[family]
    again = read(tmp_path / "stage.safetensors").state_dict()
    for name, value in player.network.state_dict().items():
        torch.testing.assert_close(again[name], value.detach(), rtol=1e-3, atol=1e-4)


def test_stages_are_called_when_their_step_is_done(tmp_path: Path) -> None:
    seen: list[int] = []
    stages = {step: partial(lambda step, network: seen.append(step), step) for step in (1, 3)}
    gan.train_gan(duel(3, stages), pictures(), tmp_path)
    assert seen == [1, 3]
    assert gan.stage_steps(gan.CPU_BUDGET) == {"s1": 100, "s2": 250, "s3": 750, "s4": 1750}


def test_folded_parameters_take_the_steps_of_official_ones() -> None:
    """Adam with rate * gain on weight * gain is Adam with rate on weight."""
    gain, gradient = 0.03, torch.randn(5, generator=torch.Generator().manual_seed(0))
    raw = nn.Parameter(torch.ones(5))
    folded = nn.Parameter(torch.ones(5) * gain)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = folded

    player = gan.Player(Holder(), {"weight": gain}, lambda network, z, draws: z)
    adam = torch.optim.Adam([raw], lr=0.01, betas=(0.0, 0.99))
    mine = torch.optim.Adam(gan._parameter_groups(player, 0.01), betas=(0.0, 0.99))
    for _ in range(3):
        raw.grad, folded.grad = gradient.clone() * gain, gradient.clone()  # the chain rule
        adam.step()
        mine.step()
    torch.testing.assert_close(folded.detach(), raw.detach() * gain, rtol=1e-5, atol=1e-7)


def test_the_projection_is_frozen_and_the_heads_are_not() -> None:
    network = discriminators.ProjectedDiscriminator(features.FeatureNetwork()).train()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"heads"} and not network.features.training
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    network(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.features.parameters())


def test_augmentation_follows_how_sure_the_discriminator_is() -> None:
    """Karras et al., section 3.1: more when it is sure of real pictures, less when it is not."""
    found = duel(1)
    found.adaptive = True
    trainer = gan.Trainer(found, pictures())
    trainer.sure = 1.0
    trainer._adapt({"a": torch.ones(4, 1)})
    raised = trainer.probability
    trainer.sure = 0.0
    trainer._adapt({"a": -torch.ones(4, 1)})
    assert raised > 0 and trainer.probability < raised


def test_augmentation_keeps_shape_and_does_nothing_at_zero() -> None:
    x = torch.rand(3, 3, 64, 64) * 2 - 1
    draws = torch.Generator().manual_seed(1)
    assert gan.augment(x, 0.0, draws) is x
    changed: Tensor = gan.augment(x, 1.0, draws)
    assert changed.shape == x.shape and not torch.equal(changed, x)


def test_r1_is_the_squared_gradient_at_real_pictures() -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((), 3.0))

        def forward(self, x: Tensor) -> Tensor:
            return (self.weight * x).sum((1, 2, 3))[:, None]

    found = duel(1)
    found.discriminators, found.penalized, found.penalty = {"slope": Slope()}, ("slope",), 2.0
    trainer = gan.Trainer(found, pictures())
    expected = 2.0 / 2 * gan.PENALTY_EVERY * 9 * 3 * 64 * 64
    assert trainer._penalty(torch.zeros(2, 3, 64, 64)).item() == pytest.approx(expected)


def test_captions_become_labels() -> None:
    labels = features.caption_labels(["a red box in a room with a plain floor", "a red box and a red sphere"])
    assert labels.tolist() == [[1, 1, 0], [0, 1, 1]]  # plain floor, red box, red sphere


def test_features_learn(tmp_path: Path) -> None:
    captions = ["a red box in a room with a plain floor", "a blue box in a room with a plain floor"] * 8
    rgb = pictures(16)
    rgb[::2, 0] = 255
    features.train_features(rgb, captions, tmp_path, Budget(40, 8))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["caption"] < 0.5


def test_the_networks_are_those_of_the_families() -> None:
    sizes = {f: sum(p.numel() for p in gan.PLAYERS[f]().network.parameters()) for f in gan.PLAYERS}
    from generators import registry

    for family, size in sizes.items():
        name = f"{family}.rooms64-random"
        assert registry.family_module(name).count(registry.spec(name))["parameters"] == size
    assert network_stylegan2.Generator is not network_xl.Generator
