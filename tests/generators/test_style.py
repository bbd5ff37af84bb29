"""StyleGANs behind the contract: the facts of the paper, seeds in, w as the code, where weights come from."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from generators import load, registry
from generators.errors import UserError
from generators.random_init import blend_noise, reinitialized
from generators.style_weights import find_weights
from generators.stylegan2 import ROOMS
from generators.testing import check_generator
from tests.checkpoints.emulate import write_nvidia
from tests.checkpoints.golden_networks import layer_attributes, networks

FAMILIES = ("stylegan2", "stylegan-xl")


@pytest.mark.parametrize(
    ("name", "parameters", "lora"),
    [
        ("stylegan2.ffhq256", 24_767_458, 141_312),
        ("stylegan2.bedroom256", 24_767_458, 141_312),
        ("stylegan-xl.ffhq256", 67_928_945, 194_744),
        ("stylegan-xl.imagenet256", 166_267_046, 342_528),
    ],
)
def test_counts_of_the_paper(name: str, parameters: int, lora: int) -> None:
    """Table 6 of the paper: 0.14 M of 24.8 M, and 0.19 M of 67.9 M."""
    found = registry.family_module(name).count(registry.spec(name))
    assert (found["parameters"], found["lora_parameters"]) == (parameters, lora)


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{f}.rooms64-{s}" for f in FAMILIES for s in ("random", "s4")])
def test_embedded_models_keep_the_contract(name: str) -> None:
    assert check_generator(name) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_depends_on_its_seed_alone(family: str) -> None:
    generator = load(f"{family}.rooms64-random")
    both, one = generator.sample([7, 8]), generator.sample([8])
    torch.testing.assert_close(both.images[1:], one.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(generator.forward(one.code, "normal").clamp(-1, 1), one.images)
    assert set(one.code) == {"w"} and one.code["w"].shape[1] == generator.network.num_ws


def test_activations_span_the_picture_and_nothing_beyond() -> None:
    """Alias-free layers have margins; the probe takes the corners of activations for those of the picture."""
    generator = load("stylegan-xl.rooms64-random")
    code = generator.sample([1]).code
    whole, inside = generator.network.block_features(code["w"]), generator.features(code)
    rates = {layer.spec.name: layer.spec.out_sampling_rate for layer in generator.network.layers()}
    rates |= {"input": 16}
    assert len(inside) == len(whole) - 1
    for name, found in inside.items():
        assert found.shape[2:] == (rates[name], rates[name])
        margin = (whole[name].shape[2] - rates[name]) // 2
        torch.testing.assert_close(found[0, :, 0, -1], whole[name][0, :, margin, -1 - margin], rtol=0, atol=0)
    assert {whole[name].shape[2] for name in inside} == {24, 72, 64}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_given_picture_has_no_code(family: str) -> None:
    with pytest.raises(UserError, match="samples"):
        load(f"{family}.rooms64-random").embed(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_moves_the_code_towards_the_average(family: str) -> None:
    generator = load(f"{family}.rooms64-random")
    center = generator.mapping.w_avg.normal_(generator=torch.Generator().manual_seed(0))
    free = generator.sample([3]).code["w"]
    generator.psi = 0.5
    torch.testing.assert_close(generator.sample([3]).code["w"], center + 0.5 * (free - center))


@pytest.mark.parametrize("stage", ["random", "s4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_truncation_is_part_of_a_models_identity(family: str, stage: str) -> None:
    plain = registry.spec(f"{family}.rooms64-{stage}")
    name = registry.family_module(plain.name).identity
    half = replace(plain, options={**plain.options, "truncation_psi": 0.5})
    first, second = (replace(half, options={**half.options, "truncation_cutoff": k}) for k in (0, 8))
    assert name(plain).endswith("-psi1.0") and name(half).endswith("-psi0.5")
    assert name(first) == f"{name(half)}-cutoff0" and name(second) == f"{name(half)}-cutoff8"


@pytest.mark.parametrize("name", ["stylegan2.ffhq256", "stylegan-xl.ffhq256"])
def test_missing_weights_say_how_to_fetch_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    with pytest.raises(UserError, match=f"fetch {name}"):
        load(name)
    assert registry.identity(name).startswith("https://")


def test_a_model_nobody_published_asks_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    with pytest.raises(UserError, match="--from PATH"):
        find_weights(registry.spec("stylegan2.bedroom256"))


def test_an_official_pickle_in_the_weights_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of a user's file: name, pickle, picture; the hash is the model's identity."""
    from generators.networks import stylegan2

    network = stylegan2.initialize(stylegan2.Generator(**ROOMS), 5)
    official = {name: value.contiguous() for name, value in stylegan2.unfold(network).items()}
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    write_nvidia(tmp_path / "stylegan2.bedroom256.pkl", "Generator", ROOMS, official)
    before = registry.identity("stylegan2.bedroom256")
    generator = load("stylegan2.bedroom256")
    with torch.no_grad():
        expected = network.eval()(torch.randn(1, 128, generator=torch.Generator().manual_seed(4)))
    torch.testing.assert_close(generator.sample([4]).images, expected.clamp(-1, 1), rtol=1e-4, atol=1e-4)
    (tmp_path / "stylegan2.bedroom256.pkl").unlink()
    write_nvidia(
        tmp_path / "stylegan2.bedroom256.pkl", "Generator", ROOMS, {n: v * 1.1 for n, v in official.items()}
    )
    assert registry.identity("stylegan2.bedroom256") != before


