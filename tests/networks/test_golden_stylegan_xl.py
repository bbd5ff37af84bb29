"""The StyleGAN-XL generator against vectors of the public implementation (tests/golden/README.md).

Cases come from the JSON files in the directory named by GOLDEN_DIR; none is named here. Tolerance: ten times
the recorded rounding floor; a tensor without one has the largest relative floor of its file.
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from generators.networks import stylegan_xl as xl
from generators.networks.low_pass import design_low_pass
from generators.ops import set_default

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
MARGIN = 10  # times the recorded rounding floor


@cache
def facts_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@cache
def tensors_of(path: Path) -> dict[str, Tensor]:
    return load_file(path.with_suffix(".safetensors"))


NETWORKS = [path for path in sorted(FOLDER.glob("xl_*.json")) if "state_dict" in facts_of(path)]
SCHEDULES = [
    (path, name) for path in sorted(FOLDER.glob("xl_*.json")) for name in facts_of(path).get("configs", [])
]
network_case = pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def plain_operations() -> Iterator[None]:
    """The reference operations: the network is what is tested, and nothing has to be compiled for it."""
    with set_default("ref"):
        yield


def op_cases(pattern: str) -> list[Any]:
    files = sorted(FOLDER.glob(pattern))
    return [
        pytest.param(path, name, id=f"{path.stem}-{name}")
        for path in files
        for name in facts_of(path)["cases"]
    ]


def test_there_are_vectors() -> None:
    assert sorted(FOLDER.glob("*.safetensors")), f"no golden vectors in {FOLDER}"
    assert NETWORKS or not sorted(FOLDER.glob("xl_*.safetensors")), "networks are there, and none is tested"


def close(found: Tensor, expected: Tensor, recorded: dict[str, Any], key: str, what: str = "") -> None:
    """`found` within ten rounding floors of `expected`."""
    assert found.shape == expected.shape, f"{what or key}: {tuple(found.shape)}, not {tuple(expected.shape)}"
    assert found.isfinite().all(), what or key
    magnitude = expected.abs().max().item()
    if key in recorded:
        floor = recorded[key]["max_abs_diff"]
    else:
        floor = magnitude * max(value["max_abs_diff"] / value["ref_absmax"] for value in recorded.values())
    allowed = MARGIN * floor + 1e-7 * magnitude
    difference = (found - expected).abs().max().item()
    assert difference <= allowed, f"{what or key} differs by {difference:.3g}, allowed are {allowed:.3g}"


# --- operations -----------------------------------------------------------------------------------------


def check_orders(
    y: Tensor, inputs: dict[str, Tensor], case: dict[str, Tensor], recorded: dict[str, Any]
) -> None:
    """Value, gradient, and gradient of the squared gradient (FORMATS.md section 0) of one op case."""
    names, leaves = list(inputs), list(inputs.values())
    close(y.detach(), case["y"], recorded, "y")
    first = torch.autograd.grad((case["dy"] * y).sum(), leaves, create_graph=True)
    for name, gradient in zip(names, first, strict=True):
        close(gradient.detach(), case[f"d{name}"], recorded, f"d{name}")
    wavy = torch.autograd.grad((case["dy"] * y.sin()).sum(), leaves, create_graph=True)
    power = torch.stack([gradient.square().sum() for gradient in wavy]).sum()
    close(power.detach(), case["gp"], recorded, "gp")
    for name, gradient in zip(names, torch.autograd.grad(power, leaves), strict=True):
        close(gradient, case[f"gp_d{name}"], recorded, f"gp_d{name}")


def case_tensors(path: Path, name: str) -> dict[str, Tensor]:
    return {key.partition(".")[2]: v for key, v in tensors_of(path).items() if key.startswith(f"{name}.")}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("path", "name"), op_cases("ops_modulated_conv2d_xl*.json"))
def test_modulated_convolution(path: Path, name: str, fused: bool) -> None:
    facts, case = facts_of(path)["cases"][name], case_tensors(path, name)
    names = [key for key in ("x", "w", "s", "input_gain") if key in case]
    inputs = {key: case[key].clone().requires_grad_() for key in names}
    y = xl.modulated_conv2d(
        inputs["x"],
        inputs["w"],
        inputs["s"],
        demodulate=facts.get("demodulate", True),
        padding=facts.get("padding", 0),
        input_gain=inputs.get("input_gain"),
        fused=fused,
    )
    differentiated = {key: leaf for key, leaf in inputs.items() if f"d{key}" in case}
    check_orders(y, differentiated, case, facts["f32_vs_f64"])


@pytest.mark.parametrize(("path", "name"), op_cases("ops_synthesis_input_xl*.json"))
def test_fourier_features(path: Path, name: str) -> None:
    facts, case = facts_of(path)["cases"][name], case_tensors(path, name)
    spec = xl.input_from_module(facts)
    module = xl.SynthesisInput(facts["w_dim"], spec)
    state = {key[3:]: value for key, value in case.items() if key.startswith("sd.")}
    xl.load_official(module, {**state, "weight": case["weight"]})
    if facts["transform"] is not None:
        torch.testing.assert_close(module.transform, torch.tensor(facts["transform"]))
    inputs = {key: case[key].clone().requires_grad_() for key in ("w", "weight")}
    folded = xl.fold({"weight": inputs["weight"]}, xl.gains(module))  # gradients of the official weight
    y = torch.func.functional_call(module, folded, (inputs["w"],))
    assert list(y.shape) == facts["y_shape"]
    check_orders(y, inputs, case, facts["f32_vs_f64"])


@pytest.mark.parametrize(("path", "name"), op_cases("ops_lowpass_filter*.json"))
def test_low_pass_filters(path: Path, name: str) -> None:
    facts = facts_of(path)["cases"][name]
    found = design_low_pass(*(facts[key] for key in ("numtaps", "cutoff", "width", "fs", "radial")))
    if facts["y_shape"] is None:
        assert found is None
        return
    assert found is not None
    expected = case_tensors(path, name)["y"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7 * expected.abs().max().item())


# --- layer specifications -------------------------------------------------------------------------------


def stages_of(facts: dict[str, Any]) -> list[dict[str, Any]]:
    heads = {"head_conv_kernel": "conv_kernel", "head_use_radial_filters": "use_radial_filters"}
    own = {name: facts[key] for key, name in heads.items() if key in facts}
    return [{**own, **stage} for stage in facts.get("superres_kwargs", [])]


def arguments_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Of `generator_from_kwargs`."""
    shape = (facts["embedding"]["num_embeddings"], facts["embedding"]["embedding_dim"])
    stem = facts.get("stem_init_kwargs") or facts["init_kwargs"]
    return {**stem, "stages": stages_of(facts), "embedding": shape}


