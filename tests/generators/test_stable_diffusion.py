"""The Stable Diffusion adapter: the zoo's weights, the real architecture's numbers, broken files."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from generators import load, registry, spec
from generators.errors import UserError
from generators.stable_diffusion import (
    PROMPTS,
    UNET_V1,
    WEIGHTS_VARIABLE,
    ZOO,
    ZOO_TIMESTEP,
    SingleStep,
    count,
    random_unet,
)
from probes.intrinsics import INTRINSICS
from probes.lora import target_layers, target_pattern

STAGES = ["sd.rooms64-random", *(f"sd.rooms64-s{k}" for k in range(1, 6))]


@pytest.fixture(scope="module")
def model() -> SingleStep:
    found = load("sd.rooms64-s5")
    assert isinstance(found, SingleStep)
    return found


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "parameters", "lora"),
    [
        ("sd.v1-5", 943_174_827, 1_594_368),
        ("sd.v1-1", 943_174_827, 1_594_368),
        ("sd.v2-1", 949_564_587, 1_659_904),
    ],
)
def test_full_size_counts_need_no_weights(name: str, parameters: int, lora: int) -> None:
    found = count(spec(name))
    assert (found["parameters"], found["lora_parameters"]) == (parameters, lora)


def test_every_intrinsic_has_the_papers_prompt() -> None:
    assert PROMPTS == {
        "normal": "surface normal",
        "depth": "depth map",
        "albedo": "albedo",
        "shading": "shading",
    }
    assert PROMPTS.keys() == INTRINSICS.keys()


def test_the_published_models_are_asked_at_the_last_timestep() -> None:
    """The paper's T - 1; the zoo's own timestep was chosen on the validation split."""
    for name in ("sd.v1-1", "sd.v1-5", "sd.v1-random", "sd.v2-1"):
        found = spec(name)
        assert found.options.get("timestep", found.diffusion_steps - 1) == 999
    assert {spec(name).options["timestep"] for name in STAGES} == {ZOO_TIMESTEP}


def test_the_protocol_is_one_step_on_the_clean_latent(model: SingleStep, pictures: Tensor) -> None:
    code = model.embed(pictures)
    assert model.schedule.config.num_train_timesteps == 1000
    assert model.schedule.config.beta_schedule == "scaled_linear"
    with torch.no_grad():
        expected = model.network(
            code["latent"],
            torch.full((3,), model.timestep),
            encoder_hidden_states=model.text("depth map").expand(3, -1, -1),
        ).sample
        assert torch.equal(model.forward(code, "depth"), expected)
    assert model.timestep == ZOO_TIMESTEP


def test_prompts_reach_the_network(model: SingleStep, pictures: Tensor) -> None:
    code = model.embed(pictures)
    with torch.no_grad():
        outputs = [model.forward(code, name) for name in INTRINSICS]
    assert all(not torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("targets", ["all", "self", "cross", "up", "mid", "down"])
def test_target_sets_divide_the_attention_layers(model: SingleStep, targets: str) -> None:
    layers = {
        t: set(target_layers(model, target_pattern(model, t)))
        for t in ("all", "self", "cross", "up", "mid", "down")
    }
    assert layers[targets] and layers[targets] <= layers["all"]
    assert layers["self"] | layers["cross"] == layers["all"] == layers["up"] | layers["mid"] | layers["down"]
    assert not layers["self"] & layers["cross"]


def test_stages_share_what_is_frozen_and_differ_in_their_weights() -> None:
    assert len({registry.frozen_identity(name) for name in STAGES}) == 1
    assert len({registry.identity(name) for name in STAGES}) == len(STAGES)
    trained = [spec(name).trained for name in STAGES]
    assert trained == sorted(trained, key=lambda t: -1.0 if t is None else t)


def test_the_random_model_is_the_architecture_from_a_seed() -> None:
    a, b, trained = load("sd.rooms64-random"), load("sd.rooms64-random"), load("sd.rooms64-s1")
    weights = [m.network.state_dict() for m in (a, b, trained)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert weights[0].keys() == weights[2].keys()
    assert not torch.equal(weights[0]["conv_in.weight"], weights[2]["conv_in.weight"])


def test_a_sample_depends_on_its_seed_and_caption_alone(model: SingleStep) -> None:
    captions = ["a red sphere in a room with a plain floor", "a blue box in a room with a checkered floor"]
    both = model.sample([7, 8], captions, steps=4)
    alone = model.sample([8], captions[1:], steps=4)
    assert torch.allclose(both.images[1:], alone.images, atol=1e-4)
    assert not torch.allclose(both.images[0], both.images[1], atol=1e-2)


def test_a_folder_of_ones_own_stands_for_a_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Tensor
) -> None:
    shutil.copytree(ZOO, tmp_path / "sd.v1-5")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    before = registry.identity("sd.v1-1")
    assert "@" in before and "@" not in registry.identity("sd.v1-5")
    model = load("sd.v1-5")
    assert model.decode(model.encode(pictures)).shape == pictures.shape


def test_weights_that_cannot_be_had_are_an_error_in_four_parts() -> None:
    with pytest.raises(UserError, match=WEIGHTS_VARIABLE) as caught:
        load("sd.v1-5")
    assert "sd.v1-5" in caught.value.asked and "OpenRAIL" in caught.value.known


def test_a_truncated_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ZOO, tmp_path / "sd.v1-2")
    path = tmp_path / "sd.v1-2" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:10_000])
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        load("sd.v1-2")


def without(file: Path, *names: str) -> None:
    """Take tensors out of a file."""
    tensors = load_file(file)
    for name in names:
        del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("part", "name", "ours"),
    [
        ("unet", "diffusion_pytorch_model", "conv_in.weight"),
        ("vae", "diffusion_pytorch_model", "decoder.conv_out.bias"),
        ("text_encoder", "model", ""),
    ],
)
def test_missing_tensors_are_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str, ours: str
) -> None:
    shutil.copytree(ZOO, tmp_path / "sd.v1-2")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    file = tmp_path / "sd.v1-2" / part / f"{name}.safetensors"
    ours = ours or next(key for key in load_file(file) if key.endswith("final_layer_norm.weight"))
    without(file, ours)
    with pytest.raises(
        UserError, match=f"the weights of its {part} lack .*{ours.removeprefix('text_model.')}"
    ):
        load("sd.v1-2")


def test_only_the_first_of_many_missing_tensors_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ZOO, tmp_path / "sd.v1-2")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    file = tmp_path / "sd.v1-2" / "vae" / "diffusion_pytorch_model.safetensors"
    without(file, *sorted(load_file(file))[:8])
    with pytest.raises(UserError, match=r"lack (\S+, ){4}\S+ and 3 more"):
        load("sd.v1-2")


def test_names_of_old_releases_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published autoencoders name their attention as diffusers did in 2022, and hold position ids."""
    shutil.copytree(ZOO, tmp_path / "sd.v1-2")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    vae.save_pretrained(tmp_path / "sd.v1-2" / "vae")
    file = tmp_path / "sd.v1-2" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        tensors = {key.replace(f".{new}.", f".{old}."): tensor for key, tensor in tensors.items()}
    assert sum(".proj_attn." in key for key in tensors) == 4
    save_file(tensors, file, metadata={"format": "pt"})
    file = tmp_path / "sd.v1-2" / "text_encoder" / "model.safetensors"
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(load_file(file) | ids, file, metadata={"format": "pt"})
    found = load("sd.v1-2")
    assert isinstance(found, SingleStep)
    assert all(torch.equal(a, b) for a, b in zip(found.vae.parameters(), vae.parameters(), strict=True))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_hubs_folder_with_pickled_weights_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    folder = tmp_path / "snapshot"
    shutil.copytree(ZOO, folder)
    (file,) = (folder / part).glob("*model.safetensors")
    file.unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    for name in ("sd.v1-1", "ip2p.v1-5"):
        with pytest.raises(UserError, match=f"its folder has no {part}/{file.name}") as caught:
            registry.family_module(name).hub_folder(spec(name))
        assert str(folder) in caught.value.known and "pickled" in caught.value.todo
        assert "truncated" not in str(caught.value) and WEIGHTS_VARIABLE in caught.value.todo
    shutil.copytree(folder, tmp_path / "sd.v1-1")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=f"its folder has no {part}/{file.name}"):
        load("sd.v1-1")


