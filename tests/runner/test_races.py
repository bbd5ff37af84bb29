"""What another process does between two steps of ours: nothing is lost, nothing is double, nobody hangs."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import Record, claims, files, run, runner, store
from benchmarks.claims import Claim, machine
from benchmarks.loop import Runner
from benchmarks.plan import estimates
from benchmarks.progress import Silent
from benchmarks.runner import compute
from benchmarks.store import Store
from benchmarks.verify import FAILED, judge
from generators.errors import UserError
from tests.runner.fakes import EXECUTE, cell, cells, full

FAR = Claim(1 << 22, "far", "1", "today")


@pytest.fixture
def place(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def done(which: Any, value: float = 1.0, **more: Any) -> Record:
    return Record(which, "done", scores={"rms": value}, per_image={"rms": [value]}, **more)


def once(target: Any, name: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen right before the first call of a function."""
    real, calls = getattr(target, name), []

    def wrapped(*args: Any, **named: Any) -> Any:
        if not calls:
            calls.append(1)
            act()
        return real(*args, **named)

    monkeypatch.setattr(target, name, wrapped)


def test_the_folder_of_attempts_vanishes_while_one_is_made(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "attempts").mkdir()
    once(os, "mkdir", place._forget_attempts, monkeypatch)
    real, removed = os.mkdir, []

    def mkdir(path: Any, *rest: Any) -> None:  # its parent is made, and removed before it is used
        real(path, *rest)
        if Path(path).name == "attempts" and not removed:
            removed.append(path)
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with place.attempt(cell()) as own:
        assert removed and own.maps.is_dir() and own.adapters.is_dir()


