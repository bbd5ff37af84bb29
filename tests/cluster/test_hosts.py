"""Two hosts whose cable is pulled in the middle of a run; they share a disk, and nothing else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.store import Store
from tests.cluster.conftest import HEALTH, OBJECTS, wait_for
from tests.cluster.fakes import LONELY, begun_again, cells
from tests.cluster.hosts import RAY, Host, impossible, two_hosts
from tests.cluster.test_ray import local, nothing_left, outcomes, recorded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
PORT = "6379"


@pytest.fixture
def hosts(folder_of_ray: str) -> Iterator[tuple[Host, Host]]:
    """A head of one CPU, and a node of one CPU on a host that will be lonely."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")
    if why := impossible():
        pytest.skip(why)
    with two_hosts(("head", f"node{LONELY}")) as (head, node):
        same = ["--num-cpus=1", f"--object-store-memory={OBJECTS}", "--disable-usage-stats", "--block"]
        first = [f"--node-ip-address={head.address}", f"--port={PORT}", f"--temp-dir={folder_of_ray}"]
        first += ["--include-dashboard=false", f"--system-config={json.dumps(HEALTH)}"]
        head.start(RAY, "start", "--head", *first, *same)
        wait_for(lambda: _answers(head))
        second = [f"--address={head.address}:{PORT}", f"--node-ip-address={node.address}"]
        node.start(RAY, "start", *second, *same)
        yield head, node


def _answers(head: Host) -> bool:
    code = f"import socket; socket.create_connection(({head.address!r}, {PORT}), 1)"
    return head.start(sys.executable, "-c", code, quiet=True).wait() == 0


def phases(store: Path) -> dict[str, str]:
    """Host and phase of the cells that are at work."""
    states = [json.loads(path.read_text()) for path in (store / "progress").glob("*.json")]
    return {state["host"]: state["phase"] for state in states}


def test_a_pulled_cable_loses_nothing_and_a_late_result_replaces_nothing(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    head, node = hosts
    which, store = cells(12, 0.5), tmp_path / "cluster"
    driver = head.start(
        sys.executable, "-m", "tests.cluster.fakes", str(store), "12", "0.5", f"{head.address}:{PORT}", "2"
    )
    wait_for(recorded(store, 3))
    assert driver.poll() is None
    (store / "cut").touch()
    wait_for(lambda: phases(store).get(node.name) == "cut off")
    (late,) = (path.stem for path in (store / "progress").glob("*.json")
               if json.loads(path.read_text())["host"] == node.name)  # fmt: skip
    node.cut()
    assert driver.wait(timeout=90) == 0
    record = store / "records" / f"{late}.json"
    before = record.stat()
    wait_for((store / "late").exists)
    wait_for(lambda: not list((store / "attempts").glob("*")))  # it has come back, with its result
    assert (record.stat().st_ino, record.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (store / "maps" / f"{late}.npz").read_text().startswith(head.name)  # the first one's, too
    assert begun_again(store) == {late}
    assert outcomes(store) == local(which, tmp_path / "local")
    assert [r.status for r in Store(store).all()] == ["done"] * 12
    wait_for(lambda: nothing_left(store), 10)