def same_spec(found: xl.LayerSpec, expected: dict[str, Any]) -> None:
    values = dataclasses.asdict(found)
    values |= {"up_filter_shape": found.up_filter_shape, "down_filter_shape": found.down_filter_shape}
    derived = {"up_filter_sum", "up_filter_absmax", "down_filter_ndim", "down_filter_absmax"}
    assert set(expected) <= set(values) | derived, "the file names quantities nobody compares"
    for key in set(expected) & set(values):
        want, have = expected[key], values[key]
        if key in ("in_size", "out_size"):
            want, have = xl.pair(want), xl.pair(have)
        want = list(want) if isinstance(want, tuple) else want
        have = list(have) if isinstance(have, tuple) else have
        assert have == (pytest.approx(want, rel=1e-12) if isinstance(want, float) else want), (
            found.name,
            key,
        )


@network_case
def test_layer_specs_of_the_networks(path: Path) -> None:
    facts = facts_of(path)
    network = xl.generator_from_kwargs(**arguments_of(facts))
    synthesis = network.synthesis
    assert synthesis.layer_names == facts["layer_names"] and synthesis.num_ws == facts["num_ws"]
    assert dataclasses.asdict(synthesis.input.spec) == dataclasses.asdict(
        xl.input_from_module(facts["specs"]["input"])
    )
    for found, expected in zip(synthesis.specs, facts["specs"]["layers"], strict=True):
        same_spec(found, expected)
    pickled = {layer["name"]: layer for layer in facts["specs"]["layers"]}
    assert xl.specs_from_modules(facts["layer_names"], pickled) == list(synthesis.specs)


