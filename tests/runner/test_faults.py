"""What can go wrong around a run: nothing lost, nothing double, nothing silently wrong.

Kills, stops, full and read-only disks, clocks, hangs, lost machines; torn records are in tests/fuzz.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import Cell, Record, worker
from benchmarks.engine import Message, Slot
from benchmarks.files import StoreError
from benchmarks.loop import LOST, Runner
from benchmarks.plan import Estimates
from benchmarks.progress import Silent
from benchmarks.runner import compute
from benchmarks.store import Store
from benchmarks.worker import Settings
from benchmarks.worker import compute as compute_here
from tests.runner.fakes import EXECUTE, cell, cells, computed, numbers
from tests.runner.test_runner import alive, children, leftovers, outcomes, start, wait_for

KILLS = 100


def whole(store: Path, which: list[Cell]) -> None:
    """A store holds every cell's record, once, as it must be, with its map, and nothing else."""
    records = {record.cell.hash: record for record in Store(store).all()}
    assert sorted(records) == sorted(c.hash for c in which)
    for c in which:
        assert records[c.hash].per_image == {"rms": numbers(c, 5)}
        assert (store / "maps" / f"{c.hash}.npz").read_bytes() == c.hash.encode() * 1000
    assert len(list((store / "maps").iterdir())) == len(which)
    assert leftovers(store) == []


# Kills.


