"""`status --watch`, and a look at a real run that is at work and is killed."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.state import ALL_DONE, AT_WORK, NOBODY, Reader, State
from benchmarks.store import Store
from generators.errors import UserError
from tests.cli.runs import done, own_claim, put, status, twelve
from tests.runner.fakes import ROOT, cell


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of twelve cells, the first four of which are done."""
    return twelve(tmp_path / "store")


def test_watching_ends_when_all_is_done(store: Store) -> None:
    def finish() -> None:
        for number in range(4, 12):
            put(store, done(cell(number)))

    later = threading.Timer(0.4, finish)
    later.start()
    result = status(store.folder, "--watch", "0.1")
    later.join()
    assert result.exit_code == ALL_DONE
    lines = result.output.splitlines()
    assert "4 of 12 done" in lines[0] and "all is done" in lines[-1] and 2 <= len(lines) <= 10


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_watching_with_the_exit_status(
    store: Store, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def interrupt(seconds: float) -> None:
        own_claim(store, cell(7))  # what has happened since the last look counts
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.status.time.sleep", interrupt)
    result = status(store.folder, "--watch", *(["--json"] if as_json else []))
    assert result.exit_code == AT_WORK
    assert json.loads(result.output)["done"] == 4 if as_json else "4 of 12 done" in result.output


def test_what_follows_watch_may_be_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4, 12):
        put(store, done(cell(number)))
    assert status("--watch", store.folder).exit_code == ALL_DONE
    for seconds in ("0", "nan", "inf"):
        assert "no such number of seconds" in status(store.folder, f"--watch={seconds}").output
    assert "no such number of seconds" in status(store.folder, "--watch=soon").output


def run_in_terminal(*arguments: object) -> tuple[int, str]:
    """Exit status and output of a command whose output is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)], stdout=theirs, stderr=theirs,
        stdin=theirs, cwd=ROOT, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 4096):
            said += block
    except OSError:  # a terminal that nobody has open any more
        pass
    os.close(ours)
    return process.wait(), said.decode()


def test_watching_on_a_terminal(store: Store) -> None:
    for number in range(4, 12):
        put(store, done(cell(number)))
    exit_status, said = run_in_terminal("status", store.folder, "--watch")
    assert exit_status == ALL_DONE and "12 of 12 done; all is done" in said


# A real run


@pytest.mark.slow
def test_a_real_run_at_work_and_killed(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    command = [sys.executable, "-m", "tests.runner.fakes", str(folder), "600", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        found = until(folder, lambda seen: seen.done > 3 and seen.exit == AT_WORK and bool(seen.works))
        assert found.planned == 600 and found.works[0].owner == "alive"
        process.send_signal(signal.SIGSTOP)
        held = until(folder, lambda seen: bool(seen.works))
        assert held.exit == AT_WORK  # it stands still, and is alive
    finally:
        process.kill()
        process.wait()
    found = until(folder, lambda seen: seen.exit == NOBODY)
    assert 3 < found.done < 600 and {work.owner for work in found.works} <= {"dead"}


def until(folder: Path, wanted: Callable[[State], bool]) -> State:
    """The first look at a store that shows what is wanted."""
    end = time.monotonic() + 60
    while True:
        try:
            found = Reader(folder).look()
            if wanted(found):
                return found
        except UserError:
            assert not (folder / "suite.json").exists()
        assert time.monotonic() < end
        time.sleep(0.02)
