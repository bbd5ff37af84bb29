"""StyleGANs behind the contract: the facts of the paper, seeds in, w as the code, where weights come from."""

from pathlib import Path

import pytest
import torch

from generators import load, registry
from generators.errors import UserError
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
