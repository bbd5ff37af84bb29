"""The operations against vectors of the public implementations (tests/golden/README.md): values, gradients,
double backward; the reference and the compiled kernels.

Cases come from the JSON files in the directory named by GOLDEN_DIR; none is named here.
"""

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from generators import ops

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
MARGIN = 10  # times the recorded rounding floor
# Of the largest value, on top; on a GPU sums have another order, and cuDNN may take Winograd's convolutions.
ROUNDING = {"cpu": 1e-7, "cuda": 1e-5}
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "bias_act": ops.bias_act,
    "conv2d_resample": ops.conv2d_resample,
    "filtered_lrelu": ops.filtered_lrelu,
    "upfirdn2d": ops.upfirdn2d,
    "filter2d": ops.filter2d,
    "upsample2d": ops.upsample2d,
    "downsample2d": ops.downsample2d,
}
INPUTS = ("x", "w", "f", "fu", "fd", "b")
OPTIONS = (
    *("dim", "act", "alpha", "gain", "clamp", "up", "down", "padding", "flip_filter", "slope", "groups"),
    "flip_weight",
)
FACTS = ("fn", "f", "fu_spec", "fd_spec", "bias", "special_points", "y_shape", "y_absmax", "f32_vs_f64")


@functools.cache
def golden(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


def cases(name: str) -> list[Any]:
    paths = sorted(FOLDER.glob(f"ops_{name}*.json"))
    return [pytest.param(p, case, id=f"{p.stem}-{case}") for p in paths for case in golden(p)[0]["cases"]]


DIFFERENTIABLE = [case for name in list(OPERATIONS)[:4] for case in cases(name)]


def tensors_of(path: Path, case: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{case}."): v for k, v in golden(path)[1].items() if k.startswith(f"{case}.")}


def close(found: Tensor, expected: Tensor, floor: Mapping[str, float], what: str) -> None:
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    allowed = MARGIN * floor["max_abs_diff"] + ROUNDING[found.device.type] * max(floor["ref_absmax"], 1e-3)
    difference = (found.cpu() - expected).abs().max().item() if found.numel() else 0.0
    assert difference <= allowed, f"{what}: differs by {difference:.3g}, allowed {allowed:.3g}"


def gradients(y: Tensor, of: list[Tensor], **more: Any) -> list[Tensor]:
    """Zero where nothing depends on it: the reference says zero, the kernels say nothing."""
    found = torch.autograd.grad(y, of, allow_unused=True, **more)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, of, strict=True)]


def test_there_are_vectors() -> None:
    assert list(FOLDER.glob("*.json")), f"no golden vectors in {FOLDER}"


@pytest.mark.usefixtures("ieee")
@pytest.mark.parametrize("impl", ["ref", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("path", "case"), DIFFERENTIABLE)
def test_values_gradients_and_double_backward(path: Path, case: str, impl: str) -> None:
    facts, given = golden(path)[0]["cases"][case], tensors_of(path, case)
    unknown = set(facts) - set(OPTIONS) - set(FACTS)
    assert not unknown, f"the test does not know {unknown}"
    device = "cuda" if impl == "cuda" else "cpu"
    inputs = {k: given[k].detach().to(device) for k in INPUTS if k in given}
    inputs.setdefault("f", None) if "f" in facts else None
    learned = {k: v.requires_grad_() for k, v in inputs.items() if f"d{k}" in given}
    function = OPERATIONS[facts.get("fn") or path.stem.removeprefix("ops_")]
    options = {k: facts[k] for k in OPTIONS if k in facts}
    floors, dy = facts["f32_vs_f64"], given["dy"].to(device)

    y = function(**inputs, **options, impl=impl)
    close(y, given["y"], floors["y"], "y")
    of = list(learned.values())
    for name, g in zip(learned, gradients(y, of, grad_outputs=dy, retain_graph=True), strict=True):
        close(g, given[f"d{name}"], floors[f"d{name}"], f"d{name}")
    first = gradients((dy * y.sin()).sum(), of, create_graph=True)
    penalty = torch.stack([g.square().sum() for g in first]).sum()
    close(penalty, given["gp"], floors["gp"], "gp")
    for name, g in zip(learned, gradients(penalty, of) if penalty.requires_grad else [], strict=True):
        close(g, given[f"gp_d{name}"], floors[f"gp_d{name}"], f"gp_d{name}")


@pytest.mark.parametrize(("path", "case"), cases("setup_filter"))
def test_setup_filter(path: Path, case: str) -> None:
    facts, given = dict(golden(path)[0]["cases"][case]), tensors_of(path, case)
    asked = facts.pop("f")
    facts.pop("y_shape")
    before = given["f_in"].clone() if "f_in" in given else None
    for f in (asked, given.get("f_in")):
        found = ops.setup_filter(f, **facts)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, given["y"], rtol=1e-6, atol=1e-7)
    if before is not None:
        assert torch.equal(given["f_in"], before), "the caller's filter was written to"
