"""Baselines that edit: what they learn, what they leave alone, and one training for many samplers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from generators import load
from generators.base import Generator
from generators.errors import UserError
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options, method_fit
from probes.task import Examples, Task

MULTI, AUG = "sd-multi.rooms64-s1", "sd-aug.rooms64-random"


def _examples(model: Generator, n: int, seed: int) -> Examples:
    random = torch.Generator().manual_seed(seed)
    pictures = torch.rand(n, 3, 64, 64, generator=random) * 2 - 1
    maps = {"albedo": torch.rand(n, 3, 1, 1, generator=random).expand(n, 3, 64, 64).contiguous()}
    with torch.no_grad():
        output = model.encode(INTRINSICS["albedo"].to_picture(maps["albedo"]))
        code = model.embed(pictures)
    return Examples(pictures, maps, torch.ones(n, 1, 64, 64, dtype=torch.bool), code, output)


def _task(name: str, method: str, remember: Callable[..., Any] | None = None, **options: Any) -> Task:
    model = load(name)
    given: Mapping[str, Any] = {"sampler_steps": 2} | options
    filled = fill_options(method, given, model.spec.asks)
    model.ask(**{k: v for k, v in filled.items() if k in model.spec.asks})  # type: ignore[attr-defined]
    examples = _examples(model, 4, 0)
    more = {"remember": remember} if remember else {}
    return Task(model, INTRINSICS["albedo"], examples, examples, filled, 0, method=method, **more)


def _weights(task: Task) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.model.network.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "method", "parameters"),
    [(MULTI, "textual_inversion", 2 * 96), (AUG, "visii", 32 * 96)],
)
def test_learned_questions_move_and_the_network_does_not(
    name: str, method: str, parameters: int, tmp_path: Any
) -> None:
    task = _task(name, method, steps=12, batch=4)
    before = _weights(task)
    probe = method_fit(method)(task)
    assert 0 < probe.parameters == probe.learned.numel() <= parameters
    probe.save(tmp_path)
    kept = load_file(tmp_path / "question.safetensors")["learned"]
    start = task.model.question("albedo") if method == "visii" else task.model.words("albedo")  # type: ignore[attr-defined]
    assert (kept - start).abs().max() > 1e-3
    assert probe.predict(task.validation).shape == (4, 3, 64, 64)
    probe.release()
    assert all(torch.equal(before[n], v) for n, v in task.model.network.state_dict().items())
    assert not any(p.requires_grad for p in task.model.network.parameters())


def test_a_learned_instruction_lowers_the_loss() -> None:
    losses = [
        method_fit("visii")(_task(AUG, "visii", steps=40, batch=4, rate=rate)).details["loss_last"]
        for rate in (1e-9, 0.05)
    ]
    assert losses[1] < losses[0]


def test_a_prompt_alone_trains_nothing() -> None:
    task = _task(AUG, "instruct_pix2pix")
    before = _weights(task)
    probe = method_fit("instruct_pix2pix")(task)
    assert probe.parameters == 0 and probe.steps_per_second is None
    assert torch.equal(probe.predict(task.validation), probe.predict(task.validation))
    assert all(torch.equal(before[n], v) for n, v in task.model.network.state_dict().items())


def test_sdedit_begins_from_the_picture() -> None:
    task = _task(MULTI, "sdedit", steps=2, batch=2)
    probe = method_fit("sdedit")(task)
    model: Any = task.model
    found = {}
    for strength in (0.01, 1.0):
        model.ask(strength=strength, sampler_steps=10)
        with torch.no_grad():
            found[strength] = (model.forward(task.train.code, "albedo") - task.train.code["latent"]).norm()
    probe.release()
    assert found[0.01] < 0.5 * found[1.0]


@pytest.mark.parametrize("method", ["visii", "textual_inversion", "instruct_pix2pix"])
def test_a_model_of_one_step_cannot_edit(method: str) -> None:
    model = load("sd.rooms64-random")
    examples = _examples(model, 2, 0)
    filled = fill_options(method, {})
    with pytest.raises(UserError, match="one step"):
        method_fit(method)(Task(model, INTRINSICS["albedo"], examples, examples, filled, 0, method=method))


def test_one_training_serves_every_sampler() -> None:
    kept: dict[str, dict[str, Tensor]] = {}
    computed: list[str] = []

    def remember(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in kept:
            computed.append(key)
            kept[key] = compute()
        return kept[key]

    found = {}
    for steps, rate in ((2, 1e-3), (3, 1e-3), (3, 2e-3)):
        options = {"sampler_steps": steps, "steps": 3, "batch": 2, "rate": rate}
        probe = method_fit("lora")(_task(AUG, "lora", remember, **options))
        found[steps, rate] = probe.details["loss_last"]
        probe.release()
    assert len(computed) == 2  # not for the sampler, but for the rate
    assert found[2, 1e-3] == found[3, 1e-3] != found[3, 2e-3]


def test_a_training_recalled_gives_what_the_training_gave() -> None:
    kept: dict[str, dict[str, Tensor]] = {}

    def remember(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    maps = []
    for _ in range(2):
        task = _task(AUG, "lora", remember, steps=3, batch=2, rate=1e-2)
        probe = method_fit("lora")(task)
        maps.append(probe.predict(task.validation))
        probe.release()
    assert torch.equal(maps[0], maps[1])
