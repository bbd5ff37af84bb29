"""Memory runs out in the middle of a cell: the step is done again in parts, and gives what it would have."""

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import execute, make_cell, quality
from benchmarks.cache import Cache
from benchmarks.session import Session
from benchmarks.store import Store
from benchmarks.worker import failure
from generators import load
from generators.errors import UserError
from probes import finetune, lora, memory
from probes.fit import descend, loss_of, predict
from probes.intrinsics import INTRINSICS
from probes.linear import accumulate, stacked_targets
from probes.memory import OutOfMemory, Parts, Short, attempt, explained, is_short, portions
from probes.methods import fill_options
from probes.task import Examples, Task
from tests.fit.memory_limits import task as small_task
from tests.fit.test_ranks import ROOT
from tests.probes.tiny import TinyGenerator, examples

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB"
ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError(CUDA),
    "cpu": lambda: RuntimeError(CPU),
    "python": lambda: MemoryError(),
}
# As other libraries were seen to say it, or do by their own documentation.
WORDS = (
    "could not create a primitive",
    "std::bad_alloc",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
STEPS, BATCH = 6, 5


# What an attempt is.


@pytest.mark.parametrize("kind", ERRORS)
def test_every_allocator_is_understood(kind: str) -> None:
    def fails() -> None:
        raise ERRORS[kind]()

    assert is_short(ERRORS[kind]())
    found = attempt(fails)
    assert isinstance(found, Short) and found.said


@pytest.mark.parametrize("words", WORDS)
def test_other_libraries_are_understood(words: str) -> None:
    assert is_short(RuntimeError(words)) and not is_short(ValueError(words))


@pytest.mark.parametrize("error", [RuntimeError("the layer is broken"), ValueError("out of memory")])
def test_other_errors_are_raised(error: Exception) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        attempt(fails)
    with pytest.raises(type(error), match=str(error)), explained("anything"):
        fails()


def test_a_real_refusal_of_the_allocator_is_understood() -> None:
    found = attempt(lambda: torch.empty(10**15))
    assert isinstance(found, Short) and "4000000000000000 bytes" in found.said
    with pytest.raises(OutOfMemory, match="4000000000000000 bytes"), explained("draw"):
        torch.empty(10**15)


def test_what_an_attempt_made_is_gone_before_the_next() -> None:
    made: list[weakref.ref[Tensor]] = []

    def fails() -> None:
        large = torch.zeros(3, requires_grad=True) * 2
        made.append(weakref.ref(large))
        raise ERRORS["cpu"]()

    assert isinstance(attempt(fails), Short) and made[0]() is None


def test_where_onednn_has_gone_wrong_in_a_thread_another_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the modes of the first; where it refuses there, too, memory is short."""
    monkeypatch.setattr(memory, "_aside", False)
    here, seen = threading.get_ident(), []

    def poisoned() -> tuple[bool, bool, int]:
        seen.append(threading.get_ident() == here)
        if seen[-1]:
            raise RuntimeError("could not create a primitive")
        return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_num_threads()

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert attempt(poisoned) == (False, True, torch.get_num_threads())
    assert attempt(poisoned) == (True, False, torch.get_num_threads()) and seen == [True, False, False]

    def refuse() -> None:
        raise RuntimeError("could not create a primitive descriptor")

    assert attempt(refuse) == Short("could not create a primitive descriptor")
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 // 0)


@given(rows=st.integers(1, 40))
def test_parts_are_all_rows_and_halve_down_to_one(rows: int) -> None:
    parts, sizes = Parts(), []
    assert parts.of(rows) == [slice(0, rows)] and parts.facts() == {}
    for step in range(10):
        found = [row for part in parts.of(rows) for row in range(rows)[part]]
        assert found == list(range(rows))
        sizes.append(max(part.stop - part.start for part in parts.of(rows)))
        if sizes[-1] == 1:
            break
        parts.halve(rows, step, "train", CPU)
        assert parts.facts() == {"parts": {"parts": parts.count, "since_step": step}}
        assert parts.count == len(parts.of(rows)) > 1
    assert sizes[-1] == 1 and all(b <= a / 2 + 1 for a, b in pairwise(sizes))
    with pytest.raises(OutOfMemory) as refused:
        parts.halve(rows, 9, "train lora on x", CPU)
    assert isinstance(refused.value, MemoryError) and refused.value.asked == "train lora on x"
    assert "4000000000 bytes" in refused.value.wrong and "free" in refused.value.known
    assert "checkpointing" in refused.value.todo


# A step in parts is the step.


class Limited:
    """A loss that runs out of memory where told: (call, in the backward pass, with which error)."""

    def __init__(self, loss: Callable[..., Tensor], short: Mapping[int, tuple[bool, str]]) -> None:
        self.loss, self.short = loss, dict(short)
        self.calls, self.rows = 0, []  # type: ignore[var-annotated]

    def __call__(self, code: Mapping[str, Tensor], target: Tensor, *rest: Any) -> Tensor:
        late, kind = self.short.get(self.calls, (False, ""))
        self.calls += 1
        self.rows.append(len(target))
        loss = self.loss(code, target, *rest)
        if kind and not late:
            raise ERRORS[kind]()

        def refuse(gradient: Tensor) -> None:
            raise ERRORS[kind]()

        if kind:
            loss.register_hook(refuse)
        return loss


def tiny_task(masked: bool) -> tuple[Task, list[nn.Parameter]]:
    """Everything in float64: what differs then is no rounding."""
    model, train = TinyGenerator(), examples(9, 0, "normal")
    model.network.double().requires_grad_(True)
    valid = None
    if masked:
        valid = torch.rand(9, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.6
        valid[::4] = False  # some pictures have no valid pixel
    assert train.output is not None
    code = {"x": train.code["x"].double()}
    train = replace(train, code=code, output=train.output.double(), valid=valid)
    options = fill_options("finetune", {"steps": STEPS, "batch": BATCH})
    task = Task(model, INTRINSICS["normal"], train, train, options, 0)
    return task, list(model.network.parameters())


def tiny_losses(masked: bool, short: Mapping[int, tuple[bool, str]]) -> tuple[list[float], Parts, Limited]:
    task, parameters = tiny_task(masked)
    loss, parts = Limited(loss_of(task, task.model.forward), short), Parts()
    return descend(task, parameters, loss, parts)[0], parts, loss


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("short", "rows", "said"),
    [
        ({0: (False, "cpu")}, [5, 2, 3, 2, 3], (2, 0)),
        ({3: (False, "cuda")}, [5, 5, 5, 5, 2, 3], (2, 3)),
        ({2: (True, "python")}, [5, 5, 5, 2, 3], (2, 2)),
        ({4: (True, "cuda"), 5: (False, "cpu")}, [5, 5, 5, 5, 5, 2, 1, 2, 2], (3, 4)),
        ({1: (False, "cpu"), 3: (True, "cpu")}, [5, 5, 2, 3, 1, 2, 2], (3, 1)),  # one part was done
    ],
)
def test_a_step_in_parts_is_the_step(
    masked: bool, short: dict[int, tuple[bool, str]], rows: list[int], said: tuple[int, int]
) -> None:
    """Pixels, with masks that leave out half of one picture and all of another; float64."""
    whole, none, undisturbed = tiny_losses(masked, {})
    found, parts, limited = tiny_losses(masked, short)
    assert none.facts() == {} and undisturbed.rows == [BATCH] * STEPS
    assert limited.rows[: len(rows)] == rows and (parts.count, parts.since) == said
    assert found == pytest.approx(whole, rel=1e-12) and len(set(whole)) == STEPS


def latents(n: int, masked: bool) -> Examples:
    random = torch.Generator().manual_seed(0)
    z, y = (torch.randn(n, 8, 16, 16, generator=random) for _ in range(2))
    valid = torch.rand(n, 1, 16, 16, generator=random) > 0.6 if masked else None
    if valid is not None:
        valid[::3] = False
    nothing = torch.ones(n, 1, 64, 64, dtype=torch.bool)
    maps = {"normal": torch.ones(n, 3, 64, 64)}
    return Examples(torch.zeros(n, 3, 64, 64), maps, nothing, {"latent": z}, y, valid)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("model", ["sd.rooms64-s1", "sd-aug.rooms64-noise-random"])
def test_latents_and_denoisers_draw_the_same_in_parts(model: str, masked: bool) -> None:
    """A denoiser's timesteps, noise and dropped conditions are the batch's, whichever part asks."""
    found: dict[str, list[float]] = {}
    generator = load(model)
    for name, short in {"whole": {}, "parts": {0: (False, "cpu"), 4: (True, "cuda")}}.items():
        asked = fill_options("lora", {"steps": 3, "batch": BATCH, "rank": 2}) | dict(generator.spec.asks)
        shown, held = latents(8, masked), latents(2, False)
        task = Task(generator, INTRINSICS["normal"], shown, held, asked, 0, method="lora")
        tracked: list[float] = []
        task.track = lambda step, loss, kept=tracked: kept.append(loss)  # type: ignore[misc]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("probes.fit.loss_of", lambda *a, s=short: Limited(loss_of(*a), s))
            patch.setattr("probes.fit.validation_error", lambda *a: 0.0)
            probe = lora.fit(task)
        probe.release()
        found[name] = tracked
        facts = {"parts": 3, "since_step": 1} if short else None  # once at step 0, once more in the next
        assert probe.details.get("parts") == facts
    assert found["parts"] == pytest.approx(found["whole"], rel=2e-5) and len(set(found["whole"])) == 3


def test_at_one_row_training_is_refused_and_the_network_is_as_before() -> None:
    task, _ = tiny_task(False)
    task.method = "finetune"
    before = {name: value.clone() for name, value in task.model.network.state_dict().items()}
    always = dict.fromkeys(range(99), (False, "cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.fit.loss_of", lambda *a: Limited(loss_of(*a), always))
        with pytest.raises(OutOfMemory, match="one picture at a time") as refused:
            finetune.fit(task)
    assert refused.value.asked == "train finetune on tiny.one"
    assert all(torch.equal(before[k], v) for k, v in task.model.network.state_dict().items())


def test_memory_of_the_optimizer_is_no_matter_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ERRORS["cpu"]()

    task, parameters = tiny_task(False)
    monkeypatch.setattr(torch.optim.AdamW, "step", refuse)
    loss = Limited(loss_of(task, task.model.forward), {})
    with pytest.raises(OutOfMemory, match="cannot be done in parts"):
        descend(task, parameters, loss)
    assert loss.calls == 1


def test_a_recalled_training_tells_its_parts() -> None:
    """Cells of a denoiser share one training, and what it says of itself."""
    generator = load("sd-aug.rooms64-noise-random")
    kept: dict[str, dict[str, Tensor]] = {}

    def remember(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if key not in kept:
            kept[key] = compute()
        return kept[key]

    options = fill_options("lora", {"steps": 2, "batch": 2, "rank": 1}) | dict(generator.spec.asks)
    task = Task(generator, INTRINSICS["normal"], latents(4, False), latents(1, False), options, 0)
    task.remember, task.method = remember, "lora"
    details = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("probes.fit.loss_of", lambda *a: Limited(loss_of(*a), {1: (True, "cpu")}))
        patch.setattr("probes.fit.validation_error", lambda *a: 0.0)
        for _ in range(2):
            probe = lora.fit(task)
            probe.release()
            details.append(probe.details)
    assert len(kept) == 1 and details[0] == details[1]
    assert details[0]["parts"] == {"parts": 2, "since_step": 1}


# Everything else that runs in batches.


class Narrow:
    """A function of rows that can take so many at once, and says how many it was given."""

    def __init__(self, most: int, function: Callable[..., Any], count: Callable[..., int]) -> None:
        self.most, self.function, self.count = most, function, count
        self.asked: list[int] = []

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.asked.append(self.count(*given))
        if self.asked[-1] > self.most:
            raise ERRORS["cuda"]()
        return self.function(*given, **named)


def test_portions_halve_and_go_on_with_less() -> None:
    memory.forget()
    taken = Narrow(3, lambda rows: list(range(100))[rows], lambda rows: rows.stop - rows.start)
    found = list(portions(23, 10, taken, "take"))
    assert [row for _, rows in found for row in rows] == list(range(23))
    assert taken.asked == [10, 5, 3, 3, 3, 3, 3, 3, 3, 2] and memory.at_once() == {"take": 3}
    memory.forget()
    assert list(portions(4, 10, taken, "take")) == [(slice(0, 2), [0, 1]), (slice(2, 4), [2, 3])]
    with pytest.raises(OutOfMemory, match="one picture"):
        list(portions(4, 10, Narrow(0, lambda rows: rows, lambda rows: rows.stop - rows.start), "take"))
    memory.forget()
    list(portions(6, 3, taken, "take"))
    assert memory.at_once() == {}  # all went as planned


def test_what_an_earlier_attempt_was_killed_for_begins_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first step on; the numbers are those of the whole batch, and the record tells."""
    whole = finetune.fit(small_task())
    monkeypatch.setattr(memory, "_cut", 1)
    memory.cut(2)
    memory.forget()
    cut = finetune.fit(small_task())
    assert "parts" not in whole.details and cut.details["parts"] == {"parts": 2, "since_step": 0}
    assert cut.details["loss_last"] == pytest.approx(whole.details["loss_last"], rel=1e-4)
    taken = Narrow(100, lambda rows: list(range(100))[rows], lambda rows: rows.stop - rows.start)
    assert [row for _, rows in portions(23, 10, taken, "take") for row in rows] == list(range(23))
    assert taken.asked == [5, 5, 5, 5, 3] and memory.at_once()["take"] == 5
    memory.cut(64)
    assert Parts().of(5) == [slice(k, k + 1) for k in range(5)]
    assert len(list(portions(3, 10, taken, "take"))) == 3


def test_prediction_is_the_same_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, held = TinyGenerator(), examples(40, 2)
    whole = predict(model, INTRINSICS["albedo"], held.code, model.forward)
    memory.forget()
    narrow = Narrow(9, model.forward, lambda code, name: len(code["x"]))
    found = predict(model, INTRINSICS["albedo"], held.code, narrow)
    assert narrow.asked == [32, 16, 8, 8, 8, 8, 8] and memory.at_once() == {"predict maps": 8}
    assert torch.allclose(found, whole, atol=1e-6)


def test_a_linear_probe_sums_every_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, train = TinyGenerator(), examples(30, 0)
    whole = accumulate(model, train, stacked_targets(train))
    narrow = Narrow(7, model.features, lambda code: len(code["x"]))
    monkeypatch.setattr(model, "features", narrow)
    found = accumulate(model, train, stacked_targets(train))
    assert narrow.asked == [25, 13, 7, 7, 7, 7, 2] and found.keys() == whole.keys()
    assert all(torch.allclose(found[k], whole[k], rtol=1e-5, atol=1e-4) for k in whole)


def test_codes_of_a_session_are_the_same_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = make_cell("sd.rooms64-s1", "normal", "lora", train=20, validation=4, test=4)
    whole = Session(Cache(None)).examples(cell, "train", INTRINSICS["normal"])
    here = Session(Cache(None))
    generator = here.generator(cell)
    assert generator is not None
    narrow = Narrow(6, generator.embed, len)
    monkeypatch.setattr(generator, "embed", narrow)
    found = here.examples(cell, "train", INTRINSICS["normal"])
    assert narrow.asked == [20, 10, 5, 5, 5, 5]
    assert all(torch.allclose(found.code[k], whole.code[k], atol=1e-4) for k in whole.code)


def test_quality_draws_and_looks_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"samples": 20, "reference": 20, "steps": 2}
    cell = make_cell("sd.rooms64-s1", "none", "frechet", options)
    here = Session(Cache(None))
    generator = here.generator(cell)
    whole, shown = quality.sample_features(cell, here, ("rooms",), lambda share: None)
    narrow = Narrow(3, generator.sample, lambda seeds, *rest: len(seeds))  # type: ignore[union-attr]
    seen = Narrow(2, quality.measure_features, lambda space, pictures: len(pictures))
    monkeypatch.setattr(generator, "sample", narrow)
    monkeypatch.setattr(quality, "measure_features", seen)
    found, first = quality.sample_features(cell, here, ("rooms",), lambda share: None)
    assert max(narrow.asked[3:]) == 3 and sum(n for n in narrow.asked if n <= 3) == 20
    assert sum(n for n in seen.asked if n <= 2) == 20
    assert len(shown) == len(first) == quality.SHOWN
    assert int((shown.int() - first.int()).abs().max()) <= 1
    assert torch.allclose(found["rooms"], whole["rooms"], atol=2e-2)


