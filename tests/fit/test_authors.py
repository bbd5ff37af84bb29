"""Training as the paper's authors did it: first values of the adapter, schedule, decay, conditions kept."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from benchmarks import load_suite, make_cell
from generators import denoiser, load
from generators.denoiser import MultiStep
from generators.draws import Draws
from generators.errors import UserError
from probes import finetune, lora
from probes import fit as fitting
from probes.fit import descend, loss_of, schedule, train_or_recall
from probes.intrinsics import INTRINSICS
from probes.lora import INITIAL
from probes.methods import ADAPTED, EXTRAS, fill_options
from probes.ranks import Ranks
from probes.task import Task
from tests.probes.tiny import TinyGenerator, examples

SD, AUG = "sd.rooms64-s1", "sd-aug.rooms64-noise-random"
AUTHORS = {"init": "gaussian", "schedule": "constant", "decay": 0.01}


class Wide(TinyGenerator):
    """Adapted in its linear layer and in a convolution, at ranks that tell two distributions apart."""

    def __init__(self) -> None:
        super().__init__()
        self.network.to_q = torch.nn.Linear(12, 12)
        self.network.into = torch.nn.Conv2d(3, 12, 3, padding=1)
        self.network.requires_grad_(False)
        self.spec = replace(self.spec, lora_targets=("to_q", "into"))


def tiny_task(method: str = "lora", **options: Any) -> Task:
    filled = fill_options(method, {"steps": 4, "batch": 4} | options)
    return Task(TinyGenerator(), INTRINSICS["albedo"], examples(8, 0), examples(4, 1), filled, 0)


# Cells.


def test_only_another_value_is_part_of_a_cell() -> None:
    told = {"init": "kaiming", "schedule": "cosine", "decay": 0, "dropped": 0.05}
    for model, more in ((SD, AUTHORS), (AUG, AUTHORS | {"dropped": 0})):
        plain = make_cell(model, "normal", "lora")
        kept = {name: value for name, value in told.items() if name in more}
        assert make_cell(model, "normal", "lora", kept).hash == plain.hash
        hashes = {make_cell(model, "normal", "lora", {name: value}).hash for name, value in more.items()}
        assert len(hashes | {plain.hash}) == len(more) + 1


def test_defaults_are_what_is_done_without_them() -> None:
    assert EXTRAS["dropped"] == denoiser.DROPPED
    assert INITIAL[ADAPTED["init"]] is LoraConfig().init_lora_weights
    with pytest.raises(UserError, match="init"):
        make_cell(SD, "normal", "finetune", {"init": "gaussian"})  # it has no adapter


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": "pissa"}, "gaussian"),
        ({"schedule": "constnat"}, "did you mean 'constant'"),
        ({"decay": -0.01}, "at least 0"),
        ({"dropped": 0.0}, "one step"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_loaded(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_cell(SD, "normal", "lora", options)
    with pytest.raises(UserError, match=r"from 0 to 0\.333"):
        make_cell(AUG, "normal", "lora", {"dropped": 0.34})


PUBLISHED = ("table2", "table3", "table4", "table6", "appendix-f")
PUBLISHED += tuple(f"figure{number}" for number in (7, 8, 9, 10, 13, 14, 15, 16))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_diffusion_models_are_trained_as_by_its_authors(name: str) -> None:
    cells = [c for c in load_suite(name).cells if c.method == "lora"]
    assert any(c.model.startswith("sd") for c in cells)
    for cell in cells:
        wanted: dict[str, Any] = {}
        if cell.model.startswith(("sd.", "sd-aug.")):
            wanted = AUTHORS | ({"dropped": 0.0} if cell.model.startswith("sd-aug.") else {})
        assert {k: v for k, v in cell.options.items() if k in ADAPTED} == wanted


# First values.


@pytest.mark.parametrize("variant", lora.VARIANTS)
def test_gaussian_numbers_have_the_deviation_of_the_authors(variant: str, monkeypatch: Any) -> None:
    """1 / rank, whatever a layer's width; without it they are uniform within 1 / sqrt(inputs)."""
    seen: dict[str, dict[str, Tensor]] = {}
    for init in INITIAL:

        def keep(probe: Any, task: Task, parameters: Any, *, init: str = init, **more: Any) -> None:
            named = probe.adapted.named_parameters()
            seen[init] = {name: p.detach().clone() for name, p in named if p.requires_grad}

        monkeypatch.setattr(lora.TrainedProbe, "__init__", keep)
        asked = tiny_task(rank=4, variant=variant, init=init)
        model = Wide()
        lora.fit(replace(asked, generator=model)).release()
    for init, found in seen.items():
        first = torch.cat([v.flatten() for k, v in found.items() if ".lora_A." in k])
        assert len(first) == 4 * (12 + 27)
        assert all(not v.any() for k, v in found.items() if ".lora_B." in k)
        if init == "gaussian":
            assert first.std().item() == pytest.approx(1 / 4, rel=0.15) and first.abs().max() > 0.4
        else:
            assert first.abs().max() <= 12**-0.5


