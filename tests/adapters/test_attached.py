"""An adapter on a model and off again: the same maps as when it was trained, and nothing left behind."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import make_cell
from benchmarks.cell import Cell
from benchmarks.execute import execute
from benchmarks.store import Store
from generators import registry
from generators.base import Generator
from generators.errors import UserError
from probes.adapters import CONFIG, FACTS, LORA, NETWORK, attached, check_base, read_facts, write_facts
from probes.fit import predict
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options, method_fit
from probes.task import Examples, Task
from tests.adapters.small import ZOO, assert_untouched, facts, random_lora, snapshot, zoo_adapter
from tests.generators.small_dinov2 import random_model
from tests.probes.tiny import examples

SMALL = {"train": 8, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def zoo() -> Generator:
    return registry.load(ZOO)


@pytest.fixture
def folder(tmp_path: Path, zoo: Generator) -> Path:
    return zoo_adapter(tmp_path / "adapter", zoo)[0]


@pytest.fixture
def untouched(zoo: Generator) -> Iterator[None]:
    before, modules = snapshot(zoo.network), dict(zoo.network.named_modules())
    yield
    assert_untouched(zoo.network, before, modules)


def drawn(generator: Generator) -> torch.Tensor:
    size = 64
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        return generator.forward(generator.embed(image), "normal")


def seen(generator: Generator, n: int, seed: int) -> Examples:
    """Formula pictures of the model's size, with their code and encoded targets."""
    if generator.spec.takes == "seeds":
        sample = generator.sample(range(seed, seed + n))
        maps = {"albedo": (sample.images + 1) / 2}
        mask = torch.ones(n, 1, *sample.images.shape[2:], dtype=torch.bool)
        return Examples(sample.images, maps, mask, sample.code, generator.encode(sample.images.flip(1)))
    found = examples(n, seed)

    def large(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, size=(generator.spec.resolution,) * 2)

    pictures, maps = large(found.pictures), {name: large(x) for name, x in found.maps.items()}
    with torch.no_grad():
        code = generator.embed(pictures)
        output = generator.encode(INTRINSICS["albedo"].to_picture(maps["albedo"]))
    return Examples(pictures, maps, large(found.mask.float()).bool(), code, output)


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        (ZOO, "lora", {"rank": 4}),
        (ZOO, "lora", {"rank": 2, "variant": "dora"}),
        (ZOO, "lora", {"rank": 4, "variant": "rslora", "targets": "mid"}),
        (ZOO, "finetune", {}),
        ("dinov2.rooms64-s1", "lora", {"rank": 4}),
        ("stylegan2.rooms64-s1", "lora", {"rank": 4}),
        ("vqgan.rooms64-s1", "lora", {"rank": 4}),
    ],
)
def test_what_was_trained_draws_the_same_maps_again_to_the_last_bit(
    tmp_path: Path, model: str, method: str, options: dict[str, Any]
) -> None:
    generator, intrinsic = registry.load(model), INTRINSICS["albedo"]
    given = fill_options(method, {"steps": 2, "batch": 2, "rate": 1e-2} | options)
    train, held = seen(generator, 4, 0), seen(generator, 2, 50)
    probe = method_fit(method)(Task(generator, intrinsic, train, held, given, 0))
    expected = probe.predict(held)
    probe.save(tmp_path)
    probe.release()
    known = facts(model, method=method, options=given, intrinsic="albedo")
    write_facts(tmp_path, known)
    assert asdict(read_facts(tmp_path)) == asdict(known)
    check_base(known, model)

    fresh = registry.load(model)
    before, modules = snapshot(fresh.network), dict(fresh.network.named_modules())
    plain = predict(fresh, intrinsic, held.code, fresh.forward)
    with attached(fresh, tmp_path):
        assert torch.equal(predict(fresh, intrinsic, held.code, fresh.forward), expected)
    assert not torch.equal(expected, plain)
    assert_untouched(fresh.network, before, modules)
    assert torch.equal(predict(fresh, intrinsic, held.code, fresh.forward), plain)


def test_a_cell_leaves_facts_that_name_it(tmp_path: Path) -> None:
    cell = make_cell(ZOO, "normal", "lora", {"steps": 1, "batch": 4, "rank": 2}, **SMALL)
    store = Store(tmp_path)
    store.prepare()
    record = execute(cell, store, lambda share, phase: None)
    known = read_facts(tmp_path / str(record.adapter))
    assert known.cell is not None and Cell(**known.cell) == cell and Cell(**known.cell).hash == cell.hash
    assert (known.model, known.weights, known.intrinsic) == (ZOO, registry.identity(ZOO), "normal")


def test_the_adapter_is_the_update_by_hand(folder: Path, zoo: Generator, untouched: None) -> None:
    by_hand, plain = registry.load(ZOO), drawn(zoo)
    tensors = load_file(folder / LORA)
    for name, layer in by_hand.network.named_modules():
        key = f"base_model.model.{name}.lora_"
        if f"{key}A.weight" in tensors:
            layer.weight += tensors[f"{key}B.weight"] @ tensors[f"{key}A.weight"]
    with attached(zoo, folder):
        found = drawn(zoo)
    assert (found - plain).abs().max() > 0.1
    torch.testing.assert_close(found, drawn(by_hand), rtol=1e-4, atol=1e-5)
    assert torch.equal(drawn(zoo), plain)