# A real limit.


@pytest.mark.slow
def test_under_a_real_limit_a_cell_comes_to_the_same_numbers() -> None:
    """RLIMIT_AS in a process of its own: refused with 8 MiB, in parts with 200, whole without a limit."""
    asked = [sys.executable, "-m", "tests.fit.memory_limits", "8", "200", "0"]
    run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    none, less, whole = (json.loads(line) for line in run.stdout.splitlines())
    assert none["memory"] and "one picture at a time" in none["error"] and "ulimit -v" in none["error"]
    assert less["details"].pop("parts")["parts"] >= 2 and less["at_once"]["predict maps"] < 32
    assert "parts" not in whole["details"] and whole["at_once"] == {}
    assert less["details"] == pytest.approx(whole["details"], rel=1e-5)
    assert less["mean"] == pytest.approx(whole["mean"], rel=1e-5)


def test_the_error_is_one_for_users() -> None:
    assert issubclass(OutOfMemory, UserError) and issubclass(OutOfMemory, MemoryError)
    refused = memory.out_of_memory("draw", CPU)
    assert not is_short(refused)  # nobody tries once more what was refused
    told = failure(refused, make_cell("none", "albedo", "constant"), "cpu")
    assert told["retire"] and told["reason"].startswith("asked: draw\nwrong: memory ran out")


