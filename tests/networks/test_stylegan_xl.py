"""The StyleGAN-XL network beyond the golden vectors: counts, folding, building, precision, errors."""

import dataclasses
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from generators.errors import UserError
from generators.networks import stylegan_xl as xl
from generators.networks.low_pass import design_low_pass
from generators.ops import set_default
from generators.random_init import reinitialized

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
COUNTS = sorted((GOLDEN / "counts").glob("count_xl*.json"))
SMALL: dict[str, Any] = {
    "z_dim": 8,
    "c_dim": 0,
    "w_dim": 12,
    "img_resolution": 16,
    "channel_base": 128,
    "channel_max": 8,
    "num_layers": 5,
    "conv_kernel": 3,
    "use_radial_filters": False,
    "embedding": (5, 6),
}
STAGE = {"img_resolution": 32, "head_layers": 4}


@pytest.fixture(autouse=True)
def plain_operations() -> Iterator[None]:
    """The reference operations: the network is what is tested, and nothing has to be compiled for it."""
    with set_default("ref"):
        yield


def small(**changes: Any) -> xl.Generator:
    return xl.generator_from_kwargs(**{**SMALL, **changes})


def latents(network: xl.Generator, pictures: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pictures, network.synthesis.num_ws, network.synthesis.w_dim, generator=generator)


def affines(network: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}


# --- counts on the meta device --------------------------------------------------------------------------


def full_size(entry: dict[str, Any]) -> xl.Generator:
    kernel = entry["head_kernel"]
    head = {"conv_kernel": kernel, "use_radial_filters": kernel == 1}
    with torch.device("meta"):
        return xl.generator_from_kwargs(
            z_dim=64,
            c_dim=entry["c_dim"],
            w_dim=512,
            img_resolution=entry["stem_res"],
            channel_base=entry["channel_base"],
            channel_max=entry["channel_max"],
            num_layers=entry["num_layers"],
            conv_kernel=entry["stem_kernel"],
            use_radial_filters=entry["stem_kernel"] == 1,
            stages=[{"img_resolution": r, "head_layers": n, **head} for r, n in entry["heads"]],
        )


@pytest.mark.skipif(not COUNTS, reason="GOLDEN_DIR holds no counts")
def test_parameter_counts_of_full_size_networks() -> None:
    entries = [entry for path in COUNTS for entry in json.loads(path.read_text())]
    assert entries
    for entry in entries:
        network = full_size(entry)
        linear = affines(network.synthesis)
        found = [
            {"name": f"synthesis.{name}", "in": layer.in_features, "out": layer.out_features}
            for name, layer in linear.items()
        ]
        low_rank = sum(8 * (layer.in_features + layer.out_features) for layer in linear.values())
        assert sum(p.numel() for p in network.parameters()) == entry["total"], entry["name"]
        assert sum(p.numel() for p in network.synthesis.parameters()) == entry["synthesis"]
        assert network.mapping.embed.weight.numel() == entry["embed"]
        assert found == entry["affine"] and low_rank == entry["lora_affine_incl_input"]
        assert network.synthesis.num_ws == entry["num_ws"]


def test_the_inferred_ffhq256_shape_has_the_published_counts() -> None:
    entry = {"stem_res": 32, "channel_base": 65536, "channel_max": 1024, "num_layers": 10, "c_dim": 0}
    entry |= {"stem_kernel": 1, "head_kernel": 3, "heads": [[64, 4], [128, 4], [256, 4]]}
    network = full_size(entry)
    assert sum(parameter.numel() for parameter in network.parameters()) == 67_928_945
    linear = affines(network.synthesis).values()
    assert sum(8 * (layer.in_features + layer.out_features) for layer in linear) == 194_744


# --- folding --------------------------------------------------------------------------------------------


def test_fold_and_unfold_are_inverse() -> None:
    network = small(c_dim=4)
    gains, state = xl.gains(network), network.state_dict()
    again = xl.fold(xl.unfold(state, gains), gains)
    assert again.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(again[name], value, rtol=3e-7, atol=0)


