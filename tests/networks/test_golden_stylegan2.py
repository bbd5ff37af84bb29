"""The StyleGAN2 generator against vectors of the public implementation (tests/golden/README.md).

Cases come from the JSON files in the directory named by GOLDEN_DIR; none is named here.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from generators.networks import stylegan2
from generators.ops import bias_act

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
NETWORKS = sorted(FOLDER.glob("sg2_*.json"))
MARGIN = 10  # times the recorded rounding floor


def sidecar(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads(path.read_text()), load_file(str(path.with_suffix(".safetensors")))


def close(found: Tensor, expected: Tensor, floor: float, what: str) -> None:
    assert found.shape == expected.shape, what
    allowed = MARGIN * floor + 1e-7 * max(1.0, expected.abs().max().item())
    difference = (found - expected).abs().max().item() if found.numel() else 0.0
    assert difference <= allowed, f"{what}: differs by {difference:.3g}, allowed {allowed:.3g}"


def network_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> stylegan2.Generator:
    state = {name[3:]: value for name, value in tensors.items() if name.startswith("sd.")}
    return stylegan2.build(state, facts["init_kwargs"])


def floor(facts: Mapping[str, Any], key: str) -> float:
    """The recorded rounding floor of a tensor; where there is none, the one of its relatives."""
    recorded = facts["f32_vs_f64"]
    if key in recorded:
        return float(recorded[key]["max_abs_diff"])
    kind = key.split(".")[0]
    kind = {"blk": "img", "pl": "grad", "w_avg_after_train_step": "ws"}.get(kind, kind)
    return max(float(v["max_abs_diff"]) for name, v in recorded.items() if name.startswith(kind))


def test_there_are_vectors() -> None:
    assert NETWORKS or list(FOLDER.glob("ops_*.json")), f"no golden vectors in {FOLDER}"


@pytest.mark.parametrize("path", NETWORKS, ids=lambda p: p.stem)
@pytest.mark.parametrize("fused", [False, True])
def test_pictures_from_all_inputs(path: Path, fused: bool) -> None:
    facts, tensors = sidecar(path)
    network = network_of(facts, tensors)
    for module in network.modules():
        if isinstance(module, (stylegan2.SynthesisLayer, stylegan2.ToRGBLayer)):
            module.fused = fused
    z, c = tensors["in.z"], tensors.get("in.c")
    seen = 0
    with torch.no_grad():
        for key, expected in tensors.items():
            if match := re.fullmatch(r"ws\.psi([\d.]+?)(?:_cut(\d+))?", key):
                cutoff = int(match[2]) if match[2] else None
                found = network.mapping(z, c, float(match[1]), cutoff)
            elif match := re.fullmatch(r"img\.(const|none)\.(?:psi([\d.]+?)(?:_cut(\d+))?|ws_rand)", key):
                ws = tensors["in.ws_rand"]
                if match[2] is not None:
                    ws = network.mapping(z, c, float(match[2]), int(match[3]) if match[3] else None)
                found = network.synthesis(ws, noise_mode=match[1])
            else:
                assert not key.startswith(("ws.", "img.")), f"{key} is not understood"
                continue
            close(found, expected, floor(facts, key), key)
            seen += 1
    assert seen >= 2
    assert network.num_ws == facts["num_ws"]


@pytest.mark.parametrize("path", NETWORKS, ids=lambda p: p.stem)
def test_gradient_and_path_length(path: Path) -> None:
    facts, tensors = sidecar(path)
    network = network_of(facts, tensors)
    cotangent = tensors["grad.dimg"]
    ws = tensors["in.ws_rand"].clone().requires_grad_()
    picture = network.synthesis(ws)
    (gradient,) = torch.autograd.grad((picture * cotangent).sum(), ws, create_graph=True)
    close(gradient, tensors["grad.ws"], floor(facts, "grad.ws"), "grad.ws")
    # sqrt(mean over layers of the sum over w), of the gradient of a picture of unit noise
    scale = (picture.shape[2] * picture.shape[3]) ** -0.5
    lengths = (gradient * scale).square().sum(2).mean(1).sqrt()
    (second,) = torch.autograd.grad(lengths.sum(), ws)
    error = floor(facts, "grad.ws")
    close(lengths, tensors["pl.lengths"], error * scale, "pl.lengths")
    relative = error / tensors["grad.ws"].abs().max().item()
    # a second derivative has lost about another factor of ten to rounding
    close(second, tensors["pl.d_ws"], 10 * relative * tensors["pl.d_ws"].abs().max().item(), "pl.d_ws")


@pytest.mark.parametrize("path", NETWORKS, ids=lambda p: p.stem)
def test_blocks_and_moving_average(path: Path) -> None:
    facts, tensors = sidecar(path)
    network = network_of(facts, tensors)
    blocks = {name: value for name, value in tensors.items() if name.startswith("blk.")}
    with torch.no_grad():
        found = network.synthesis.activations(tensors["in.ws_rand"][:1])
        for name, expected in blocks.items():
            resolution, what = re.fullmatch(r"blk\.b(\d+)\.(\w+)", name).groups()  # type: ignore[union-attr]
            x, img = found[network.synthesis.block_resolutions.index(int(resolution))]
            value = x[:, : expected.shape[1]] if what == "x" else img
            close(value, expected, floor(facts, name), name)
        network.mapping(tensors["in.z"], tensors.get("in.c"), update_w_avg=True)
    key = "w_avg_after_train_step"
    if key in tensors:
        close(network.mapping.w_avg, tensors[key], floor(facts, key), key)


@pytest.mark.parametrize("path", NETWORKS, ids=lambda p: p.stem)
def test_official_names_and_round_trip(path: Path) -> None:
    facts, tensors = sidecar(path)
    network = network_of(facts, tensors)
    assert {n: list(v.shape) for n, v in network.state_dict().items()} == facts["state_dict"]
    assert {n for n, _ in network.named_parameters()} == set(facts["parameters"])
    assert sum(p.numel() for p in network.parameters()) == facts["n_params"]
    for name, value in stylegan2.unfold(network).items():
        torch.testing.assert_close(value, tensors[f"sd.{name}"].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "path",
    [p for p in NETWORKS if json.loads(p.read_text()).get("fp16_cpu", {}).get("ran")],
    ids=lambda p: p.stem,
)
def test_half_precision_is_near_and_optional(path: Path) -> None:
    facts, tensors = sidecar(path)
    recorded = facts["fp16_cpu"]
    kwargs = json.loads(json.dumps(facts["init_kwargs"]))
    kwargs["synthesis_kwargs"]["num_fp16_res"] = recorded["num_fp16_res"]
    state = {name[3:]: value for name, value in tensors.items() if name.startswith("sd.")}
    full, half = network_of(facts, tensors), stylegan2.build(state, kwargs)
    ws = tensors["in.ws_rand"]
    with torch.no_grad():
        exact = full.synthesis(ws)
        assert torch.equal(half.synthesis(ws), exact)
        rough = half.synthesis(ws, force_fp32=False)
        brain = half.synthesis(ws, force_fp32=False, dtype=torch.bfloat16)
    error = (rough - exact).abs().max().item()
    assert 0 < error < 5 * recorded["fp16_vs_fp32_maxabs"]
    assert 0 < (brain - exact).abs().max().item() < 0.2 * exact.abs().max().item()


# The functions the network is made of.


def cases(name: str) -> list[Any]:
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return []
    facts, tensors = sidecar(path)
    found = []
    for case, options in facts["cases"].items():
        mine = {k[len(case) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{case}.")}
        found.append(pytest.param(options, mine, id=case))
    return found


def check_derivatives(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], floors: dict[str, Any]
) -> None:
    """y, d<input>, gp and gp_d<input>, as FORMATS defines them."""
    names = [name[1:] for name in tensors if name.startswith("d") and name != "dy" and name[1:] in tensors]
    inputs = {name: tensors[name].clone().requires_grad_() for name in names}
    y, dy = function(**inputs), tensors["dy"]
    gradients = torch.autograd.grad((dy * y).sum(), list(inputs.values()), retain_graph=True)
    again = torch.autograd.grad((dy * y.sin()).sum(), list(inputs.values()), create_graph=True)
    penalty = sum((g.square().sum() for g in again), torch.zeros([]))
    second = torch.autograd.grad(penalty, list(inputs.values()))
    found = {"y": y, "gp": penalty}
    found |= {f"d{name}": g for name, g in zip(names, gradients, strict=True)}
    found |= {f"gp_d{name}": g for name, g in zip(names, second, strict=True)}
    for name, value in found.items():
        recorded = floors[name]
        scale = max(1.0, recorded["ref_absmax"])
        close(value.detach(), tensors[name], recorded["max_abs_diff"] + 1e-7 * scale, name)


@pytest.mark.parametrize(("options", "tensors"), cases("ops_modulated_conv2d_sg2"))
def test_modulated_convolution(options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    known = {"up", "down", "padding", "demodulate", "flip_weight"}
    chosen = {k: v for k, v in options.items() if k in known}
    chosen |= {"resample_filter": tensors.get("f"), "fused": options.get("fused_modconv", True)}
    assert set(options) <= known | {"fused_modconv", "f", "f32_vs_f64", "y_shape", "y_absmax"}
    check_derivatives(
        lambda **inputs: stylegan2.modulated_conv2d(**inputs, **chosen), tensors, options["f32_vs_f64"]
    )


@pytest.mark.parametrize(("options", "tensors"), cases("ops_fully_connected_sg2"))
def test_fully_connected(options: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = functional.linear(x, weight * options["weight_gain"])
        bias = None if bias is None else bias * options["bias_gain"]
        return bias_act(x, bias, act=options.get("activation", "linear"))

    def normalized(x: Tensor) -> Tensor:
        return stylegan2.normalize_2nd_moment(x, options["dim"], options["eps"])

    function: Callable[..., Tensor] = normalized if "fn" in options else dense
    assert options.get("fn", "normalize_2nd_moment") == "normalize_2nd_moment"
    check_derivatives(function, tensors, options["f32_vs_f64"])
