"""VQGAN, its transformer and both together against vectors of the public implementation.

Cases come from the JSON files in the directory named by GOLDEN_DIR; none is named here. Every tensor of a
golden is compared; one whose name is not understood is told, and fails for the cases that are shipped here.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from generators.networks import net2net
from generators.networks.mingpt import GPT
from generators.networks.net2net import Net2NetTransformer
from generators.networks.sampling import choose, draw
from generators.networks.vqgan import VQModel

SHIPPED = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("GOLDEN_DIR", SHIPPED))
CORE = {"enc.z", "q.indices", "dec.out", "code.out", "logits", "greedy.indices", "greedy.with_past"}
FIRST_STAGES = sorted(FOLDER.glob("vqgan_*.json"))
TRANSFORMERS = sorted(FOLDER.glob("mingpt_*.json"))
JOINT = sorted(FOLDER.glob("net2net_*.json"))
MARGIN = 10  # times the rounding floor
FLOOR = 2e-6  # relative, where a file records none: the largest the public implementation shows

Golden = tuple[dict[str, Any], dict[str, Tensor]]
Values = Iterator[tuple[str, Tensor]]


def golden(path: Path) -> Golden:
    tensors = load_file(str(path.with_suffix(".safetensors")))
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[3:]: value for name, value in tensors.items() if name.startswith("sd.")}


def floor(facts: Mapping[str, Any], name: str, scale: float) -> float:
    """The rounding floor recorded for a tensor, else the largest relative one of the file or of all."""
    recorded = facts.get("f32_vs_f64", {})
    if name in recorded:
        return float(recorded[name]["max_abs_diff"])
    known = [v["max_abs_diff"] / v["ref_absmax"] for v in recorded.values() if v["ref_absmax"]]
    return max([FLOOR, *known]) * scale


def compare(facts: Mapping[str, Any], name: str, found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape, f"{name}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if not expected.is_floating_point():
        assert torch.equal(found, expected), f"{name}: {(found != expected).sum()} codes differ"
        return
    scale = expected.abs().max().item()
    allowed = MARGIN * floor(facts, name, scale) + 1e-7 * scale
    difference = (found - expected).abs().max().item()
    assert difference <= allowed, f"{name}: differs by {difference:.3g}, allowed {allowed:.3g}"


def check(path: Path, values: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Values]) -> None:
    """Every tensor that is neither weight nor input has a value and agrees with it."""
    facts, tensors = golden(path)
    expected = {n: t for n, t in tensors.items() if not n.startswith(("sd.", "in.", "grad.dout"))}
    for name, found in values(facts, tensors):
        if name in expected:
            compare(facts, name, found.detach(), expected.pop(name))
    print(f"{path.stem}: not understood and not compared: {', '.join(expected) or 'nothing'}")
    assert not (expected and FOLDER == SHIPPED), f"not understood: {', '.join(expected)}"
    assert not CORE & set(expected), f"not compared: {', '.join(CORE & set(expected))}"


def test_there_are_vectors() -> None:
    assert FIRST_STAGES or TRANSFORMERS or JOINT or list(FOLDER.glob("*.json")), f"no vectors in {FOLDER}"


# The first stage.


def first_stage_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> VQModel:
    found = net2net.build(facts["cls"].rpartition(".")[2], facts["kwargs"], state(tensors))
    assert isinstance(found, VQModel)
    return found


def first_stage_values(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Values:
    network, x = first_stage_of(facts, tensors), tensors["in.x"].clone().requires_grad_()
    h = network.encoder(x)
    z = network.quant_conv(h)
    found = network.quantize(z)
    yield from [("enc.h", h), ("enc.z", z), ("q.quant", found.z), ("q.loss", found.loss)]
    yield "q.indices", found.indices.flatten()
    decoded = network.decode(found.z)
    yield from [("dec.post_quant_conv", network.post_quant_conv(found.z)), ("dec.out", decoded)]
    if "grad.dout" in tensors:
        total = (decoded * tensors["grad.dout"]).sum() + found.loss
        yield "grad.x", torch.autograd.grad(total, x)[0]
    if "code.indices" in tensors:
        codes = tensors["code.indices"].view(len(x), *z.shape[2:])
        yield "code.indices", tensors["code.indices"]
        yield from [("code.quant", network.quantize.lookup(codes)), ("code.out", network.decode_codes(codes))]


@pytest.mark.parametrize("path", FIRST_STAGES, ids=lambda p: p.stem)
def test_first_stage(path: Path) -> None:
    check(path, first_stage_values)


@pytest.mark.parametrize("path", FIRST_STAGES, ids=lambda p: p.stem)
def test_first_stage_names_and_count(path: Path) -> None:
    facts, tensors = golden(path)
    network = first_stage_of(facts, tensors)
    assert {n: list(v.shape) for n, v in network.state_dict().items()} == facts["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == facts["n_params"]
    codes = network.codes(tensors["in.x"])
    assert torch.equal(codes.flatten(), tensors["q.indices"])
    compare(facts, "dec.out", network.decode_codes(codes), tensors["dec.out"])


# The transformer.


def transformer_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GPT:
    found = net2net.transformer(facts["kwargs"])
    found.load_state_dict(state(tensors))
    return found.eval().requires_grad_(False)


def one_by_one(gpt: GPT, codes: Tensor, steps: int) -> Tensor:
    """Likeliest codes, read one at a time and never again, whatever the mask says."""
    cache, found = gpt.cache(len(codes), codes.shape[1] + steps), [codes]
    for _ in range(steps):
        found.append(choose(gpt(found[-1], cache=cache)[:, -1], None, 1.0, None)[:, None])
    return torch.cat(found[1:], 1)


def transformer_values(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Values:
    gpt, codes = transformer_of(facts, tensors), tensors["in.idx"]
    logits = gpt(codes)
    yield "logits", logits
    if "in.targets" in tensors:
        yield "loss", functional.cross_entropy(logits.flatten(0, 1), tensors["in.targets"].flatten())
    if "in.embeddings" in tensors:
        before = tensors["in.embeddings"]
        rest = tensors["logits.with_embeddings"].shape[1] - before.shape[1]
        yield "logits.with_embeddings", gpt(codes[:, :rest], before)
    for name, expected in tensors.items():
        if match := re.fullmatch(r"past\.first(\d+)", name):
            first, cache = int(match[1]), gpt.cache(len(codes), codes.shape[1])
            gpt(codes[:, :first], cache=cache)
            yield name, cache.past()
        elif match := re.fullmatch(r"logits\.with_past_pos(\d+)", name):
            first, cache = int(match[1]), gpt.cache(len(codes), codes.shape[1])
            gpt(codes[:, :first], cache=cache)
            yield name, gpt(codes[:, first : first + 1], cache=cache)
        elif name == "greedy.with_past":
            yield name, one_by_one(gpt, codes[:, :1], expected.shape[1])


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_transformer(path: Path) -> None:
    check(path, transformer_values)


@pytest.mark.parametrize("path", TRANSFORMERS, ids=lambda p: p.stem)
def test_transformer_names_and_cache(path: Path) -> None:
    """The codes drawn with a cache are those of the whole sequence, inside an unmasked prefix, too."""
    facts, tensors = golden(path)
    gpt = transformer_of(facts, tensors)
    assert {n: list(v.shape) for n, v in gpt.state_dict().items()} == facts["state_dict"]
    assert sum(p.numel() for p in gpt.parameters()) == facts["n_params"]
    start = tensors["in.idx"][:, :1]
    steps = gpt.block_size
    found = draw(gpt, start, steps)
    assert torch.equal(found, draw(gpt, start, steps, cached=False))
    if not gpt.n_unmasked and "greedy.with_past" in tensors:
        expected = tensors["greedy.with_past"]
        assert torch.equal(found[:, : expected.shape[1]], expected)


# Both together.


def condition_config(facts: Mapping[str, Any]) -> Any:
    """The condition as a config says it, from whatever the JSON file says beside `cond_stage`."""
    said = facts.get("cond_stage", net2net.UNCONDITIONAL)
    if isinstance(said, Mapping) or said.startswith("__"):
        return said
    beside = [v for k, v in facts.items() if k.startswith("cond") and isinstance(v, Mapping)]
    numbers = {name: int(number) for name, number in re.findall(r"(\w+)\s*[=:]\s*(\d+)", said)}
    kind = re.match(r"[\w.]*", said)
    return {"target": kind[0] if kind else said, "params": beside[0] if beside else numbers}


def joint_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Net2NetTransformer:
    options = ("downsample_cond_size", "sos_token", "unconditional", "permuter_config", "pkeep")
    params = {
        "transformer_config": {"params": facts["transformer_kwargs"]},
        "first_stage_config": {"params": facts["first_stage_kwargs"]},
        "cond_stage_config": condition_config(facts),
    } | {name: facts[name] for name in options if name in facts}
    found = net2net.build(facts["cls"].rpartition(".")[2], params, state(tensors))
    assert isinstance(found, Net2NetTransformer)
    return found


def condition_of(network: Net2NetTransformer, tensors: Mapping[str, Tensor]) -> Tensor:
    """The condition's codes, of the input that is not the picture if there is one, else as recorded."""
    others = [n for n in tensors if n.startswith("in.") and n != "in.x"]
    if not others and isinstance(network.cond_stage_model, net2net.CoordStage | net2net.ClassLabel):
        return tensors["cond.indices"]
    return network.condition(tensors[others[0] if others else "in.x"])


