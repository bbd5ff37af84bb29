"""`status`: what the files of a store tell, of runs at work and dead, here and elsewhere."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import state
from benchmarks.cell import Record, unsealed
from benchmarks.state import ALL_DONE, AT_WORK, NOBODY, SOME_FAILED, Reader
from benchmarks.store import Store
from generators.errors import UserError
from tests.cli.runs import HERE, claim, done, failed, look, own_claim, put, sign, status, text, twelve
from tests.cli.told import SOMEBODY
from tests.runner.fakes import cell, cells


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of twelve cells, the first four of which are done."""
    return twelve(tmp_path / "store")


def test_cells_that_nobody_is_at(store: Store) -> None:
    put(store, failed(cell(4), "RuntimeError: no"))
    found = look(store)
    assert (found.planned, found.done, found.failed, found.missing) == (12, 4, 1, 7)
    assert found.exit == NOBODY and found.seconds is not None and found.seconds > 0
    assert found.last is not None and 0 <= found.last < 60 and found.last_hour == 5
    result = status(store.folder)
    assert result.exit_code == NOBODY and "4 of 12 done, 1 failed, 7 missing" in result.output
    assert "nobody is at work: run it again, it continues" in result.output


def test_all_done(store: Store) -> None:
    for number in range(4, 12):
        put(store, done(cell(number)))
    assert look(store).exit == ALL_DONE and look(store).seconds == 0
    assert "twelve: 100 %, 12 of 12 done; all is done" in status(store.folder).output


def test_failures_are_told_with_reason_and_log(store: Store) -> None:
    for number in range(4, 12):
        put(store, done(cell(number)))
    four = UserError("rank 4096", "the layer has 64 columns", "at most 64", "lower the rank")
    put(store, failed(cell(4), str(four)))
    put(store, failed(cell(5), 'ValueError: {"status": "done"}\n more lines'))
    store.log(cell(4)).write_text("a traceback")
    result = status(store.folder)
    assert result.exit_code == SOME_FAILED
    first = f"  {cell(4)}: the layer has 64 columns (log: {store.log(cell(4))})"
    assert {first, f'  {cell(5)}: ValueError: {{"status": "done"}}'} <= set(result.output.splitlines())


def test_a_cell_at_work(store: Store) -> None:
    own_claim(store, cell(7))
    sign(store, cell(7), os.getpid())
    found = look(store)
    (work,) = found.works
    assert (work.model, work.intrinsic, work.method, work.seed) == (cell(7).model, "albedo", "linear", 0)
    assert (work.owner, work.share, work.phase, work.pid) == ("alive", 0.25, "training", os.getpid())
    assert work.running == pytest.approx(90, abs=3) and work.silent == pytest.approx(5, abs=3)
    assert (found.exit, found.workers, found.running, found.missing) == (AT_WORK, 1, 1, 7)
    result = status(store.folder)
    assert result.exit_code == AT_WORK
    assert f"{os.getpid()} on {HERE}, alive, heard of" in result.output and "25%" in result.output


@pytest.mark.parametrize(("still", "said"), [(30, "heard of"), (300, "no progress for 5 min")])
def test_alive_and_getting_on_are_two_things(store: Store, still: float, said: str) -> None:
    own_claim(store, cell(7))
    sign(store, cell(7), os.getpid(), moved=text(still))
    assert look(store).works[0].still == pytest.approx(still, abs=3)
    assert f"on {HERE}, alive, {said}" in status(store.folder).output


def test_a_claim_without_a_sign_of_life_names_the_cell_from_the_suite(store: Store) -> None:
    own_claim(store, cell(7))
    (work,) = look(store).works
    assert (work.model, work.owner, work.share, work.silent) == (cell(7).model, "alive", None, None)
    assert look(store).exit == AT_WORK


def test_a_dead_run(store: Store, dead: int) -> None:
    claim(store, cell(7), dead, started="1")
    sign(store, cell(7), dead, ago=200)
    found = look(store)
    assert (found.exit, found.workers, found.running, found.missing) == (NOBODY, 0, 0, 8)
    assert [work.owner for work in found.works] == ["dead"]
    assert f"{dead} on {HERE}, dead: run again, it continues" in status(store.folder).output


def test_a_sign_that_a_dead_worker_left_is_not_of_the_living_claim(store: Store, dead: int) -> None:
    own_claim(store, cell(7))
    sign(store, cell(7), dead, ago=500, share=0.9)
    (work,) = look(store).works
    assert (work.owner, work.share, work.pid) == ("alive", None, os.getpid())


