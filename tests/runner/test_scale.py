"""What grows with the number of cells: counted by calls, and equal to what the plain way gives."""

import importlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks import load_suite, make_cell, plan
from benchmarks.cell import Cell, Record
from benchmarks.glance import glance, without_numbers
from benchmarks.loop import Runner
from benchmarks.plan import Estimates, Queue, estimates, guess
from benchmarks.progress import Silent
from benchmarks.speed.made import made_record, record_text, suite_text
from benchmarks.speed.runs import AtOnce
from benchmarks.store import Store
from benchmarks.worker import Settings
from generators import registry
from generators.errors import UserError
from tests.runner.fakes import EXECUTE, cell, cells

cells_module, glance_module, plan_module, suite_module = (
    importlib.import_module(f"benchmarks.{name}") for name in ("cell", "glance", "plan", "suite")
)
GRID = """name = "many"\ntitle = "Many"\nquestion = "How many?"\nseeds = {seeds}
[[grid]]\nmodels = ["sd.rooms64-s1"]\nintrinsics = ["normal", "depth"]\nmethods = ["lora", "linear"]
train = [16, 250]
"""


class Counted:
    """A function that counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.calls, self.function = 0, getattr(module, name)
        monkeypatch.setattr(module, name, self)

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls += 1
        return self.function(*given, **named)


def written(folder: Path, seeds: list[int]) -> Path:
    path = folder / "many.toml"
    path.write_text(GRID.format(seeds=seeds))
    return path


# Cells.


def test_a_hash_is_worked_out_once_and_follows_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    count, one = Counted(monkeypatch, cells_module, "canonical"), cell()
    first = one.hash
    assert {one.hash for _ in range(10)} == {first} and count.calls == 1
    other = one.with_(seed=7)
    assert other.hash != first and one.hash == first
    one.options["layer"] = "up"  # type: ignore[index]  # nobody should, and nobody is told a wrong name
    assert one.hash == Cell(**one.facts()).hash != first


def test_a_cell_that_knows_its_hash_is_the_same_cell() -> None:
    one, other = cell(), cell()
    told = repr(one)
    one.hash  # noqa: B018
    assert one == other and repr(one) == told and one.facts() == other.facts()
    assert Record.from_json(Record(one, "done").to_json()).cell == other


# Suites.


def test_whether_a_cell_can_be_computed_is_asked_once_for_all_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, listed = Counted(monkeypatch, suite_module, "check_cell"), Counted(monkeypatch, registry, "specs")
    loaded = load_suite(written(tmp_path, list(range(50))))
    assert (len(loaded.cells), checks.calls) == (400, 8)
    assert listed.calls < 10


def test_seeds_make_the_cells_that_make_cell_makes(tmp_path: Path) -> None:
    found = load_suite(written(tmp_path, [3, 0, 9])).cells
    alone = [
        make_cell("sd.rooms64-s1", intrinsic, method, train=train, seed=seed)
        for intrinsic in ("normal", "depth")
        for method in ("lora", "linear")
        for train in (16, 250)
        for seed in (3, 0, 9)
    ]
    assert list(found) == alone and [c.hash for c in found] == [c.hash for c in alone]


def test_every_seed_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed = -1"):
        load_suite(written(tmp_path, [0, 1, -1]))


# The queue.


class Plain:
    """The queue as its rule says it: sums over all cells, whenever somebody asks."""

    def __init__(self, left: Iterable[Cell], expected: Callable[[Cell], float]) -> None:
        self.groups: dict[str, list[Cell]] = {}
        self.expected = expected
        for one in left:
            self.groups.setdefault(one.model, []).append(one)

    def take(self, model: str | None, busy: list[str]) -> Cell | None:
        names = [model, self._largest(busy), self._largest([]), *self.groups]
        return next((self.groups[n].pop(0) for n in names if n and self.groups.get(n)), None)

    def _largest(self, without: list[str]) -> str | None:
        left = {m: sum(map(self.expected, g)) for m, g in self.groups.items() if g and m not in without}
        return max(left, key=left.__getitem__) if left else None


def mixed(count: int) -> list[Cell]:
    """Cells of three models and two methods, in no order."""
    long = [
        c.with_(method="lora", options={"steps": 10 * (n % 5), "batch": 16})
        for n, c in enumerate(cells(count))
    ]
    every = [*cells(count), *long]
    random.Random(3).shuffle(every)
    return every


def test_the_queue_hands_out_what_the_plain_rule_does() -> None:
    learned, every = Estimates(), mixed(48)
    queue, plain, draw = Queue(every, learned.seconds), Plain(every, learned.seconds), random.Random(4)
    at: list[str] = ["", "", ""]
    for turn in range(len(every)):
        place = turn % 3
        busy = [model for other, model in enumerate(at) if other != place and model]
        model = at[place] if draw.random() < 0.7 else ""
        mine, theirs = queue.take(model or None, busy), plain.take(model or None, busy)
        assert mine is not None and mine == theirs
        assert queue.seconds() == pytest.approx(sum(map(learned.seconds, queue.cells())))
        learned.learn(mine, guess(mine) * draw.uniform(0.2, 5))
        at[place] = mine.model
    assert queue.take(None) is None and queue.seconds() == 0


def test_a_cell_that_comes_back_counts_again() -> None:
    queue = Queue(cells(6), lambda _: 1.0)
    one = queue.take(None)
    assert one is not None and (len(queue), queue.seconds()) == (5, 5.0)
    queue.put_back(one)
    assert (len(queue), queue.seconds()) == (6, 6.0)


def test_how_long_is_asked_of_kinds_not_of_cells() -> None:
    asked = {}
    few = cells(12)
    for count in (60, 600):
        calls: list[Cell] = []
        many = [one.with_(seed=seed) for seed in range(count // 12) for one in few]
        queue = Queue(many, lambda one, calls=calls: calls.append(one) or 1.0)  # type: ignore[misc]
        last = None
        while (one := queue.take(last)) is not None:
            last = one.model
            queue.seconds()
        asked[count] = len(calls) / count
    assert asked[600] <= asked[60] <= 10  # three models, one kind of each


def test_the_runner_asks_how_long_is_left_of_kinds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, learned = cells(12), Estimates()
    many = [one.with_(seed=seed) for seed in range(50) for one in few]
    store = Store(tmp_path / "s")
    store.prepare()
    runner = Runner(store, many, {}, AtOnce(2), learned, Silent(), Settings(EXECUTE))
    count = Counted(monkeypatch, Estimates, "seconds")
    monkeypatch.setattr(Estimates, "seconds", lambda self, one: count(self, one))
    runner.queue = Queue(many, learned.seconds)
    assert runner.left() == pytest.approx(sum(guess(one) for one in many) / 2)
    assert count.calls <= 3


def test_a_run_of_cells_without_work_ends_with_all_of_them_done(tmp_path: Path) -> None:
    every = cells(24)
    store = Store(tmp_path / "s")
    store.prepare()
    runner = Runner(
        store,
        every,
        dict.fromkeys(c.hash for c in every),
        AtOnce(3),
        Estimates(),
        Silent(),
        Settings(EXECUTE),
    )
    runner.run()
    assert runner.computed == 24 and not list(store.claims.glob("*.json"))


def test_estimates_are_medians_and_peaks() -> None:
    learned, ratios, draw = Estimates(), [], random.Random(5)
    for number in range(25):
        ratios.append(draw.uniform(0.1, 9))
        learned.learn(cell(), ratios[-1] * guess(cell()), 100.0 + number % 7)
        assert learned.seconds(cell()) == pytest.approx(median(ratios) * guess(cell()))
    assert learned.memory(cell()) == 106.0


# What a plan reads.


def full(folder: Path, which: Iterable[Cell]) -> Store:
    store = Store(folder)
    store.prepare()
    for one in which:
        store.path(one).write_text(record_text(made_record(one)) + "\n")
    return store


def small(folder: Path) -> list[Cell]:
    path = folder / "scale.toml"
    path.write_text(suite_text(1_000))
    return list(load_suite(path).cells[::97])


def test_made_up_records_are_laid_out_as_the_runner_does(tmp_path: Path) -> None:
    for one in small(tmp_path):
        record = made_record(one)
        assert record_text(record) == record.to_json()
        assert made_record(one) == record


def test_a_glance_says_what_the_record_says_but_its_numbers(tmp_path: Path) -> None:
    store = full(tmp_path / "s", small(tmp_path))
    for record in store.all():
        path = store.path(record.cell)
        text = path.read_bytes()
        whole = json.loads(text)
        whole.pop("per_image")
        short = json.loads(without_numbers(text))
        assert whole == {k: v for k, v in short.items() if k != "per_image"}
        assert not short.get("per_image") and (len(without_numbers(text)) < len(text)) == bool(
            record.per_image
        )
        seen = glance(path)
        assert (seen.hash, seen.status, seen.seconds, seen.memory) == (record.cell.hash, "done", 16.55, 1100)
        assert seen.facts == record.cell.facts() and glance(path, record.cell.facts()) == seen


def test_a_record_of_another_hand_is_read_whole(tmp_path: Path) -> None:
    (one,) = small(tmp_path)[:1]
    store = full(tmp_path / "s", [one])
    seen = glance(store.path(one))
    store.path(one).write_text(json.dumps(json.loads(store.path(one).read_text())))
    assert glance(store.path(one)) == seen


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"status": "done"', '"status": "perhaps"'),
        ('"test": 100', '"test": 99'),
        ('"hash": "', '"hash": "0'),
        ('"details": {', '"detail": {'),
        ('"total": 16.55', '"total": "long"'),
        ('"environment": {', '"environment": [{'),
    ],
)
def test_what_is_no_record_is_named_by_the_plan_of_its_suite(tmp_path: Path, old: str, new: str) -> None:
    found = small(tmp_path)
    store = full(tmp_path / "s", found)
    path = store.path(found[1])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=path.name):
        plan(tmp_path / "scale.toml", store.folder)
    estimates(store)  # of cells nobody asks for it is left out


def test_a_plan_reads_every_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = small(tmp_path)
    store = full(tmp_path / "a" / "s", found)
    count = Counted(monkeypatch, plan_module, "glance")
    made = plan(tmp_path / "scale.toml", store.folder)
    assert (made.count("done"), count.calls) == (len(found), len(found))


def test_of_stores_beside_it_a_plan_reads_so_many_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = small(tmp_path)
    full(tmp_path / "a" / "beside", found)
    count = Counted(monkeypatch, plan_module, "glance")
    assert plan(tmp_path / "scale.toml", tmp_path / "a" / "s").count("done") == 0
    assert count.calls == len(found)
    monkeypatch.setattr(plan_module, "BESIDE", 3)
    plan(tmp_path / "scale.toml", tmp_path / "a" / "s")
    assert count.calls == len(found) + 3


def test_a_plan_holds_no_numbers_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = full(tmp_path / "s", small(tmp_path)[:1])
    monkeypatch.setattr(glance_module, "_BEGIN", b"never there")
    slow = plan(tmp_path / "scale.toml", store.folder)
    monkeypatch.undo()
    assert str(plan(tmp_path / "scale.toml", store.folder)) == str(slow)


def test_a_changed_cell_is_what_dataclasses_replace_makes() -> None:
    one = cell()
    assert len(one.hash) == 16
    made = one.with_(seed=3, train=16)
    assert made == replace(one, seed=3, train=16) and list(made.facts()) == list(one.facts())
    assert (made.hash, repr(made)) == (
        replace(one, seed=3, train=16).hash,
        repr(replace(one, seed=3, train=16)),
    )
    with pytest.raises(TypeError, match="color"):
        one.with_(color="red")
    with pytest.raises(ValueError, match="JSON compliant"):
        one.with_(seed=float("nan")).hash  # noqa: B018
