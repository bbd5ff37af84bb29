"""Whose a temporary file, an attempt and a pulse are: a name never takes another machine's for ours."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.at_work import DEAD, UNKNOWN, leftovers
from benchmarks.cell import Record
from benchmarks.claims import is_gone, machine
from benchmarks.files import FORGOTTEN, sweep_temporary, temporary_name, writer_of
from benchmarks.store import Store
from tests.runner.fakes import cell

HOSTS = ("cluster", "node1.cluster", "node1", "json.cluster")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


@pytest.fixture(scope="module")
def dead() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def call(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have a name."""
    monkeypatch.setattr(claims.os, "readlink", lambda path: claims._FIRST)
    monkeypatch.setattr(claims.socket, "gethostname", lambda: host)
    assert machine() == host


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["a.json", "a.cluster", "a.node1.cluster", "a@cluster.png", "abc", "@"])
def test_only_what_this_machine_wrote_is_swept(
    host: str, name: str, tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts of which one ends, or begins, as another is called, and files that are called like them."""
    monkeypatch.setattr(os, "getpid", lambda: dead)
    for other in HOSTS:
        call(other, monkeypatch)
        temporary_name(tmp_path / name).touch()
    call(host, monkeypatch)
    before = set(tmp_path.iterdir())
    sweep_temporary(tmp_path)
    assert before - set(tmp_path.iterdir()) == {temporary_name(tmp_path / name)} and len(before) == len(HOSTS)


def test_what_an_earlier_version_wrote_is_swept_where_its_name_is_certain(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("cluster", monkeypatch)
    ours = [f".a.json.cluster.{dead}.tmp", f".a.b.npz.cluster.{dead}.tmp"]
    others = [
        f".a.json.node1.cluster.{dead}.tmp",
        f".a.cluster.{dead}.tmp",
        f".a.json.cluster.{os.getpid()}.tmp",
    ]
    for name in (*ours, *others, f".a.json.{dead}.tmp", ".tmp", "..tmp"):
        (tmp_path / name).touch()
    sweep_temporary(tmp_path)
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in others)


def test_the_attempt_of_another_machine_is_not_ours(
    store: Store, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("cluster", monkeypatch)
    attempts = store.folder / "attempts"
    for host in HOSTS:
        (attempts / f"{cell().hash}.{host}.{dead}").mkdir(parents=True)
    store.sweep()
    assert {path.name for path in attempts.iterdir()} == {
        f"{cell().hash}.{host}.{dead}" for host in HOSTS[1:]
    }


def test_status_and_sweep_agree(store: Store, dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: dead)
    for host in HOSTS[1::-1]:
        call(host, monkeypatch)
        temporary_name(store.path(cell())).touch()
    for path in store.records.iterdir():
        age(path, 2 * 86400)
    found = {left.path: left.owner for left in leftovers(store.folder, set(), time.time())}
    ours = f"records/{temporary_name(store.path(cell())).name}"
    assert found.pop(ours) == DEAD and list(found.values()) == [UNKNOWN]
    store.sweep()
    assert [left.owner for left in leftovers(store.folder, set(), time.time())] == [UNKNOWN]


@pytest.mark.parametrize("pid", ["", "x", "²", "-1", "9" * 30])
def test_what_is_no_process_is_nobodys(pid: str) -> None:
    assert not is_gone(f"{machine()}.{pid}")
    assert writer_of("a.json") == writer_of(".a.json") == writer_of(".json.tmp") == ""


def test_what_vanished_machines_left_is_forgotten_after_a_week(store: Store) -> None:
    """An attempt at a cell that has its number, if nobody is heard of any more, and pulses."""
    store.write(Record(cell(0), "done", scores={"rms": 1.0}))
    store.write(Record(cell(2), "done", scores={"rms": 1.0}))
    attempts = [store.folder / "attempts" / f"{cell(n).hash}.far.{n}" for n in range(3)]
    young = store.folder / "attempts" / f"{cell(0).hash}.far.77"
    pulses = [store.claims / f".far.{n}.pulse" for n in range(2)]
    for path in (*attempts, young):
        path.mkdir(parents=True)
    for path in (*attempts, *pulses):
        path.touch()
        age(path, FORGOTTEN + 60)
    pulses[1].touch()
    (store.progress / f"{cell(2).hash}.json").write_text('{"host": "far", "pid": 2}')
    store.sweep()
    assert set((store.folder / "attempts").iterdir()) == {attempts[1], attempts[2], young}
    assert list(store.claims.glob(".*.pulse")) == pulses[1:]


def test_an_old_attempt_at_a_broken_record_disturbs_no_sweep(store: Store) -> None:
    store.path(cell()).write_text("{")
    attempt = store.folder / "attempts" / f"{cell().hash}.far.1"
    attempt.mkdir(parents=True)
    age(attempt, FORGOTTEN + 60)
    store.sweep()
    assert attempt.exists()
