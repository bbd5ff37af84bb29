"""VQGAN behind the contract: the facts of the paper, both ways to a code, where weights come from."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import make_cell
from benchmarks.cell import Record
from benchmarks.execute import execute
from benchmarks.store import Store
from generators import load, registry
from generators.checkpoints import write_state
from generators.checkpoints.download import fetch
from generators.errors import UserError
from generators.networks import net2net
from generators.networks.net2net import Net2NetTransformer
from generators.sources import SOURCES, Source
from generators.testing import check_generator
from generators.vqgan import ROOMS, VqganGenerator
from tests.checkpoints.emulate_lightning import (
    CONTAINERS,
    exploits,
    poison,
    settings,
    write_checkpoint,
    write_settings,
)
from tests.checkpoints.golden_networks import Golden, networks
from tests.networks.test_golden_vqgan import compare, condition_config, condition_of, golden

RANDOM = "vqgan.rooms64-random"
PUBLISHED = networks("vqgan_*.json") + networks("net2net_*.json")


def described(params: dict[str, Any]) -> dict[str, Any]:
    """A YAML file of settings of both stages."""
    return {"model": {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": params}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own weights, and a cache of their own."""
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


# The facts of the paper.


@pytest.mark.parametrize(
    ("name", "first_stage", "transformer"),
    [
        ("vqgan.faceshq", 72_141_699, 304_932_864),
        ("vqgan.ffhq256", 72_141_699, 801_798_400),
        ("vqgan.imagenet16384", 76_073_859, None),
    ],
)
def test_counts_of_the_paper(name: str, first_stage: int, transformer: int | None) -> None:
    """Table 6 of the paper: 0.13 M of 72.1 M, and 873.9 M with the transformer."""
    found = registry.family_module(name).count(registry.spec(name))
    assert (found["parameters"], found["lora_parameters"]) == (first_stage, 131_072)
    assert found.get("transformer") == transformer
    assert found["encoder"] + found["decoder"] < found["parameters"]


def test_the_count_is_what_peft_trains() -> None:
    from peft import LoraConfig, get_peft_model

    from probes.lora import target_pattern

    generator = load(RANDOM)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=target_pattern(generator, "all"))
    adapted = get_peft_model(generator.network, config)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    spec = registry.spec(RANDOM)
    assert trainable == registry.family_module(RANDOM).count(spec)["lora_parameters"]


@pytest.mark.parametrize("name", [s.name for s in registry.specs() if s.name.startswith("vqgan.rooms64-")])
def test_one_shape_is_defined_once(name: str) -> None:
    assert registry.spec(name).options["config"] is ROOMS and registry.spec(name).takes == "both"


# Seeds and pictures.


@pytest.mark.slow
@pytest.mark.parametrize("name", [RANDOM, "vqgan.rooms64-s4"])
def test_embedded_models_keep_the_contract(name: str) -> None:
    assert check_generator(name) == []


def test_a_picture_depends_on_its_seed_alone() -> None:
    generator = load(RANDOM)
    both, one = generator.sample([7, 8]), generator.sample([8])
    torch.testing.assert_close(both.images[1:], one.images, rtol=0, atol=1e-4)
    assert torch.equal(both.code["quantized"][1:], one.code["quantized"])
    torch.testing.assert_close(generator.forward(one.code, "normal").clamp(-1, 1), one.images)
    assert isinstance(generator, VqganGenerator)
    side, params = 64 // generator.factor, ROOMS["first_stage_config"]["params"]
    assert {name: x.shape for name, x in one.code.items()} == {
        "quantized": (1, params["embed_dim"], side, side)
    }


def test_the_cache_changes_no_code() -> None:
    generator = load(RANDOM)
    assert isinstance(generator, VqganGenerator)
    assert torch.equal(generator.draw([1]), generator.draw([1], cached=False))


def test_an_encoded_picture_has_the_nearest_vectors() -> None:
    generator = load(RANDOM)
    assert isinstance(generator, VqganGenerator)
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    code = generator.embed(images)["quantized"]
    with torch.no_grad():
        latent = generator.first_stage.encode(images)
        distance = torch.cdist(
            latent.movedim(1, -1).flatten(0, 2), generator.first_stage.quantize.embedding.weight
        )
    nearest = (code - latent).square().sum(1).sqrt().flatten()
    torch.testing.assert_close(nearest, distance.min(1).values, rtol=1e-4, atol=1e-5)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="63 x 64"):
        load(RANDOM).embed(torch.zeros(1, 3, 63, 64))