def test_a_pid_that_was_given_out_again(store: Store) -> None:
    """A claim knows the start of its process, a sign does not: it counts as long as it is heard of."""
    claim(store, cell(7), os.getpid(), started="long ago")
    assert [work.owner for work in look(store).works] == ["dead"]
    sign(store, cell(7), os.getpid(), ago=500)
    assert [work.owner for work in look(store).works] == ["dead"]
    sign(store, cell(7), os.getpid(), ago=3)
    assert [work.owner for work in look(store).works] == ["alive"]


@pytest.mark.parametrize(("ago", "exit_status"), [(5, AT_WORK), (500, NOBODY)])
def test_on_another_machine(store: Store, ago: float, exit_status: int) -> None:
    claim(store, cell(7), 1, host="elsewhere", started="1", ago=1000)
    sign(store, cell(7), 1, host="elsewhere", ago=ago)
    found = look(store)
    assert found.works[0].owner == "unknown" and found.exit == exit_status
    said = "unknown, heard of 5 s ago" if ago == 5 else "unknown: no sign of life for 8 min"
    assert f"1 on elsewhere, {said}" in status(store.folder).output.replace("6 s", "5 s")


def test_a_living_process_that_says_nothing(store: Store) -> None:
    own_claim(store, cell(7))
    sign(store, cell(7), os.getpid(), ago=200)
    assert "alive: no sign of life for 3 min" in status(store.folder).output
    assert look(store).exit == AT_WORK


def test_a_sign_left_of_a_cell_that_is_done(store: Store, dead: int) -> None:
    sign(store, cell(0), dead)
    assert look(store).works == () and look(store).done == 4


def test_a_cell_that_is_computed_again(store: Store) -> None:
    own_claim(store, cell(0))
    found = look(store)
    assert (found.done, found.running, found.missing, found.exit) == (3, 1, 8, AT_WORK)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 3}', "\0\0"])
def test_torn_claims_and_signs(store: Store, content: str) -> None:
    (store.claims / f"{cell(7).hash}.json").write_text(content)
    (store.progress / f"{cell(8).hash}.json").write_text(content)
    found = look(store)
    assert {work.owner for work in found.works} <= {"unknown", "dead"} and found.missing >= 7
    assert found.works and found.exit in (NOBODY, AT_WORK)


def test_a_clock_that_was_set_back(store: Store) -> None:
    """Everything is dated two hours after now."""
    own_claim(store, cell(7))
    sign(store, cell(7), os.getpid(), since=text(-7200), at=text(-7200))
    (store.folder / "attempts" / f"{cell(9).hash}.elsewhere.7").mkdir(parents=True)
    for path in store.folder.rglob("*"):
        os.utime(path, (time.time() + 7200,) * 2)
    found = look(store)
    assert found.last == 0 and found.last_hour == 0 and found.ahead == pytest.approx(7200, abs=60)
    assert found.works[0].running == found.works[0].silent == 0
    assert found.seconds is not None and found.seconds >= 0
    assert "dated 2.0 h after now: the clock was set back" in status(store.folder).output


def test_records_of_more_than_an_hour_ago_are_not_of_the_last_hour(store: Store) -> None:
    for each in cells(3):
        os.utime(store.path(each), (time.time() - 4000,) * 2)
    assert look(store).last_hour == 1
    assert "1 records in the last hour, the last one " in status(store.folder).output


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: "",
        lambda content: content[:-2] + "  ",
        lambda content: content.replace('"hash": "', '"hash": "0', 1),
        lambda content: content.replace('"status": "done"', '"status": "perhaps"'),
    ],
    ids=["cut off", "empty", "end lost", "of another cell", "no such status"],
)
def test_corrupt_records_are_named(store: Store, damage: Callable[[str], str]) -> None:
    path = store.path(cell(0))
    path.write_text(damage(path.read_text()))
    found = look(store)
    assert (found.done, found.corrupt, list(found.broken)) == (3, 1, [cell(0).hash])
    result = status(store.folder)
    assert result.exit_code == NOBODY and f"  {path}: " in result.output and "1 corrupt" in result.output


def test_a_record_written_in_another_way_is_read_whole(store: Store) -> None:
    compact = json.dumps(json.loads(unsealed(failed(cell(5), "why").to_json())))
    store.path(cell(5)).write_text(compact)
    assert (look(store).failed, look(store).corrupt) == (1, 0)