@pytest.mark.parametrize(("path", "name"), SCHEDULES)
def test_layer_specs_at_full_size(path: Path, name: str) -> None:
    config = facts_of(path)["configs"][name]
    given = dict(config["params"])
    head = {key: given.pop(f"head_{key}", None) for key in ("conv_kernel", "use_radial_filters")}
    stages = [{"img_resolution": r, "head_layers": n, **head} for r, n in given.pop("heads")]
    schedule = xl.schedule_from_kwargs(img_resolution=given.pop("stem_resolution"), **given)
    specs = xl.chain_specs(schedule, stages)
    assert len(specs) + 1 == config["num_ws"]
    assert xl.input_spec(schedule) == xl.input_from_module(config["input"])
    for found, expected in zip(specs, config["layers"], strict=True):
        same_spec(found, expected)
        rate = found.tmp_sampling_rate
        up = design_low_pass(found.up_taps, found.in_cutoff, found.in_half_width * 2, rate)
        down = design_low_pass(
            found.down_taps, found.out_cutoff, found.out_half_width * 2, rate, found.down_radial
        )
        if up is not None:
            assert up.double().sum().item() == pytest.approx(expected["up_filter_sum"], abs=1e-7)
            assert up.abs().max().item() == pytest.approx(expected["up_filter_absmax"], rel=1e-6)
        if down is not None:
            assert down.ndim == expected["down_filter_ndim"]
            assert down.abs().max().item() == pytest.approx(expected["down_filter_absmax"], rel=1e-6)


# --- networks -------------------------------------------------------------------------------------------


@cache
def network_of(path: Path) -> xl.Generator:
    network = xl.generator_from_kwargs(**arguments_of(facts_of(path)))
    xl.load_official(network, official_state(path))
    return network.eval()


def official_state(path: Path) -> dict[str, Tensor]:
    return {name[3:]: value for name, value in tensors_of(path).items() if name.startswith("sd.")}


@contextmanager
def convolving(network: xl.Generator, fused: bool) -> Iterator[None]:
    """All layers in one of the two equal forms."""
    layers = network.synthesis.layers()
    before = [layer.fused for layer in layers]
    for layer in layers:
        layer.fused = fused
    yield
    for layer, value in zip(layers, before, strict=True):
        layer.fused = value


def transcripts(path: Path) -> Iterator[tuple[str, Tensor, Callable[[], Tensor]]]:
    """Recorded tensor by name with what computes it here."""
    network, tensors = network_of(path), tensors_of(path)
    z, c, random = tensors["in.z"], tensors.get("in.c"), tensors["in.ws_rand"]

    def mapped(name: str) -> Tensor:
        match = re.fullmatch(r"psi([\d.]+?)(?:_cut(\d+))?", name)
        assert match, f"{name} is not understood"
        return network.mapping(z, c, float(match[1]), int(match[2]) if match[2] else None)

    def activation(name: str, shape: torch.Size) -> Tensor:
        """The recorded share: a few pictures and channels."""
        return network.synthesis.block_features(random)[name][: shape[0], : shape[1]]

    def under_transform() -> Tensor:
        network.synthesis.set_transform(tensors["in.transform"])
        picture = network.synthesis(random[: len(tensors["img.transform"])])
        network.synthesis.set_transform(official_state(path)["synthesis.input.transform"])
        return picture

    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "ws":
            yield name, value, lambda rest=rest: mapped(rest)
        elif kind == "blk":
            yield name, value, lambda rest=rest, shape=value.shape: activation(rest, shape)
        elif name == "img.ws_rand":
            yield name, value, lambda: network.synthesis(random)
        elif name == "img.transform":
            yield name, value, under_transform
        elif kind == "img" and rest != "update_emas":
            yield name, value, lambda rest=rest: network.synthesis(mapped(rest))


@network_case
def test_state_dict_has_the_official_names_and_shapes(path: Path) -> None:
    facts, network = facts_of(path), network_of(path)
    state = xl.unfold(network.state_dict(), xl.gains(network))
    assert {name: list(value.shape) for name, value in state.items()} == facts["state_dict"]
    assert {name for name, _ in network.named_parameters()} == set(facts["parameters"])
    assert sum(parameter.numel() for parameter in network.parameters()) == facts["n_params"]
    for name, value in official_state(path).items():
        torch.testing.assert_close(state[name], value, rtol=2e-7, atol=0)
    designed = xl.generator_from_kwargs(**arguments_of(facts)).state_dict()
    for name in [name for name in state if name.endswith("_filter")]:
        torch.testing.assert_close(designed[name], state[name], rtol=0, atol=1e-7)


