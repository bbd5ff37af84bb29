"""A model with a new head: trained with every adapter, saved with it, counted apart, and given back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from benchmarks import make_cell
from benchmarks.execute import execute
from benchmarks.store import Store
from generators import dinov2, spec
from probes import finetune, linear, lora
from probes.fit import Diverged
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options
from probes.task import Examples, Task
from tests.generators.small_dinov2 import random_model, with_old_names
from tests.probes.tiny import examples

HEAD = 24 * 588 + 588


def seen(generator: dinov2.Dinov2, n: int, seed: int) -> Examples:
    found = examples(n, seed)
    return replace(found, code=generator.embed(found.pictures))


def task(method: str, generator: dinov2.Dinov2 | None = None, **options: Any) -> Task:
    model = generator or random_model()
    train, held = seen(model, 16, 0), seen(model, 4, 1)
    given = {"batch": 8} | options if method != "linear" else options
    return Task(model, INTRINSICS["albedo"], train, held, fill_options(method, given), 0)


def state(model: dinov2.Dinov2) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.network.state_dict().items()}


def assert_as_before(model: dinov2.Dinov2, before: dict[str, torch.Tensor], head: torch.nn.Module) -> None:
    after = model.network.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    assert model.network.head is head
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not any(m.training for m in model.network.modules())


@pytest.mark.parametrize("variant", sorted(lora.VARIANTS))
@pytest.mark.parametrize("registers", [0, 4])
def test_lora_trains_the_head_saves_it_and_gives_the_first_one_back(
    tmp_path: Path, registers: int, variant: str
) -> None:
    model = random_model(registers)
    before, head = state(model), model.network.head
    asked = task("lora", model, steps=6, rank=4, variant=variant, rate=1e-2)
    probe = lora.fit(asked)
    adapter = 12 * 4 * (24 + 24) + (12 * 24 if variant == "dora" else 0)
    assert (probe.parameters, probe.head_parameters) == (adapter, HEAD)
    assert probe.details["loss_last"] < probe.details["loss_first"]
    held = seen(model, 4, 3)
    expected = probe.predict(held)
    probe.save(tmp_path)
    probe.release()
    assert_as_before(model, before, head)

    saved = load_file(tmp_path / "adapter_model.safetensors")
    (trained,) = (v for k, v in saved.items() if k.endswith("head.weight"))
    assert trained.shape == head.weight.shape and not torch.equal(trained, head.weight)
    fresh = random_model(registers)
    PeftModel.from_pretrained(fresh.network, str(tmp_path))
    with torch.no_grad():
        again = asked.intrinsic.from_picture(fresh.forward(held.code, "albedo"))
    assert torch.equal(again, expected)


def test_lora_finds_the_module_names_of_old_releases() -> None:
    model = with_old_names(random_model())
    before, head = state(model), model.network.head
    probe = lora.fit(task("lora", model, steps=2, rank=4))
    assert (probe.parameters, probe.head_parameters) == (12 * 4 * 48, HEAD)
    probe.release()
    assert_as_before(model, before, head)


@pytest.mark.parametrize("method", ["lora", "finetune"])
def test_a_training_that_diverges_leaves_the_model_whole(method: str) -> None:
    model = random_model()
    before, head = state(model), model.network.head
    with pytest.raises(Diverged):
        {"lora": lora, "finetune": finetune}[method].fit(task(method, model, steps=20, rate=1e30))  # type: ignore[attr-defined]
    assert_as_before(model, before, head)


def test_finetuning_counts_the_head_apart_and_puts_it_back(tmp_path: Path) -> None:
    model = random_model()
    before, head = state(model), model.network.head
    probe = finetune.fit(task("finetune", model, steps=4, rate=1e-3))
    backbone = sum(p.numel() for p in model.network.backbone.parameters())
    assert (probe.parameters, probe.head_parameters) == (backbone, HEAD)
    assert not torch.equal(model.network.head.weight, before["head.weight"])
    probe.save(tmp_path)
    assert "head.weight" in load_file(tmp_path / "network.safetensors")
    probe.release()
    assert_as_before(model, before, head)


def test_splitting_by_name_takes_no_namesake() -> None:
    network = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 3), "header": torch.nn.Linear(2, 2)})
    rest, head = finetune.split_head(network, "head")
    assert [p.numel() for p in rest] == [4, 2] and [p.numel() for p in head] == [6, 3]
    assert finetune.split_head(network, "") == (list(network.parameters()), [])


def test_the_linear_probe_reads_the_backbone_alone() -> None:
    model = random_model()
    before, head = state(model), model.network.head
    probe = linear.fit(task("linear", model))
    assert probe.layer in {"block0", "block1", "block2", "block3", "norm"}
    assert probe.predict(seen(model, 3, 5)).shape == (3, 3, 16, 16)
    assert_as_before(model, before, head)


@pytest.mark.parametrize("method", ["lora", "finetune", "linear"])
def test_records_count_the_head_apart(tmp_path: Path, method: str) -> None:
    options = {} if method == "linear" else {"steps": 2, "batch": 4, "noise": 0.5}
    cell = make_cell("dinov2.rooms64-random", "normal", method, options, train=8, validation=4, test=4)
    store = Store(tmp_path)
    store.prepare()
    record = execute(cell, store, lambda share, phase: None)
    full = dinov2.count(spec("dinov2.rooms64-random"))
    head = {} if method == "linear" else {"head": full["head_parameters"]}
    trainable = {"lora": full["lora_parameters"], "finetune": full["parameters"]}
    expected = {"total": full["parameters"]} | head
    assert {k: v for k, v in record.parameters.items() if k != "trainable"} == expected
    assert record.parameters["trainable"] == trainable.get(method, record.parameters["trainable"])
    assert 0 < record.scores["mean_angular_error"] < 180
