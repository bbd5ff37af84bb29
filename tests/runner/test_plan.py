"""The plan: what is done, what it will take, and that measurements correct the guess."""

import json
from pathlib import Path

import pytest

from benchmarks import load_suite, plan
from benchmarks.cell import Cell, Record
from benchmarks.plan import Estimates, Queue, duration, guess, makespan, select, shared_training
from benchmarks.store import Store
from generators.errors import UserError
from tests.runner.fakes import cell, cells, samplers


def put(store: Store, which: Cell, seconds: float, status: str = "done") -> None:
    store.prepare()
    store.write(Record(which, status, seconds={"total": seconds}, scores={"rms": 1.0}))


def test_done_failed_and_missing_are_told_apart(tmp_path: Path) -> None:
    store, suite = Store(tmp_path / "a"), load_suite("rooms-quick")
    put(store, suite.cells[0], 10.0)
    put(store, suite.cells[1], 10.0, "failed")
    made = plan("rooms-quick", store.folder, workers=2)
    assert [row.status for row in made.rows[:3]] == ["done", "failed", "missing"]
    assert (made.count("done"), made.count("failed")) == (1, 1)
    assert f"{len(suite.cells)} cells: 1 done, 1 failed" in str(made)
    assert made.seconds > 0 and made.memory > 0


def test_the_quick_suite_is_expected_to_fit_half_an_hour(tmp_path: Path) -> None:
    assert plan("rooms-quick", tmp_path / "none", workers=2).seconds < 1800


def test_json_holds_every_cell(tmp_path: Path) -> None:
    made = json.loads(plan("rooms-quick", tmp_path / "none").to_json())
    suite = load_suite("rooms-quick")
    assert [row["hash"] for row in made["rows"]] == [c.hash for c in suite.cells]
    assert Cell(**made["rows"][0]["cell"]).hash == suite.cells[0].hash
    assert made["seconds"] > 0


def test_measurements_here_and_beside_correct_the_guess(tmp_path: Path) -> None:
    suite = load_suite("rooms-quick")
    before = plan("rooms-quick", tmp_path / "a")
    put(Store(tmp_path / "b"), suite.cells[0], 10 * guess(suite.cells[0]))
    after = plan("rooms-quick", tmp_path / "a")
    assert after.rows[0].seconds == pytest.approx(10 * before.rows[0].seconds)
    (tmp_path / "b" / "records" / "x.json").write_text("{")  # of another store: no matter
    assert plan("rooms-quick", tmp_path / "a").seconds == after.seconds


def test_a_corrupt_record_of_the_store_itself_is_named(tmp_path: Path) -> None:
    store, suite = Store(tmp_path / "a"), load_suite("rooms-quick")
    put(store, suite.cells[0], 1.0)
    store.path(suite.cells[0]).write_text("{")
    with pytest.raises(UserError, match="corrupt"):
        plan("rooms-quick", store.folder)


def test_estimates_prefer_the_same_model_and_method() -> None:
    learned = Estimates()
    learned.learn(cell(0), 2 * guess(cell(0)), 500.0)
    learned.learn(cell(1), 4 * guess(cell(1)))
    assert learned.seconds(cell(0)) == pytest.approx(2 * guess(cell(0)))
    assert learned.seconds(cell(1)) == pytest.approx(4 * guess(cell(1)))
    assert learned.seconds(cell(2)) == pytest.approx(3 * guess(cell(2)))  # median of the method's
    assert learned.memory(cell(0)) == 500.0


def test_more_steps_cost_more() -> None:
    suite = load_suite("rooms-quick")
    lora = next(c for c in suite.cells if c.method == "lora")
    assert guess(lora.with_(options=lora.options | {"steps": 4000})) > 3 * guess(lora)
    frechet = next(c for c in suite.cells if c.method == "frechet")
    assert guess(frechet.with_(options=frechet.options | {"samples": 2048})) > 3 * guess(frechet)


def test_a_worker_keeps_its_model() -> None:
    queue = Queue(cells(12), lambda _: 1.0)
    mine = queue.take(None)
    assert mine is not None
    theirs = queue.take(None, [mine.model])
    assert theirs is not None and theirs.model != mine.model
    rest = [queue.take(mine.model) for _ in range(3)]
    assert {c.model for c in rest if c} == {mine.model}
    other = queue.take(mine.model, [theirs.model])
    assert other is not None and other.model not in (mine.model, theirs.model)
    left = [queue.take(other.model) for _ in range(len(queue) + 1)]
    assert left[-1] is None and len(queue) == 0


def test_a_training_that_others_are_at_is_left_to_them() -> None:
    same, other = samplers(2), samplers(1, rate=2e-3)
    assert shared_training(same[0]) == shared_training(same[1]) != shared_training(other[0])
    assert shared_training(cell()) == ""  # a model of one step shares none
    queue = Queue([*same, *other], lambda _: 1.0)
    mine = queue.take(None)
    assert mine == same[0]
    at = {shared_training(mine)}
    assert queue.take(mine.model, [], at) == other[0]
    assert queue.take(mine.model, [], at) is None and len(queue) == 1
    assert queue.take(mine.model) == same[1]


def test_two_workers_need_about_half_the_time() -> None:
    one = makespan(cells(24), lambda _: 1.0, 1)
    two = makespan(cells(24), lambda _: 1.0, 2)
    assert (one, two) == (24.0, 12.0)


def test_only_selects_by_name_or_hash() -> None:
    found = select(cells(12), "sd.rooms64-s5/*")
    assert len(found) == 4
    assert select(cells(12), cell(3).hash) == [cell(3)]
    with pytest.raises(UserError, match="matches no cell"):
        select(cells(12), "*/lora")


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (120, "2 min"), (7200, "2.0 h")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