def test_gains_are_those_of_equalized_learning_rates() -> None:
    network = small(c_dim=4, mapping_kwargs={"lr_multiplier": 0.02})
    gains, last = xl.gains(network), network.synthesis.layer_names[-1]
    assert set(gains) == {name for name, _ in network.named_parameters()}
    assert gains["mapping.fc0.weight"] == pytest.approx(0.02 / 16**0.5)  # z and class
    assert gains["mapping.fc1.bias"] == 0.02
    assert gains["mapping.embed_proj.weight"] == pytest.approx(6**-0.5)
    assert gains["mapping.embed.weight"] == gains["synthesis.L0_36_8.weight"] == 1
    assert gains["synthesis.input.weight"] == pytest.approx(8**-0.5)
    assert gains["synthesis.input.affine.weight"] == pytest.approx(12**-0.5)
    assert gains["synthesis.L0_36_8.affine.weight"] == pytest.approx(12**-0.5)
    assert gains["synthesis.L0_36_8.affine.bias"] == 1
    inputs = network.synthesis.specs[-1].in_channels
    assert gains[f"synthesis.{last}.affine.bias"] == pytest.approx(inputs**-0.5)
    assert gains[f"synthesis.{last}.affine.weight"] == pytest.approx((12 * inputs) ** -0.5)


def test_adam_with_gained_rates_takes_the_official_steps() -> None:
    """Folded parameters at rate lr * gain against official ones, folded on the fly, at rate lr."""
    network = small()
    gains, state = xl.gains(network), network.state_dict()
    official = {
        name: value.clone().requires_grad_()
        for name, value in xl.unfold(state, gains).items()
        if name in gains and not name.endswith("embed.weight")
    }
    z, target = torch.randn(2, 8), torch.randn(2, 3, 16, 16)
    groups = [{"params": [network.get_parameter(name)], "lr": 1e-3 * gains[name]} for name in official]
    ours = torch.optim.Adam(groups, eps=1e-20)
    theirs = torch.optim.Adam(official.values(), lr=1e-3, eps=1e-20)
    for _ in range(2):
        ours.zero_grad()
        theirs.zero_grad()
        (network(z) * target).sum().backward()
        folded = xl.fold(official, gains)
        (torch.func.functional_call(network, folded, (z,)) * target).sum().backward()
        ours.step()
        theirs.step()
    for name, value in official.items():
        moved = (network.get_parameter(name) / gains[name] - value).abs().median()
        assert moved < 1e-5, f"{name}: {moved:.2g} apart after steps of 1e-3"


# --- building -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"margin_size": 6, "num_critical": 1},
        {"filter_size": 4, "lrelu_upsampling": 4, "conv_clamp": None},
        {"conv_kernel": 1, "use_radial_filters": True, "num_fp16_res": 0, "output_scale": 0.5},
        {"first_cutoff": 1.5, "first_stopband": 5.0, "last_stopband_rel": 1.1, "img_channels": 1},
    ],
)
@pytest.mark.parametrize("stages", [[], [{"img_resolution": 64, "head_layers": 4, "up_factor": 4}]])
def test_every_option_makes_pictures(options: dict[str, Any], stages: list[dict[str, Any]]) -> None:
    network = small(**options, stages=stages)
    with torch.no_grad():
        features = network.synthesis.block_features(latents(network))
        pictures = network.synthesis(latents(network))
    resolution = stages[-1]["img_resolution"] if stages else 16
    assert pictures.shape == (2, options.get("img_channels", 3), resolution, resolution)
    assert pictures.isfinite().all() and pictures.std() > 0
    for spec in network.synthesis.specs:
        assert features[spec.name].shape[1:] == (spec.out_channels, *spec.out_size[::-1])


