"""$INTRINSIC_BENCH_WEIGHTS set to a zoo that is trained in part: what is missing, and who says so."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.suite import load_suite
from generators import registry
from generators.base import GeneratorSpec
from generators.errors import UserError
from generators.hub import WEIGHTS_VARIABLE

UNET, TEXT = "diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
REST = [f"vae/{UNET}", "vae/config.json", TEXT, "tokenizer/vocab.json", "scheduler/scheduler_config.json"]
UNETS = [f"unet{stage}/{file}" for stage in ("", "-s1", "-s3") for file in (UNET, "config.json")]
TRAINED = {
    "sd.rooms64": [*REST, *UNETS, "unet-s4/config.json"],
    "dinov2.rooms64": ["s2/model.safetensors", "s2/config.json", "s3/config.json"],
    "vqgan.rooms64": ["s2.safetensors"],
    "stylegan2.rooms64": ["s1.safetensors"],
}
LACKED = {  # what is asked for, the model that lacks something, and what
    "sd.rooms64-s2": ("sd.rooms64-s2", f"sd.rooms64/unet-s2/{UNET}"),
    "sd.rooms64-s4": ("sd.rooms64-s4", f"sd.rooms64/unet-s4/{UNET}"),
    "sd.objects64-s3": ("sd.objects64-s3", f"sd.rooms64/unet-objects-s3/{UNET}"),
    "sd-multi.rooms64-s2": ("sd-multi.rooms64-s2", f"sd.rooms64/unet-s2/{UNET}"),
    "sd-aug.rooms64-s5": ("sd-aug.rooms64-s5", "sd.rooms64/unet-velocity"),
    "sd-aug.rooms64-noise-s3": ("ip2p.rooms64", "sd.rooms64/unet-editing/adapter_model.safetensors"),
    "ip2p.rooms64": ("ip2p.rooms64", "sd.rooms64/unet-velocity"),
    "dinov2.rooms64-s1": ("dinov2.rooms64-s1", "dinov2.rooms64/s1/config.json"),
    "dinov2.rooms64-s3": ("dinov2.rooms64-s3", "dinov2.rooms64/s3/model.safetensors"),
    "vqgan.rooms64-s3": ("vqgan.rooms64-s3", "vqgan.rooms64/s3.safetensors"),
    "stylegan2.rooms64-s4": ("stylegan2.rooms64-s4", "stylegan2.rooms64/s4.safetensors"),
}
FOLDERS = [name for name in LACKED if not name.startswith(("vqgan", "stylegan2"))]
WHOLE = ["sd.rooms64-s3", "sd.rooms64-s5", "sd.rooms64-random", "sd-multi.rooms64-s3", "dinov2.rooms64-s2"]


def put(place: Path, files: Iterable[str]) -> None:
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(file)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of trainings that are not all done."""
    for name, files in TRAINED.items():
        put(tmp_path / name, files)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    return tmp_path


def check(told: UserError, model: str, expected: Path) -> None:
    assert f"model {model!r}" in told.asked and told.known == f"expected: {expected}"
    assert f"{WEIGHTS_VARIABLE} is set" in told.wrong
    assert told.todo == "train that stage, too, or unset the variable"


@pytest.mark.parametrize("name", LACKED)
def test_an_identity_names_the_part_and_the_variable(name: str, trained: Path) -> None:
    with pytest.raises(UserError) as caught:
        registry.identity(name)
    model, path = LACKED[name]
    check(caught.value, model, trained / path)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_without_a_part_is_not_on_this_machine(name: str, trained: Path) -> None:
    module, spec = registry.family_module(name), registry.spec(name)
    assert not module.on_machine(spec)
    with pytest.raises(UserError, match=f"{WEIGHTS_VARIABLE} is set"):
        registry.fetch(name)  # by `hub_folder`, with which `load` begins


@pytest.mark.parametrize("name", [*WHOLE, "dinov2.rooms64-random"])
def test_what_is_trained_is_there(name: str, trained: Path) -> None:
    assert registry.family_module(name).on_machine(registry.spec(name))
    registry.fetch(name)
    assert "/" not in registry.identity(name), "a hash, no path"


def test_the_autoencoder_of_a_stage_that_is_missing_is_known(trained: Path) -> None:
    assert registry.frozen_identity("sd.rooms64-s2") == registry.frozen_identity("sd.rooms64-s3")
    (trained / "sd.rooms64" / "vae" / UNET).unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS_VARIABLE} is set"):
        registry.frozen_identity("sd.rooms64-s3")


def test_a_lender_that_the_hub_has_is_asked_for_its_file(trained: Path) -> None:
    put(trained / "ip2p.v1-5", ["unet/config.json"])
    with pytest.raises(
        UserError, match=f"stands for the hub's weights lacks it: {WEIGHTS_VARIABLE}"
    ) as caught:
        registry.identity("sd-aug.v1-5")
    assert str(trained / "ip2p.v1-5" / "unet" / UNET) in caught.value.known
    assert caught.value.todo.startswith("put it there")


def test_weights_in_many_files_are_there_by_their_index(trained: Path) -> None:
    put(trained / "sd.rooms64-s4", [*REST, f"unet-s4/{UNET}.index.json", "unet-s4/part-1.safetensors"])
    assert registry.family_module("sd.rooms64-s4").on_machine(registry.spec("sd.rooms64-s4"))
    assert registry.identity("sd.rooms64-s4")


@pytest.mark.parametrize(
    "other", ["sd.rooms64-s2", "sd-aug.rooms64-noise-s3", "dinov2.rooms64-s1", "vqgan.rooms64-s3"]
)
def test_a_suite_says_which_of_its_models_is_missing(other: str, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ntitle = "Mine"\nquestion = "Why?"\n'
        f'[[grid]]\nmodels = ["sd.rooms64-s3", "{other}"]\nintrinsics = ["normal"]\nmethods = ["lora"]\n'
    )
    with pytest.raises(UserError, match="grid 1") as caught:
        load_suite(path)
    model, missing = LACKED[other]
    check(caught.value, model, trained / missing)


def moved(name: str, folder: Path) -> GeneratorSpec:
    """A spec of another copy of this package."""
    found = registry.spec(name)
    return replace(found, source=f"{folder}/zoo/weights/{str(found.source).rpartition('zoo/weights/')[2]}")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd.rooms64-s2", f"sd.rooms64/unet-s2/{UNET}"),
        ("dinov2.rooms64-s1", "dinov2.rooms64/s1/config.json"),
        ("vqgan.rooms64-s3", "vqgan.rooms64/s3.safetensors"),
    ],
)
def test_of_the_package_itself_the_cure_is_another(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(UserError) as caught:
        registry.family_module(name).identity(moved(name, tmp_path))
    told = caught.value
    assert told.known == f"expected: generators/zoo/weights/{expected}" and "install the package" in told.todo
    assert WEIGHTS_VARIABLE not in str(told)
