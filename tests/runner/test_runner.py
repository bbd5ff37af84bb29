"""The runner: same results however many workers and however often it is killed; failures stay alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import Cell, Record, run
from benchmarks.files import StoreError
from benchmarks.runner import Outcome, compute, run_suite
from benchmarks.store import Store
from benchmarks.suite import Suite
from generators.errors import UserError
from tests.runner.fakes import EXECUTE, ROOT, cell, cells, computed, samplers

COUNT = 48  # cells of a run; ten kills leave some of them undone


def outcomes(store: Path) -> dict[str, dict]:
    return {record.cell.hash: record.outcome() for record in Store(store).all()}


def leftovers(store: Path) -> list[Path]:
    """What only cells that are being computed have."""
    found = [*store.rglob("*.tmp"), *(store / "claims").glob("*.json"), *(store / "progress").iterdir()]
    return [*found, *store.glob("attempts")]


def ask(which: list[Cell], store: Path, **options) -> Outcome:
    return compute(which, Store(store), execute=EXECUTE, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    store = tmp_path_factory.mktemp("undisturbed")
    records = run(cells(COUNT), store=store, execute=EXECUTE)
    assert [record.cell for record in records] == cells(COUNT)
    return outcomes(store)


def test_one_cell_in_one_record_out(tmp_path: Path) -> None:
    record = run(cell(), store=tmp_path, execute=EXECUTE)
    assert isinstance(record, Record)
    assert (record.status, record.cell) == ("done", cell())
    assert record.maps and (tmp_path / record.maps).is_file()
    assert record.seconds["total"] > 0.03
    assert Store(tmp_path).read(cell()) == record
    suite = Store(tmp_path).suite()
    assert suite is not None and [c["hash"] for c in suite["cells"]] == [cell().hash]
    run(cell(1), store=tmp_path, execute=EXECUTE)
    suite = Store(tmp_path).suite()
    assert suite is not None and len(suite["cells"]) == 2


def test_two_workers_give_what_one_gives(tmp_path: Path, undisturbed: dict[str, dict]) -> None:
    result = ask(cells(COUNT), tmp_path, workers=2)
    assert (result.status, result.computed) == (0, COUNT)
    assert outcomes(tmp_path) == undisturbed
    lines = [line.split() for line in (tmp_path / "computed.txt").read_text().splitlines()]
    assert sorted(line[0] for line in lines) == sorted(c.hash for c in cells(COUNT))
    assert {line[2] for line in lines} == {"1"}  # threads
    assert {line[1] for line in lines} == {str(os.getpid())}
    assert not list((tmp_path / "claims").glob("*.json"))


def test_no_two_workers_train_the_same(tmp_path: Path) -> None:
    """The first cell of a training ends before another of it begins; then all go on at once."""
    cells = samplers(4)
    found = compute(cells, Store(tmp_path), execute="tests.runner.fakes:execute_slowly", workers=2)
    assert (found.status, found.computed) == (0, 4)
    lines = [line.split() for line in (tmp_path / "times.txt").read_text().splitlines()]
    times = {name: (float(begun), float(ended)) for name, begun, ended in lines}
    first, *others = sorted(times.values())
    assert all(begun >= first[1] for begun, _ in others)


def test_what_is_done_is_not_computed_again(tmp_path: Path) -> None:
    ask(cells(3), tmp_path)
    assert ask(cells(5), tmp_path).computed == 2
    assert ask(cells(5), tmp_path).computed == 0
    assert len(computed(tmp_path)) == 5
    assert ask(cells(5), tmp_path, overwrite="always").computed == 5


def test_overwrite_says_what_becomes_of_failures(tmp_path: Path) -> None:
    which = [cell(0), cell(1, "raise")]
    assert ask(which, tmp_path).status == 3
    assert ask(which, tmp_path, overwrite="never").computed == 0
    again = ask(which, tmp_path)
    assert (again.computed, again.status) == (1, 3)
    assert [record.status for record in again.records] == ["done", "failed"]
    assert computed(tmp_path).count(cell(1, "raise").hash) == 2


REASONS = {
    "raise": "RuntimeError: the layer is broken",
    "user": "at most 64",
    "memory": "MemoryError",
    "nan": "Diverged: rms is nan",
    "killed": "killed by SIGKILL; the system does that when memory runs out",
    "segfault": "killed by SIGSEGV",
    "exit": "ended with exit status 5",
}


def test_a_failure_is_recorded_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    bad = [cell(number, does) for number, does in enumerate(REASONS)]
    good = cells(12)
    mixed = [c for pair in zip(bad, good, strict=False) for c in pair] + good[len(bad) :]
    result = ask(mixed, tmp_path, workers=2)
    assert result.status == 3
    assert [r.cell for r in result.records if r.status == "done"] == good
    for failed, text in zip(bad, REASONS.values(), strict=True):
        record = Store(tmp_path).read(failed)
        assert record is not None and record.status == "failed"
        assert text in record.reason
        assert not record.scores and not record.per_image
        assert record.generator["name"] == failed.model
        assert text in Store(tmp_path).log(failed).read_text()
    assert "line" in Store(tmp_path).log(cell(0, "raise")).read_text()  # the traceback
    assert "Segmentation fault" in Store(tmp_path).log(cell(5, "segfault")).read_text()
    assert leftovers(tmp_path) == []


def test_the_log_of_a_cell_is_named_in_its_record_and_holds_what_it_wrote(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    store.write(Record(cell(0, "talk"), "failed", "no power"))
    store.log(cell(0, "talk")).write_text("no power")
    for record in ask([cell(0, "talk"), cell(1), cell(2, "raise")], tmp_path).records:
        assert record.log == f"logs/{record.cell.hash}.log"
        text = (tmp_path / record.log).read_text()
        assert text.startswith(str(record.cell))
        assert " s  pretending" in text  # the phases
        assert "no power" not in text  # of the attempt before
        assert ("printed" in text, "by a C library" in text) == (record.cell == cell(0, "talk"),) * 2
        assert ("the layer is broken" in text) == (record.status == "failed")


def test_an_unknown_execute_fails_cells_not_the_run(tmp_path: Path) -> None:
    result = compute([cell()], Store(tmp_path), execute="tests.runner.nothing:execute")
    assert "ModuleNotFoundError" in result.records[0].reason


def test_a_corrupt_record_stops_a_run_before_it_begins(tmp_path: Path) -> None:
    ask(cells(2), tmp_path)
    path = Store(tmp_path).path(cell(0))
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="corrupt"):
        ask(cells(5), tmp_path, overwrite="failed")
    assert len(computed(tmp_path)) == 2
    assert len(path.read_text()) == 100
    path.unlink()
    assert ask(cells(5), tmp_path).status == 0


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    ask(cells(3), tmp_path)
    before = outcomes(tmp_path)
    with pytest.raises(StoreError) as raised:
        ask([cell(0, "full"), *cells(12)], tmp_path)
    assert "no space left" in raised.value.wrong
    assert "run the same command again" in raised.value.todo
    assert {h: o for h, o in outcomes(tmp_path).items() if h in before} == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list((tmp_path / "claims").glob("*.json"))
    assert ask(cells(12), tmp_path).status == 0


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"workers": 0}, "at least 1"),
        ({"overwrite": "alway"}, "did you mean 'always'"),
        ({"device": "gpu"}, "did you mean 'cpu'"),
        ({"device": "cuda:64"}, "CUDA devices here"),
        ({"gpus_per_cell": 0.5}, "add: --engine ray"),
    ],
)
def test_bad_arguments_are_refused(options: dict, fact: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=fact):
        ask(cells(1), tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_a_misspelled_option_is_refused_before_there_is_a_store(tmp_path: Path) -> None:
    suite = Suite("one", "One", "?", tuple(cells(2)))
    for what in (cell(0), cells(2), suite):
        with pytest.raises(UserError, match="did you mean 'workers'"):
            run(what, store=tmp_path / "store", wokers=3)  # type: ignore[call-overload]
    assert not (tmp_path / "store").exists()


def test_a_store_belongs_to_one_suite(tmp_path: Path) -> None:
    run_suite(Suite("one", "One", "?", tuple(cells(2))), tmp_path, execute=EXECUTE)
    with pytest.raises(UserError, match="holds the suite 'one'"):
        run_suite(Suite("two", "Two", "?", tuple(cells(2))), tmp_path, execute=EXECUTE)


def test_only_computes_a_part_and_plans_all(tmp_path: Path) -> None:
    suite = Suite("one", "One", "?", tuple(cells(12)))
    result = run_suite(suite, tmp_path, only="*/depth/*", execute=EXECUTE)
    assert result.computed == 3
    planned = Store(tmp_path).suite()
    assert planned is not None and len(planned["cells"]) == 12


def start(
    store: Path, count: int, workers: int, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.runner.fakes", str(store), str(count), str(workers)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, env=environment)


def wait_for(store: Path, records: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many records are there; a run that ends first shows why."""
    deadline = time.monotonic() + 300
    while len(list((store / "records").glob("*.json"))) < records:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_workers_go_when_their_runner_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, COUNT, 2)
    wait_for(tmp_path, 2, process)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 100
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(workers)


def test_two_runners_share_a_store(tmp_path: Path, undisturbed: dict[str, dict]) -> None:
    processes = [start(tmp_path, COUNT, 1), start(tmp_path, COUNT, 1)]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    begun = computed(tmp_path)
    assert len(begun) == len(set(begun)) == COUNT
    owners = {line.split()[1] for line in (tmp_path / "computed.txt").read_text().splitlines()}
    assert owners == {str(process.pid) for process in processes}
    assert outcomes(tmp_path) == undisturbed