def test_an_option_that_is_called_status_is_not_the_status(store: Store) -> None:
    strange = cell(0).with_(options={"status": "failed"})
    store.write_suite("strange", "Strange", "", [strange])
    put(store, done(strange))
    assert (look(store).done, look(store).failed) == (1, 0)


def test_records_of_cells_that_are_not_planned(store: Store) -> None:
    put(store, failed(cell(20), "not of this suite"))
    found = look(store)
    assert (found.other, found.failed, found.done) == (1, 0, 4)
    assert "1 records are of cells that the suite does not plan" in status(store.folder).output


def test_leftovers(store: Store, dead: int) -> None:
    left = {f"records/.x.json.{HERE}.{dead}.tmp", f"attempts/{cell(5).hash}.{HERE}.{dead}",
            f"attempts/{cell(6).hash}.else.where.77"}  # fmt: skip
    kept = {f"maps/.y.npz.{HERE}.{os.getpid()}.tmp", f"attempts/{cell(7).hash}.{HERE}.{os.getpid()}",
            f"attempts/{cell(8).hash}.elsewhere.77", "logs/.z.log.elsewhere.77.tmp"}  # fmt: skip
    for name in left | kept:
        (store.folder / name).mkdir(parents=True)
    old = store.folder / f"attempts/{cell(6).hash}.else.where.77"
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    assert {each.path for each in look(store).leftovers} == left
    result = status(store.folder)
    assert f"attempts/{cell(5).hash}.{HERE}.{dead}: its writer is dead" in result.output
    assert "of another machine, 3 days old" in result.output