def test_stages_continue_the_stem_and_defaults_begin_anew() -> None:
    network = small(
        num_layers=6,
        margin_size=8,
        filter_size=4,
        magnitude_ema_beta=0.9,
        stages=[STAGE, {"img_resolution": 128, "head_layers": 5, "up_factor": 4, "conv_kernel": 1}],
    )
    specs = network.synthesis.specs
    names = [spec.name.split("_")[0] for spec in specs]
    assert names == ["L0", "L1", "L2", "L3", "L5", "L6", "L7", "L8", "L9", "L10", "L11", "L12"]
    assert {spec.filter_size for spec in specs[:4]} == {4} and {spec.filter_size for spec in specs[4:]} == {6}
    assert specs[3].magnitude_ema_beta == 0.9 and specs[4].magnitude_ema_beta == 0.999
    assert [spec.conv_kernel for spec in specs] == [3] * 6 + [1] * 6
    for before, after in pairwise(specs):
        assert (before.out_size, before.out_channels) == (after.in_size, after.in_channels)
        assert before.out_sampling_rate == after.in_sampling_rate
        assert before.out_cutoff == after.in_cutoff


def test_pickled_attributes_rebuild_a_hybrid() -> None:
    hybrid = small(
        conv_kernel=1,
        use_radial_filters=True,
        stages=[{**STAGE, "conv_kernel": 3, "use_radial_filters": False}],
    )
    derived = {
        "name",
        "stopband",
        "filter_size",
        "lrelu_upsampling",
        "use_radial_filters",
        "tmp_sampling_rate",
    }
    pickled = {}
    for spec in hybrid.synthesis.specs:
        values = {k: v for k, v in dataclasses.asdict(spec).items() if k not in derived}
        values |= {"in_size": numpy.array(spec.in_size), "in_cutoff": numpy.float64(spec.in_cutoff)}
        values |= {"use_fp16": numpy.bool_(spec.use_fp16), "padding": list(spec.padding)}
        pickled[spec.name] = values
    specs = xl.specs_from_modules(hybrid.synthesis.layer_names, pickled)
    for found, spec in zip(specs, hybrid.synthesis.specs, strict=True):
        # Of a layer with separable filters a file cannot say whether radial ones were asked for.
        assert found == dataclasses.replace(spec, use_radial_filters=spec.down_radial)
    source = {"channels": 8, "size": numpy.array([36, 36]), "sampling_rate": 16, "bandwidth": 2.0}
    mapping = {"z_dim": 8, "c_dim": 0, "w_dim": 12}
    rebuilt = xl.generator_from_specs(mapping, xl.input_from_module(source), specs, embedding=(5, 6), seed=9)
    xl.load_official(rebuilt, xl.unfold(hybrid.state_dict(), xl.gains(hybrid)))
    with torch.no_grad():
        ws = latents(hybrid)
        torch.testing.assert_close(rebuilt.synthesis(ws), hybrid.synthesis(ws), rtol=0, atol=1e-5)


def test_initialization_is_the_published_one() -> None:
    network = small(w_dim=64, channel_max=64, channel_base=4096, seed=3)
    state, spec = xl.unfold(network.state_dict(), xl.gains(network)), network.synthesis.input.spec
    for name in ("mapping.fc1.weight", "synthesis.L1_36_64.affine.weight"):
        scale = 100 if name.startswith("mapping") else 1  # divided by the learning-rate multiplier
        assert state[name].std().item() == pytest.approx(scale, rel=0.05)
    for name in ("synthesis.L1_36_64.weight", "synthesis.input.weight"):
        assert state[name].std().item() == pytest.approx(1, rel=0.05)
    assert not state["synthesis.input.affine.weight"].any()
    assert state["synthesis.input.affine.bias"].tolist() == [1, 0, 0, 0]
    assert torch.allclose(state["synthesis.L1_36_64.affine.bias"], torch.ones(64))
    assert torch.allclose(state[f"synthesis.{network.synthesis.layer_names[-1]}.affine.bias"], torch.ones(64))
    assert not state["synthesis.L1_36_64.bias"].any() and not state["mapping.fc0.bias"].any()
    radius = state["synthesis.input.freqs"].norm(dim=1)
    assert radius.max() <= spec.bandwidth and (radius < spec.bandwidth / 2).float().mean() < 0.5
    assert state["synthesis.input.phases"].abs().max() <= 0.5