@network_case
@pytest.mark.parametrize("fused", [False, True])
def test_w_pictures_and_activations(path: Path, fused: bool) -> None:
    network, seen = network_of(path), set()
    with torch.no_grad(), convolving(network, fused):
        for name, expected, compute in transcripts(path):
            close(compute(), expected, facts_of(path)["f32_vs_f64"], name)
            seen.add(name)
    asked = {name for name in tensors_of(path) if name.startswith(("ws.", "img.", "blk."))}
    assert seen == asked - {"img.update_emas"} and seen


@network_case
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "c++")), reason="no C++ compiler")
def test_compiled_operations_make_the_same_pictures(path: Path) -> None:
    with torch.no_grad(), set_default("cpu"):
        for name, expected, compute in transcripts(path):
            close(compute(), expected, facts_of(path)["f32_vs_f64"], name)


@network_case
def test_moving_averages(path: Path) -> None:
    tensors, recorded = tensors_of(path), facts_of(path)["f32_vs_f64"]
    network = xl.generator_from_kwargs(**arguments_of(facts_of(path)))
    xl.load_official(network, official_state(path))
    with torch.no_grad():
        picture = network(tensors["in.z"], tensors.get("in.c"), update_emas=True)
    close(picture, tensors["img.update_emas"], recorded, "img.update_emas")
    moved = {name[10:]: value for name, value in tensors.items() if name.startswith("after_ema.")}
    state = network.state_dict()
    assert moved
    for name, value in moved.items():
        assert not torch.equal(value, official_state(path)[name]), f"{name} did not move: nothing is tested"
        close(state[name], value, recorded, f"after_ema.{name}")


@network_case
def test_gradients(path: Path) -> None:
    network, tensors = network_of(path), tensors_of(path)
    recorded, gains = facts_of(path)["f32_vs_f64"], xl.gains(network)
    wanted = {
        name: value
        for name, value in tensors.items()
        if name.startswith("grad.") and name not in ("grad.ws", "grad.dimg")
    }
    ws = tensors["in.ws_rand"].clone().requires_grad_()
    parameters = [network.get_parameter(name[5:]) for name in wanted]
    picture = network.synthesis(ws)
    found = torch.autograd.grad((picture * tensors["grad.dimg"]).sum(), [ws, *parameters])
    close(found[0], tensors["grad.ws"], recorded, "grad.ws")
    for (name, value), gradient in zip(wanted.items(), found[1:], strict=True):
        close(gradient * gains[name[5:]], value, recorded, name)  # official = folded gradient * gain


@network_case
def test_path_lengths(path: Path) -> None:
    """Double backward through the whole network; against the file where it has it, else two forms."""
    network, tensors = network_of(path), tensors_of(path)
    results = []
    for fused in (False, True):
        ws = tensors["in.ws_rand"].clone().requires_grad_()
        with convolving(network, fused):
            picture = network.synthesis(ws)
        scaled = (picture * tensors["grad.dimg"]).sum() / (picture.shape[2] * picture.shape[3]) ** 0.5
        (gradient,) = torch.autograd.grad(scaled, ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        results.append({"lengths": lengths.detach(), "d_ws": torch.autograd.grad(lengths.sum(), ws)[0]})
    for key in ("lengths", "d_ws"):
        expected = tensors.get(f"pl.{key}", results[1][key])
        close(results[0][key], expected, facts_of(path)["f32_vs_f64"], f"pl.{key}")


@network_case
def test_batch_dependence_is_rounding(path: Path) -> None:
    network, random = network_of(path), tensors_of(path)["in.ws_rand"]
    with torch.no_grad():
        together = network.synthesis(random)
        alone = torch.cat([network.synthesis(one[None]) for one in random])
    assert (together - alone).abs().max().item() <= 1e-5


def test_files_are_plain() -> None:
    """Every network file has its state and inputs, so that no case passes for lack of tensors."""
    for path in NETWORKS:
        with safe_open(path.with_suffix(".safetensors"), "pt") as file:
            kinds = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118
        assert {"sd", "in", "ws", "img", "grad"} <= kinds, path.name
