"""Cells on a Ray cluster: the records of the local engine, whoever dies in between."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import Cell
from benchmarks.claims import alive
from benchmarks.runner import compute
from benchmarks.store import Store
from generators.errors import UserError
from tests.cluster.conftest import OBJECTS, wait_for
from tests.cluster.fakes import EXECUTE, Told, ask, at_work, begun_again, cells, computed, stopped
from tests.runner import fakes
from tests.runner.fakes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def outcomes(store: Path) -> dict[str, dict]:
    return {record.cell.hash: record.outcome() for record in Store(store).all()}


def local(which: list[Cell], store: Path) -> dict[str, dict]:
    """What the local engine makes of some cells."""
    assert compute(which, Store(store), execute=EXECUTE, workers=4).status == 0
    return outcomes(store)


def recorded(store: Path, count: int) -> Callable[[], bool]:
    return lambda: len(list((store / "records").glob("*.json"))) >= count


def nothing_left(store: Path) -> bool:
    """Neither claims, nor signs of life, nor attempts, nor half-written files."""
    kept = [*(store / "claims").glob("*.json"), *(store / "progress").glob("*.json"), *store.rglob("*.tmp")]
    attempts = list((store / "attempts").glob("*")) if (store / "attempts").exists() else []
    return not kept and not attempts


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Do something in another thread; what it raises is raised when the block is left."""
    raised: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:  # pytest.fail is no Exception
            raised.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield raised
    thread.join()
    if raised:
        raise raised[0]


def test_a_worker_and_a_node_die_and_no_cell_is_lost_or_recorded_twice(cluster, tmp_path: Path) -> None:
    which, store, told = cells(14, 1.0), tmp_path / "cluster", Told()
    node = cluster.add_node(num_cpus=2, object_store_memory=OBJECTS)
    raylet = node.all_processes["raylet"][0].process.pid
    killed: set[str] = set()

    def disturb() -> None:
        wait_for(recorded(store, 3))
        name, process = wait_for(lambda: stopped(store))
        killed.add(name)
        os.kill(process, signal.SIGKILL)
        wait_for(recorded(store, 7))
        name, process = wait_for(lambda: stopped(store, parent=raylet))
        killed.add(name)
        cluster.remove_node(node, allow_graceful=False)
        os.kill(process, signal.SIGKILL)

    with meanwhile(disturb):
        outcome = ask(which, store, cluster.address, workers=3, told=told)
    assert (outcome.status, outcome.computed) == (0, len(which))
    assert outcomes(store) == local(which, tmp_path / "local")
    lost = {cell.hash for cell in which for said in told.said if f": {cell}:" in said}
    assert killed <= begun_again(store) <= lost  # a task may die with its node before it begins
    assert 2 <= len(told.said) <= 3  # the cell of the worker, and the one or two of the node
    assert nothing_left(store)


def start_driver(store: Path, count: int, seconds: float, address: str, workers: int) -> subprocess.Popen:
    arguments = [str(store), str(count), str(seconds), address, str(workers)]
    command = [sys.executable, "-m", "tests.cluster.fakes", *arguments]
    return subprocess.Popen(command, cwd=ROOT)


def test_a_killed_driver_is_started_again_and_continues(cluster, tmp_path: Path) -> None:
    which, store = cells(12, 0.5), tmp_path / "cluster"
    cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
    driver = start_driver(store, 12, 0.5, cluster.address, 2)
    wait_for(recorded(store, 4))
    driver.kill()
    driver.wait()
    claimed = {path.stem for path in (store / "claims").glob("*.json")}
    assert claimed
    wait_for(lambda: not any(alive(pid) for _, pid, _ in computed(store)))  # Ray ends the tasks of the dead
    before = {path.name: path.stat().st_mtime_ns for path in (store / "records").glob("*.json")}
    assert len(before) < len(which)
    outcome = ask(which, store, cluster.address, workers=2)
    assert outcome.status == 0 and outcome.computed == len(which) - len(before)
    after = {path.name: path.stat().st_mtime_ns for path in (store / "records").glob("*.json")}
    assert before.items() <= after.items()  # what was done is what is there
    assert outcomes(store) == local(which, tmp_path / "local")
    assert begun_again(store) <= claimed
    assert nothing_left(store)


def test_a_cell_that_kills_its_worker_each_time_fails_and_the_others_go_on(cluster, tmp_path: Path) -> None:
    """And Ray writes nothing on standard output, which belongs to the user of the command."""
    code = (
        "import sys; from benchmarks.runner import compute; from benchmarks.store import Store\n"
        "from tests.runner.fakes import EXECUTE, cell\n"
        "which = [cell(0, 'killed'), cell(1, 'raise'), cell(2)]\n"
        "found = compute(which, Store(sys.argv[1]), execute=EXECUTE, engine='ray', address=sys.argv[2])\n"
        "sys.exit(found.status)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), cluster.address]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")
    killed, broken, good = (Store(tmp_path).read(fakes.cell(n, does)) for n, does in
                            enumerate(("killed", "raise", "best")))  # fmt: skip
    assert killed is not None and broken is not None and good is not None
    assert killed.status == "failed" and "WorkerCrashedError" in killed.reason and "4 times" in killed.reason
    assert broken.reason == "RuntimeError: the layer is broken"
    assert "line" in (tmp_path / "logs" / f"{broken.cell.hash}.log").read_text()  # the traceback
    assert good.status == "done"
    assert [name for name, *_ in computed(tmp_path)].count(killed.cell.hash) == 4
    assert nothing_left(tmp_path)


def test_a_cell_that_hangs_fails_and_the_others_go_on(cluster, tmp_path: Path) -> None:
    hanging, others = cells(3, 6000.0)[2], cells(2, 0.3)
    which = [hanging, *others]
    found = compute(
        which, Store(tmp_path), execute=EXECUTE, engine="ray", address=cluster.address, timeout=4.0
    )
    assert [record.status for record in found.records] == ["failed", "done", "done"]
    assert "no sign of life for 4 s in the phase 'pretending'" in found.records[0].reason
    assert nothing_left(tmp_path)


def test_a_cluster_without_what_a_cell_needs_computes_nothing(cluster, tmp_path: Path) -> None:
    """Then a node with a GPU comes: two cells share it, each in a process of its own, which holds memory."""
    which = cells(4, 0.3)
    options = {"execute": EXECUTE, "engine": "ray", "address": cluster.address, "device": "cuda"}
    with pytest.raises(UserError, match="no node of the cluster") as raised:
        compute(which, Store(tmp_path), gpus_per_cell=0.5, **options)
    assert "0.5 GPU" in raised.value.wrong and "1 CPU, 0 GPU" in raised.value.known
    assert computed(tmp_path) == [] and not list((tmp_path / "claims").glob("*.json"))
    node = cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=OBJECTS)
    try:
        together = tmp_path / "together"
        together.touch()

        def let_go() -> None:
            wait_for(lambda: len(at_work(tmp_path)) >= 2)
            time.sleep(1.0)  # for a third, which there must not be
            assert len(at_work(tmp_path)) == 2
            together.unlink()

        with meanwhile(let_go):
            outcome = compute(which, Store(tmp_path), gpus_per_cell=0.5, **options)
        assert (outcome.status, outcome.computed) == (0, 4)
        assert len({pid for _, pid, _ in computed(tmp_path)}) == 4
    finally:
        cluster.remove_node(node)
