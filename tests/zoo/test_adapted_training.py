"""The zoo's velocity and editing models: what is trained, what is kept, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from generators import load
from generators.multi_step import merged
from generators.stable_diffusion import ZOO
from generators.zoo import editing, velocity
from generators.zoo.diffusion import new_unet
from generators.zoo.loop import Budget


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(8, 8, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def texts() -> Tensor:
    return torch.randn(8, 32, 96, generator=torch.Generator().manual_seed(1))


def test_min_snr_weights_of_velocity_are_bounded_and_right() -> None:
    alphas = velocity.schedule().alphas_cumprod
    assert alphas[-1].item() == 0.0
    snr = alphas[:-1] / (1 - alphas[:-1])
    weights = velocity.min_snr_weight(alphas)
    assert torch.allclose(weights[:-1], snr.clamp_max(5) / (snr + 1), atol=1e-6)
    assert weights[-1].item() == 0.0


def test_training_velocity_moves_the_adapter_alone_and_is_kept(
    latents: Tensor, texts: Tensor, tmp_path: Path
) -> None:
    unet: Any = new_unet()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    budget = Budget(steps=2, batch=4)
    network = velocity.train_velocity(unet, latents, texts, texts[:1], tmp_path / "run", budget)
    base = {n.replace(".base_layer", ""): v for n, v in network.get_base_model().state_dict().items()}
    kept = [n for n in before if "conv_out" not in n]
    assert all(torch.equal(before[name], base[name]) for name in kept)
    velocity.keep_adapter(network, tmp_path / "adapter")
    fresh: Any = new_unet()
    with torch.no_grad():
        found = merged(fresh, tmp_path / "adapter")(latents, 500, texts).sample
        expected = network(latents, 500, texts).sample
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))  # kept in float16
    assert not torch.allclose(new_unet()(latents, 500, texts).sample, expected, atol=1e-4)


@pytest.mark.parametrize("name", list(editing.EDITS))
def test_edits_stay_pictures_and_change_colors_only(name: str) -> None:
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    edited = editing.EDITS[name](pictures)
    assert edited.shape == pictures.shape and edited.min() >= 0 and edited.max() <= 1
    moved = editing.EDITS[name](pictures.flip(-1)).flip(-1)
    assert torch.allclose(moved, edited)  # every pixel for itself: nothing of the scene is needed
    assert ("same" in name) == torch.equal(edited, pictures)


def test_training_to_edit_gives_channels_for_the_picture(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(ZOO, subfolder="vae").float().eval()
    rgb = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64), np.uint8)
    texts = torch.randn(len(editing.EDITS), 32, 96)
    budget = Budget(steps=2, batch=4)
    network = editing.train_editing(new_unet(), vae, rgb, texts, texts[:1], tmp_path / "run", budget)
    velocity.keep_adapter(network, tmp_path / "adapter")
    unet = merged(new_unet(), tmp_path / "adapter")
    assert unet.config.in_channels == 16
    assert unet.conv_in.weight[:, 8:].abs().max() > 0


def test_the_shipped_editor_tells_two_edits_apart() -> None:
    """On renders: told to make it blue it draws what is nearest to that edit, and so for a negative.

    It does not tell all of them apart: see the zoo's README.
    """
    from benchmarks.data.load import load_pictures

    model: Any = load("ip2p.rooms64")
    pictures = load_pictures("rooms", "test", range(6), 64).pictures
    model.ask(sampler_steps=10, guidance=3.0)
    names = ("make it blue", "turn it into a negative")
    goals = {name: editing.EDITS[name]((pictures + 1) / 2) * 2 - 1 for name in (*names, "make it gray")}
    for name in names:
        with torch.no_grad():
            drawn = model.decode(model.draw(model.embed(pictures), model.prompt(name)))
        distances = {other: float((drawn - goal).square().mean()) for other, goal in goals.items()}
        assert min(distances, key=distances.__getitem__) == name, (name, distances)


def test_the_shipped_editor_keeps_the_picture() -> None:
    """What it draws of a picture is nearer to an edit of that picture than to one of the next picture."""
    from benchmarks.data.load import load_pictures

    model: Any = load("ip2p.rooms64")
    pictures = load_pictures("rooms", "test", range(6), 64).pictures
    model.ask(sampler_steps=10, guidance=3.0)
    with torch.no_grad():
        drawn = model.decode(model.draw(model.embed(pictures), model.prompt("make it blue")))
    goal = editing.EDITS["make it blue"]((pictures + 1) / 2) * 2 - 1
    own, other = ((drawn - g).square().mean((1, 2, 3)) for g in (goal, goal.roll(1, 0)))
    assert int((own < other).sum()) >= 5