def test_a_record_that_vanishes_between_listing_and_reading(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def vanish(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith(f"{cell(1).hash}.json"):
            os.unlink(path)
        return opened(path, *rest, **options)

    monkeypatch.setattr(state.os, "open", vanish)
    found = look(store)
    assert (found.done, found.missing, found.corrupt) == (3, 9, 0)


def test_a_store_that_is_written_all_the_time(store: Store) -> None:
    """Records, claims and signs come and go while it is read, and no look sees anything but whole cells."""
    over, looks = threading.Event(), 0

    def write() -> None:
        number = 4
        while not over.is_set():
            each = cell(number)
            assert store.claim(each) is None
            sign(store, each, os.getpid())
            store.write(done(each))
            (store.progress / f"{each.hash}.json").unlink()
            store.release(each)
            store.path(each).unlink()
            number = 4 + (number - 3) % 8

    writer = threading.Thread(target=write)
    writer.start()
    reader, end = Reader(store.folder), time.monotonic() + 1.5
    try:
        while time.monotonic() < end:
            found = reader.look()
            assert found.done + found.running + found.missing == 12
            assert not found.corrupt and not found.failed and found.missing <= 8
            looks += 1
    finally:
        over.set()
        writer.join()
    assert looks > 10


def test_no_more_records_are_parsed_than_durations_need(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_suite("many", "Many", "", cells(61))
    for each in cells(60):
        put(store, done(each))
    parsed: list[Path] = []
    whole = state.glance
    monkeypatch.setattr(state, "glance", lambda path: (parsed.append(path), whole(path))[1])
    monkeypatch.setattr(Store, "read", lambda *_: pytest.fail("a record was read whole"))
    reader = Reader(store.folder)
    assert reader.look().done == 60
    assert 0 < len(parsed) <= 3 * state.SAMPLE  # three models by one method


def test_what_has_not_changed_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(store.folder)
    reader.look()
    opened, heads = os.open, []
    monkeypatch.setattr(state.os, "open", lambda path, *rest: (heads.append(path), opened(path, *rest))[1])
    monkeypatch.setattr(Store, "suite", lambda *_: pytest.fail("suite.json was read again"))
    store_write = Record.to_json(failed(cell(2), "now it fails"))
    reader.look()
    assert heads == []
    replaced = store.path(cell(2)).with_name("new")
    replaced.write_text(store_write + "\n")
    os.replace(replaced, store.path(cell(2)))
    assert reader.look().failed == 1
    assert [Path(path).stem for path in heads] == [cell(2).hash]


def test_the_time_to_the_finish_is_by_workers_and_shares(store: Store) -> None:
    alone = look(store).seconds
    assert alone == pytest.approx(8 * 10.0)  # eight cells, like those that took ten seconds
    own_claim(store, cell(7))
    sign(store, cell(7), os.getpid(), share=0.5)
    assert look(store).seconds == pytest.approx(75)
    own_claim(store, cell(8))
    assert look(store).seconds == pytest.approx(75 / 2)


def test_a_model_that_nobody_here_knows_has_no_expected_time(store: Store) -> None:
    store.write_suite("strange", "Strange", "", [*cells(12), cell(0).with_(model="plugin.that.is.gone")])
    found = look(store)
    assert found.seconds is None and found.missing == 9
    assert status(store.folder).exit_code == NOBODY


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [folder, *folder.rglob("*")]
    }


def test_nothing_is_written(store: Store, dead: int) -> None:
    claim(store, cell(5), dead, started="1")
    sign(store, cell(6), dead)
    (store.folder / "attempts" / f"{cell(5).hash}.{HERE}.{dead}").mkdir(parents=True)
    before = snapshot(store.folder)
    for arguments in ([], ["--json"]):
        assert status(store.folder, *arguments).exit_code == NOBODY
    assert snapshot(store.folder) == before


def become_nobody(folder: Path) -> None:
    """Give up the right to write: root becomes another user, others take the right from the folder."""
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        os.seteuid(SOMEBODY)
    with pytest.raises(PermissionError):
        (folder / "probe").touch()


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no other user to become")
def test_a_store_that_cannot_be_written(unprivileged: Path) -> None:
    store = Store(unprivileged / "store")
    store.prepare()
    store.write_suite("some", "Some", "", cells(3))
    put(store, done(cell(0)))
    status(store.folder)  # imports what it needs, which another user may not read
    become_nobody(store.folder)
    result = status(store.folder)
    assert result.exit_code == NOBODY, result.output
    assert "some: 33 %, 1 of 3 done, 2 missing" in result.output


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no other user to become")
@pytest.mark.parametrize("closed", ["records", "suite.json", "claims"])
def test_a_store_that_cannot_be_read_says_so(unprivileged: Path, closed: str) -> None:
    store = Store(unprivileged / "store")
    store.prepare()
    store.write_suite("some", "Some", "", cells(3))
    status(store.folder)
    become_nobody(store.folder)
    if os.getuid() == 0:
        os.seteuid(0)
    (store.folder / closed).chmod(0)
    if os.getuid() == 0:
        os.seteuid(SOMEBODY)
    result = status(store.folder)
    assert result.exit_code == 2 and f"read {store.folder / closed}" in result.output
    assert "Permission denied" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("argument", ["nowhere", "twelve.toml"])
def test_what_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(argument).exit_code == 2
    result = status()
    assert result.exit_code == 2 and "there is no store with a suite.json" in result.output
    (tmp_path / "folder").mkdir()
    assert "intrinsic-bench run SUITE" in status("folder").output


def test_a_corrupt_suite(store: Store) -> None:
    (store.folder / "suite.json").write_text("{")
    result = status(store.folder)
    assert result.exit_code == 2 and "the file is corrupt" in result.output


def test_json(store: Store) -> None:
    own_claim(store, cell(7))
    put(store, failed(cell(5), "why"))
    found = json.loads(status(store.folder, "--json").output)
    assert (found["done"], found["missing"], found["exit"]) == (4, 6, AT_WORK)
    assert found["works"][0]["hash"] == cell(7).hash and found["failures"][0]["reason"] == "why"


def test_all_stores_in_one_table(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    store.folder.rename(tmp_path / "results" / "first")
    other = Store(tmp_path / "results" / "second")
    other.prepare()
    other.write_suite("second", "Second", "", cells(2))
    put(other, done(cell(0)))
    put(other, failed(cell(1), "why"))
    result = status()
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[1][:6] == ["results/first", "12", "4", "-", "-", "8"]
    assert rows[2][:6] == ["results/second", "2", "1", "1", "-", "-"]
    assert result.exit_code == NOBODY
    assert [each["exit"] for each in json.loads(status("--json").output)] == [NOBODY, SOME_FAILED]
    assert status("results/second").exit_code == SOME_FAILED


def test_a_store_at_a_url(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    own_claim(store, cell(7))
    sign(store, cell(7), os.getpid())
    url = f"file://{store.folder}"
    before = snapshot(store.folder)
    result = status(url)
    assert result.exit_code == AT_WORK and "4 of 12 done, 1 running, 7 missing" in result.output
    assert f"store {url}; read from its copy on this machine" in result.output
    assert snapshot(store.folder) == before