# Files of users and of the zoo.


def shape(condition: Any = "__is_unconditional__", tokens: int = 1) -> dict[str, Any]:
    """Params of both stages, pictures of 256 pixels a side and 16 x 16 codes."""
    ddconfig = {
        "double_z": False,
        "z_channels": 8,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
    }
    ddconfig |= {"ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [16], "dropout": 0.0}
    gpt = {"vocab_size": 24, "block_size": 256 + tokens, "n_layer": 1, "n_head": 2, "n_embd": 8}
    return {
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": gpt},
        "first_stage_config": {
            "target": "taming.models.vqgan.VQModel",
            "params": {"ddconfig": ddconfig, "n_embed": 24, "embed_dim": 6, "lossconfig": {"target": "x.Y"}},
        },
        "cond_stage_config": condition,
        "ckpt_path": None,
    }


COORDINATES = {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 24, "down_factor": 64}}


def made(params: dict[str, Any], seed: int = 0) -> Net2NetTransformer:
    found = net2net.initialized("Net2NetTransformer", params, seed)
    assert isinstance(found, Net2NetTransformer)
    for parameter in found.transformer.parameters():  # so that logits differ
        parameter.mul_(5)
    return found


@pytest.mark.parametrize("condition", ["__is_unconditional__", COORDINATES], ids=["plain", "coordinates"])
def test_a_checkpoint_in_the_weights_folder_is_used(folder: Path, condition: Any) -> None:
    """The whole way of a user's file: name, checkpoint and settings, codes, picture."""
    params = shape(condition, tokens=16)
    whole = made(params)
    path = folder / "vqgan.faceshq.ckpt"
    write_checkpoint(path, whole.state_dict())
    write_settings(path.with_suffix(".yaml"), described(params))
    before = registry.identity("vqgan.faceshq")
    generator = load("vqgan.faceshq")
    assert isinstance(generator, VqganGenerator)
    sample = generator.sample([4, 5])
    assert sample.images.shape == (2, 3, 256, 256) and sample.code["quantized"].shape == (2, 6, 16, 16)
    assert torch.equal(generator.draw([5]), generator.draw([4, 5])[1:])
    assert torch.equal(generator.draw([5]), generator.draw([5], cached=False))
    with torch.no_grad():
        expected = whole.first_stage_model.decode(sample.code["quantized"]).clamp(-1, 1)
    torch.testing.assert_close(sample.images, expected, rtol=1e-4, atol=1e-5)
    write_settings(path.with_suffix(".yaml"), described(params | {"sos_token": 3}))
    assert registry.identity("vqgan.faceshq") != before, "settings are part of what a model is"


def test_coordinates_are_those_of_a_whole_picture(folder: Path) -> None:
    write_state(
        folder / "vqgan.faceshq.safetensors",
        made(p := shape(COORDINATES, 16)).state_dict(),
        "Net2NetTransformer",
        p,
    )
    generator = load("vqgan.faceshq")
    assert isinstance(generator, VqganGenerator)
    rows = torch.arange(256 * 256).view(256, 256) / 256**2
    expected = (24 * rows.view(4, 64, 4, 64).mean((1, 3))).round().long().flatten()
    assert torch.equal(generator._condition(2), expected.expand(2, -1))


def test_a_first_stage_alone_encodes_and_does_not_draw(folder: Path) -> None:
    params = shape()["first_stage_config"]["params"]
    stage = net2net.initialized("VQModel", params, 1)
    write_state(folder / "vqgan.ffhq256.safetensors", stage.state_dict(), "VQModel", params)
    generator = load("vqgan.ffhq256")
    assert generator.embed(torch.zeros(1, 3, 256, 256))["quantized"].shape == (1, 6, 16, 16)
    with pytest.raises(UserError, match="transformer is missing"):
        generator.sample([0])