def test_a_folder_that_vanishes_disturbs_no_sweep(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = place.maps / f".x.npz.{machine()}.{2**22 + 1}.tmp"
    left.write_text("")
    (place.folder / "attempts" / "h.far.1").mkdir(parents=True)
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("attempts"):
            raise FileNotFoundError(2, "gone", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    files.sweep_temporary(place.folder)
    assert not left.exists()


def test_a_link_whose_answer_was_lost_is_ours(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: Any, target: Any) -> None:
        real(source, target)
        raise FileExistsError(17, "the request was sent again", str(target))

    monkeypatch.setattr(os, "link", link)
    assert place.claim(cell()) is None
    monkeypatch.setattr(os, "link", real)
    owner = place.claim(cell())
    assert owner is not None and owner.mine


def test_containers_that_share_a_name_are_two_machines(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims.os, "readlink", lambda path: claims._FIRST)
    monkeypatch.setattr(claims.socket, "gethostname", lambda: "box")
    assert machine() == "box"
    monkeypatch.setattr(claims.socket, "gethostname", lambda: "localhost")
    assert machine().startswith("localhost-")
    monkeypatch.setattr(claims.socket, "gethostname", lambda: "box")
    monkeypatch.setattr(claims.os, "readlink", lambda path: "pid:[4026532001]")
    one = machine()
    path = place.claims / f"{cell().hash}.json"
    path.write_text(json.dumps(asdict(Claim(1 << 22, one, "1", "today"))))
    monkeypatch.setattr(claims.os, "readlink", lambda path: "pid:[4026532002]")
    assert one.startswith("box-") and machine() not in (one, "box")
    owner = place.claim(cell())  # nothing is known of a process with this number there
    assert owner is not None and owner.host == one and path.exists()


def attempted(place: Store, value: float) -> bool:
    before = place.stamp(cell())
    with place.attempt(cell()) as own:
        (own.maps / "x.npz").write_text(str(value))
        return place.publish(own, done(cell(), value, maps="maps/x.npz"), before)


def test_a_record_never_names_the_map_of_another_attempt(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempted(place, 1.0)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt  # as SIGKILL would: nothing after it runs

    monkeypatch.setattr(store, "sync_folder", die)  # the map is in its place, the record is not
    with pytest.raises(KeyboardInterrupt):
        attempted(place, 2.0)
    assert (place.maps / "x.npz").read_text() == "2.0" and place.read(cell()) is None
    monkeypatch.undo()
    assert attempted(place, 2.0)
    record = place.read(cell())
    assert record is not None and record.scores == {"rms": 2.0}


def test_a_disk_that_is_full_when_the_record_is_written_leaves_the_old_one(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempted(place, 1.0)
    monkeypatch.setattr(files, "_create", full)
    with pytest.raises(files.StoreError, match="no space left"):
        attempted(place, 2.0)
    record = place.read(cell())
    assert record is not None and record.scores == {"rms": 1.0}
    assert (place.maps / "x.npz").read_text() == "1.0"


def test_a_failure_never_replaces_a_number(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another runner records the cell after this one has looked."""

    def look(self: Runner, which: Any) -> bool:
        place.write(done(which))
        return False

    monkeypatch.setattr(Runner, "_recorded", look)
    outcome = compute([cell(0, "raise")], place, execute=EXECUTE)
    assert (outcome.status, outcome.computed) == (0, 1)
    assert outcome.records[0].scores == {"rms": 1.0}


def test_a_failure_that_is_deleted_meanwhile_is_computed(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(Record(cell(), "failed", "it broke"))
    real = runner.estimates

    def delete(found: Store) -> Any:
        place.path(cell()).unlink()
        return real(found)

    monkeypatch.setattr(runner, "estimates", delete)
    outcome = compute([cell()], place, execute=EXECUTE)
    assert (outcome.status, outcome.computed, len(outcome.records)) == (0, 1, 1)


class Ends(Silent):
    """Does something when the first cell has ended."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def finished(self, *_: Any, **__: Any) -> None:
        self.act()
        self.act = lambda: None


@pytest.mark.parametrize("recorded", [True, False])
def test_what_another_machine_gave_back_in_the_last_moment(
    place: Store, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at once more before a run says that something is left out."""
    monkeypatch.setattr("benchmarks.claims.Watch.alive", lambda self, owner: True)
    monkeypatch.setattr("benchmarks.loop._LOOK", 3600.0)
    path = place.claims / f"{cell(1).hash}.json"
    path.write_text(json.dumps(asdict(FAR)))

    def give_back() -> None:
        if recorded:
            place.write(done(cell(1)))
        path.unlink()

    outcome = compute([cell(0), cell(1)], place, execute=EXECUTE, workers=2, show=Ends(give_back))
    assert (outcome.status, outcome.elsewhere) == (0, {})
    assert [outcome.computed, len(outcome.records)] == [1 if recorded else 2, 2]


def test_a_runner_shows_that_it_is_alive_while_it_finds_everything_done(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulses: list[int] = []
    monkeypatch.setattr("benchmarks.loop.PULSE", 0.0)
    monkeypatch.setattr(Store, "pulse", lambda self: pulses.append(1))

    def all_at_once(found: Store) -> Any:  # another runner was faster
        for each in cells(12):
            place.write(done(each))
        return estimates(found)

    monkeypatch.setattr(runner, "estimates", all_at_once)
    outcome = compute(cells(12), place, execute=EXECUTE)
    assert (outcome.computed, len(outcome.records)) == (0, 12) and len(pulses) >= 12


def test_one_cell_that_another_machine_computes_is_an_error_in_words(
    place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.claims.Watch.alive", lambda self, owner: True)
    (place.claims / f"{cell().hash}.json").write_text(json.dumps(asdict(FAR)))
    with pytest.raises(UserError, match="it is at process 4194304 on far"):
        run(cell(), store=place.folder, execute=EXECUTE)


def test_two_who_add_cells_at_once_both_have_them(place: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store.suite

    def slowly(self: Store) -> Any:
        found = real(self)
        time.sleep(0.3)
        return found

    monkeypatch.setattr(Store, "suite", slowly)
    both = [threading.Thread(target=Store(place.folder).add_cells, args=([cell(n)],)) for n in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    suite = real(place)
    assert suite is not None and len(suite["cells"]) == 2


def test_a_cell_that_was_not_computed_again_is_not_verified() -> None:
    assert judge(done(cell()), None, 0.02).kind == FAILED


@pytest.mark.parametrize("reason", ["", "the layer is broken"])
def test_what_another_runner_recorded_is_shown_as_it_is(
    place: Store, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was faster with every cell: one that failed there is not shown as done."""
    shown: list[tuple[Any, str]] = []
    show = Silent()
    monkeypatch.setattr(show, "finished", lambda _, which, seconds, why="": shown.append((which, why)))

    def faster(found: Store) -> Any:
        place.write(done(cell(0)))
        place.write(Record(cell(1), "failed", reason))
        return estimates(found)

    monkeypatch.setattr(runner, "estimates", faster)
    outcome = compute([cell(0), cell(1)], place, execute=EXECUTE, show=show)
    assert outcome.computed == 0 and len(outcome.records) == 2
    assert sorted(shown, key=lambda each: each[1]) == [(cell(0), ""), (cell(1), reason or "failed")]
