"""The closed form against descent: both see every picture once, and give the same kind of answer."""

from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from benchmarks.speed import linear
from benchmarks.suite import make_cell
from probes.intrinsics import INTRINSICS
from probes.task import Task
from tests.probes.tiny import TinyGenerator, examples


class Counted(TinyGenerator):
    """Counts the pictures whose activations it computes."""

    pictures = 0

    def features(self, code: Any) -> dict[str, torch.Tensor]:
        self.pictures += len(code["x"])
        return super().features(code)


def _tasks(model: TinyGenerator) -> list[Task]:
    shown, held = examples(40, 0), examples(10, 1)
    options = {"labels": "true", "layer": "best"}
    return [Task(model, INTRINSICS[name], shown, held, options, 0) for name in INTRINSICS]


def test_descent_runs_the_network_once_on_every_picture() -> None:
    model = Counted()
    tasks = _tasks(model)
    linear.by_descent(tasks, epochs=5, rate=0.02)
    assert model.pictures == 40 + 10


def test_descent_comes_close_to_the_closed_form_for_all_intrinsics() -> None:
    tasks = _tasks(TinyGenerator())
    exact, near = linear.closed_form(tasks), linear.by_descent(tasks, epochs=60, rate=0.05)
    assert len(exact) == len(near) == len(INTRINSICS)
    worse = linear.by_descent(tasks, epochs=1, rate=0.05)
    for (_, best), (_, error), (_, early) in zip(exact, near, worse, strict=True):
        assert best <= error * 1.05 and error < early and error < 2.5 * best


def test_a_head_commutes_with_upsampling() -> None:
    head, f = torch.nn.Conv2d(5, 2, 1), torch.randn(3, 5, 4, 4)
    large = functional.interpolate(f, size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(linear.mapped(head, f, (16, 16)), head(large))


def test_the_command_prints_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"validation": 4, "test": 4}
    monkeypatch.setattr(linear, "make_cell", lambda *given, **named: make_cell(*given, **{**named, **few}))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    asked = ["--model", "dinov2.rooms64-s2", "--train", "12", "--epochs", "1", "--rounds", "2"]
    text = CliRunner().invoke(linear.main, asked, catch_exceptions=False).output
    assert "median of 2 rounds" in text and "extrapol" not in text
    (row,) = (line for line in text.splitlines() if "gradient descent │" in line)
    _, seconds, spread, ratio = (part.strip() for part in row.strip("│ ").split("│"))
    least, most = map(float, spread.split("-"))
    assert least <= float(seconds) <= most and float(ratio) >= 0
    assert all(any(line.startswith(f"│ {name}") for line in text.splitlines()) for name in INTRINSICS)
