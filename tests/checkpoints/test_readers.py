"""Every layout, written from the golden networks by our own writers, gives back the same tensors."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from generators.checkpoints import ModuleFacts, NetworkFile, read_network, read_pickle, write_state
from generators.errors import UserError
from tests.checkpoints.emulate import pickled, poisonous, write_nvidia, write_tensorflow
from tests.checkpoints.golden_networks import DIRECTORY, Golden, layer_attributes, networks

STYLEGAN2, STYLEGAN_XL = networks("sg2_*.json"), networks("xl_*.json")
VARIANTS: list[dict[str, Any]] = [
    {"protocol": 2},
    {"protocol": 3},
    {"protocol": 4},
    {"protocol": 5, "core": "numpy._core"},
    {"protocol": 3, "ordered": True},
    {"protocol": 3, "dill": True, "cuda": True},
    {"protocol": 4, "dill": True, "cuda": True, "core": "numpy._core"},
]


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and torch.equal(first[name], second[name])
        for name in first
    )


def test_there_are_golden_networks() -> None:
    assert STYLEGAN2 or STYLEGAN_XL, f"no golden network in {DIRECTORY}"


def label(variant: dict[str, Any]) -> str:
    return "-".join(f"{name}={value}" for name, value in variant.items())


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
@pytest.mark.parametrize("golden", STYLEGAN2 + STYLEGAN_XL, ids=str)
def test_an_nvidia_pickle_gives_back_every_tensor(
    golden: Golden, variant: dict[str, Any], tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    attributes = layer_attributes(golden)
    write_nvidia(
        tmp_path / "network.pkl",
        golden.class_name,
        golden.init_kwargs,
        golden.state(),
        attributes_by_module=attributes,
        poison=poisonous(marker),
        **variant,
    )
    found = read_network(tmp_path / "network.pkl")
    assert not marker.exists()
    assert (found.layout, found.class_name) == ("nvidia", golden.class_name)
    assert same_bits(found.state, golden.state())
    assert found.init_kwargs == golden.init_kwargs
    assert found.init_args == []
    for name, expected in attributes.items():
        assert found.modules[name].attributes == found.modules[name].attributes | as_plain(expected)


def as_plain(values: dict[str, Any]) -> dict[str, Any]:
    """NumPy values as Python's."""
    return {n: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for n, v in values.items()}


def test_the_poison_works(tmp_path: Path) -> None:
    """A marker that nothing could write would prove nothing."""
    marker = tmp_path / "executed"
    run = subprocess.run([sys.executable, "-c", poisonous(marker)], capture_output=True, check=False)
    assert run.returncode == 1 and b"executed" in run.stderr
    assert marker.exists()


def tensorflow_form(golden: Golden) -> bool:
    """Whether TensorFlow's networks had such a shape: all but a mapping of one layer of another width."""
    return set(golden.init_kwargs["synthesis_kwargs"]) <= {
        "channel_base", "channel_max", "architecture", "conv_clamp", "num_fp16_res", "use_noise",
        "resample_filter",
    }  # fmt: skip


