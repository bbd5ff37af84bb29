"""Options that a model or a count of pictures makes impossible are refused when planning."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from benchmarks import limits, make_cell
from generators import registry
from generators.errors import UserError

SD, AUG = "sd.rooms64-s1", "sd-aug.rooms64-s5"
GANS = {"data": "samples", "labels": "rooms-network"}
OTHERS = {"vqgan.rooms64-s1": {}, "dinov2.rooms64-s2": {}, "stylegan2.rooms64-s1": GANS}


@pytest.fixture(autouse=True)
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(registry, "load", load)


@pytest.mark.parametrize("method", ["lora", "linear"])
def test_one_picture_has_no_shuffled_labels(method: str) -> None:
    with pytest.raises(UserError, match="train = 1") as refused:
        make_cell(SD, "normal", method, {"labels": "shuffled"}, train=1)
    assert "2 or more" in refused.value.todo
    make_cell(SD, "normal", method, {"labels": "shuffled"}, train=2)
    make_cell(SD, "normal", method, train=1)


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("method", ["lora", "linear", "finetune"])
def test_a_timestep_is_of_diffusion_models(model: str, method: str) -> None:
    with pytest.raises(UserError, match="no diffusion model") as refused:
        make_cell(model, "normal", method, {"timestep": 0}, **OTHERS[model])
    assert "sd.rooms64-s1" in refused.value.known and "vqgan" not in refused.value.known


@pytest.mark.parametrize("method", ["lora", "linear", "finetune"])
def test_a_timestep_is_one_of_the_models(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"timestep = 99\.5") as refused:
        make_cell(SD, "normal", method, {"timestep": 99.5})
    assert refused.value.known == "whole numbers from 0 to 999"
    assert make_cell(SD, "normal", method, {"timestep": 99.0}).options["timestep"] == 99
    with pytest.raises(UserError, match="samples in steps"):
        make_cell(AUG, "normal", method, {"timestep": 99})
    few = replace(registry.spec(SD), diffusion_steps=50)
    monkeypatch.setattr(registry, "spec", lambda name: few)
    assert make_cell(SD, "normal", method, {"timestep": 49}, weights="x").options["timestep"] == 49
    with pytest.raises(UserError, match="0 to 49"):
        make_cell(SD, "normal", method, {"timestep": 50}, weights="x")


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("method", ["lora", "finetune"])
def test_checkpoints_are_of_diffusers_networks(model: str, method: str) -> None:
    with pytest.raises(UserError, match="blocks again") as refused:
        make_cell(model, "normal", method, {"checkpointing": True}, **OTHERS[model])
    assert "sd.rooms64-s1" in refused.value.known
    for other in (SD, AUG):
        assert make_cell(other, "normal", method, {"checkpointing": True}).options["checkpointing"]


def test_what_a_plugins_network_can_do_is_seen_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = registry.spec("vqgan.rooms64-s1")
    assert not limits._may_checkpoint(spec)
    monkeypatch.setattr(registry, "family_module", lambda name: ModuleType("patches_generator"))
    assert limits._may_checkpoint(spec)