def test_random_numbers_go_on_as_if_nothing_had_happened(
    folder: Path, zoo: Generator, untouched: None
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with attached(zoo, folder):
        drawn(zoo)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("where", ["inside", "in the middle of peft"])
def test_an_error_leaves_the_model_whole(
    folder: Path, zoo: Generator, untouched: None, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where != "inside":
        count = iter(range(100))

        def broken(*args: Any, **kwargs: Any) -> Any:
            if next(count) == 20:
                raise RuntimeError("half of the layers are wrapped")
            return original(*args, **kwargs)

        from peft.tuners.lora import model as peft_model

        original = peft_model.LoraModel._create_new_module
        monkeypatch.setattr(peft_model.LoraModel, "_create_new_module", staticmethod(broken))
    with pytest.raises(RuntimeError), attached(zoo, folder):
        raise RuntimeError("inside")


def test_the_timestep_is_that_of_the_adapter_while_it_is_on(
    folder: Path, zoo: Generator, untouched: None
) -> None:
    before = zoo.timestep  # type: ignore[attr-defined]
    write_facts(folder, facts(options={"timestep": 417}))
    with attached(zoo, folder):
        assert zoo.timestep == 417  # type: ignore[attr-defined]
    assert zoo.timestep == before != 417  # type: ignore[attr-defined]


def test_a_model_that_samples_is_asked_as_its_adapter_was(tmp_path: Path) -> None:
    name = next((s.name for s in registry.specs() if s.name.startswith("sd-aug.rooms64")), None)
    if name is None:
        pytest.skip("this version has no augmented model in its zoo")
    model = registry.load(name)
    folder, _ = zoo_adapter(tmp_path / "adapter", model)
    write_facts(folder, facts(name, options={"sampler_steps": 3}))
    before = dict(model.asked)  # type: ignore[attr-defined]
    with attached(model, folder):
        assert model.asked == before | {"sampler_steps": 3}  # type: ignore[attr-defined]
    assert model.asked == before  # type: ignore[attr-defined]


# A head.


def test_a_head_of_another_name_is_refused(tmp_path: Path, zoo: Generator, untouched: None) -> None:
    folder, _ = zoo_adapter(tmp_path / "a", zoo)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"modules_to_save": ["conv_out"]}))
    with pytest.raises(UserError, match="it replaces the modules"), attached(zoo, folder):
        snapshot(zoo.network)


def test_dinov2_needs_its_head_in_the_file(tmp_path: Path) -> None:
    model = random_model()
    before, modules = snapshot(model.network), dict(model.network.named_modules())
    layers = {
        n: (m.out_features, m.in_features)
        for n, m in model.network.named_modules()
        if n.endswith(model.spec.lora_targets)
    }
    from benchmarks.adapters import write_adapter

    write_adapter(tmp_path / "a", random_lora(layers), facts(model.spec.name, weights=""))
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config | {"modules_to_save": ["head"]}))
    with (
        pytest.raises(UserError, match=r"lacks the tensor 'base_model\.model\.head"),
        attached(model, tmp_path / "a"),
    ):
        snapshot(model.network)
    assert_untouched(model.network, before, modules)


# Bad input.


def break_facts(folder: Path, text: str) -> None:
    (folder / FACTS).write_text(text)


def change_facts(folder: Path, **changes: Any) -> None:
    known = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps({k: v for k, v in (known | changes).items() if v != "gone"}))


def change_config(folder: Path, **changes: Any) -> None:
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | changes))


def change_tensors(folder: Path, key: str, value: torch.Tensor | None, new: str | None = None) -> None:
    tensors = load_file(folder / LORA)
    found = next(k for k in tensors if k.endswith(key))
    old = tensors.pop(found)
    if value is not None or new is not None:
        tensors[new or found] = old if value is None else value
    save_file(tensors, folder / LORA)


FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
BROKEN = {
    "no folder": (lambda f: shutil.rmtree(f), "there is no such folder"),
    "no facts": (lambda f: (f / FACTS).unlink(), f"it has no {FACTS}"),
    "facts are no JSON": (lambda f: break_facts(f, '{"model": '), f"{FACTS} cannot be read"),
    "facts are no text": (lambda f: (f / FACTS).write_bytes(b"\xff\xfe\x00"), f"{FACTS} cannot be read"),
    "facts are a list": (lambda f: break_facts(f, "[]"), "no JSON object"),
    "an unknown key": (lambda f: change_facts(f, colour="blue"), "unknown key 'colour'"),
    "a missing key": (lambda f: change_facts(f, weights="gone"), "lacks 'weights'"),
    "a wrong kind": (lambda f: change_facts(f, options=[1]), "'options' in .* not a dict"),
    "unknown axes": (lambda f: change_facts(f, axes="opengl"), "axes = 'opengl' of normal"),
    "axes of another intrinsic": (
        lambda f: change_facts(f, axes="omnidata", intrinsic="albedo"),
        "axes = 'omnidata' of albedo",
    ),
    "relative normals": (lambda f: change_facts(f, relative=True), "relative = 'True' of normal"),
    "axes that are no text": (lambda f: change_facts(f, axes=[1]), "'axes' in .* not a str"),
    "relative as a text": (lambda f: change_facts(f, relative="yes"), "'relative' in .* not a bool"),
    "axes of one trained here": (lambda f: change_facts(f, axes="omnidata", cell={}), "trained here"),
    "an unknown intrinsic": (lambda f: change_facts(f, intrinsic="normals"), "no intrinsic of this name"),
    "no weights": (lambda f: (f / LORA).unlink(), "its weights are missing"),
    "no config": (lambda f: (f / CONFIG).unlink(), f"it has no {CONFIG}"),
    "a broken config": (lambda f: (f / CONFIG).write_text("{"), f"{CONFIG} cannot be read"),
    "another peft": (lambda f: change_config(f, peft_type="IA3"), "'IA3', not 'LORA'"),
    "an unknown setting": (lambda f: change_config(f, target_parameters=["x"]), "sets target_parameters"),
    "weights of the base": (lambda f: change_config(f, init_lora_weights="pissa"), "init_lora_weights"),
    "a rank of no tensor": (lambda f: change_config(f, r=10**9), "says rank 1000000000"),
    "targets of no layer": (lambda f: change_config(f, target_modules=["nothing"]), "peft refuses"),
    "fewer targets": (lambda f: change_config(f, target_modules=["to_q"]), "has no place in the network"),
    "an unknown layer": (
        lambda f: change_tensors(f, FIRST, None, "base_model.model.down_blocks.9.to_q.lora_A.weight"),
        r"'base_model.model.down_blocks.9.to_q.lora_A.weight' belongs to a layer",
    ),
    "another prefix": (
        lambda f: change_tensors(f, FIRST, None, "unet.conv_in.lora_A.weight"),
        "'unet.conv_in.lora_A.weight' belongs to a layer",
    ),
    "a wrong shape": (lambda f: change_tensors(f, FIRST, torch.zeros(4, 7)), r"has the shape \(4, 7\)"),
    "a lost tensor": (lambda f: change_tensors(f, FIRST, None), f"lacks the tensor .*{FIRST}"),
    "not a number": (lambda f: change_tensors(f, FIRST, torch.full((4, 48), torch.nan)), "NaN or infinity"),
    "noise": (lambda f: write_facts(f, facts(options={"noise": 0.5})), "share 0.5 of noise"),
    "another model": (lambda f: write_facts(f, facts("sd.rooms64-s5")), "it was trained on sd.rooms64-s5"),
    "another method": (
        lambda f: (f / LORA).rename(f / "linear.safetensors"),
        "cannot be put on a model yet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_adapter_is_refused_and_nothing_changes(
    folder: Path, zoo: Generator, untouched: None, name: str
) -> None:
    damage, wrong = BROKEN[name]
    damage(folder)
    with pytest.raises(UserError, match=wrong) as caught, attached(zoo, folder):
        drawn(zoo)
    assert caught.value.asked and caught.value.wrong and (caught.value.known or caught.value.todo)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("kind", [LORA, NETWORK])
def test_truncated_weights_are_refused(
    folder: Path, zoo: Generator, untouched: None, share: float, kind: str
) -> None:
    if kind == NETWORK:
        (folder / LORA).unlink()
        save_file(zoo.network.state_dict(), folder / NETWORK)
    whole = (folder / kind).read_bytes()
    (folder / kind).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="truncated or corrupt"):
        read_facts(folder)
    with pytest.raises(UserError, match="truncated or corrupt"), attached(zoo, folder, facts()):
        drawn(zoo)


def test_finetuned_weights_of_another_shape_are_refused(
    folder: Path, zoo: Generator, untouched: None
) -> None:
    (folder / LORA).unlink()
    state = snapshot(zoo.network)
    state["conv_in.weight"] = torch.zeros(3, 3)
    save_file(state, folder / NETWORK)
    with pytest.raises(UserError, match=r"'conv_in.weight' has the shape \(3, 3\)"), attached(zoo, folder):
        drawn(zoo)


# The base model.


def test_the_base_model_must_be_the_very_one() -> None:
    known = facts()
    check_base(known, ZOO)
    with pytest.raises(UserError, match="trained on another model"):
        check_base(known, "sd.rooms64-s5")
    with pytest.raises(UserError, match=r"the weights of sd\.rooms64-s1 are .* here") as caught:
        check_base(replace(known, weights="0123"), ZOO)
    assert "0123" in caught.value.known


def test_of_an_imported_adapter_only_the_family_is_known() -> None:
    known = facts("sd.v1-5", weights="")
    check_base(known, ZOO)
    with pytest.raises(UserError, match="different families"):
        check_base(known, "dinov2.rooms64-s1")


def test_facts_come_back_as_they_were_written(folder: Path) -> None:
    known = facts(source="x.bin", cell={"model": ZOO})
    write_facts(folder, known)
    assert asdict(read_facts(folder)) == asdict(known)
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
