"""LoRA, fine-tuning, controls and the training loop on a tiny model."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from generators import load, registry
from generators.errors import UserError
from generators.random_init import blend_noise, reinitialized
from probes import controls, finetune, lora
from probes.fit import Diverged, batches, loss_of, schedule, shuffled
from probes.intrinsics import INTRINSICS, unit
from probes.methods import METHODS, fill_options
from probes.task import Examples, Task, seed_for, stream
from tests.probes.tiny import TinyGenerator, _Network, examples


def task(method: str, intrinsic: str = "albedo", seed: int = 0, **options: object) -> Task:
    train, held = examples(24, 0, intrinsic), examples(8, 1, intrinsic)
    return Task(TinyGenerator(), INTRINSICS[intrinsic], train, held, fill_options(method, options), seed)


@pytest.mark.parametrize("variant", sorted(lora.VARIANTS))
def test_an_untrained_adapter_changes_no_bit(variant: str) -> None:
    generator, held = TinyGenerator(), examples(4, 3)
    before = generator.forward(held.code, "albedo")
    pattern = lora.target_pattern(generator, "all")
    config = LoraConfig(r=4, lora_alpha=4, target_modules=pattern, **lora.VARIANTS[variant])
    adapted = get_peft_model(generator.network, config)
    after = generator.forward(held.code, "albedo")
    # DoRA divides by a norm it measured itself, which is one rounding.
    assert torch.equal(before, after) if variant != "dora" else torch.allclose(before, after, atol=1e-6)
    adapted.unload()


def test_lora_trains_only_its_own_parameters_and_gives_the_model_back() -> None:
    asked = task("lora", steps=30, rank=4)
    before = {k: v.clone() for k, v in asked.model.network.state_dict().items()}
    probe = lora.fit(asked)
    assert probe.parameters == 4 * (12 + 12)
    assert probe.details["loss_last"] < probe.details["loss_first"]
    probe.release()
    after = asked.model.network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert not any(p.requires_grad for p in asked.model.network.parameters())


def test_a_saved_adapter_is_loaded_by_peft_alone(tmp_path: Path) -> None:
    asked, held = task("lora", steps=20, rank=4), examples(4, 3)
    probe = lora.fit(asked)
    expected = probe.predict(held)
    probe.save(tmp_path)
    probe.release()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    fresh = TinyGenerator()
    loaded = PeftModel.from_pretrained(fresh.network, str(tmp_path))
    with torch.no_grad():
        picture = loaded(held.code["x"])
    assert torch.equal(asked.intrinsic.from_picture(picture), expected)


@pytest.mark.parametrize("method", [lora, finetune])
def test_the_same_seed_gives_the_same_numbers(method: object) -> None:
    name = method.__name__.split(".")[-1]  # type: ignore[attr-defined]
    found = []
    for seed in (0, 0, 1):
        probe = method.fit(task(name, steps=8, seed=seed))  # type: ignore[attr-defined]
        found.append(probe.predict(examples(4, 3)))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_finetuning_trains_everything_and_puts_it_back() -> None:
    asked = task("finetune", steps=20, rate=1e-2)
    network = asked.model.network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    probe = finetune.fit(asked)
    assert probe.parameters == sum(p.numel() for p in network.parameters())
    assert any(not torch.equal(network.state_dict()[k], before[k]) for k in before)
    probe.release()
    assert all(torch.equal(network.state_dict()[k], before[k]) for k in before)


def test_a_rate_that_diverges_is_an_error_and_leaves_the_model_whole() -> None:
    asked = task("finetune", "depth", steps=50, rate=1e30)
    before = {k: v.clone() for k, v in asked.model.network.state_dict().items()}
    with pytest.raises(Diverged, match="lower the rate"):
        finetune.fit(asked)
    assert all(torch.equal(v, before[k]) for k, v in asked.model.network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 13}, "rank 12 at most"),
        ({"rank": 0}, "ranks 1 to 12"),
        ({"targets": "al"}, "did you mean 'all'"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        lora.fit(task("lora", steps=2, **options))


def test_the_mean_map_is_the_mean() -> None:
    asked = task("constant", "depth")
    probe = controls.fit_constant(asked)
    assert torch.allclose(probe.predict(examples(2, 5))[1], asked.train.maps["depth"].mean(0), atol=1e-5)
    normals = controls.fit_constant(task("constant", "normal")).predict(examples(2, 5))
    assert torch.allclose(normals.norm(dim=1), torch.ones(2, 16, 16))


def test_pixels_find_a_map_that_is_linear_in_color(tmp_path: Path) -> None:
    asked = task("pixels", "shading")
    probe = controls.fit_pixels(asked)
    held = examples(4, 9)
    assert INTRINSICS["shading"].error(probe.predict(held), held.maps["shading"], held.mask) < 1e-3
    probe.save(tmp_path)
    assert (tmp_path / "pixels.safetensors").exists()


def test_the_ceiling_of_a_pixel_model_is_the_truth() -> None:
    for name in INTRINSICS:
        asked, held = task("ceiling", name), examples(3, 2)
        prediction = controls.fit_ceiling(asked).predict(held)
        assert torch.allclose(prediction, held.maps[name], atol=1e-5)


@pytest.mark.parametrize("name", sorted(INTRINSICS))
def test_maps_survive_the_way_through_a_picture(name: str) -> None:
    intrinsic, truth = INTRINSICS[name], examples(3, 2).maps[name]
    picture = intrinsic.to_picture(truth)
    assert picture.shape[1] == 3 and picture.abs().max() <= 1
    assert torch.allclose(intrinsic.from_picture(picture), truth, atol=1e-5)


def test_a_zero_normal_faces_the_camera() -> None:
    assert unit(torch.zeros(1, 3, 1, 1)).flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_normal_that_is_not_finite_stays_so(value: float) -> None:
    """It must not face the camera: that is an answer, and often a good one."""
    found = unit(torch.tensor([1.0, value, 0.0]).reshape(1, 3, 1, 1))
    assert not torch.isfinite(found).all()
    of_pictures = INTRINSICS["normal"].from_picture(torch.full((1, 3, 2, 2), float("nan")))
    assert not torch.isfinite(of_pictures).any()


@pytest.mark.parametrize(
    ("given", "said"),
    [(torch.zeros(4, 1, 16, 16), r"\(4, 1, 16, 16\), its targets have \(4, 3, 16, 16\)"), ([0.0], "a list")],
)
def test_a_forward_that_gives_something_else_is_refused(given: object, said: str) -> None:
    """One channel for three would pass: a loss adds what it can spread."""
    loss = loss_of(task("lora", "normal"), lambda code, intrinsic: given)  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match=said) as raised:
        loss({}, torch.zeros(4, 3, 16, 16), None)  # type: ignore[arg-type]
    assert "intrinsic-bench check tiny.one" in raised.value.todo


def test_every_picture_is_seen_once_an_epoch() -> None:
    rows = torch.cat(list(batches(10, 4, 5, torch.Generator().manual_seed(0))))
    assert sorted(rows[:10].tolist()) == list(range(10)) and sorted(rows[10:].tolist()) == list(range(10))


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    factors = [schedule(step, 200) for step in range(200)]
    assert factors[0] == 0.1 and max(factors) == 1.0 and factors[-1] < 1e-3
    assert all(a >= b for a, b in pairwise(factors[10:]))


def test_shuffling_moves_every_label() -> None:
    for n in (2, 3, 17):
        order = shuffled(n, stream(0, "labels"))
        assert sorted(order.tolist()) == list(range(n)) and (order != torch.arange(n)).all()


def test_seeds_of_purposes_differ_and_stay() -> None:
    assert seed_for(0, "batches") == 2312056721596985416  # a recorded number: it must never move
    assert len({seed_for(s, p) for s in range(3) for p in ("batches", "labels", "adapter")}) == 9


def test_noise_goes_from_the_weights_to_random_ones() -> None:
    network = _Network()
    fresh = reinitialized(network, 7)
    assert not torch.equal(fresh.to_q.weight, network.to_q.weight)
    half, whole = _Network(), _Network()
    for copy in (half, whole):
        copy.load_state_dict(network.state_dict())
    blend_noise(half, 0.5, 7)
    blend_noise(whole, 1.0, 7)
    assert torch.allclose(half.to_q.weight, (network.to_q.weight + fresh.to_q.weight) / 2)
    assert torch.allclose(whole.to_q.weight, fresh.to_q.weight)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        blend_noise(network, 1.5, 7)


def test_parameters_nobody_can_reset_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.Parameter(torch.zeros(2))

    with pytest.raises(ValueError, match="Odd"):
        reinitialized(nn.Sequential(Odd()), 0)


def test_every_method_names_a_function_that_exists() -> None:
    import benchmarks.methods  # noqa: F401 (registers its own)
    from probes.methods import method_fit

    assert all(callable(method_fit(name)) for name in METHODS)


def test_a_zero_has_one_sign() -> None:
    assert math.copysign(1, fill_options("lora", {"noise": -0.0})["noise"]) == 1


def test_a_layer_narrower_than_the_rank_is_adapted_all_the_same() -> None:
    """StyleGAN-XL's input affine has four outputs; the paper's 0.19 M counts it at rank 8."""
    generator = load("stylegan-xl.rooms64-random")
    code = generator.sample([0, 1]).code
    maps = torch.nn.functional.normalize(torch.randn(2, 3, 64, 64), dim=1)
    seen = Examples(torch.zeros(2, 3, 64, 64), {"normal": maps}, torch.ones(2, 1, 64, 64) > 0, code, maps)
    options = fill_options("lora", {"steps": 1, "batch": 2})
    probe = lora.fit(Task(generator, INTRINSICS["normal"], seen, seen, options, 0))
    assert (
        probe.parameters
        == registry.family_module(generator.spec.name).count(generator.spec)["lora_parameters"]
    )
    probe.release()