@pytest.mark.parametrize(("family", "pattern"), [("stylegan2", "sg2_*.json"), ("stylegan-xl", "xl_*.json")])
def test_a_conditional_network_draws_its_class_from_the_seed(
    family: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stylegan-xl.imagenet256 is: the class is part of what a seed decides, not of the batch."""
    found = [g for g in networks(pattern) if any("embed" in n and g.state()[n].ndim == 2 for n in g.state())]
    found = [g for g in found if (g.facts.get("c_dim") or g.facts.get("init_kwargs", {}).get("c_dim"))]
    if not found:
        pytest.skip("no conditional network among the golden vectors")
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    name = {"stylegan2": "stylegan2.bedroom256", "stylegan-xl": "stylegan-xl.imagenet256"}[family]
    golden, path = found[0], tmp_path / f"{name}.pkl"
    attributes = layer_attributes(golden)
    write_nvidia(path, golden.class_name, golden.init_kwargs, golden.state(), attributes_by_module=attributes)
    generator = load(name)
    batch, alone = generator.sample([4, 5, 6]), generator.sample([6])
    torch.testing.assert_close(batch.images[2:], alone.images, rtol=0, atol=1e-4)
    _, labels = generator._latents(range(40))
    assert labels is not None and len(labels.argmax(1).unique()) > 1 and (labels.sum(1) == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_goes_from_the_trained_network_to_a_random_one(family: str) -> None:
    """Buffers that training starts from go along: StyleGAN-XL's frequencies, phases and magnitudes."""
    trained = load(f"{family}.rooms64-s4").network
    half, whole, fresh = copy.deepcopy(trained), copy.deepcopy(trained), reinitialized(trained, 7)
    blend_noise(half, 0.5, 7)
    blend_noise(whole, 1.0, 7)
    old, mid, end, new = (each.state_dict() for each in (trained, half, whole, fresh))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed >= {name for name, _ in trained.named_parameters() if name.endswith(".weight")}
    for name in old:
        assert torch.equal(end[name], new[name]), name
        torch.testing.assert_close(mid[name], (old[name] + new[name]) / 2)
    if family == "stylegan-xl":
        magnitudes = {name for name in old if name.endswith("magnitude_ema")}
        assert magnitudes and changed >= {"input.freqs", "input.phases", *magnitudes}
        assert all(end[name] == 1 for name in magnitudes)


def test_a_synthesis_network_is_redrawn_as_training_starts() -> None:
    from generators.networks import stylegan2

    made = stylegan2.Generator(16, 0, 16, 16, 3, None, {"channel_base": 128, "architecture": "resnet"})
    expected = stylegan2.initialize(copy.deepcopy(made), 7).synthesis
    state = torch.get_rng_state()
    first, again, other = (reinitialized(made.synthesis, seed) for seed in (7, 7, 8))
    assert torch.equal(state, torch.get_rng_state())
    for name, value in expected.named_parameters():
        assert torch.equal(first.get_parameter(name), value), name
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
        drawn = name.endswith(("weight", "const"))
        assert torch.equal(other.state_dict()[name], value) != drawn, name
        assert not name.endswith("noise_const") or value.std() > 0.5
