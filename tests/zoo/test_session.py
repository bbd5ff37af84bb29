"""What all trainings share: they stop when told to, go on as if nothing had been, and know their state."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from benchmarks.cli import main
from generators.errors import UserError
from generators.zoo.loop import Budget, Run, _Training, follow, train, warmup
from generators.zoo.session import LOG, NOT_FINISHED, STATE, Session, Unfinished, drive, session

Made = dict[str, str | int]


def run(steps: int, each: Callable[[int], object] = lambda step: None, batch: int = 8) -> Run:
    """A line is fitted; `each` is called before every step."""
    torch.manual_seed(0)
    network = nn.Linear(4, 2)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        each(step)
        x = torch.randn(batch, 4, generator=generator)
        return {"loss": (network(x) - x[:, :2]).square().mean()}

    return Run(network, loss, steps, batch, warmup(0.05, 3), seed=3, ema=16.0)


def kill_at(chosen: int, number: signal.Signals) -> Callable[[int], object]:
    return lambda step: os.kill(os.getpid(), number) if step == chosen else None


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / LOG).read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step_and_nothing_is_lost(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Unfinished) as stopped:
        train(run(20, kill_at(6, number)), tmp_path / "cut")
    assert stopped.value.code == NOT_FINISHED == 4 and signal.getsignal(number) == before
    assert f"stopped at step 7 of 20 ({number.name})" in capsys.readouterr().err
    assert torch.load(tmp_path / "cut" / STATE, weights_only=True)["step"] == 7
    assert same(train(run(20), tmp_path / "cut"), train(run(20), tmp_path / "whole"))


def test_a_state_is_loaded_to_the_cpu_for_every_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(*arguments: Any, **options: Any) -> Any:
        seen.append(options.get("map_location"))
        return load(*arguments, **options)

    load, seen = torch.load, list[object]()
    train(run(3), tmp_path)
    monkeypatch.setattr(torch, "load", note)
    drive(_Training(run(5), "cpu"), tmp_path, 5, batch=8, seed=3, device="cuda")
    assert seen == ["cpu"]


def test_the_exit_status_under_torchrun_is_told() -> None:
    page = Path(__file__).parents[2] / "generators/zoo/README.md"
    told = CliRunner().invoke(main, ["zoo", "train", "--help"]).output
    for text in (told, page.read_text()):
        assert re.search(r"torchrun's own:? 1\b.*state saved", " ".join(text.split()))


def test_a_second_signal_interrupts_at_once(tmp_path: Path) -> None:
    def twice(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(run(20, twice), tmp_path)


def test_time_is_up_after_one_step_at_least(tmp_path: Path) -> None:
    for done in (1, 2):
        with session(Session(ends=time.monotonic() - 1)), pytest.raises(Unfinished) as stopped:
            train(run(3), tmp_path)
        assert f"step {done} of 3 (time is up)" in stopped.value.sentence
    with session(Session(ends=time.monotonic() - 1)):
        train(run(3), tmp_path)  # the last step ends it as any other time


def test_the_session_says_how_often_the_state_is_written(tmp_path: Path) -> None:
    def seen(step: int) -> None:
        states.append((tmp_path / STATE).exists())

    states: list[bool] = []
    with session(Session(every=0.0)):
        train(run(3, seen), tmp_path)
    assert states == [False, True, True]


def test_a_log_has_no_line_twice(tmp_path: Path) -> None:
    with pytest.raises(Unfinished):
        train(run(210, kill_at(119, signal.SIGTERM)), tmp_path)
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 150, "loss": 1}\n{"step": 2')  # of a process that was killed
    train(run(210), tmp_path)
    assert logged(tmp_path) == [50, 100, 150, 200, 210]
    train(run(210), tmp_path)
    assert logged(tmp_path) == [50, 100, 150, 200, 210]
    (tmp_path / STATE).unlink()
    train(run(50), tmp_path)
    assert logged(tmp_path) == [50]


@pytest.mark.parametrize("name", ["steps", "world", "vae"])
def test_a_state_is_not_another_runs(name: str, tmp_path: Path) -> None:
    made: Made = {"steps": 3, "world": "rooms", "vae": "ab"}
    with session(Session(made_of=made)):
        train(run(3), tmp_path)
    with (
        session(Session(made_of=made | {name: "other"})),
        pytest.raises(UserError, match=f"{name} {made[name]}, not other") as refused,
    ):
        train(run(5), tmp_path)
    assert f"delete {tmp_path / STATE}" in refused.value.todo
    with session(Session(made_of=made)):
        train(run(5), tmp_path)


def test_batch_and_seed_are_told_apart_without_a_session(tmp_path: Path) -> None:
    train(run(3), tmp_path)
    with pytest.raises(UserError, match="batch 8, not 4"):
        train(run(5, batch=4), tmp_path)
    with pytest.raises(UserError, match="seed 3, not 4"):
        train(replace(run(5), seed=4), tmp_path)


def test_a_state_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    train(run(3), tmp_path)
    state: dict[str, Any] = torch.load(tmp_path / STATE, weights_only=True)
    del state["run"]
    torch.save(state, tmp_path / STATE)
    with session(Session(extend=True)), pytest.raises(UserError, match="batch not known"):
        train(run(5), tmp_path)


def test_extend_goes_on_with_another_budget_and_no_other_origin(tmp_path: Path) -> None:
    made: Made = {"steps": 3, "stock": "ab", "vae": "ab"}
    with session(Session(made_of=made)):
        train(run(3), tmp_path)
    more = made | {"steps": 5, "stock": "cd"}
    with session(Session(made_of=more, extend=True)):
        train(run(5, batch=4), tmp_path)
    with session(Session(made_of=more)):
        train(run(5, batch=4), tmp_path)  # and it is this run now
    with session(Session(made_of=more | {"vae": "cd"}, extend=True)), pytest.raises(UserError, match="vae"):
        train(run(6, batch=4), tmp_path)


def test_averages_move_as_parameter_by_parameter() -> None:
    torch.manual_seed(0)
    average, network, expected = nn.Linear(7, 5), nn.Linear(7, 5), nn.Linear(7, 5)
    expected.load_state_dict(average.state_dict())
    for decay in (0.0, 0.3, 0.9999, 0.5 ** (64 / 16_000)):
        follow(average, network, decay)
        with torch.no_grad():
            for mean, value in zip(expected.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        assert same(average, expected)


def test_a_budget_may_ask_for_bfloat16() -> None:
    network, x = nn.Linear(4, 4), torch.ones(1, 4)
    with Budget(1, 1, bfloat16=True).autocast("cpu"):
        assert network(x).dtype == torch.bfloat16
    with Budget(1, 1).autocast("cpu"):
        assert network(x).dtype == torch.float32
