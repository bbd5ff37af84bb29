"""What a command of the zoo refuses, what it finds changed, and where its weights are found."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks import zoo_inputs, zoo_parts
from benchmarks.cli import main
from benchmarks.data.rooms.stock import Stock, open_stock
from benchmarks.data.rooms.worlds import VERSIONS
from benchmarks.zoo import _join
from benchmarks.zoo_inputs import FROZEN, Asked, frozen, origins
from benchmarks.zoo_parts import PARTS, Part, check
from generators import registry
from generators.errors import UserError
from generators.hub import WEIGHTS_VARIABLE, local_folder
from generators.weights import ZOO, find_weights, weights_file
from generators.zoo import diffusion, dinov2, gan
from generators.zoo import vqgan as vqgan_training
from generators.zoo.loop import Budget
from generators.zoo.session import NOT_FINISHED, Unfinished


def asked(**fields: Any) -> Asked:
    return Asked("cpu", None, None, **fields)


def typed(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["zoo", *map(str, words)])
    return found.exit_code, found.output


def stock(count: int = 2) -> Stock:
    return Stock(np.zeros((count, 13, 64, 64), np.uint8), ["a red box"] * count, f"{count} scenes")


# What is refused.


@pytest.mark.parametrize("name", ["velocity", "editing", "text", "autoencoder", "features", "dinov2-longer"])
@pytest.mark.parametrize("world", ["objects", "scrambled"])
def test_a_part_of_rooms_alone_is_not_overwritten_by_another_worlds(name: str, world: str) -> None:
    with pytest.raises(UserError, match="rooms alone"):
        check(name, asked(world=world, until="s1"))


@pytest.mark.parametrize("name", ["vqgan", "vqgan-transformer", "dinov2"])
def test_a_family_without_objects_refuses_them(name: str) -> None:
    with pytest.raises(UserError, match="rooms or scrambled alone"):
        check(name, asked(world="objects"))
    check(name, asked(world="scrambled", until="s1"))


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.stages])
def test_until_knows_the_stages(name: str) -> None:
    with pytest.raises(UserError, match=PARTS[name].stages[-1]):
        check(name, asked(until="s9"))
    check(name, asked(until=PARTS[name].stages[0]))


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if not part.stages])
def test_until_is_refused_where_there_are_no_stages(name: str) -> None:
    with pytest.raises(UserError, match="no stages"):
        check(name, asked(until="s1"))


def test_the_stages_are_those_of_the_trainings() -> None:
    budget = Budget(1000, 4)
    assert PARTS["unet"].stages == tuple(diffusion.stage_steps(budget))
    assert PARTS["stylegan2"].stages == PARTS["stylegan-xl"].stages == tuple(gan.stage_steps(budget))
    assert PARTS["vqgan"].stages == PARTS["vqgan-transformer"].stages == tuple(vqgan_training.STAGES)
    assert PARTS["dinov2"].stages == tuple(dinov2.STAGES)
    assert PARTS["dinov2-longer"].stages == tuple(dinov2.LONGER)


@pytest.mark.parametrize("option", ["--steps", "--batch", "--threads"])
@pytest.mark.parametrize("value", [0, -5])
def test_nothing_is_trained_for_no_steps(option: str, value: int, tmp_path: Path) -> None:
    status, output = typed("train", tmp_path, "text", option, value)
    assert status == 2 and option in output and ">=1" in output


def test_what_was_asked_for_replaces_the_budget() -> None:
    assert asked().budget(diffusion) == diffusion.CPU_BUDGET
    assert Asked("cuda", None, None).budget(diffusion) == diffusion.GPU_BUDGET
    assert Asked("cpu", 1, 2).budget(diffusion) == Budget(1, 2)


def test_transformers_up_to_a_stage() -> None:
    stages = ("s1", "s2", "s3")
    assert zoo_parts._transformer_stages(asked(), stages) == stages
    assert zoo_parts._transformer_stages(asked(until="s2"), stages) == ("s1", "s2")
    assert zoo_parts._transformer_stages(asked(until="s2", world="scrambled"), stages) == ("s2",)


# Several processes.


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_torchrun_is_for_the_unet(two_processes: None) -> None:
    check("unet", asked())
    for name in set(PARTS) - {"unet"}:
        with pytest.raises(UserError, match="2 processes"):
            check(name, asked())


def test_a_batch_must_be_shared_equally(two_processes: None) -> None:
    with pytest.raises(UserError, match="--batch 6"):
        Asked("cpu", None, 7).budget(diffusion)
    assert Asked("cpu", None, 8).budget(diffusion).batch == 8


def test_a_process_takes_the_device_of_its_rank(two_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", told.append)
    assert _join("cuda") == "cuda:1" and told == ["cuda:1", "nccl"]
    assert _join("cpu") == "cpu" and told[-1] == "gloo"
    monkeypatch.delenv("RANK")
    assert _join("cuda") == "cuda" and len(told) == 3


# The command.


def test_a_command_hands_on_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Asked] = []
    monkeypatch.setitem(PARTS, "text", Part(lambda folder, given: seen.append(given)))
    status, output = typed("train", tmp_path, "text", "--minutes", "2", "--every", "5", "--extend")
    assert status == 0, output
    (given,) = seen
    assert given.every == 5 and given.extend and given.ends is not None and given.steps is None
    assert typed("train", tmp_path, "text")[0] == 0 and seen[-1].ends is None


def test_a_command_that_was_stopped_says_so_by_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path, given: Asked) -> None:
        raise Unfinished("stopped")

    monkeypatch.setitem(PARTS, "text", Part(stop))
    assert typed("train", tmp_path, "text")[0] == NOT_FINISHED


# What a training is made of.


def made(folder: Path, change: str = "") -> None:
    for name in FROZEN:
        place = folder / zoo_inputs.MADE[name][0]
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text("new" if name == change else name)


def test_what_is_not_trained_yet_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="zoo train FOLDER autoencoder"):
        origins(tmp_path, stock(), "vae")


@pytest.mark.parametrize("changed", ["vae", "text_encoder", "tokenizer", "stock"])
def test_latents_are_computed_again_when_what_made_them_changed(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def latents(vae: object, rgb: np.ndarray, device: str) -> torch.Tensor:
        calls.append(len(rgb))
        return torch.full((len(rgb),), float(len(calls)))

    monkeypatch.setattr(zoo_inputs, "autoencoder", lambda folder, device: None)
    monkeypatch.setattr(zoo_inputs, "embed", lambda folder, prompts: torch.zeros(len(prompts)))
    monkeypatch.setattr(diffusion, "encode_latents", latents)
    made(tmp_path)
    path = frozen(tmp_path, asked(), stock())
    assert frozen(tmp_path, asked(), stock()) == path and calls == [2]
    made(tmp_path, changed)
    frozen(tmp_path, asked(), stock(3 if changed == "stock" else 2))
    assert len(calls) == 2 and load_file(path)["latents"][0] == 2
    frozen(tmp_path, asked(world="scrambled"), stock())
    assert len(calls) == 3 and len(load_file(path)["latents"]) == calls[1]  # a world has a file of its own
    with safe_open(path, "pt") as file:
        assert set(file.metadata()) == {*FROZEN, "stock", "world"}


# Stocks.


def shard(folder: Path, start: int, count: int, size: int = 16) -> Path:
    """A shard that nothing was rendered for."""
    folder.mkdir(exist_ok=True)
    named = folder / f"{VERSIONS['rooms']}-{size}-{start:07d}-{count}.npy"
    np.save(named, np.zeros((count, 13, size, size), np.uint8))
    named.with_suffix(".json").write_text("[" + ", ".join(['"a box"'] * count) + "]")
    return named


@pytest.mark.parametrize(
    ("shards", "wrong"),
    [
        ([(0, 4), (2, 4)], "again"),
        ([(0, 4), (0, 8)], "again"),
        ([(0, 4), (8, 4)], "scenes 4 to 7 are missing"),
        ([(4, 4)], "scenes 0 to 3 are missing"),
        ([(0, 4), (4, 4, 8)], "several sizes"),
    ],
)
def test_a_stock_has_every_scene_once(shards: list[tuple[int, ...]], wrong: str, tmp_path: Path) -> None:
    for numbers in shards:
        shard(tmp_path, *numbers)
    with pytest.raises(UserError, match=wrong):
        open_stock(tmp_path)


def test_a_stock_is_known_by_its_scenes_and_not_by_its_files(tmp_path: Path) -> None:
    for name, start, count in (("a", 4, 4), ("a", 0, 4), ("b", 0, 8), ("c", 0, 7)):
        shard(tmp_path / name, start, count)
    a, b, c = (open_stock(tmp_path / name) for name in "abc")
    assert a.fingerprint == b.fingerprint != c.fingerprint and len(a.captions) == len(a.planes) == 8


# Weights that were trained and not installed.


def test_a_folder_of_the_trainings_stands_for_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    spec, other = registry.spec("vqgan.rooms64-s1"), registry.spec("stylegan2.rooms64-s4")
    shipped = registry.identity(spec.name)
    assert weights_file(spec) == ZOO / "vqgan.rooms64" / "s1.safetensors"
    own = tmp_path / "vqgan.rooms64" / "s1.safetensors"
    own.parent.mkdir()
    shutil.copy(ZOO / "vqgan.rooms64" / "s2.safetensors", own)
    assert weights_file(spec) == own and registry.identity(spec.name) != shipped
    assert weights_file(other) == ZOO / "stylegan2.rooms64" / "s4.safetensors"
    with pytest.raises(UserError, match=f"{WEIGHTS_VARIABLE} is set"):
        find_weights(registry.spec("vqgan.rooms64-s3"))  # not the package's: stages are of one training


def test_folders_of_the_trainings_are_found_for_diffusers_and_transformers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("sd.rooms64-s5", "sd-aug.rooms64-s5", "dinov2.rooms64-s1")
    before = {name: local_folder(registry.spec(name)) for name in names}
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert {name: local_folder(registry.spec(name)) for name in names} == before
    (tmp_path / "sd.rooms64").mkdir()
    (tmp_path / "dinov2.rooms64" / "s1").mkdir(parents=True)
    found = {name: local_folder(registry.spec(name)) for name in names}
    assert found == {
        "sd.rooms64-s5": tmp_path / "sd.rooms64",
        "sd-aug.rooms64-s5": tmp_path / "sd.rooms64",
        "dinov2.rooms64-s1": tmp_path / "dinov2.rooms64" / "s1",
    }
    assert local_folder(registry.spec("dinov2.rooms64-s2")) is None
    (tmp_path / "sd.rooms64-s5").mkdir()  # a folder of the model's own name goes first
    assert local_folder(registry.spec("sd.rooms64-s5")) == tmp_path / "sd.rooms64-s5"


def test_a_tokenizer_that_a_training_began_with_is_kept(tmp_path: Path) -> None:
    from generators.zoo import text

    first = text._tokenizer(["a red box", "a blue sphere"], tmp_path).get_vocab()
    (tmp_path / "state.pt").touch()
    assert text._tokenizer(["other words"], tmp_path).get_vocab() == first
    (tmp_path / "state.pt").unlink()
    assert text._tokenizer(["other words"], tmp_path).get_vocab() != first


class Asking(Exception):
    """A training would begin now."""


MADE_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("text", "autoencoder", "features", "network", "dinov2"), ()),
    **dict.fromkeys(("stylegan2", "stylegan-xl", "vqgan"), ("features",)),
    "unet": FROZEN,
    "vqgan-transformer": ("first stage",),
    "dinov2-longer": ("backbone",),
    "velocity": (*FROZEN, "unet"),
    "editing": (*FROZEN, "unet", "unet-velocity"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_training_knows_all_that_it_is_made_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, str] = {}

    def stop(self: Asked, budget: Budget, made_of: dict[str, str]) -> None:
        found.update(made_of)
        raise Asking

    tensors = dict.fromkeys(("latents", "texts", "empty"), torch.zeros(1))
    monkeypatch.setattr(Asked, "session", stop)
    monkeypatch.setattr(zoo_inputs, "digest", lambda path, part: f"{part} is trained")
    for fake in ("feature_network", "last_unet", "autoencoder", "frozen", "embed"):
        monkeypatch.setattr(zoo_parts, fake, lambda *given: torch.nn.Identity())
    monkeypatch.setattr(zoo_parts, "digest", zoo_inputs.digest)
    monkeypatch.setattr(zoo_parts, "embed", lambda folder, prompts: torch.zeros(len(prompts)))
    monkeypatch.setattr(zoo_parts, "stock_of", lambda folder, given: stock())
    monkeypatch.setattr("safetensors.torch.load_file", lambda path: tensors)
    monkeypatch.setattr("generators.networks.net2net.initialized", lambda *given: Unloaded())
    monkeypatch.setattr("generators.zoo.vqgan.prepare", lambda *given: None)
    monkeypatch.setattr("generators.zoo.gan.projected_duel", lambda *given: None)
    monkeypatch.setattr("generators.dinov2.random_backbone", lambda *given: None)
    monkeypatch.setattr(
        "transformers.Dinov2Model.from_pretrained", lambda *given, **more: torch.nn.Identity()
    )
    with pytest.raises(Asking):
        PARTS[name].train(tmp_path, asked())
    assert set(found) == {"stock", *MADE_OF[name]}


class Unloaded(torch.nn.Module):
    """Stands for a network that takes any weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first_stage_model = self.transformer = torch.nn.Identity()
        self.first_stage_model.load_state_dict = lambda *given: None  # type: ignore[method-assign,assignment]