def test_ffhq_alone_draws_from_the_250_likeliest_codes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its authors' command does; which is part of its identity once its file is here."""
    others = [spec for spec in registry.specs() if spec.family == "VQGAN" and spec.name != "vqgan.ffhq256"]
    assert others and not any("top_k" in spec.options for spec in others)
    assert registry.identity("vqgan.ffhq256") == "a local file@unverified"
    params = shape()
    write_state(folder / "vqgan.ffhq256.safetensors", made(params).state_dict(), "Net2NetTransformer", params)
    assert registry.identity("vqgan.ffhq256").endswith("-top_k250")
    generator, asked = load("vqgan.ffhq256"), []
    assert isinstance(generator, VqganGenerator) and generator.both is not None

    def draw(*_: Any, top_k: int | None, **__: Any) -> torch.Tensor:
        asked.append(top_k)
        return torch.zeros(1, 256, dtype=torch.long)

    monkeypatch.setattr(generator.both, "draw", draw)
    generator.draw([0])
    assert asked == [250]


def test_a_model_of_a_given_picture_does_not_draw(folder: Path) -> None:
    params = shape("__is_first_stage__", 256)
    write_state(folder / "vqgan.ffhq256.safetensors", made(params).state_dict(), "Net2NetTransformer", params)
    with pytest.raises(UserError, match="given another picture"):
        load("vqgan.ffhq256").sample([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s: p["transformer_config"]["params"].update(n_layer=2), "are missing"),
        (lambda p, s: p["transformer_config"]["params"].update(vocab_size=25), "the shape"),
        (lambda p, s: p["transformer_config"]["params"].update(n_unmasked=5), "n_unmasked = 5"),
        (lambda p, s: p["first_stage_config"]["params"].update(remap="x.npy"), "remapped"),
        (lambda p, s: p["first_stage_config"]["params"]["ddconfig"].update(kernel=5), "has kernel"),
        (lambda p, s: p.update(permuter_config={"target": "taming.x.ZCurve"}), "ZCurve"),
        (lambda p, s: p.update(new_idea=1), "new_idea"),
        (lambda p, s: s.pop("transformer.head.weight"), "transformer.head.weight"),
        (lambda p, s: s.update(extra=torch.zeros(1)), "1 are too many"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder: Path, change: Any, message: str) -> None:
    params = shape()
    tensors = dict(made(params).state_dict())
    change(params, tensors)
    write_state(folder / "vqgan.ffhq256.safetensors", tensors, "Net2NetTransformer", params)
    with pytest.raises(UserError, match=message):
        load("vqgan.ffhq256")


@pytest.mark.parametrize("name", ["vqgan.ffhq256", "vqgan.faceshq", "vqgan.imagenet16384"])
def test_missing_weights_say_how_to_get_them(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"fetch {name} --from PATH"):
        load(name)


def test_fetch_takes_a_published_folder(folder: Path, tmp_path: Path) -> None:
    """Checkpoint and settings where taming puts them: both come, and load under the model's name."""
    params = shape()
    given = tmp_path / "2021-04-23T18-19-01_ffhq_transformer"
    (given / "checkpoints").mkdir(parents=True)
    (given / "configs").mkdir()
    write_checkpoint(given / "checkpoints" / "last.ckpt", made(params).state_dict())
    settings = given / "configs" / "2021-04-23T18-19-01-project.yaml"
    write_settings(settings, described(params))
    found = fetch("vqgan.ffhq256", SOURCES["vqgan.ffhq256"], accept_licence=False, from_path=given)
    assert (
        found.name == "vqgan.ffhq256.ckpt"
        and found.with_suffix(".yaml").read_bytes() == settings.read_bytes()
    )
    shutil.rmtree(given)
    assert load("vqgan.ffhq256").sample([1]).images.shape == (1, 3, 256, 256)


def test_fetch_refuses_a_checkpoint_without_settings(folder: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.ckpt", made(shape()).state_dict())
    with pytest.raises(UserError, match="file of settings"):
        fetch("vqgan.ffhq256", Source(settings=True), accept_licence=False, from_path=tmp_path / "last.ckpt")
    assert not list(tmp_path.rglob("vqgan*"))


# Emulated official files give the pictures of the public implementation.


def publish(folder: Path, network: Golden, container: str) -> None:
    """A golden network as its authors would have published it."""
    folder.mkdir(parents=True)
    write_checkpoint(folder / "last.ckpt", network.state(), container)
    described = settings(network)
    if "cond_stage" in network.facts:
        described["model"]["params"]["cond_stage_config"] = condition_config(network.facts)
    write_settings(folder / "model.yaml", described)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("network", PUBLISHED, ids=str)
def test_a_published_model_makes_the_golden_pictures(folder: Path, network: Golden, container: str) -> None:
    facts, tensors = golden(network.path)
    publish(folder / "vqgan.ffhq256", network, container)
    generator = load("vqgan.ffhq256")
    assert isinstance(generator, VqganGenerator)
    code = generator.embed(tensors["in.x"])["quantized"]
    picture = generator.forward({"quantized": code}, "normal")
    if "dec.out" in tensors:
        compare(facts, "dec.out", picture, tensors["dec.out"])
    if "greedy.img" in tensors and generator.both is not None:
        condition = condition_of(generator.both, tensors)
        codes = generator.both.draw(condition[:, :0], condition, code.shape[2] * code.shape[3])
        drawn = generator.first_stage.quantize.lookup(codes.view(len(code), *code.shape[2:]))
        compare(facts, "greedy.img", generator.forward({"quantized": drawn}, "normal"), tensors["greedy.img"])


@pytest.mark.parametrize("network", PUBLISHED[:1], ids=str)
def test_a_poisoned_model_does_nothing_and_is_named(folder: Path, tmp_path: Path, network: Golden) -> None:
    marker = tmp_path / "was-here"
    name, exploit = next(iter(exploits(marker).items()))
    publish(folder / "vqgan.ffhq256", network, CONTAINERS[0])
    path = folder / "vqgan.ffhq256" / "last.ckpt"
    write_checkpoint(path, network.state(), change=lambda content: poison(content, "a loss", exploit))
    with pytest.raises(UserError) as caught:
        load("vqgan.ffhq256")
    assert name in str(caught.value) and not marker.exists()


def test_a_first_stage_by_its_own_name(folder: Path) -> None:
    params = shape()["first_stage_config"]["params"]
    stage = net2net.initialized("VQModel", params, 1)
    write_state(folder / "vqgan.imagenet16384.safetensors", stage.state_dict(), "VQModel", params)
    generator = load("vqgan.imagenet16384")
    assert generator.embed(torch.zeros(1, 3, 256, 256))["quantized"].shape == (1, 6, 16, 16)
    with pytest.raises(UserError, match="only a first stage was published"):
        generator.sample([0])


# Both ways in, as cells.

SMALL = {"train": 6, "validation": 2, "test": 3}


def done(folder: Path, method: str, options: dict[str, Any], **data: Any) -> Record:
    store = Store(folder)
    store.prepare()
    cell = make_cell(RANDOM, "normal", method, options, **SMALL, **data)
    return execute(cell, store, lambda share, phase: None)


@pytest.mark.parametrize(
    ("data", "way"),
    [({"data": "rooms"}, "encoded"), ({"data": "samples", "labels": "rooms-network"}, "drawn")],
)
@pytest.mark.parametrize(
    ("method", "options"), [("lora", {"steps": 1, "batch": 2}), ("linear", {}), ("finetune", {"steps": 1})]
)
def test_a_cell_says_which_way_its_codes_came(
    tmp_path: Path, method: str, options: dict[str, Any], data: dict[str, Any], way: str
) -> None:
    record = done(tmp_path, method, options, **data)
    assert record.status == "done" and record.generator["takes"] == "both"
    assert record.generator["code"] == way
    assert ("skill" in record.scores) == (way == "drawn")


def test_latents_are_not_moved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no latents"):
        done(tmp_path, "latent_offset", {}, data="samples", labels="rooms-network")


def test_a_first_stage_is_asked_about_given_pictures_only() -> None:
    with pytest.raises(UserError, match="takes pictures"):
        make_cell("vqgan.imagenet16384", "normal", "lora", size=256, data="samples", labels="rooms-network")
    with pytest.raises(UserError, match="draws no pictures"):
        make_cell("vqgan.imagenet16384", "none", "frechet")