def test_a_random_unet_needs_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ZOO, tmp_path / "snapshot")
    (tmp_path / "snapshot" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "snapshot"))
    assert isinstance(load("sd.v1-random"), SingleStep)


@pytest.mark.parametrize(("name", "base"), [("sd.v1-random", "sd.v1-5"), ("sd.v2-random", "sd.v2-1")])
def test_a_random_unet_takes_the_rest_from_the_folder_of_its_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, base: str
) -> None:
    shutil.copytree(ZOO, tmp_path / base)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert registry.family_module(name).on_machine(spec(name))
    found, trained = load(name), load(base)
    assert isinstance(found, SingleStep) and isinstance(trained, SingleStep)
    assert all(
        torch.equal(a, b) for a, b in zip(found.vae.parameters(), trained.vae.parameters(), strict=True)
    )
    assert "@" not in registry.identity(name) != registry.identity(base)


def test_the_weights_of_a_random_unet_are_neither_fetched_nor_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    shutil.copytree(ZOO, tmp_path / "snapshot")
    seen: list[str] = []

    def fetch(*_: object, allow_patterns: list[str], **__: object) -> str:
        seen.extend(allow_patterns)
        return str(tmp_path / "snapshot")

    def cached(_: str, file: str, **__: object) -> str | None:
        return None if file.startswith("unet/") else file

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    on_machine = registry.family_module("sd.v1-5").on_machine
    assert on_machine(spec("sd.v1-random")) and not on_machine(spec("sd.v1-5"))
    registry.family_module("sd.v1-random").hub_folder(spec("sd.v1-random"))
    assert "unet/*.json" in seen and "vae/*model.safetensors" in seen
    assert "unet/*model.safetensors" not in seen
    registry.family_module("sd.v1-5").hub_folder(spec("sd.v1-5"))
    assert "unet/*model.safetensors" in seen


def test_diffusers_own_pipeline_opens_the_zoo() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(ZOO).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a red sphere in a room", num_inference_steps=2, output_type="np", height=64, width=64)
    assert drawn.images.shape == (1, 64, 64, 3)


@pytest.mark.slow
def test_one_lora_step_on_the_full_size_unet() -> None:
    """Random weights, 64 x 64 pixels: 8 x 8 latents are enough to drive every layer (about 9 GiB)."""
    from peft import LoraConfig, get_peft_model

    unet = random_unet(UNET_V1, 0).requires_grad_(False)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    config = LoraConfig(r=8, lora_alpha=8, target_modules=spec("sd.v1-5").target_sets["all"])
    adapted = get_peft_model(unet, config)
    trainable = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == 1_594_368
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    latent, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 768)
    before = [p.detach().clone() for p in trainable]
    out = adapted(latent, torch.tensor([999]), encoder_hidden_states=text).sample
    out.square().mean().backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, trainable, strict=True)]
    # At B = 0 only the B matrices have a gradient: half of the tensors move, whatever weight decay does.
    assert sum(moved) >= len(moved) // 2
    assert all(torch.isfinite(p).all() for p in trainable)