def test_a_seed_decides_everything_and_leaves_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (small(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    random = (
        "synthesis.input.freqs",
        "synthesis.input.phases",
        "synthesis.L0_36_8.weight",
        "mapping.fc0.weight",
    )
    assert not any(torch.equal(first[name], other[name]) for name in random)


def test_random_initialization_resets_all_of_it() -> None:
    network = small(c_dim=4)
    with torch.no_grad():
        network(torch.randn(4, 8), torch.eye(4), update_emas=True)
    fresh = reinitialized(network, seed=1)
    built = small(c_dim=4)
    assert not fresh.mapping.w_avg.any()  # type: ignore[union-attr]
    for name, value in fresh.state_dict().items():
        if "magnitude" in name or name.endswith("bias"):
            assert torch.equal(value, built.state_dict()[name]), name


# --- running --------------------------------------------------------------------------------------------


def test_class_centers_move_only_with_their_class() -> None:
    network, beta = small(c_dim=4), 0.998
    c = torch.eye(4)[[1, 1, 3]]
    with torch.no_grad():
        w = network.mapping(torch.randn(3, 8), c, update_emas=True)[:, 0]
    centers = network.mapping.w_avg
    assert not centers[[0, 2]].any()
    torch.testing.assert_close(centers[3], (1 - beta) * w[2])
    torch.testing.assert_close(centers[1], (1 - beta) * (beta * w[0] + w[1]))  # one step per picture


def test_truncation_meets_the_center_of_the_class() -> None:
    network = small(c_dim=4)
    network.mapping.w_avg.normal_()
    c = torch.eye(4)[[2, 0]]
    with torch.no_grad():
        ws = network.mapping(torch.randn(2, 8), c, truncation_psi=0, truncation_cutoff=3)
    assert torch.equal(ws[:, :3], network.mapping.w_avg[[2, 0]][:, None].expand(-1, 3, -1))
    assert not torch.allclose(ws[:, 3], ws[:, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_asked_for_and_close(dtype: torch.dtype) -> None:
    network = small()
    ws = latents(network)
    with torch.no_grad():
        exact, ignored = network.synthesis(ws), network.synthesis(ws, dtype=dtype)
        features = network.synthesis.block_features(ws, force_fp32=False, dtype=dtype)
        reduced = network.synthesis(ws, force_fp32=False, dtype=dtype)
    assert torch.equal(exact, ignored) and reduced.dtype == torch.float32
    assert {features[name].dtype for name in network.synthesis.layer_names} == {dtype}
    error = (reduced - exact).abs().max() / exact.abs().max()
    assert 0 < error < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    network = small(stages=[STAGE])
    ws = latents(network, pictures=5)
    with torch.no_grad():
        together = network.synthesis(ws)
        alone = torch.cat([network.synthesis(one[None]) for one in ws])
    assert (together - alone).abs().max() < 1e-5


def test_a_translation_moves_the_picture() -> None:
    """Translation equivariance, what the layers are for: 2 pixels of 32, away from the border."""
    network = small(stages=[STAGE], num_layers=8, seed=4)
    ws = latents(network, pictures=1)
    with torch.no_grad():
        picture = network.synthesis(ws)
        shift = torch.eye(3)
        shift[0, 2] = -2 / 32  # the inverse transform, in picture widths
        network.synthesis.set_transform(shift)
        moved = network.synthesis(ws)
    difference = (moved[..., 8:26, 8:26] - picture[..., 8:26, 6:24]).square().mean().sqrt()
    unmoved = (moved[..., 8:26, 8:26] - picture[..., 8:26, 8:26]).square().mean().sqrt()
    assert difference < 0.2 * unmoved


def test_low_rank_adapters_go_on_the_affine_layers_without_help() -> None:
    import peft

    network = small()
    names = [f"synthesis.{name}" for name in affines(network.synthesis)]
    config = peft.LoraConfig(r=2, target_modules=names)
    wrapped = peft.get_peft_model(network, config)  # type: ignore[arg-type]
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(names) and len(names) == len(network.synthesis.specs) + 1
    wrapped.base_model.model.synthesis(latents(network)).sum().backward()
    assert all(
        wrapped.get_parameter(name).grad is not None and wrapped.get_parameter(name).grad.isfinite().all()
        for name in trained
    )


# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [0, -1, 2.5, "3", True])
def test_an_unknown_kernel_size_is_refused(kernel: Any) -> None:
    with pytest.raises(UserError, match=r"conv_kernel(.|\n)*1 \(configuration r"):
        small(conv_kernel=kernel)


def test_a_missing_kernel_size_is_asked_for() -> None:
    arguments = {key: value for key, value in SMALL.items() if key != "conv_kernel"}
    with pytest.raises(UserError, match="name conv_kernel"):
        xl.generator_from_kwargs(**arguments)


def test_unknown_arguments_are_named_with_their_neighbors() -> None:
    with pytest.raises(UserError, match="channel_base"):
        small(channels_base=3)
    with pytest.raises(UserError, match="num_layers"):
        small(mapping_kwargs={"number_layers": 3})


def test_stages_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="critically sampled"):
        small(num_layers=2)
    with pytest.raises(UserError, match="16 x 4 = 64"):
        small(stages=[{**STAGE, "up_factor": 4}])
    specs = xl.layer_specs(xl.Schedule(16, num_layers=5))
    read = [dataclasses.replace(spec, stopband=None) for spec in specs]
    with pytest.raises(UserError, match="read from a file"):
        xl.add_superresolution(read, xl.Schedule(16, num_layers=5), **STAGE)
    with pytest.raises(UserError, match="after L0_36_512"):
        xl.SynthesisNetwork(8, xl.input_spec(xl.Schedule(16, num_layers=5)), [specs[0], specs[-1]])


def test_weights_that_do_not_fit_are_named() -> None:
    network = small()
    state = xl.unfold(network.state_dict(), xl.gains(network))
    missing = {name: value for name, value in state.items() if name != "synthesis.L1_36_8.bias"}
    with pytest.raises(UserError, match=r"synthesis.L1_36_8.bias is absent in the file and \(8,\)"):
        xl.load_official(network, missing)
    with pytest.raises(UserError, match=r"synthesis.L9_64_8.bias is \(8,\) in the file and absent"):
        xl.load_official(network, {**state, "synthesis.L9_64_8.bias": torch.zeros(8)})
    with pytest.raises(UserError, match=r"L0_36_8.weight is \(8, 8, 1, 1\) in the file and \(8, 8, 3, 3\)"):
        xl.load_official(network, {**state, "synthesis.L0_36_8.weight": torch.zeros(8, 8, 1, 1)})


def test_pickled_layers_that_lack_something_are_named() -> None:
    spec = xl.layer_specs(xl.Schedule(16, num_layers=5))[0]
    attributes = {k: v for k, v in dataclasses.asdict(spec).items() if k != "padding"}
    with pytest.raises(UserError, match="does not say its padding"):
        xl.specs_from_modules([spec.name], {spec.name: attributes})
    with pytest.raises(UserError, match="L7"):
        xl.specs_from_modules(["L7"], {spec.name: attributes})


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="one-hot"):
        small(c_dim=4).mapping(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"\(b 7 12\)"):
        small().synthesis(torch.zeros(2, 6, 12))
    with pytest.raises(ValueError, match="radial filter cannot have 5 taps"):
        design_low_pass(5, 2, 4, 32, radial=True)
    with pytest.raises(ValueError, match="cannot have 0 taps"):
        design_low_pass(0, 2, 4, 32)