def filled(init_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments with the defaults of the constructor filled in."""
    mapping = {"lr_multiplier": 0.01, "embed_features": None, "layer_features": None}
    synthesis = {"architecture": "skip", "conv_clamp": None, "num_fp16_res": 0, "use_noise": True}
    return init_kwargs | {
        "mapping_kwargs": mapping | init_kwargs["mapping_kwargs"],
        "synthesis_kwargs": synthesis | init_kwargs["synthesis_kwargs"],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("golden", [g for g in STYLEGAN2 if tensorflow_form(g)], ids=str)
def test_a_tensorflow_pickle_gives_the_same_network(golden: Golden, protocol: int, tmp_path: Path) -> None:
    marker, state = tmp_path / "executed", golden.state()
    path = tmp_path / "network.pkl"
    write_tensorflow(path, golden.init_kwargs, state, protocol=protocol, poison=poisonous(marker))
    found = read_network(path)
    assert not marker.exists()
    assert (found.layout, found.class_name) == ("tensorflow", "Generator")
    assert filled(found.init_kwargs) == filled(golden.init_kwargs)
    assert found.state.keys() == state.keys()
    for name, tensor in state.items():
        # The bias of a style is stored without its 1: taking it off and adding it again rounds twice.
        tolerance = 2.0**-23 * (tensor.abs().max().item() + 1) if name.endswith("affine.bias") else 0.0
        torch.testing.assert_close(found.state[name], tensor, rtol=0, atol=tolerance)


def stylegan2() -> Golden:
    if not STYLEGAN2:
        pytest.skip("no StyleGAN2 network among the golden files")
    return min(STYLEGAN2, key=lambda golden: golden.path.with_suffix(".safetensors").stat().st_size)


def test_a_tensorflow_list_and_its_snapshot(tmp_path: Path) -> None:
    golden = stylegan2()
    write_tensorflow(tmp_path / "n.pkl", golden.init_kwargs, golden.state(), as_list=True)
    average, snapshot = read_network(tmp_path / "n.pkl"), read_network(tmp_path / "n.pkl", "G")
    for name, tensor in average.state.items():
        if not name.endswith("resample_filter"):
            torch.testing.assert_close(snapshot.state[name], tensor + 1)
    with pytest.raises(UserError, match="it has G and G_ema"):
        read_network(tmp_path / "n.pkl", "D")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"synthesis/4x4/Conv/StyleMod/weight": np.ones((2, 2), "f4")},
            "'synthesis/4x4/Conv/StyleMod/weight'",
        ),
        ({"synthesis/8x8/Conv2/weight": np.ones((3, 3, 2, 2), "f4")}, "'synthesis/8x8/Conv2/weight'"),
        (
            {"synthesis/noise0": np.ones((1, 1, 5, 5), "f4")},
            r"'synthesis/noise0' gives .* \(5, 5\), not \(4, 4\)",
        ),
        ({"synthesis/noise0": np.ones((2, 1, 4, 4), "f4")}, r"\(2, 1, 4, 4\) should start"),
        ({"synthesis/noise0": np.ones((1, 1, 4, 4), "i4")}, "'synthesis/noise0' is int32"),
        ({"synthesis/noise40": np.ones((1, 1, 4, 4), "f4")}, "the largest block is"),
        ({"mapping/Dense00/bias": np.ones(3, "f4")}, "'mapping/Dense0/bias' and 'mapping/Dense00/bias'"),
        ({"mapping/LabelConcat/weight": np.ones((3, 3), "f4")}, "'mapping/LabelConcat/weight'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_foreign_variable_is_named(extra: dict[str, Any], said: str, tmp_path: Path) -> None:
    golden = stylegan2()
    write_tensorflow(tmp_path / "n.pkl", golden.init_kwargs, golden.state(), extra=extra)
    with pytest.raises(UserError, match=said):
        read_network(tmp_path / "n.pkl")


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    golden = stylegan2()
    state = golden.state()
    del state["synthesis.b4.conv1.bias"]
    write_tensorflow(tmp_path / "n.pkl", golden.init_kwargs, state)
    with pytest.raises(UserError, match=r"no variable for synthesis\.b4\.conv1\.bias"):
        read_network(tmp_path / "n.pkl")


# What torch and NumPy write themselves.


class Doubler(torch.nn.Module):
    """A module with every kind of member, pickled by Python and torch themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.table = torch.nn.Embedding(5, 2)
        self.register_buffer("kept", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.sizes, self.rate = np.array([4, 5]), np.float64(0.5)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_itself_writes_is_read(protocol: int) -> None:
    module = Doubler()
    found = read_pickle(pickle.dumps({"G_ema": module}, protocol))
    assert found.class_name == "Doubler"
    assert same_bits(found.state, dict(module.state_dict()))
    assert found.modules[""].attributes | {"sizes": [4, 5], "rate": 0.5} == found.modules[""].attributes
    assert found.modules["table"].attributes["num_embeddings"] == 5


# Safetensors.


def test_a_bare_state_comes_back(tmp_path: Path) -> None:
    state = {"mapping.w_avg": torch.randn(3), "tied.a": torch.ones(2, 2), "step": torch.tensor(3)}
    state["tied.b"] = state["tied.a"].T
    modules = {"synthesis": ModuleFacts("SynthesisNetwork", {"layer_names": ["L0"]})}
    write_state(tmp_path / "s.safetensors", state, "SuperresGenerator", {"z_dim": 3}, modules)
    found = read_network(tmp_path / "s.safetensors")
    expected = NetworkFile("safetensors", "SuperresGenerator", {"z_dim": 3}, found.state, modules)
    assert found == expected
    assert same_bits(found.state, state)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "has no 'intrinsic_bench'"),
        ({"intrinsic_bench": "{"}, r"cannot be read \(JSONDecodeError\)"),
        ({"intrinsic_bench": "[" * 100_000}, r"cannot be read \(JSONDecodeError\)"),
        ({"intrinsic_bench": '{"class": "Generator"}'}, r"cannot be read \(KeyError\)"),
    ],
    ids=["none", "cut", "deep", "incomplete"],
)
def test_a_state_without_its_network_is_refused(
    metadata: dict[str, str] | None, said: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, str(tmp_path / "s.safetensors"), metadata)
    with pytest.raises(UserError, match=said):
        read_network(tmp_path / "s.safetensors")


def test_a_cut_state_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / "s.safetensors", {"a": torch.ones(9)}, "Generator", {})
    whole = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "s.safetensors").write_bytes(whole[:-4])
    with pytest.raises(UserError, match="its header does not fit its data"):
        read_network(tmp_path / "s.safetensors")


# Errors.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 rest", "a zip archive, as torch.save writes it"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"(dp0\nS'G_ema'\n", "which no layout does"),
        (pickled({"embed": 1, "other": 2}, 4), "it has 'embed', 'other'"),
        (pickled({"G_ema": None}, 4), "G_ema is not a network but None"),
        (pickled((1, 2, 3), 4), "not the three networks"),
        (pickled(3, 4), "the pickle holds 3"),
        (pickled({"G_ema": 1}, 4) + b"more", "4 bytes follow the end of the pickle"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_another_file_is_refused_with_a_reason(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_network(path)
    assert str(path) in caught.value.asked
    assert caught.value.todo


def test_an_error_names_byte_and_opcode(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at byte 2 \(LONG_BINGET\): nothing was put in place 9 of the memo"):
        read_pickle(b"\x80\x04j\x09\0\0\0.")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_network(tmp_path / "nothing.pkl")


def test_a_pipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="a folder, a pipe or a device"):
            read_network(path)