@pytest.mark.parametrize("variant", lora.VARIANTS)
def test_every_variant_learns_from_gaussian_numbers(variant: str) -> None:
    probe = lora.fit(tiny_task(rank=2, variant=variant, steps=30, rate=0.02, **AUTHORS))
    try:
        assert probe.details["loss_last"] < probe.details["loss_first"]
    finally:
        probe.release()


# Schedule and decay.


def watched(monkeypatch: Any, **options: Any) -> list[tuple[float, float]]:
    """Rate and decay of every step."""
    seen: list[tuple[float, float]] = []
    real = torch.optim.AdamW.step

    def step(optimizer: Any, *given: Any) -> Any:
        seen.extend((group["lr"], group["weight_decay"]) for group in optimizer.param_groups)
        return real(optimizer, *given)

    task = tiny_task(steps=40, rate=0.01, **options)
    parameter = torch.nn.Parameter(torch.ones(1))
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        descend(task, [parameter], lambda code, target, draws: (parameter * target.mean()).sum())
    return seen


def test_the_rate_is_constant_from_the_first_step_to_the_last(monkeypatch: Any) -> None:
    assert watched(monkeypatch, schedule="constant", decay=0.01) == [(0.01, 0.01)] * 40
    assert watched(monkeypatch) == [(0.01 * schedule(step, 40), 0.0) for step in range(40)]
    assert schedule(0, 40) == 0.5 and schedule(39, 40) < 0.01


def test_finetuning_has_schedule_and_decay_too() -> None:
    plain, decayed = (
        finetune.fit(tiny_task("finetune", schedule="constant", steps=2, **more))
        for more in ({}, {"decay": 1.0})
    )
    sizes = [probe.network.state_dict()["to_q.weight"].norm().item() for probe in (plain, decayed)]
    assert sizes[1] < sizes[0]


# Conditions of a model that samples.


@pytest.fixture(scope="module")
def aug() -> MultiStep:
    found = load(AUG)
    assert isinstance(found, MultiStep)
    return found


def shown(model: MultiStep, options: Mapping[str, Any], monkeypatch: Any) -> tuple[int, int]:
    """How many of 300 examples were shown without their text, and without their picture."""
    texts, pictures = 0, 0

    def run(x: Tensor, t: Tensor, picture: Tensor, text: Tensor) -> Tensor:
        nonlocal texts, pictures
        texts = int((text == model.prompt("")).flatten(1).all(1).sum())
        pictures = int((picture == 0).flatten(1).all(1).sum())
        return x

    task = Task(model, INTRINSICS["normal"], examples(1, 0), examples(1, 1), options, 0)
    code, target = {"latent": torch.ones(300, 8, 4, 4)}, torch.zeros(300, 8, 4, 4)
    with monkeypatch.context() as patch:
        patch.setattr(model, "_run", run)
        draws = Draws(torch.Generator().manual_seed(3), 300)
        loss_of(task, model.forward)(code, target, draws)
    return texts, pictures


def test_no_condition_is_dropped_where_the_cell_says_so(aug: MultiStep, monkeypatch: Any) -> None:
    def options(**given: Any) -> dict[str, Any]:
        return fill_options("lora", given, aug.spec.asks)

    assert shown(aug, options(dropped=0), monkeypatch) == (0, 0)
    texts, pictures = shown(aug, options(), monkeypatch)
    assert 20 <= texts <= 40 and 20 <= pictures <= 40  # a tenth
    texts, pictures = shown(aug, options(dropped=0.3), monkeypatch)
    assert 150 <= texts <= 210 and 150 <= pictures <= 210


def test_the_trained_network_is_remembered_by_what_was_dropped(aug: MultiStep) -> None:
    keys: list[str] = []

    def remember(key: str, compute: Any) -> dict[str, Tensor]:
        keys.append(key)
        raise InterruptedError

    for given in ({}, {"dropped": 0.05}, {"dropped": 0}):
        options = fill_options("lora", given, aug.spec.asks)
        task = Task(aug, INTRINSICS["normal"], examples(1, 0), examples(1, 1), options, 0, remember=remember)
        with pytest.raises(InterruptedError):
            train_or_recall(task, [], loss_of(task, aug.forward))
    assert keys[0] == keys[1] != keys[2] and "dropped" not in keys[0]


def test_processes_that_train_together_recall_nothing(
    aug: MultiStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "here", staticmethod(lambda: Ranks(1, 2)))
    monkeypatch.setattr(fitting, "train", lambda *given: ({"trained": True}, 1.0))
    task = Task(aug, INTRINSICS["normal"], examples(1, 0), examples(1, 1), {}, 0)
    task.remember = lambda key, compute: pytest.fail("each may have a cache of its own")
    assert train_or_recall(task, [], loss_of(task, aug.forward)) == ({"trained": True}, 1.0)
