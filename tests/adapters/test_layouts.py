"""Layouts of adapters: exact there and back, read by those whose layout it is, and nothing guessed."""

import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.adapters import DIFFUSERS_FILE, diffusers_file, write_adapter
from generators import registry
from generators.base import Generator
from generators.errors import UserError
from generators.stable_diffusion import UNET_V1
from generators.stable_diffusion import ZOO as ZOO_FOLDER
from probes.adapter_layouts import (
    DOWN,
    UP,
    Lora,
    detect,
    diffusers_metadata,
    parse,
    read_file,
    settings_of,
    to_diffusers,
    to_peft,
    to_processor,
)
from probes.adapters import attached
from tests.adapters.small import ZOO, attention, facts, random_lora, zoo_adapter
from tests.checkpoints.attacks import TARGETS

TYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def v1_layers() -> dict[str, tuple[int, int]]:
    """Attention layers of the UNet of Stable Diffusion v1, made without its weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return attention(UNet2DConditionModel.from_config(UNET_V1))


@pytest.fixture(scope="module")
def zoo() -> Generator:
    return registry.load(ZOO)


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Names in their order, types, shapes, and every bit."""
    assert list(a) == list(b)
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))


def authors_file(layers: dict[str, tuple[int, int]], rank: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A file in the published layout, its names written out here once more and by hand."""
    random, state = torch.Generator().manual_seed(11), {}
    for module, (wide, narrow) in layers.items():
        block, which = module.split(".to_")
        stem = f"{block}.processor.to_{which.removesuffix('.0')}_lora"
        state[f"{stem}.down.weight"] = torch.randn(rank, narrow, generator=random).to(dtype)
        state[f"{stem}.up.weight"] = torch.randn(wide, rank, generator=random).to(dtype)
    return state


# There and back.


@pytest.mark.parametrize("dtype", TYPES)
def test_the_full_file_of_the_authors_goes_there_and_back(
    v1_layers: dict[str, tuple[int, int]], dtype: torch.dtype
) -> None:
    state = authors_file(v1_layers, 8, dtype)
    assert len(state) == 256 and len(v1_layers) == 128
    assert sum(v.numel() for v in state.values()) == 1_594_368
    assert "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight" in state
    inside = parse(state, "file")
    peft = to_peft(inside)
    first = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
    assert next(iter(peft)) == first and len(peft) == 256
    assert set(inside.alphas.values()) == {8.0} and inside.rank == 8
    assert_same(to_processor(parse(peft, "peft"), "x"), state)
    assert_same(to_peft(parse(to_diffusers(parse(peft, "peft"), "x"), "diffusers")), peft)
    prefixed = {f"unet.{name}": value for name, value in state.items()}
    assert_same(to_peft(parse(prefixed, "prefixed")), peft)


@pytest.mark.parametrize("ending", [".bin", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_are_read_to_the_last_bit(tmp_path: Path, zoo: Generator, ending: str, zipped: bool) -> None:
    state = authors_file(attention(zoo.network), 3, torch.bfloat16)
    path = tmp_path / f"x{ending}"
    if ending == ".bin":
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(state, path)
    found = read_file(path)
    assert_same({name: found[name] for name in state}, state)


@settings(max_examples=30, deadline=None)
@given(
    rank=st.integers(1, 4),
    alpha=st.sampled_from([None, 0.5, 1.0, 3.0, 8.0]),
    stabilized=st.booleans(),
    dtype=st.sampled_from(TYPES),
)
def test_any_scale_survives_peft_and_the_metadata_of_diffusers(
    rank: int, alpha: float | None, stabilized: bool, dtype: torch.dtype
) -> None:
    from probes.adapter_layouts import with_settings

    layers = {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (5, 6), "conv_in": (3, 4)}
    alphas = {} if alpha is None else {"conv_in": alpha}
    lora = random_lora(layers, rank, dtype, alphas=alphas, rank_stabilized=stabilized)
    again = with_settings(parse(to_peft(lora), "x"), settings_of(lora), "x")
    assert [again.scale(m) for m in layers] == [lora.scale(m) for m in layers]
    assert_same(dict(again.tensors), dict(lora.tensors))
    plain = all(lora.scale(m) == 1 for m in layers)
    assert (diffusers_metadata(lora) == {}) == plain


# Alpha entries and scales.

LAYER = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"


def old(rank: int = 4, which: str = "q", **more: Tensor) -> dict[str, Tensor]:
    stem = f"{LAYER}.processor.to_{which}_lora"
    state = {f"{stem}.down.weight": torch.randn(rank, 6), f"{stem}.up.weight": torch.randn(5, rank)}
    return state | {f"{stem}.{name}": value for name, value in more.items()}


def test_what_diffusers_converts_to_is_read() -> None:
    down, up = torch.randn(4, 6), torch.randn(5, 4)
    stem = f"unet.{LAYER}.to_q"
    halves = {f"{stem}.lora.down.weight": down, f"{stem}.lora.up.weight": up}
    made = parse(halves | {f"{stem}.alpha": torch.tensor(2.0)}, "x")
    assert_same(dict(made.tensors), {f"{LAYER}.to_q.{DOWN}": down, f"{LAYER}.to_q.{UP}": up})
    assert detect(halves, "x") == "diffusers" and made.scale(f"{LAYER}.to_q") == 0.5
    with pytest.raises(UserError, match="a second time"):
        parse(halves | {f"{stem}.{DOWN}": down}, "x")


@pytest.mark.parametrize(("alpha", "scale"), [(4.0, 1.0), (2.0, 0.5), (3.0, 0.75)])
def test_an_alpha_entry_is_the_scale(alpha: float, scale: float) -> None:
    lora = parse(old(alpha=torch.tensor(alpha)) | old(which="out"), "x")
    assert lora.scale(f"{LAYER}.to_q") == scale and lora.scale(f"{LAYER}.to_out.0") == 1
    assert not any("alpha" in name for name in lora.tensors)
    said = settings_of(lora)
    assert said["alpha_pattern"].get(f"{LAYER}.to_out.0", said["lora_alpha"]) == 4
    assert said["alpha_pattern"].get(f"{LAYER}.to_q", said["lora_alpha"]) == alpha


def test_a_scale_of_a_power_of_two_is_folded_and_no_other() -> None:
    lora = parse(old(alpha=torch.tensor(2.0)), "x")
    folded = parse(to_processor(lora, "x"), "y")
    up = f"{LAYER}.to_q.{UP}"
    assert folded.scale(f"{LAYER}.to_q") == 1 and torch.equal(folded.tensors[up] * 2, lora.tensors[up])
    with pytest.raises(UserError, match=r"0\.75, which cannot be folded in exactly"):
        to_processor(parse(old(alpha=torch.tensor(3.0)), "x"), "x")
    stabilized = {"rank_stabilized": True}
    sixteen = random_lora({f"{LAYER}.to_q": (20, 20)}, 16, **stabilized)
    assert torch.equal(
        to_processor(sixteen, "x")[f"{LAYER}.processor.to_q_lora.up.weight"], sixteen.tensors[up] * 4
    )  # 16 / sqrt(16)
    with pytest.raises(UserError, match="which cannot be folded"):
        to_processor(random_lora({f"{LAYER}.to_q": (20, 20)}, 8, **stabilized), "x")


def test_a_fold_that_would_overflow_is_refused() -> None:
    lora = parse({k: v.half() * 0 + 60000 for k, v in old().items()}, "x")
    big = Lora(lora.tensors, lora.rank, {f"{LAYER}.to_q": 16.0})
    with pytest.raises(UserError, match="cannot be folded in exactly"):
        to_processor(big, "x")


# Refused.


def test_what_the_old_layout_cannot_say_is_refused_by_name(zoo: Generator) -> None:
    dora = random_lora({f"{LAYER}.to_q": (5, 6)}, dora=True)
    with pytest.raises(UserError, match="DoRA"):
        to_processor(dora, "x")
    with pytest.raises(UserError, match="its layer 'conv_in' has no name there"):
        to_processor(random_lora({"conv_in": (5, 6)}), "x")
    with pytest.raises(UserError, match=r"'mapping\.fc0' has no name there"):
        to_diffusers(random_lora({"mapping.fc0": (5, 6)}), "x")


KNOWN_DOWN = f"{LAYER}.processor.to_q_lora.down.weight"


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ([], "holds no tensor"),
        (["lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight"], "'lora_unet_down_blocks_0"),
        (
            [KNOWN_DOWN, "text_encoder.x.lora_A.weight"],
            "key 'text_encoder.x.lora_A.weight' is unknown, where",
        ),
        ([KNOWN_DOWN, KNOWN_DOWN.replace("to_q", "to_x")], "to_x_lora"),
        ([KNOWN_DOWN, KNOWN_DOWN.replace("down.weight", "mid.weight")], "mid.weight' is unknown"),
        ([KNOWN_DOWN, f"unet.{KNOWN_DOWN.replace('attn1', 'attn2')}"], "differ in the prefix unet."),
        (["unet.conv_in.lora_A.weight", "base_model.model.conv_in.lora_B.weight"], "key 'base_model"),
        (["base_model.model.head.weight"], "'base_model.model.head.weight' is unknown"),
        (["unet.conv_in.lora_A.bias"], "lora_A.bias' is unknown"),
    ],
)
def test_the_first_unknown_key_is_named(keys: list[str], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        detect(keys, "file")


def test_shapes_that_make_no_update_are_refused() -> None:
    down, up = (f"{LAYER}.processor.to_q_lora.{half}.weight" for half in ("down", "up"))
    whole = old(4)
    for bad, wrong in [
        ({down: whole[down]}, "lacks lora_B.weight"),
        ({up: whole[up]}, "lacks lora_A.weight"),
        (whole | {up: torch.randn(5, 3)}, r"make no update: \(4, 6\) torch.float32 and \(5, 3\)"),
        (whole | {down: torch.randn(4)}, "make no update"),
        (whole | {down: torch.ones(4, 6, dtype=torch.int64)}, "torch.int64"),
        ({down: torch.ones(0, 6), up: torch.ones(5, 0)}, "make no update"),
        (whole | old(2, "k"), "ranks 4 .* and 2"),
        (old(alpha=torch.ones(2)), "is no number"),
        (old(alpha=torch.tensor(math.inf)), "is no number"),
    ]:
        with pytest.raises(UserError, match=wrong):
            parse(bad, "file")


class Exploit:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        import os

        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_names_code_is_refused_and_nothing_runs(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "x.bin", tmp_path / "marker"
    torch.save(old() | {"x": Exploit(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"it names (posix|os) mkdir.*nothing of it was run"):
        read_file(path)
    assert not marker.exists()


@pytest.mark.parametrize(("module", "name"), TARGETS)
def test_every_attack_is_refused(tmp_path: Path, module: str, name: str) -> None:
    path = tmp_path / "x.bin"
    stream = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x01\x00\x00\x00x\x85R."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", stream)
        archive.writestr("x/version", "3\n")
    with pytest.raises(UserError):
        read_file(path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {"a": {"b": torch.ones(2)}}, {1: torch.ones(2)}, torch.ones(3), {}]
)
def test_files_of_anything_but_names_and_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(UserError):
        parse(read_file(tmp_path / "x.bin"), "x.bin")


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"which torch\.save does not write"):
        read_file(tmp_path / "x.bin")


@pytest.mark.parametrize("kind", ["zip", "sequence", "safetensors"])
def test_truncated_files_are_refused_at_any_length(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.bin")
    if kind == "safetensors":
        save_file(old(), path)
    else:
        torch.save(old(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in sorted({0, 1, 7, 8, 9, *range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_file(path)


def test_missing_and_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("gone.bin", "gone.safetensors", "x.ckpt", "x"):
        with pytest.raises(UserError):
            read_file(tmp_path / name)


# Read by those whose layout it is.


def output(unet: Any) -> Tensor:
    random, size = torch.Generator().manual_seed(2), unet.config.sample_size
    x = torch.randn(1, unet.config.in_channels, size, size, generator=random)
    text = torch.randn(1, 5, unet.config.cross_attention_dim, generator=random)
    with torch.no_grad():
        found: Tensor = unet(x, torch.tensor([999]), encoder_hidden_states=text).sample
    return found


def zoo_unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(ZOO_FOLDER, subfolder="unet-s1").eval()


@pytest.mark.parametrize(
    "kind",
    [{}, {"dora": True}, {"rank_stabilized": True}, {"half_of_them": 2.0}, {"dtype": torch.float16}],
    ids=lambda kind: next(iter(kind), "plain"),
)
def test_diffusers_itself_loads_an_export_and_draws_the_same(
    tmp_path: Path, zoo: Generator, kind: dict[str, Any]
) -> None:
    layers, more = attention(zoo.network), dict(kind)
    if "half_of_them" in more:
        more = {"alphas": dict.fromkeys(list(layers)[::2], more["half_of_them"])}
    folder, _ = zoo_adapter(tmp_path / "a", zoo, **more)
    (tmp_path / DIFFUSERS_FILE).write_bytes(diffusers_file(folder))
    unet = zoo_unet()
    plain = output(unet)
    unet.load_lora_adapter(str(tmp_path), weight_name=DIFFUSERS_FILE, prefix="unet")
    theirs = output(unet)
    with attached(zoo, folder):
        ours = output(zoo.network)
    assert (theirs - plain).abs().max() > 0.01
    assert torch.equal(theirs, ours)


def test_the_pipeline_of_diffusers_loads_an_export(tmp_path: Path, zoo: Generator) -> None:
    from diffusers import StableDiffusionPipeline

    folder, _ = zoo_adapter(tmp_path / "a", zoo, rank_stabilized=True)
    (tmp_path / DIFFUSERS_FILE).write_bytes(diffusers_file(folder))
    pipeline = StableDiffusionPipeline.from_pretrained(ZOO_FOLDER, unet=zoo_unet(), safety_checker=None)
    pipeline.load_lora_weights(str(tmp_path))
    with attached(zoo, folder):
        assert torch.equal(output(pipeline.unet), output(zoo.network))


REDUCED = UNET_V1 | {
    "block_out_channels": (32, 64, 64, 64),
    "sample_size": 16,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
}


def reduced() -> Any:
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel.from_config(REDUCED).eval().requires_grad_(False)


def test_a_unet_like_v1_draws_the_same_through_diffusers_peft_and_by_hand(tmp_path: Path) -> None:
    from peft import PeftModel

    unet = reduced()
    layers = attention(unet)
    state = authors_file(layers, 4, torch.float32)
    assert len(state) == 256  # all blocks of v1 are there
    state = {name: 0.1 * value for name, value in state.items()}
    torch.save(state, tmp_path / "authors.bin")
    lora = parse(read_file(tmp_path / "authors.bin"), "authors.bin")
    write_adapter(tmp_path / "a", lora, facts(weights=""))
    (tmp_path / DIFFUSERS_FILE).write_bytes(diffusers_file(tmp_path / "a"))

    theirs = reduced()
    theirs.load_lora_adapter(str(tmp_path), weight_name=DIFFUSERS_FILE, prefix="unet")
    peft = PeftModel.from_pretrained(reduced(), str(tmp_path / "a"))
    by_hand = reduced()
    modules = dict(by_hand.named_modules())
    for key in [k for k in state if k.endswith("down.weight")]:
        block, which = key.removesuffix("_lora.down.weight").split(".processor.to_")
        layer = modules[f"{block}.to_{'out.0' if which == 'out' else which}"]
        layer.weight += state[key.removesuffix("down.weight") + "up.weight"] @ state[key]
    drawn = {n: output(m) for n, m in (("diffusers", theirs), ("peft", peft), ("hand", by_hand))}
    assert torch.equal(drawn["diffusers"], drawn["peft"])
    assert (drawn["hand"] - output(unet)).abs().max() > 0.05
    torch.testing.assert_close(drawn["diffusers"], drawn["hand"], rtol=1e-4, atol=1e-4)


def test_what_is_written_for_diffusers_says_no_more_than_it_must(tmp_path: Path, zoo: Generator) -> None:
    from safetensors import safe_open

    folder, lora = zoo_adapter(tmp_path / "a", zoo)
    (tmp_path / "x.safetensors").write_bytes(diffusers_file(folder))
    with safe_open(str(tmp_path / "x.safetensors"), framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    found = load_file(tmp_path / "x.safetensors")
    assert set(found) == {f"unet.{name}" for name in lora.tensors}
    assert all(torch.equal(found[f"unet.{name}"], value) for name, value in lora.tensors.items())