# A whole cell.


def test_a_record_says_what_ran_with_fewer_pictures_and_the_next_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"train": 12, "validation": 6, "test": 6}
    cell = make_cell("dinov2.rooms64-s1", "albedo", "linear", **few)  # type: ignore[arg-type]
    store = Store(tmp_path)
    store.prepare()
    monkeypatch.setattr(execute, "_sessions", {"cpu": Session(Cache(None))})
    generator = execute.session("cpu").generator(cell)
    assert generator is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "features", Narrow(4, generator.features, lambda c: len(c["pixels"])))
        less = execute.execute(cell, store, lambda share, phase: None)
    whole = execute.execute(cell, store, lambda share, phase: None)
    assert less.environment["at_once"] == {"compute activations": 3, "predict maps": 3}
    assert "at_once" not in whole.environment
    assert less.scores == pytest.approx(whole.scores, rel=1e-5)


def test_what_cannot_be_done_in_parts_is_told_in_four_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ERRORS["cpu"]()

    cell = make_cell("none", "albedo", "constant", train=4, validation=2, test=2)
    monkeypatch.setattr(execute, "score", refuse)
    with pytest.raises(OutOfMemory, match="4000000000 bytes") as refused:
        execute.execute(cell, Store(tmp_path), lambda share, phase: None)
    assert refused.value.asked == f"compute {cell}"
