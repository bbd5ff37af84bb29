"""Seconds of a cell: what they are made of."""

import pytest

from benchmarks.cache import Cache
from benchmarks.session import Session
from benchmarks.speed import cells
from benchmarks.speed.cells import Timing
from benchmarks.suite import make_cell


def test_a_cell_is_its_steps_and_what_it_predicts() -> None:
    assert Timing(100, 4, 0.05, 2.0).cell == pytest.approx(7.0)


def test_ratios_are_those_of_whole_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "lora", lambda s, m, steps, batch, rate, more: Timing(steps, batch, 0.1, 5.0))
    table = cells.adapters(Session(Cache(None)), 50, 4)
    rows = dict(zip(table.columns[0].cells, table.columns[-1].cells, strict=True))
    assert set(rows) == {*cells.MODELS, cells.AUGMENTED, "mean"}
    assert set(rows.values()) == {"2.5"}  # (20 + 5) / (5 + 5)


def test_a_second_linear_probe_takes_the_pass_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real = cells.fit_linear

    def watched(task):  # type: ignore[no-untyped-def]
        kept = task.remember
        task.remember = lambda key, compute: kept(key, lambda: passes.append(key) or compute())
        return real(task)

    monkeypatch.setattr(cells, "fit_linear", watched)
    few = {"train": 12, "validation": 4, "test": 4}
    monkeypatch.setattr(cells, "make_cell", lambda *given, **named: make_cell(*given, **{**named, **few}))
    first, other = cells.linear(Session(Cache(None)), "dinov2.rooms64-s2")
    assert first > 0 and other > 0 and len(passes) == 1


def test_steps_and_prediction_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"train": 8, "validation": 4, "test": 4}
    monkeypatch.setattr(cells, "make_cell", lambda *given, **named: make_cell(*given, **{**named, **few}))
    found = cells.lora(Session(Cache(None)), "dinov2.rooms64-s2", 100, 2, 0.003, {})
    assert (found.steps, found.batch) == (100, 2)
    assert 0 < found.step < 5 and found.predict > 0 and found.cell > 100 * found.step
