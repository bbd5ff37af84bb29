"""Many steps: schedule, guidance, the channels for the picture, and diffusers' own pipelines beside ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from generators import load, registry, spec
from generators.base import Denoiser
from generators.denoiser import MultiStep, branches, first_step, rescaled
from generators.draws import Draws
from generators.errors import UserError
from generators.multi_step import ZOO_EDITING, count, lent_weight, widened
from generators.random_init import reinitialized
from generators.testing import check_generator

AUG, MULTI, EDIT = "sd-aug.rooms64-s5", "sd-multi.rooms64-s5", "ip2p.rooms64"


def _load(name: str) -> MultiStep:
    found = load(name)
    assert isinstance(found, MultiStep)
    return found


@pytest.fixture(scope="module")
def aug() -> MultiStep:
    return _load(AUG)


@pytest.fixture(scope="module")
def plain() -> MultiStep:
    return _load(MULTI)


@pytest.fixture(scope="module")
def editor() -> MultiStep:
    return _load(EDIT)


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


# The schedule.


def test_augmented_models_train_under_exactly_zero_terminal_snr(aug: MultiStep) -> None:
    alphas = aug.noising.alphas_cumprod
    assert alphas[-1].item() == 0.0
    assert alphas[-2].item() > 0
    assert aug.noising.config["prediction_type"] == "v_prediction"
    assert aug.noising.config["timestep_spacing"] == "trailing"


def test_the_variant_that_predicts_noise_keeps_its_schedule() -> None:
    assert spec("sd-aug.v1-5").options["schedule"]["rescale_betas_zero_snr"] is False
    assert _load("sd-aug.rooms64-noise-random").noising.alphas_cumprod[-1].item() > 0


@pytest.mark.parametrize("steps", [1, 2, 5, 25, 50])
def test_sampling_begins_at_the_last_timestep_of_pure_noise(aug: MultiStep, steps: int) -> None:
    aug.ask(sampler_steps=steps)
    schedule, begin = aug._sampler()
    assert (begin, schedule.timesteps[0].item(), len(schedule.timesteps)) == (0, 999, steps)
    assert float(schedule.init_noise_sigma) == 1.0


def test_what_training_shows_at_the_last_timestep_holds_nothing_of_the_map(aug: MultiStep) -> None:
    target, noise = torch.randn(2, 8, 16, 16), torch.randn(2, 8, 16, 16)
    last = torch.tensor([999, 999])
    assert torch.equal(aug.noising.add_noise(target, noise, last), noise)
    assert torch.equal(aug.noising.get_velocity(target, noise, last), -target)


# The channels for the picture.


def test_the_new_channels_are_the_lenders_and_the_old_ones_the_base_models(aug: MultiStep) -> None:
    lender, base = spec(EDIT), _load(EDIT)
    kept = load_file(ZOO_EDITING / "adapter_model.safetensors")["base_model.model.conv_in.weight"].float()
    weight = aug.network.get_parameter("conv_in.weight")
    assert torch.equal(weight[:, 8:], kept[:, 8:])
    assert torch.equal(lent_weight(lender, ZOO_EDITING.parent, 8), kept[:, 8:])
    assert torch.equal(base.network.get_parameter("conv_in.weight"), kept)
    assert kept[:, 8:].abs().max() > 0.01


def test_with_its_new_channels_zeroed_the_first_step_is_the_base_models(pictures: Tensor) -> None:
    base = load("sd.rooms64-s5")
    wide = _load("sd-aug.rooms64-noise-s5")
    with torch.no_grad():
        wide.network.get_parameter("conv_in.weight")[:, 8:] = 0
    latent = base.encode(pictures)
    schedule, begin = wide._sampler()
    noise = wide._start({"latent": latent}, schedule, begin)
    t, text = schedule.timesteps[begin], wide.question("normal").expand(3, -1, -1)
    with torch.no_grad():
        ours = wide._run(noise, t, latent / wide.base.scale, text)
        theirs = base.network(noise, t, encoder_hidden_states=text).sample
    assert torch.equal(ours, theirs)


def test_a_widened_network_computes_what_it_did(plain: MultiStep) -> None:
    network = reinitialized(plain.network, 3)
    x, text = torch.randn(2, 8, 16, 16), torch.randn(2, 32, 96)
    with torch.no_grad():
        before = network(x, 500, text).sample
        wide = widened(network, 8)
        after = wide(torch.cat([x, torch.randn(2, 8, 16, 16)], 1), 500, text).sample
    assert torch.allclose(before, after, atol=1e-6)
    assert wide.config.in_channels == 16


def test_the_picture_is_seen(aug: MultiStep, pictures: Tensor) -> None:
    aug.ask(sampler_steps=2)
    with torch.no_grad():
        first, second = aug.draw(aug.embed(pictures[:2]), aug.question("normal"))
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "unet", "lora"),
    [("sd-aug.v1-5", 859_532_484, 1_594_368), ("sd-aug.v2-1", 865_922_244, 1_659_904)],
)
def test_full_size_counts_need_no_weights(name: str, unet: int, lora: int) -> None:
    found = count(spec(name))
    assert (found["unet"], found["lora_parameters"]) == (unet, lora)  # the base's, and 4 * 320 * 9


# Guidance.


def test_guidance_is_the_sum_of_equation_3() -> None:
    whole, picture, nothing = torch.randn(3, 2, 4, 8, 8)
    for text_scale, image_scale in [(3.0, 1.0), (7.5, 1.5), (1.0, 1.0), (0.0, 2.0)]:
        expected = nothing + image_scale * (picture - nothing) + text_scale * (whole - picture)
        outputs = {(True, True): whole, (True, False): picture, (False, False): nothing}
        found = sum(w * outputs[seen, said] for w, seen, said in branches(text_scale, image_scale))
        assert torch.allclose(torch.as_tensor(found), expected, atol=1e-5)


def test_branches_that_weigh_nothing_are_not_run() -> None:
    assert [len(branches(*scales)) for scales in [(1.0, 1.0), (3.0, 1.0), (7.5, 1.5)]] == [1, 2, 3]


def test_rescaled_guidance_has_the_conditional_spread() -> None:
    guided, conditional = 5 * torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    axes = (1, 2, 3)
    assert torch.allclose(rescaled(guided, conditional, 1.0).std(axes), conditional.std(axes), atol=1e-4)
    assert rescaled(guided, conditional, 0.0) is guided
    half = rescaled(guided, conditional, 0.5)
    assert torch.allclose(half, (guided + rescaled(guided, conditional, 1.0)) / 2, atol=1e-4)


@pytest.mark.parametrize(("steps", "strength", "begin"), [(25, 1.0, 0), (25, 0.75, 7), (10, 0.01, 9)])
def test_strength_says_how_many_steps_are_left(steps: int, strength: float, begin: int) -> None:
    assert first_step(steps, strength) == begin


# diffusers' pipelines, unmodified, on the same parts.


def _pipeline(kind: Any, model: MultiStep, **more: Any) -> Any:
    schedule, _ = model._sampler()
    parts = {"vae": model.base.vae, "text_encoder": model.base.text_encoder, "scheduler": schedule}
    made = kind(
        tokenizer=model.base.tokenizer,
        unet=model.network,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
        **more,
    )
    made.set_progress_bar_config(disable=True)
    return made


def test_instruct_pix2pix_is_the_pipeline_of_diffusers(editor: MultiStep, pictures: Tensor) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    editor.ask(sampler_steps=4, guidance=7.5, image_guidance=1.5, rescale=0.0)
    pipeline = _pipeline(StableDiffusionInstructPix2PixPipeline, editor)
    schedule, _ = editor._sampler()
    code = editor.embed(pictures)
    with torch.no_grad():
        ours = editor.forward(code, "normal")
        theirs = pipeline(
            prompt_embeds=editor.question("normal").expand(3, -1, -1),
            negative_prompt_embeds=editor.prompt("").expand(3, -1, -1),
            image=(pictures + 1) / 2,
            latents=editor._start(code, schedule, 0),
            num_inference_steps=4,
            guidance_scale=7.5,
            image_guidance_scale=1.5,
            output_type="latent",
        ).images
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_sdedit_is_the_pipeline_of_diffusers(plain: MultiStep, pictures: Tensor) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    plain.ask(sampler_steps=8, guidance=3.0, strength=0.5, rescale=0.0)
    pipeline = _pipeline(StableDiffusionImg2ImgPipeline, plain)
    code = plain.embed(pictures[:1])
    with torch.no_grad():
        ours = plain.forward(code, "depth")
        # The pipeline takes four channels as latents and any other number as a picture: ours have eight.
        pipeline.prepare_latents = lambda *_: plain._start(code, *plain._sampler())
        theirs = pipeline(
            prompt_embeds=plain.question("depth"),
            negative_prompt_embeds=plain.prompt(""),
            image=(pictures[:1] + 1) / 2,
            strength=0.5,
            num_inference_steps=8,
            guidance_scale=3.0,
            output_type="latent",
        ).images
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


# What every denoiser keeps.


@pytest.mark.slow
@pytest.mark.parametrize("name", [AUG, "sd-multi.rooms64-random", EDIT])
def test_they_keep_the_contract(name: str) -> None:
    model = _load(name)
    model.ask(sampler_steps=3)  # of what does not depend on how many there are
    assert check_generator(model) == []


@pytest.mark.parametrize("name", [AUG, MULTI])
def test_a_picture_alone_gives_what_it_gives_in_a_batch(name: str, pictures: Tensor) -> None:
    model = _load(name)
    model.ask(sampler_steps=3)
    code = model.embed(pictures)
    with torch.no_grad():
        together = model.forward(code, "normal")
        alone = model.forward({"latent": code["latent"][1:2]}, "normal")
    assert torch.allclose(together[1:2], alone, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("size", [96, 128])
def test_larger_pictures_than_it_was_trained_on(aug: MultiStep, size: int) -> None:
    aug.ask(sampler_steps=2)
    with torch.no_grad():
        found = aug.decode(aug.forward(aug.embed(torch.zeros(1, 3, size, size)), "normal"))
    assert found.shape == (1, 3, size, size)


def test_the_loss_is_seeded_and_reaches_network_and_text(aug: MultiStep, pictures: Tensor) -> None:
    code, target = aug.embed(pictures), torch.randn(3, 8, 16, 16)
    text = aug.question("normal").clone().requires_grad_()
    losses = [
        aug.loss(code, text, target, Draws(torch.Generator().manual_seed(seed), 3)).item()
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]
    aug.network.requires_grad_(True)
    try:
        aug.loss(code, text, target, Draws(torch.Generator().manual_seed(1), 3)).backward()
        gradients = [p.grad for p in aug.network.parameters()]
    finally:
        aug.network.requires_grad_(False)
        for parameter in aug.network.parameters():
            parameter.grad = None
    assert text.grad is not None and text.grad.abs().max() > 0
    assert all(g is not None for g in gradients)


def test_a_share_of_a_batch_draws_what_the_whole_batch_would() -> None:
    def draws(rows: slice | None) -> list[Tensor]:
        random = torch.Generator().manual_seed(5)
        mine = Draws(random, 4, rows)
        return [mine.integers(1000), mine.normal((2, 3)), mine.uniform(), mine.integers(9)]

    for whole, part in zip(draws(None), draws(slice(1, 3)), strict=True):
        assert torch.equal(whole[1:3], part)


def test_learned_words_start_as_the_words(plain: MultiStep) -> None:
    words = plain.words("normal")
    assert torch.equal(plain.spell(words), plain.prompt("surface normal"))
    moved = plain.spell(words.flip(0))  # not the same order
    assert not torch.allclose(moved, plain.prompt("surface normal"), atol=1e-3)


def test_a_random_model_is_random_in_all_its_channels() -> None:
    first, again = _load("sd-aug.rooms64-random"), _load("sd-aug.rooms64-random")
    weight = first.network.get_parameter("conv_in.weight")
    assert torch.equal(weight, again.network.get_parameter("conv_in.weight"))
    assert weight.shape[1] == 16 and weight[:, 8:].std() > 0.5 * weight[:, :8].std()


def test_bad_options_are_named(aug: MultiStep) -> None:
    with pytest.raises(UserError, match=r"strenght|strength"):
        aug.ask(strength=0.5)
    with pytest.raises(UserError, match="draws no pictures"):
        aug.sample([1])


def test_every_denoiser_is_one_and_no_other_model_is(aug: MultiStep) -> None:
    assert isinstance(aug, Denoiser)
    assert not isinstance(load("sd.rooms64-random"), Denoiser)


def test_identities_tell_models_apart() -> None:
    names = [s.name for s in registry.specs() if s.asks and s.embedded]
    told = [(registry.identity(name), name.partition(".")[0]) for name in names]
    assert len(set(told)) == len(names) >= 15
