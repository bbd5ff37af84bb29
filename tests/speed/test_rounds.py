"""Rounds by turns: what is run, in which order, and what is told of it."""

import pytest

from benchmarks.speed.meters import Timed, in_turns, spread


def test_ways_warm_up_and_take_turns() -> None:
    calls: list[str] = []
    found = in_turns({name: lambda n=name: calls.append(n) or len(calls) for name in "ab"}, rounds=2)  # type: ignore[func-returns-value]
    assert calls == ["a", "b"] * 3
    assert [len(one.seconds) for one in found.values()] == [2, 2]
    assert [one.result for one in found.values()] == [5, 6]


def test_what_warms_up_may_be_shorter() -> None:
    calls: list[str] = []
    in_turns({"long": lambda: calls.append("long")}, 2, warm=[lambda: calls.append("short")])
    assert calls == ["short", "long", "long"]


def test_the_time_is_that_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 8.0])
    monkeypatch.setattr("benchmarks.speed.meters.time.process_time", lambda: next(clock))
    assert in_turns({"one": lambda: 7}, 2) == {"one": Timed([1.0, 3.0], 7)}


def test_median_and_spread() -> None:
    assert Timed([3.0, 1.0, 2.5], None).median == 2.5
    assert spread([3.0, 1.0, 2.5]) == "1.00-3.00" and spread([0.26], ".0%") == "26%-26%"
