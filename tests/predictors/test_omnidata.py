"""Omnidata's checkpoint, in its own format and under its own names, is the network it was written from."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.data.axes import from_omnidata
from benchmarks.predictors import omnidata
from benchmarks.predictors.dpt_names import UNUSED, dpt_names, renamed
from benchmarks.predictors.omnidata import normals_of, read_network, shown
from generators.errors import UserError
from probes.intrinsics import unit
from tests.checkpoints.emulate_lightning import exploits
from tests.predictors.dpt_reference import SMALL, Shape, checkpoint, config, reference

torch.set_num_threads(1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return checkpoint(reference()).write(tmp_path / "omnidata-v2.ckpt")


def pictures(count: int, size: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_checkpoint_is_the_network_it_was_written_from(file: Path) -> None:
    network, x = read_network(file, config(SMALL)), pictures(2, SMALL.size)
    with torch.no_grad():
        found, expected = network(pixel_values=x).predicted_depth, reference()(x)
    assert found.shape == expected.shape == (2, 3, SMALL.size, SMALL.size)
    assert expected.std() > 0.05, "a constant would agree with anything"
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_the_comparison_sees_an_exchange_of_two_tensors(tmp_path: Path) -> None:
    saved = checkpoint(reference())
    a, b = (f"model.scratch.refinenet{i}.resConfUnit1.conv1.weight" for i in (1, 2))
    saved.state[a], saved.state[b] = saved.state[b], saved.state[a]
    network, x = read_network(saved.write(tmp_path / "a.ckpt"), config(SMALL)), pictures(1, SMALL.size)
    with torch.no_grad():
        assert (network(pixel_values=x).predicted_depth - reference()(x)).abs().max() > 1e-3


def test_every_tensor_of_the_original_has_one_place() -> None:
    names = dpt_names(SMALL.depths, SMALL.layers)
    targets = [target for parts in names.values() for target in parts]
    assert len(targets) == len(set(targets))
    assert set(targets) == set(omnidata.make_network(config(SMALL)).state_dict())
    assert set(names) | set(UNUSED) == set(reference().state_dict())


CHANGES: dict[str, tuple[Callable[["OrderedDict[str, Tensor]"], object], str]] = {
    "missing": (
        lambda state: state.pop("model.pretrained.model.blocks.1.attn.qkv.bias"),
        "it lacks 1 tensors, first 'model.pretrained.model.blocks.1.attn.qkv.bias'",
    ),
    "unknown": (
        lambda state: state.update({"model.scratch.refinenet5.out_conv.bias": torch.ones(2)}),
        "it holds 1 unknown tensors, first 'model.scratch.refinenet5.out_conv.bias'",
    ),
    "without prefix": (
        lambda state: state.update({"loss.weight": torch.ones(2)}),
        "it holds the unknown tensor 'loss.weight'",
    ),
    "misshapen": (
        lambda state: state.update({"model.scratch.output_conv.4.bias": torch.ones(1)}),
        "'model.scratch.output_conv.4.bias' has another shape",
    ),
    "not finite": (
        lambda state: state["model.pretrained.model.pos_embed"].fill_(torch.nan),
        "NaN or infinity in what becomes 'dpt.embeddings.position_embeddings'",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_checkpoint_that_is_another_is_refused_by_the_tensors_name(tmp_path: Path, kind: str) -> None:
    change, wrong = CHANGES[kind]
    saved = checkpoint(reference())
    change(saved.state)
    with pytest.raises(UserError, match=wrong.replace(".", r"\.")):
        read_network(saved.write(tmp_path / "a.ckpt"), config(SMALL))


def test_a_map_that_leaves_a_tensor_out_is_an_error() -> None:
    names = dpt_names(SMALL.depths, SMALL.layers)
    shapes = {k: tuple(v.shape) for k, v in omnidata.make_network(config(SMALL)).state_dict().items()}
    names.pop("scratch.layer1_rn.weight")
    state = {k: v for k, v in checkpoint(reference()).state.items() if k != "model.scratch.layer1_rn.weight"}
    with pytest.raises(ValueError, match=r"says nothing of 'neck\.convs\.0\.weight'"):
        renamed(state, shapes, names, "it")


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    saved = checkpoint(reference())
    saved.extra["hyper_parameters"] = next(iter(exploits(marker).values()))
    with pytest.raises(UserError):
        read_network(saved.write(tmp_path / "a.ckpt"), config(SMALL))
    assert not marker.exists()


def test_half_a_checkpoint_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="read the checkpoint"):
        read_network(file, config(SMALL))


# Pictures to normals.


def test_the_short_side_is_resized_and_the_middle_shown() -> None:
    x = torch.linspace(-1, 1, 96).expand(1, 3, 48, 96).contiguous()
    seen = shown(x, 48)
    assert seen.shape == (1, 3, 48, 48) and seen.min() >= 0 and seen.max() <= 1
    torch.testing.assert_close(seen, (x[:, :, :, 24:72] + 1) / 2)


def test_normals_are_those_of_the_output_in_our_axes(file: Path) -> None:
    network, x = read_network(file, config(SMALL)), pictures(2, SMALL.size)
    with torch.no_grad():
        found = normals_of(network, x)
        output = reference()((x + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(found, unit(from_omnidata(output)), rtol=0, atol=1e-4)


def test_maps_have_the_size_of_the_pictures(file: Path) -> None:
    network, x = read_network(file, config(SMALL)), pictures(1, 40)
    with torch.no_grad():
        found = normals_of(network, x)
    assert found.shape == (1, 3, 40, 40)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(1, 40, 40))
    with pytest.raises(UserError, match="the middle square only"):
        normals_of(network, functional.pad(x, (0, 8)))


def test_it_is_loaded_from_the_users_own_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.predictors.labeling import forget, label_pictures
    from benchmarks.predictors.registry import identity, need

    forget()
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(file.parent))
    monkeypatch.setattr(omnidata, "read_network", lambda path: read_network(path, config(SMALL)))
    assert need("omnidata-v2").here and len(identity("omnidata-v2")) == 16  # type: ignore[union-attr]
    found = label_pictures("omnidata-v2", pictures(3, 32), ["normal"], batch=2)["normal"]
    assert found.shape == (3, 3, 32, 32)


@pytest.mark.slow
def test_the_full_size_network_of_a_full_size_checkpoint(tmp_path: Path) -> None:
    """DPT-hybrid at 384 pixels: 122,378,051 parameters; 123,147,051 with timm's ImageNet head."""
    original = reference(Shape())
    assert sum(p.numel() for p in original.parameters()) == 123_147_051
    network = read_network(checkpoint(original).write(tmp_path / "a.ckpt"))
    assert sum(p.numel() for p in network.parameters()) == 122_378_051
    x = pictures(1, 384)
    with torch.no_grad():
        torch.testing.assert_close(network(pixel_values=x).predicted_depth, original(x), rtol=0, atol=1e-5)
