"""Two runners on two machines and one store: who is dead, who is slow, and who has which cell."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import claims, loop
from benchmarks.claims import Claim, Watch
from benchmarks.runner import Outcome, compute
from benchmarks.store import Store
from tests.cluster.fakes import Told
from tests.runner.fakes import EXECUTE, ROOT, cell, computed
from tests.runner.test_runner import leftovers

FAR = Claim(1 << 22, "far", "1", "today")
RUNNER = """
import socket, sys
from benchmarks import claims, loop
socket.gethostname = lambda: "far"
loop.PULSE = 0.2
from benchmarks.runner import compute
from benchmarks.store import Store
from tests.runner.fakes import EXECUTE, cell
found = compute([cell(0, "slow")], Store(sys.argv[1]), execute=EXECUTE)
sys.exit(found.status)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner is believed dead after two seconds."""
    monkeypatch.setattr(claims, "PULSE", 0.2)
    monkeypatch.setattr(claims, "LEASE", 2.0)
    monkeypatch.setattr(loop, "PULSE", 0.2)
    monkeypatch.setattr(loop, "LEASE", 2.0)
    monkeypatch.setattr(loop, "_LOOK", 0.1)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A runner on a machine called far, in the middle of a cell, with a group of processes of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path)], cwd=ROOT, start_new_session=True
    )
    end = time.monotonic() + 60
    while not computed(tmp_path):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(store: Path, told: Told | None = None) -> Outcome:
    return compute([cell(0, "slow"), cell(1)], Store(store), execute=EXECUTE, show=told)


def claim_for(store: Path, owner: Claim) -> Path:
    Store(store).prepare()
    path = Store(store).claims / f"{cell(0, 'slow').hash}.json"
    path.write_text(json.dumps(asdict(owner)))
    return path


def test_a_living_runner_of_another_machine_keeps_its_cell(far: subprocess.Popen, tmp_path: Path) -> None:
    outcome = ask(tmp_path)
    assert outcome.status == 3 and "far" in outcome.elsewhere[cell(0, "slow").hash]
    assert [record.cell for record in outcome.records] == [cell(1)]
    assert far.wait(timeout=60) == 0
    assert computed(tmp_path).count(cell(0, "slow").hash) == 1
    assert not leftovers(tmp_path) and not list((tmp_path / "claims").glob("*.pulse"))


def test_what_a_dead_runner_of_another_machine_had_claimed_is_taken_over(
    far: subprocess.Popen, tmp_path: Path
) -> None:
    os.killpg(far.pid, signal.SIGKILL)
    far.wait()
    told = Told()
    outcome = ask(tmp_path, told)
    assert (outcome.status, outcome.computed, outcome.elsewhere) == (0, 2, {})
    assert [said.partition(":")[0].partition(" ")[0] for said in told.said] == ["waiting", "taken"]
    assert not list((tmp_path / "claims").glob("*.json")) and not list((tmp_path / "claims").glob("*.pulse"))


def test_a_runner_that_was_only_slow_gives_nothing_back_that_is_another_s(
    far: subprocess.Popen, tmp_path: Path
) -> None:
    os.killpg(far.pid, signal.SIGSTOP)
    seen: list[str] = []

    def go_on() -> None:
        path = tmp_path / "claims" / f"{cell(0, 'slow').hash}.json"
        owner = Store(tmp_path).owner(path)
        while owner is None or not owner.mine:
            time.sleep(0.05)
            owner = Store(tmp_path).owner(path)
        os.killpg(far.pid, signal.SIGCONT)  # it finishes its cell while this runner is at it
        far.wait(timeout=60)
        owner = Store(tmp_path).owner(path)
        seen.append("kept" if owner is not None and owner.mine else "gone")

    thread = threading.Thread(target=go_on)
    thread.start()
    outcome = ask(tmp_path)
    thread.join()
    assert (outcome.status, far.returncode, seen) == (0, 0, ["kept"])
    assert len(list((tmp_path / "records").glob("*.json"))) == 2
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_cell_that_is_given_back_meanwhile(tmp_path: Path, recorded: bool) -> None:
    path = claim_for(tmp_path, FAR)

    def give_back() -> None:
        time.sleep(1.0)
        if recorded:
            there = Store(tmp_path / "there")
            compute([cell(0, "slow")], there, execute=EXECUTE)
            os.replace(there.path(cell(0, "slow")), Store(tmp_path).path(cell(0, "slow")))
        path.unlink()

    claims.LEASE = 60.0
    thread = threading.Thread(target=give_back)
    thread.start()
    outcome = ask(tmp_path)
    thread.join()
    assert (outcome.status, outcome.computed) == (0, 1 if recorded else 2)


def test_taking_from_one_leaves_the_claim_of_another(tmp_path: Path) -> None:
    path = claim_for(tmp_path, FAR)
    Store(tmp_path).take_from(cell(0, "slow"), Claim(7, "nearer", "1", "today"))
    assert path.exists()
    Store(tmp_path).release(cell(0, "slow"))
    assert path.exists()
    Store(tmp_path).take_from(cell(0, "slow"), FAR)
    assert not path.exists()


def at(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def test_a_pulse_is_judged_by_this_machine_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PULSE", 15.0)
    monkeypatch.setattr(claims, "LEASE", 180.0)
    text = ["1"]
    watch = Watch(lambda owner: text[0])

    def look(seconds: float) -> bool | None:
        monkeypatch.setattr(claims.time, "monotonic", at(seconds))
        return watch.alive(FAR)

    assert [look(0), look(10), look(180)] == [None, None, None]
    assert look(181) is False
    text[0] = "2"
    assert [look(182), look(200)] == [True, True]
    text[0] = ""  # that it is gone is no sign of life
    assert look(230) is None and look(363) is False