GREEDY = re.compile(r"(greedy\w*?(?:_top_?k(\d+))?(?:_t([\d.]+))?(?:_from(\d+))?)\.(indices|img)")


def drawn(network: Net2NetTransformer, tensors: Mapping[str, Tensor], match: re.Match[str]) -> Tensor:
    """Likeliest codes after the first given ones, the same with a cache and without."""
    codes, condition = network.first_stage_model.codes(tensors["in.x"]), condition_of(network, tensors)
    flat, given = codes.flatten(1), int(match[4] or 0)
    how = {"temperature": float(match[3] or 1), "top_k": int(match[2]) if match[2] else None}
    steps = flat.shape[1] - given
    found = network.draw(flat[:, :given], condition, steps, **how)
    assert torch.equal(found, network.draw(flat[:, :given], condition, steps, cached=False, **how))
    return found if match[5] == "indices" else network.first_stage_model.decode_codes(found.view(codes.shape))


def joint_values(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Values:
    network = joint_of(facts, tensors)
    codes = network.first_stage_model.codes(tensors["in.x"])
    flat, condition = codes.flatten(1), condition_of(network, tensors)
    logits = network(flat, condition)
    yield from [("z.indices", flat), ("target", flat), ("logits", logits)]
    yield from [(name, condition) for name in ("cond.indices", "c.indices")]
    yield "loss", functional.cross_entropy(logits.flatten(0, 1), flat.flatten())
    yield from [(n, network.first_stage_model.quantize.lookup(codes)) for n in ("z.quant", "quant_z")]
    for name in tensors:
        if match := GREEDY.fullmatch(name):
            yield name, drawn(network, tensors, match)


@pytest.mark.parametrize("path", JOINT, ids=lambda p: p.stem)
def test_both_stages(path: Path) -> None:
    check(path, joint_values)


@pytest.mark.parametrize("path", JOINT, ids=lambda p: p.stem)
def test_names_of_both_stages(path: Path) -> None:
    facts, tensors = golden(path)
    found = joint_of(facts, tensors).state_dict()
    assert {n: list(v.shape) for n, v in found.items()} == facts["state_dict"]
