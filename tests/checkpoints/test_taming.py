"""Published models of taming-transformers: where their files are, what is kept of them, what is refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.checkpoints import NetworkFile, read_config, read_network, read_taming, write_state
from generators.errors import UserError
from tests.checkpoints.emulate_lightning import (
    CLASSES,
    CONTAINERS,
    exploits,
    poison,
    saved,
    settings,
    write_checkpoint,
    write_settings,
)
from tests.checkpoints.golden_networks import DIRECTORY, Golden, networks
from tests.checkpoints.test_readers import same_bits

FOUND = [golden for kind in ("vqgan_*.json", "net2net_*.json") for golden in networks(kind)]
GOLDEN = [golden for golden in FOUND if golden.facts["cls"] in CLASSES]
STATE = {"quantize.embedding.weight": torch.arange(6.0).reshape(2, 3), "decoder.mask": torch.tensor([True])}
PARAMS: dict[str, Any] = {"embed_dim": 3, "n_embed": 2, "ddconfig": {"ch_mult": [1, 2], "dropout": 0.0}}
SETTINGS = {"model": {"target": CLASSES["VQModel"], "params": PARAMS}}


def test_there_are_golden_networks() -> None:
    assert GOLDEN or not list(DIRECTORY.glob("vqgan_*")), f"no golden network of taming in {DIRECTORY}"
    assert list(DIRECTORY.glob("*.json")), f"no golden file in {DIRECTORY}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_an_emulated_official_model_gives_back_the_golden_state(
    golden: Golden, container: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in golden.state().items()}
    expected = settings(golden)
    write_checkpoint(tmp_path / "last.ckpt", state, container)
    write_settings(tmp_path / "model.yaml", expected)
    found = read_taming(tmp_path)
    assert (found.layout, found.class_name) == ("lightning", golden.facts["cls"])
    assert found.init_kwargs == expected["model"]["params"]
    assert same_bits(found.state, state)


def test_the_first_stage_twice_stays_twice(tmp_path: Path) -> None:
    first = {f"first_stage_model.{name}": tensor for name, tensor in STATE.items()}
    again = {f"cond_stage_model.{name}": tensor for name, tensor in STATE.items()}
    assert same_bits(published(tmp_path, first | again).state, first | again)


def published(folder: Path, state: dict[str, Tensor]) -> NetworkFile:
    write_checkpoint(folder / "last.ckpt", state)
    write_settings(folder / "model.yaml", SETTINGS)
    return read_taming(folder)


# Where files are.


@pytest.mark.parametrize(
    ("checkpoint", "config"),
    [
        ("last.ckpt", "model.yaml"),
        ("vqgan.imagenet16384.ckpt", "vqgan.imagenet16384.yaml"),
        ("checkpoints/last.ckpt", "configs/2021-04-23T18-19-01-project.yaml"),
        ("ckpts/last.ckpt", "configs/model.yaml"),
        ("checkpoints/epoch=000052.ckpt", "checkpoints/epoch=000052.yaml"),
        ("a[1].ckpt", "a[1].yaml"),
    ],
)
def test_a_model_as_it_is_published(checkpoint: str, config: str, tmp_path: Path) -> None:
    (tmp_path / checkpoint).parent.mkdir(exist_ok=True)
    write_checkpoint(tmp_path / checkpoint, STATE)
    write_settings(tmp_path / config, SETTINGS)
    write_settings(tmp_path / "configs/2021-04-23T18-19-01-lightning.yaml", {"lightning": {"trainer": {}}})
    for path in (tmp_path, tmp_path / checkpoint, str(tmp_path / checkpoint)):
        found = read_taming(path)
        assert (found.class_name, found.init_kwargs) == ("VQModel", PARAMS)
        assert same_bits(found.state, STATE)


def test_the_settings_may_be_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.ckpt", STATE)
    write_settings(tmp_path / "model.yaml", {"model": {"target": "wrong", "params": {}}})
    write_settings(tmp_path / "other.yaml", SETTINGS)
    assert read_taming(tmp_path / "a.ckpt", config=tmp_path / "other.yaml").init_kwargs == PARAMS


def test_a_bare_state_carries_its_settings(tmp_path: Path) -> None:
    write_state(tmp_path / "s.safetensors", STATE, "VQModel", PARAMS)
    assert read_taming(tmp_path / "s.safetensors").init_kwargs == PARAMS
    assert read_taming(tmp_path / "s.safetensors").layout == "safetensors"
    assert same_bits(read_taming(tmp_path / "s.safetensors").state, STATE)


def test_files_that_are_missing_or_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint for it[^$]*looked for last\.ckpt, checkpoints/last"):
        read_taming(tmp_path)
    write_checkpoint(tmp_path / "a.ckpt", STATE)
    with pytest.raises(UserError, match=r"no file of settings for it[^$]*looked for a\.yaml, model\.yaml"):
        read_taming(tmp_path)
    write_checkpoint(tmp_path / "b.ckpt", STATE)
    with pytest.raises(UserError, match=r"2 files could be its checkpoint[^$]*a\.ckpt, b\.ckpt"):
        read_taming(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path / "checkpoints/last.ckpt", STATE)
    for date in ("2021-04-23", "2021-04-24"):
        write_settings(tmp_path / f"configs/{date}-project.yaml", SETTINGS)
    with pytest.raises(
        UserError, match=r"2 files could be its file of settings[^$]*2021-04-23-project\.yaml"
    ):
        read_taming(tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match="No such file"):
        read_taming(tmp_path / "nothing.ckpt")


# What is in them.


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"target": "ldm.models.VQModel", "params": {}}}, "'ldm.models.VQModel'"),
        ({"model": {"target": CLASSES["VQModel"]}}, "no model with a target and params"),
        ({"model": [1]}, "no model with a target and params"),
        ({}, "no model with a target and params"),
        ({"model": {"target": CLASSES["VQModel"], "params": {"n_embed": "${a.b}"}}}, r"needs '\$\{a.b\}'"),
        ({"model": {"target": CLASSES["VQModel"], "params": {"a": ["x${oc.env:HOME}"]}}}, r"needs 'x\$\{oc"),
    ],
)
def test_settings_of_something_else(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.ckpt", STATE)
    write_settings(tmp_path / "model.yaml", values)
    with pytest.raises(UserError, match=said) as caught:
        read_taming(tmp_path)
    if "ldm" in said:
        assert all(known in caught.value.known for known in CLASSES.values())


def test_what_only_training_needs_may_be_missing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.ckpt", STATE)
    training = {"ckpt_path": "${paths.first}", "lossconfig": {"params": {"weight": "${oc.env:WEIGHT}"}}}
    values = {"model": {"target": CLASSES["VQModel"], "params": PARAMS | training}}
    write_settings(tmp_path / "model.yaml", values | {"data": {"root": "${oc.env:DATA}"}})
    assert read_taming(tmp_path).init_kwargs == PARAMS | training


def test_poison_is_an_error_of_the_model(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    exploit = exploits(marker)["builtins exec"]
    write_settings(tmp_path / "model.yaml", SETTINGS)
    write_checkpoint(
        tmp_path / "last.ckpt", STATE, change=lambda all: poison(all, "hyper_parameters", exploit)
    )
    with pytest.raises(UserError, match="names builtins exec, which no checkpoint needs") as caught:
        read_taming(tmp_path)
    assert "(in its hyper_parameters)" in caught.value.wrong and str(tmp_path) in caught.value.asked
    assert not marker.exists()


def test_a_stylegan_reader_says_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(saved({"state_dict": STATE}))
    with pytest.raises(UserError, match="a zip archive, as torch"):
        read_network(tmp_path / "last.ckpt")


# Settings.


def config(text: str, folder: Path) -> dict[str, Any]:
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    return read_config(folder / "c.yaml")


def test_plain_values(tmp_path: Path) -> None:
    text = "a: 4.5e-06\nb: [1, -2, true, null, x]\nc: {d: '1', e: .inf}\nf: &x [1]\ng: *x\n"
    expected = {"a": 4.5e-6, "b": [1, -2, True, None, "x"], "c": {"d": "1", "e": float("inf")}}
    assert config(text, tmp_path) == expected | {"f": [1], "g": [1]}


def test_values_that_name_values(tmp_path: Path) -> None:
    text = """
    model: {params: {n: 3, same: '${model.params.n}', all: '${list}', first: '${list.0}', chain: '${x.same}'}}
    list: [7, '${name}']
    name: run-${model.params.n}-${missing}-${list}
    x: ${model.params}
    circle: {a: '${circle.b}', b: '${circle.a}'}
    out: '${oc.env:HOME} ${.relative} ${list.5} ${list.-1} \\${x'
    """
    found = config(text, tmp_path)
    name = "run-3-${missing}-${list}"
    assert found["model"]["params"]["same"] == 3
    assert found["model"]["params"]["all"] == [7, name]
    assert found["model"]["params"]["first"] == 7
    assert found["model"]["params"]["chain"] == 3
    assert found["name"] == name
    assert set(found["circle"].values()) <= {"${circle.a}", "${circle.b}"}
    assert found["out"] == "${oc.env:HOME} ${.relative} ${list.5} ${list.-1} \\${x"


def nested(marker: Path) -> dict[str, tuple[str, str]]:
    """Settings that do harm to a reader that trusts them, and what is said of each."""
    apply = f"!!python/object/apply:os.system ['touch {marker}']"
    laughs = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    merges = "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30))
    doubled = "".join(f"a{i}: ['${{a{i - 1}}}', '${{a{i - 1}}}']\n" for i in range(1, 15))
    texts = "".join(f"a{i}: '{f'${{a{i - 1}}}' * 99}'\n" for i in range(1, 15))
    inner = "".join(f"a{i}: '{f'${{a{i - 1}.x}}' * 99}'\n" for i in range(1, 15))
    return {
        "apply": (f"a: {apply}", "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        "apply in a key": (f"? {apply}\n: 1", "holds the tag"),
        "new": ("a: !!python/object/new:os.system [x]", "holds the tag"),
        "name": ("a: !!python/name:os.system", "holds the tag"),
        "module": ("!!python/module:os", "holds the tag"),
        "local tag": ("a: !include x", "holds the tag '!include'"),
        "laughs": (f"a0: &a0 [x]\n{laughs}", "share too many parts"),
        "merges": (f"a0: &a0 {{x: 1}}\n{merges}", "merge key"),
        "names of lists": (f"a0: [x]\n{doubled}", "more objects than"),
        "names in texts": (f"a0: xxxxxxxxx\n{texts}", "more objects than"),
        "names in names": (f"a0: {{x: y}}\n{inner}", "more objects than"),
        "deep": ("[" * 20_000, "nest more than"),
        "deep dicts": ("".join(" " * i + "a:\n" for i in range(200)), "nest more than"),
        "itself": ("a: &a [*a]", "nested more than"),
        "large": ("a: " + "x" * 70_000, "more than 65,536 bytes"),
        "long": ("a: " + "1:" * 10_000, "a value of"),
        "date": ("a: 2021-04-23", "a date, which is not a plain value"),
        "no date": ("a: 2021-99-99", "a number or a date"),
        "late date": ("a: 0001-01-01 00:00:00 +23:00", "not a plain value|a number or a date"),
        "binary": ("a: !!binary aGk=", "holds the tag"),
        "set": ("a: !!set {x}", "holds the tag"),
        "key": ("1: a", "not a plain value"),
        "list as key": ("? [1]\n: a", "not YAML of plain values"),
        "list": ("- 1", "holds a list, not names"),
        "nothing": ("", "holds None, not names"),
        "text": ("abc", "holds 'abc', not names"),
        "two": ("a: 1\n---\nb: 1", "not YAML of plain values"),
        "broken": ("a: [1", r"not YAML of plain values in line 1|in line 2"),
        "control": ("a: \x00", "not YAML of plain values"),
        "equals": ("a: =", "not YAML of plain values"),
    }


@pytest.mark.parametrize("name", nested(Path(os.devnull)))
def test_harmful_settings_are_refused(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    text, said = nested(marker)[name]
    with pytest.raises(UserError, match=said) as caught:
        config(text, tmp_path)
    assert "c.yaml" in caught.value.asked and caught.value.todo
    assert not marker.exists()


def test_settings_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"a: \xff")
    os.mkfifo(tmp_path / "pipe")
    for name, said in {"c.yaml": "UTF-8", "pipe": "a pipe", ".": "a folder", "none": "No such file"}.items():
        with pytest.raises(UserError, match=said):
            read_config(tmp_path / name)
