"""Emulated official files give the pictures the public implementation gave, and execute nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from generators import stylegan2, stylegan_xl
from generators.checkpoints import write_state
from generators.errors import UserError
from tests.checkpoints.emulate import poisonous, write_nvidia, write_tensorflow
from tests.checkpoints.golden_networks import Golden, clamps, flat_arguments, layer_attributes, networks

MARGIN = 10  # times the recorded rounding floor
NVIDIA = [
    {"protocol": 3, "core": "numpy.core", "ordered": True},
    {"protocol": 4, "core": "numpy._core"},
    {"protocol": 4, "dill": True, "cuda": True},
    {"protocol": 3, "dill": True, "cuda": True, "core": "numpy._core"},
]
STYLEGAN2, XL = networks("sg2_*.json"), networks("xl_*.json")


def check_pictures(golden: Golden, network: Any) -> None:
    """Pictures from z (no truncation), and from arbitrary ws."""
    tensors, facts = load_file(str(golden.path.with_suffix(".safetensors"))), golden.facts
    seen = 0
    with torch.no_grad():
        for key in ("img.const.psi1", "img.psi1", "img.const.ws_rand", "img.ws_rand"):
            if key not in tensors:
                continue
            ws = tensors["in.ws_rand"]
            if "ws" not in key:
                ws = network.mapping(tensors["in.z"], tensors.get("in.c"))
            difference = (network.synthesis(ws) - tensors[key]).abs().max().item()
            floor = facts["f32_vs_f64"].get(key, {"max_abs_diff": 0.0})["max_abs_diff"]
            assert difference <= MARGIN * floor + 1e-6 * tensors[key].abs().max().item(), key
            seen += 1
    assert seen, f"{golden} has no picture this test knows: {sorted(k for k in tensors if 'img' in k)}"


@pytest.mark.parametrize("layout", NVIDIA, ids=lambda v: "-".join(f"{k}={x}" for k, x in v.items()))
@pytest.mark.parametrize("golden", STYLEGAN2, ids=str)
def test_stylegan2_pickle(golden: Golden, layout: dict[str, Any], tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "network.pkl"
    write_nvidia(path, "Generator", golden.init_kwargs, golden.state(), poison=poisonous(marker), **layout)
    check_pictures(golden, stylegan2.read(path))
    assert not marker.exists()


@pytest.mark.parametrize("golden", STYLEGAN2, ids=str)
def test_stylegan2_pickle_of_the_code_of_stylegan3(golden: Golden, tmp_path: Path) -> None:
    """Its arguments are flat; the pictures are those of the nested ones, and the public implementation's."""
    flat, nested, state = tmp_path / "flat.pkl", tmp_path / "nested.pkl", golden.state()
    attributes = clamps(state, golden.init_kwargs["synthesis_kwargs"].get("conv_clamp"))
    write_nvidia(
        flat, "Generator", flat_arguments(golden.init_kwargs), state, attributes_by_module=attributes
    )
    write_nvidia(nested, "Generator", golden.init_kwargs, state)
    found, expected = stylegan2.read(flat), stylegan2.read(nested)
    check_pictures(golden, found)
    ws = torch.randn(2, found.num_ws, found.w_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.synthesis(ws), expected.synthesis(ws))


@pytest.mark.parametrize(
    ("said", "clamp"), [({"conv_clamp": 0.5}, 0.5), ({"conv_clamp": None}, None), ({}, 256)]
)
def test_flat_arguments_clamp_as_their_layers_do(
    said: dict[str, Any], clamp: float | None, tmp_path: Path
) -> None:
    golden, path, nested = STYLEGAN2[0], tmp_path / "flat.pkl", tmp_path / "nested.pkl"
    kwargs, state = golden.init_kwargs, golden.state()
    assert "conv_clamp" not in kwargs["synthesis_kwargs"]
    attributes = clamps(state, said["conv_clamp"]) if said else {}
    write_nvidia(path, "Generator", flat_arguments(kwargs), state, attributes_by_module=attributes)
    write_nvidia(
        nested,
        "Generator",
        kwargs | {"synthesis_kwargs": kwargs["synthesis_kwargs"] | {"conv_clamp": clamp}},
        state,
    )
    found, expected = stylegan2.read(path), stylegan2.read(nested)
    assert [b.conv1.conv_clamp for b in found.synthesis.blocks()] == [clamp] * len(found.synthesis.blocks())
    ws = torch.randn(2, found.num_ws, found.w_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.synthesis(ws), expected.synthesis(ws))


@pytest.mark.parametrize("golden", STYLEGAN2, ids=str)
def test_tensorflow_pickle(golden: Golden, tmp_path: Path) -> None:
    synthesis = golden.init_kwargs["synthesis_kwargs"]
    if synthesis.get("architecture", "skip") != "skip" or golden.init_kwargs["c_dim"]:
        pytest.skip("the TensorFlow files of StyleGAN2 are unconditional, with skip connections")
    marker, path = tmp_path / "executed", tmp_path / "network.pkl"
    write_tensorflow(path, golden.init_kwargs, golden.state(), poison=poisonous(marker))
    check_pictures(golden, stylegan2.read(path))
    assert not marker.exists()


@pytest.mark.parametrize("layout", NVIDIA, ids=lambda v: "-".join(f"{k}={x}" for k, x in v.items()))
@pytest.mark.parametrize("golden", XL, ids=str)
def test_stylegan_xl_pickle(golden: Golden, layout: dict[str, Any], tmp_path: Path) -> None:
    """Stems and super-resolution networks; the latter are rebuilt from their layers' attributes."""
    marker, path = tmp_path / "executed", tmp_path / "network.pkl"
    write_nvidia(
        path,
        golden.class_name,
        golden.init_kwargs,
        golden.state(),
        attributes_by_module=layer_attributes(golden),
        poison=poisonous(marker),
        **layout,
    )
    check_pictures(golden, stylegan_xl.read(path))
    assert not marker.exists()


@pytest.mark.parametrize("golden", STYLEGAN2[:1], ids=str)
def test_bare_state_dict(golden: Golden, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    write_state(path, golden.state(), "Generator", golden.init_kwargs)
    check_pictures(golden, stylegan2.read(path))


def test_a_network_of_the_other_family_is_named(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    golden = XL[0]
    attributes = layer_attributes(golden)
    write_nvidia(path, golden.class_name, golden.init_kwargs, golden.state(), attributes_by_module=attributes)
    with pytest.raises(UserError, match="StyleGAN2"):
        stylegan2.read(path)
    golden = STYLEGAN2[0]
    write_nvidia(path, "Generator", golden.init_kwargs, golden.state())
    with pytest.raises(UserError, match="StyleGAN-XL"):
        stylegan_xl.read(path)
