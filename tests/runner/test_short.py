"""The system kills a process for lack of memory: its cell goes out again, with fewer pictures at once."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import hands
from benchmarks.loop import LOST
from benchmarks.runner import compute
from benchmarks.store import Store
from tests.cluster.fakes import Told
from tests.runner.fakes import EXECUTE, ROOT, cell, computed
from tests.runner.test_runner import leftovers

LIMIT = 800 * 2**20  # bytes that runner and worker may have together: a worker with PyTorch takes 300 MB


def test_it_is_given_out_in_halves_until_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, count = Told(), itertools.count()
    monkeypatch.setattr(hands, "memory_kills", lambda: next(count))
    outcome = compute([cell(0, "too large"), cell(1)], Store(tmp_path), execute=EXECUTE, show=told)
    assert [record.status for record in outcome.records] == ["done", "done"]
    assert computed(tmp_path).count(cell(0, "too large").hash) == 3  # whole, in halves, in quarters
    assert all(said.startswith("given out again, with half as many pictures at once") for said in told.said)
    assert len(told.said) == 2 and not leftovers(tmp_path)


def test_it_fails_where_nothing_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    monkeypatch.setattr(hands, "memory_kills", lambda: next(count))
    (record,) = compute([cell(0, "killed")], Store(tmp_path), execute=EXECUTE).records
    assert record.status == "failed" and "SIGKILL; the system does that" in record.reason
    assert record.reason.endswith(f"{LOST + 1} times")


def test_who_is_killed_by_somebody_else_is_not_given_out_again(tmp_path: Path) -> None:
    (record,) = compute([cell(0, "killed")], Store(tmp_path), execute=EXECUTE).records
    assert record.status == "failed" and computed(tmp_path) == [cell(0, "killed").hash]


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this machine that may have LIMIT bytes; skips where none can be made."""
    for root, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        folder = Path(root, f"intrinsic-bench-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(LIMIT))
        except OSError:
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group for memory can be made here")


@pytest.mark.slow
def test_a_real_lack_of_memory(group: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from benchmarks.runner import compute; from benchmarks.store import Store\n"
        "from tests.cluster.fakes import Told; from tests.runner.fakes import EXECUTE, cell\n"
        "found = compute([cell(0, 'large')], Store(sys.argv[2]), execute=EXECUTE, show=Told())\n"
        "sys.exit(found.status)"
    )
    command = [sys.executable, "-c", code, str(group), str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "with half as many pictures at once" in ended.stderr
    assert 2 <= len(computed(tmp_path)) <= LOST + 1
