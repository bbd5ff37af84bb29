"""The lock of a build: a dead owner is replaced, a live one waited for, and there is never more than one."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from generators.ops import lock


@pytest.fixture
def said() -> list[str]:
    return []


def write_lock(path: Path, pid: int, start: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"host": lock.machine(), "pid": pid, "start": start, "since": time.time()})
    path.write_text(text)


def gone() -> int:
    """The pid of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("dead", ["ended", "pid given out again", "torn", "empty", "foreign and old"])
def test_a_dead_owner_is_replaced(tmp_path: Path, said: list[str], dead: str) -> None:
    path = tmp_path / "x.lock"
    if dead == "ended":
        write_lock(path, gone(), "whenever")
    elif dead == "pid given out again":
        write_lock(path, os.getppid(), "another start")
    elif dead == "foreign and old":
        path.write_text('{"host": "elsewhere", "pid": 1, "start": "", "since": 5.0}')
    else:
        path.write_text('{"host":' if dead == "torn" else "")
    with lock.held(path, said.append):
        assert getattr(lock.owner(path), "pid", None) == os.getpid()
        assert "taken over" in said[0] and str(path) in said[0]
    assert not path.exists() and len(said) == 1


def test_a_live_owner_is_waited_for(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "x.lock"
    with subprocess.Popen(["sleep", "60"]) as owner:
        write_lock(path, owner.pid, lock.process_start(owner.pid) or "")
        threading.Timer(0.5, owner.terminate).start()
        started = time.monotonic()
        with lock.held(path, said.append):
            assert time.monotonic() - started >= 0.4
    assert f"process {owner.pid}" in said[0] and "waiting" in said[0] and str(path) in said[0]
    assert "taken over" in said[1] and len(said) == 2  # it was ended with the lock in its hand


def test_containers_that_share_a_name_are_two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each numbers its processes on its own: what has ended here may be at work there."""
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "box")
    monkeypatch.setattr(lock.os, "readlink", lambda path: lock.OUTSIDE)
    assert lock.machine() == "box"
    monkeypatch.setattr(lock.os, "readlink", lambda path: "pid:[4026532001]")
    mine = lock.Owner.me()
    ended = replace(mine, pid=gone())
    assert mine.is_here() and not mine.is_dead() and ended.is_dead()
    monkeypatch.setattr(lock.os, "readlink", lambda path: "pid:[4026532002]")
    assert not ended.is_here() and not ended.is_dead() and mine.host != lock.Owner.me().host
    monkeypatch.setattr(lock.os, "readlink", lambda path: lock.OUTSIDE)
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "localhost")
    assert lock.machine().startswith("localhost-")


def test_patience_ends(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "x.lock"
    write_lock(path, os.getppid(), lock.process_start(os.getppid()) or "")
    with pytest.raises(lock.LockTimeout, match=str(os.getppid())), lock.held(path, said.append, patience=0.2):
        raise AssertionError("it was let in")
    assert path.exists()


def test_only_one_at_a_time_also_over_a_dead_lock(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "x.lock", [0], [0]
    code = f"""
        import importlib.util, sys, time
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("lock", {lock.__file__!r})  # without torch
        lock = sys.modules["lock"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(lock)
        trace = Path({str(tmp_path / "trace")!r})
        with lock.held(Path({str(path)!r}), lambda sentence: None):
            with trace.open("a") as file: file.write("in\\n")
            time.sleep(0.05)
            with trace.open("a") as file: file.write("out\\n")
    """
    write_lock(path, gone(), "whenever")
    run = [sys.executable, "-c", textwrap.dedent(code)]
    processes = [subprocess.Popen(run) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    for line in (tmp_path / "trace").read_text().split():
        inside[0] += 1 if line == "in" else -1
        most[0] = max(most[0], inside[0])
    assert most[0] == 1 and inside[0] == 0