def kill_somebody(process: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """SIGKILL to the runner, to workers, or to all at once; whether the runner was among them."""
    workers = children(process.pid)
    choices = [workers[:1], workers[1:], workers, [process.pid], [process.pid, *workers]]
    victims = choices[chance.randrange(len(choices))]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.pid in victims


def numbers_in(store: Path) -> dict[Path, bytes]:
    """Records that hold a number; that a worker was killed is replaced by what the next run finds."""
    found = {}
    for path in (store / "records").glob("*.json"):
        with suppress(FileNotFoundError):  # replaced in this moment
            found[path] = path.read_bytes()
    return {path: text for path, text in found.items() if json.loads(text)["status"] == "done"}


@pytest.mark.slow
def test_killed_a_hundred_times_at_random_moments(tmp_path: Path) -> None:
    """The runner, its workers, or both; numbers recorded before a kill are there, bit for bit, after it."""
    chance, which = random.Random(100), cells(KILLS)
    kills, runs = 0, 0
    while kills < KILLS:
        shutil.rmtree(tmp_path)  # a new store: there is always something to kill
        while kills < KILLS and len(list((tmp_path / "records").glob("*.json"))) < len(which) - 10:
            process, runs = start(tmp_path, len(which), 2), runs + 1
            wait_for(tmp_path, len(list((tmp_path / "records").glob("*.json"))) + 1, process)
            while process.poll() is None and kills < KILLS:
                time.sleep(chance.random() * 0.3)
                before = numbers_in(tmp_path)
                kills += 1
                ended = kill_somebody(process, chance)
                for path, text in before.items():
                    assert path.read_bytes() == text
                if ended:
                    break
            process.communicate()
        Store(tmp_path).all()  # raises if any record is not whole
    process = start(tmp_path, len(which), 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    whole(tmp_path, which)
    assert runs > 10


def test_a_killed_worker_leaves_nothing_of_its_cell(tmp_path: Path) -> None:
    """Its map was written before it died, and has no name in the store."""
    result = compute([cell(0, "map, then killed"), cell(1)], Store(tmp_path), execute=EXECUTE)
    assert [record.status for record in result.records] == ["failed", "done"]
    assert [path.stem for path in (tmp_path / "maps").iterdir()] == [cell(1).hash]
    assert leftovers(tmp_path) == []


# Stops.


def test_sigterm_stops_cleanly_and_the_run_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, 48, 2)
    wait_for(tmp_path, 3, process)
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not alive(workers)
    assert leftovers(tmp_path) == []
    before = outcomes(tmp_path)
    assert 3 <= len(before) < 48
    process = start(tmp_path, 48, 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    whole(tmp_path, cells(48))
    begun = Counter(computed(tmp_path))
    assert all(begun[name] == 1 for name in before)


# Disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_stops_the_run(small_disk: Path) -> None:
    compute(cells(3), Store(small_disk), execute=EXECUTE)
    before = outcomes(small_disk)
    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass
    with pytest.raises(StoreError, match="no space left"):
        compute(cells(12), Store(small_disk), execute=EXECUTE, workers=2)
    after = outcomes(small_disk)
    assert {name: after[name] for name in before} == before
    (small_disk / "other").unlink()
    assert compute(cells(12), Store(small_disk), execute=EXECUTE, workers=2).status == 0
    (small_disk / "computed.txt").unlink()
    whole(small_disk, cells(12))


def test_a_store_that_becomes_read_only_stops_the_run(small_disk: Path) -> None:
    compute(cells(3), Store(small_disk), execute=EXECUTE)
    before = outcomes(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            compute(cells(12), Store(small_disk), execute=EXECUTE)
        assert outcomes(small_disk) == before
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert compute(cells(12), Store(small_disk), execute=EXECUTE).status == 0
    whole(small_disk, cells(12))


# Clocks.

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* The wall clock is a year early whenever the file in JUMP is there; the monotonic one never is. */
static long early(void) { const char *f = getenv("JUMP"); return f && !access(f, F_OK) ? 31536000L : 0L; }
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, t);
    if (id == CLOCK_REALTIME) t->tv_sec -= early();
    return status;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
"""


def test_a_clock_that_jumps_back_disturbs_nothing(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: the clock cannot be turned back for one process")
    source, shim, jump, store = (tmp_path / name for name in ("shim.c", "shim.so", "jump", "store"))
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(shim), "JUMP": str(jump)}
    said = [sys.executable, "-c", "import time; print(time.time())"]
    jump.touch()
    early = float(subprocess.run(said, env=environment, capture_output=True, check=True).stdout)
    assert early < time.time() - 30_000_000  # the shim works
    jump.unlink()
    process = start(store, 48, 2, environment)
    for _ in range(6):  # to and fro while cells are computed
        wait_for(store, len(list((store / "records").glob("*.json"))) + 2, process)
        jump.unlink() if jump.exists() else jump.touch()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    whole(store, cells(48))
    assert len(computed(store)) == 48
    assert all(0 <= record.seconds["total"] < 100 for record in Store(store).all())


# Hangs.


def test_a_cell_that_hangs_fails_and_the_others_go_on(tmp_path: Path) -> None:
    which = [cell(0, "hang"), *cells(12)[1:]]
    began = time.monotonic()
    result = compute(which, Store(tmp_path), execute=EXECUTE, workers=2, timeout=3.0)
    assert time.monotonic() - began < 100  # it sleeps for 600
    assert [record.status for record in result.records] == ["failed", *["done"] * 11]
    failed = result.records[0]
    assert "no sign of life for 3 s in the phase 'pretending'" in failed.reason
    assert failed.log and "most recent call first" in (tmp_path / failed.log).read_text()  # where it hung
    assert leftovers(tmp_path) == []


def test_a_worker_gives_signs_of_life_in_a_phase_that_reports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say when it last came on, and end with the cell."""
    monkeypatch.setattr(worker, "LIFE", 0.1)
    store, which = Store(tmp_path), cell(0, "nap")
    store.prepare()
    path, seen = store.progress / f"{which.hash}.json", set()
    doing = threading.Thread(target=compute_here, args=(which, store, Settings(EXECUTE), lambda told: None))
    doing.start()
    while doing.is_alive():
        with suppress(FileNotFoundError):
            sign = json.loads(path.read_text())
            seen.add((path.stat().st_mtime_ns, sign["phase"], sign["moved"]))
        time.sleep(0.02)
    doing.join()
    napping = [moved for _, phase, moved in seen if phase == "pretending"]
    assert len(napping) >= 8 and len(set(napping)) == 1
    assert leftovers(tmp_path) == []


def test_a_slow_cell_that_says_so_is_not_ended(tmp_path: Path) -> None:
    result = compute([cell(0, "slow")], Store(tmp_path), execute=EXECUTE, timeout=2.0)
    assert [record.status for record in result.records] == ["done"]
    assert result.records[0].seconds["total"] > 3


# Lost machines, and who comes too late.


class Losing:
    """An engine of one slot whose machine is lost so many times, then computes in this process."""

    def __init__(self, store: Store, times: int) -> None:
        self.store, self.times, self.slot, self.given = store, times, Slot(0), 0

    @property
    def slots(self) -> list[Slot]:
        return [self.slot]

    def give(self, slot: Slot, cell: Cell) -> None:
        self.given += 1

    def listen(self, seconds: float) -> list[tuple[Slot, Message]]:
        assert self.slot.cell is not None
        if self.given <= self.times:
            return [(self.slot, {"kind": "lost", "reason": "the node n7 is gone"})]
        compute_here(self.slot.cell, self.store, Settings(EXECUTE), lambda message: None)
        return [(self.slot, {"kind": "done", "seconds": 0.1, "memory": None})]

    def end(self, slot: Slot, dump: bool = False) -> str:
        return ""

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("times", "status"), [(LOST, "done"), (LOST + 1, "failed")])
def test_a_cell_of_a_lost_machine_goes_out_again(
    times: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the fake writes it down
    store = Store(tmp_path)
    store.prepare()
    engine = Losing(store, times)
    runner = Runner(store, [cell()], {cell().hash: None}, engine, Estimates(), Silent(), Settings(EXECUTE))
    runner.run()
    record = store.read(cell())
    assert record is not None and record.status == status
    assert (engine.given, runner.computed) == (LOST + 1, 1)
    assert status == "done" or f"n7 is gone, {LOST + 1} times" in record.reason
    assert leftovers(tmp_path) == []


def test_who_comes_too_late_replaces_nothing(tmp_path: Path) -> None:
    """Two processes at one cell, as after a link was cut: the first record and its map stay."""
    store = Store(tmp_path)
    store.prepare()
    map_name = f"maps/{cell().hash}.npz"
    with store.attempt(cell()) as zombie:
        (zombie.folder / map_name).write_text("late")
        compute([cell()], store, execute=EXECUTE)
        first = {path: path.read_bytes() for path in (store.path(cell()), tmp_path / map_name)}
        late = Record(cell(), "done", scores={"rms": 99.0}, maps=map_name)
        assert not store.publish(zombie, late, before=None)
    assert {path: path.read_bytes() for path in first} == first
    assert leftovers(tmp_path) == []


def test_a_number_that_comes_late_is_better_than_a_failure(tmp_path: Path) -> None:
    """A machine was given up, and is heard of after all."""
    store = Store(tmp_path)
    store.prepare()
    with store.attempt(cell()) as slow:
        store.write(Record(cell(), "failed", "the node n7 is gone"))
        assert store.publish(slow, Record(cell(), "done", scores={"rms": 1.0}), before=None)
    record = store.read(cell())
    assert record is not None and record.status == "done"


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    store = Store(tmp_path)
    store.prepare()
    for pid in (ended.pid, os.getppid()):
        with store.attempt(cell()) as own:
            shutil.copytree(own.folder, f"{own.folder}".replace(f".{os.getpid()}", f".{pid}"))
        store.beat(cell(pid % 7), 0.5, "fit", *["2026-01-01T00:00:00Z"] * 2)
        path = store.progress / f"{cell(pid % 7).hash}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": pid}))
        path.rename(store.progress / f"{pid}.json")
    store.sweep()
    assert [path.suffix for path in (tmp_path / "attempts").iterdir()] == [f".{os.getppid()}"]
    assert [path.stem for path in store.progress.iterdir()] == [str(os.getppid())]
