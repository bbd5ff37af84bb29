"""Stores at URLs: what is whole there, who was first, and a connection that breaks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFile

from benchmarks import Cell, Record, place, remote
from benchmarks.claims import Claim
from benchmarks.files import StoreError
from benchmarks.place import Place
from benchmarks.remote import RemoteStore
from benchmarks.runner import compute
from benchmarks.store import Store, store_at
from benchmarks.worker import Settings
from benchmarks.worker import compute as compute_here
from generators.errors import UserError
from tests.cluster.conftest import wait_for
from tests.cluster.fakes import begun_again, computed
from tests.runner.fakes import EXECUTE, ROOT, cell, cells

HERE = Settings(EXECUTE)


class Flaky(LocalFileSystem):
    """A disk whose connection breaks: `broken(n)` says whether the n-th transfer fails."""

    protocol = "flaky"
    cachable = False
    transfers = 0
    broken = staticmethod(lambda number: False)

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).replace("flaky://", "file://"))

    def _count(self) -> bool:
        Flaky.transfers += 1
        return Flaky.broken(Flaky.transfers)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if self._count():
            raise ConnectionResetError("the connection is broken")
        super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(self, path, name, **kwargs):
        if self._count():
            raise ConnectionResetError("the connection is broken")
        super().put_file(path, name, **kwargs)


fsspec.register_implementation("flaky", Flaky)


@pytest.fixture(autouse=True)
def no_time_to_lose(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(place, "_PAUSE", 0.0)
    monkeypatch.setattr(remote, "_FRESH", 0.0)
    Flaky.transfers, Flaky.broken = 0, staticmethod(lambda number: False)
    yield


def make(store: Store, which: Cell) -> Record:
    """Compute a cell in this process."""
    return compute_here(which, store, HERE, lambda message: None)


def files(folder: Path) -> list[str]:
    """What is below a folder but folders, by kind: the names of what records name are arbitrary."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_one_machine_records_another_reads(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    here, there = RemoteStore(url, tmp_path / "here"), RemoteStore(url, tmp_path / "there")
    here.prepare()
    here.write_suite("cells", "Cells", "", cells(2))
    record = make(here, cell())
    assert there.stamp(cell()) == here.stamp(cell()) is not None
    assert there.stamp(cell(1)) is None
    found = there.read(cell())
    assert found is not None and found.outcome() == record.outcome()
    assert there.all() == here.all() == [found]
    suite = there.suite()
    assert suite is not None and len(suite["cells"]) == 2
    assert found.maps is not None and not (there.folder / found.maps).exists()
    there.pull("maps", "logs")
    assert (there.folder / found.maps).read_bytes() == cell().hash.encode() * 1000
    assert (here.folder / found.maps).read_bytes() == cell().hash.encode() * 1000
    assert there.log(cell()).is_file()
    assert not list((here.folder / "attempts").glob("*"))
    assert here.place.list("progress") == here.place.list("claims") == {}


def test_a_store_at_a_url_is_filled_by_workers_and_not_filled_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_FRESH", 3600.0)  # what workers record is seen nevertheless
    place = store_at(f"file://{tmp_path}/there")
    assert isinstance(place, RemoteStore) and place.folder.is_relative_to(tmp_path / "cache")
    result = compute(cells(6), place, execute=EXECUTE, workers=2)
    assert (result.status, result.computed, len(result.records)) == (0, 6, 6)
    again = compute(cells(6), store_at(f"file://{tmp_path}/there"), execute=EXECUTE)
    assert (again.computed, [r.cell for r in again.records]) == (0, cells(6))
    elsewhere = RemoteStore(f"file://{tmp_path}/there", tmp_path / "elsewhere")
    assert {r.cell.hash: r.outcome() for r in elsewhere.all()} == {
        r.cell.hash: r.outcome() for r in result.records
    }
    kinds = [name.split("/")[0] for name in files(tmp_path / "there")]
    assert {kind: kinds.count(kind) for kind in kinds} == {"records": 6, "maps": 6, "logs": 6}


def test_a_failure_is_recorded_there_with_its_log_and_then_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    url, bad = f"file://{tmp_path}/there", cell(0, "raise")
    assert compute([bad], store_at(url), execute=EXECUTE).status == 3
    elsewhere = RemoteStore(url, tmp_path / "elsewhere")
    elsewhere.prepare()
    failed, stamp = elsewhere.read(bad), elsewhere.stamp(bad)
    assert failed is not None and failed.reason == "RuntimeError: the layer is broken"
    elsewhere.pull("logs")
    text = elsewhere.log(bad).read_text()
    assert "Traceback" in text and "pretending" in text  # of the runner, and of the worker
    with elsewhere.attempt(bad) as own:
        own.maps.joinpath("x.npz").write_bytes(b"1")
        done = Record(bad, "done", scores={"rms": 1.0}, maps="maps/x.npz")
        assert elsewhere.publish(own, done, stamp)
    now = store_at(url).read(bad)
    assert now is not None and now.status == "done" and elsewhere.stamp(bad) != stamp


def test_the_first_of_two_stays_and_the_second_leaves_nothing(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    stores = [RemoteStore(url, tmp_path / name) for name in ("one", "two")]
    before = [store.stamp(cell()) for store in stores]
    won = []
    for number, store in enumerate(stores):
        store.prepare()
        with store.attempt(cell()) as own:
            (own.maps / "x.npz").write_text(str(number))
            (own.adapters / "x").mkdir()
            (own.adapters / "x" / "weights").write_text(str(number))
            made = Record(
                cell(), "done", scores={"rms": 0.5 + number}, maps="maps/x.npz", adapter="adapters/x"
            )
            won.append(store.publish(own, made, before[number]))
    assert won == [True, False]
    assert len(files(tmp_path / "there")) == 3
    fresh = RemoteStore(url, tmp_path / "three")
    record = fresh.read(cell())
    assert record is not None and record.scores == {"rms": 0.5}
    assert record.maps is not None and fresh.fetch(record.maps).read_text() == "0"
    assert record.adapter is not None and (fresh.fetch(record.adapter) / "weights").read_text() == "0"


def test_what_is_computed_again_replaces_record_and_files(tmp_path: Path) -> None:
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    first, stamp = make(store, cell()), store.stamp(cell())
    make(store, cell())  # overwrite: before is what stands
    assert store.stamp(cell()) != stamp
    names = files(tmp_path / "there")
    assert len(names) == 3 and first.maps not in names
    record = store.read(cell())
    assert record is not None and record.maps in names


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_one_of_many_creates_a_file(scheme: str, tmp_path: Path) -> None:
    """Threads on a disk; one after the other in memory, which is no file system for threads."""
    places = [Place(f"{scheme}://{tmp_path}/there") for _ in range(8)]
    with ThreadPoolExecutor(8 if scheme == "file" else 1) as pool:
        for number in range(20):
            name = f"claims/{number}.json"
            won = list(pool.map(lambda i, n=name: places[i].create(n, str(i).encode()), range(8)))
            assert sum(won) == 1
            assert places[0].get(name) == str(won.index(True)).encode()


def test_wherever_a_connection_breaks_no_record_names_what_is_not_there(tmp_path: Path) -> None:
    """Every transfer in turn fails for good; then the same command completes it."""
    transfers = 0
    for number in range(1, 100):
        there = tmp_path / str(number)
        store = RemoteStore(f"flaky://{there}", tmp_path / f"mirror{number}")
        Flaky.transfers, Flaky.broken = 0, staticmethod(lambda n, first=number: n >= first)
        try:
            make(store, cell())
        except StoreError as error:
            assert "connection is broken" in error.wrong
        else:
            transfers = number - 1
            break
        for path in (there / "records").glob("*.json"):
            record = Record.from_json(path.read_text())
            assert record.maps is not None and (there / record.maps).exists()
        Flaky.broken = staticmethod(lambda n: False)
        if store.read(cell()) is None:
            make(store, cell())
        found = RemoteStore(f"file://{there}", tmp_path / f"fresh{number}").read(cell())
        assert found is not None and found.status == "done"
    assert transfers >= 3  # map, record, log


def test_a_connection_that_breaks_now_and_then_is_survived(tmp_path: Path) -> None:
    Flaky.broken = staticmethod(lambda number: number % 3 != 0)
    store = RemoteStore(f"flaky://{tmp_path}/there", tmp_path / "here")
    make(store, cell())
    assert store.read(cell()) is not None and Flaky.transfers >= 9


def test_errors_of_a_file_systems_own_are_errors_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore's are no OSError: without rights a run says so, and a lost sign of life ends nothing."""

    class NoCredentials(Exception):
        """As botocore.exceptions.NoCredentialsError."""

    def refuse(*_: object, **__: object) -> None:
        raise NoCredentials("unable to locate credentials")

    store = RemoteStore(f"flaky://{tmp_path}/there", tmp_path / "here")
    for name in ("pipe_file", "ls", "cat_file"):
        monkeypatch.setattr(Flaky, name, refuse)
    for call in (store.prepare, lambda: store.claim(cell()), lambda: store.pulse_of(Claim.own())):
        with pytest.raises(StoreError, match="NoCredentials: unable to locate credentials") as raised:
            call()
        assert "look at the connection and your rights" in raised.value.todo
    store.pulse()
    store.beat(cell(), 0.5, "fit", "then", "then")


def test_an_answer_that_is_lost_is_no_other_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim was written, the connection broke before that was known: it is still ours."""
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    write, lost = Place._write, []

    def write_and_break(place: Place, name: str, data: bytes, mode: str) -> None:
        write(place, name, data, mode)
        if not lost:
            lost.append(name)
            raise ConnectionResetError("the connection is broken")

    monkeypatch.setattr(Place, "_write", write_and_break)
    assert store.claim(cell()) is None and lost
    assert store.claim(cell()) is not None  # and now it is taken


def test_whoever_takes_a_claim_sees_what_its_last_owner_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However lately it was looked: else the cell would be computed twice."""
    monkeypatch.setattr(remote, "_FRESH", 3600.0)
    url = f"file://{tmp_path}/there"
    here, there = RemoteStore(url, tmp_path / "here"), RemoteStore(url, tmp_path / "there_mirror")
    assert here.stamp(cell()) is None
    assert there.claim(cell()) is None and here.claim(cell()) is not None
    make(there, cell())
    there.release(cell())
    assert here.claim(cell()) is None
    assert here.stamp(cell()) is not None


def test_who_is_killed_right_after_the_record_has_left_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a record names is there before it is, the log too: nobody would bring it later."""
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    real = RemoteStore._enter

    def enter_and_die(self: RemoteStore, *arguments: Any) -> bool:
        assert real(self, *arguments)
        monkeypatch.setattr(Place, "put", None)  # it writes nothing any more
        raise KeyboardInterrupt

    monkeypatch.setattr(RemoteStore, "_enter", enter_and_die)
    store.prepare()
    store.log(cell()).write_text("what a worker writes here while it is at it\n")
    with pytest.raises(KeyboardInterrupt), store.attempt(cell()) as own:
        store.publish(own, Record(cell(), "done", scores={"rms": 1.0}), None)
    kinds = [name.split("/")[0] for name in files(tmp_path / "there")]
    assert sorted(kinds) == ["logs", "records"]


def test_the_log_of_who_was_killed_is_kept_and_one_of_before_is_not(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    here, there = RemoteStore(url, tmp_path / "here"), RemoteStore(url, tmp_path / "elsewhere")
    there.append_log(cell(), "of an earlier run\n")
    here.pull("logs")
    here.forget_log(cell())
    assert not here.log(cell()).exists() and here.place.list("logs") == {}
    here.log(cell()).write_text("of a worker that was killed\n")  # it never came to upload it
    here.append_log(cell(), "why\n")
    there.pull("logs")
    assert there.log(cell()).read_text() == "of a worker that was killed\nwhy\n"


def test_a_cell_asks_for_its_own_record_and_lists_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of n cells would list n records."""
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    store.prepare()
    listed: list[str] = []
    real = Place.list
    monkeypatch.setattr(Place, "list", lambda self, folder: listed.append(folder) or real(self, folder))
    assert store.claim(cell()) is None and store.stamp(cell()) is None
    make(store, cell())
    store.release(cell())
    assert store.stamp(cell()) is not None and "records" not in listed
    assert store.stamps(cells(3)) == {c.hash: store.stamp(c) for c in cells(3)}
    assert listed.count("records") == 1


def test_claims_of_the_dead_are_taken_over_if_they_died_here(tmp_path: Path) -> None:
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    code = (
        "import sys; from benchmarks.store import store_at; from tests.runner.fakes import cell;"
        "from benchmarks.remote import RemoteStore;"
        "print(RemoteStore(*sys.argv[1:]).claim(cell()))"
    )
    for mirror in ("here", "another"):
        arguments = [sys.executable, "-c", code, store.url, str(tmp_path / mirror)]
        said = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
        assert said.stdout == "None\n"  # its own now; then it ends without giving it back
    store.sweep()
    assert store.place.list("claims") == {}
    assert store.claim(cell()) is None
    mine = store.owner(store.claims / f"{cell().hash}.json")
    assert mine is not None and mine.pid == os.getpid()
    far = replace(mine, host="another-host", pid=1, started="1")
    store.place.put(f"claims/{cell(1).hash}.json", json.dumps(asdict(far)).encode())
    assert store.claim(cell(1)) == far
    store.sweep()
    assert len(store.place.list("claims")) == 2


def test_what_a_killed_writer_left_half_written_is_swept(tmp_path: Path) -> None:
    """In a folder that is called by its URL; an object store has nothing of the kind."""
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    code = (
        "import os, sys; from benchmarks.place import Place\n"
        "place = Place(sys.argv[1]); place.files.mv = os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "place.put('records/a.json', b'x')"
    )
    killed = subprocess.run([sys.executable, "-c", code, store.url], cwd=ROOT, check=False)
    assert killed.returncode == -9 and len(files(tmp_path / "there")) == 1
    store.sweep()
    assert files(tmp_path / "there") == []


@pytest.mark.slow
def test_two_machines_killed_and_started_again_share_the_work(tmp_path: Path) -> None:
    """Two runners with a mirror each, one killed in between: every cell once, but for those it was at."""
    url, begun = f"file://{tmp_path}/there", tmp_path / "begun"
    begun.mkdir()
    which = "[cell(n, '0.2') for n in range(20)]"
    code = (
        "import sys; from benchmarks.runner import compute; from benchmarks.store import store_at;"
        "from tests.runner.fakes import cell;"
        f"sys.exit(compute({which}, store_at(sys.argv[1]), execute='tests.cluster.fakes:execute',"
        "workers=2).status)"
    )

    def start(name: str) -> subprocess.Popen:
        known = {"INTRINSIC_BENCH_CACHE": str(tmp_path / name), "INTRINSIC_BENCH_BEGUN": str(begun)}
        return subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, env=os.environ | known)

    first, second = start("one"), start("two")
    wait_for(lambda: len(list((tmp_path / "there" / "records").glob("*.json"))) >= 5)
    first.kill()
    first.wait()
    third = start("one")
    assert (second.wait(timeout=60), third.wait(timeout=60)) == (0, 0)
    names = [name for name, *_ in computed(begun)]
    assert len(set(names)) == 20 and len(begun_again(begun)) <= 2  # what the killed one was at
    kinds = [name.split("/")[0] for name in files(tmp_path / "there")]
    assert kinds.count("records") == kinds.count("logs") == 20 <= kinds.count("maps") <= 22
    assert not {"claims", "progress"} & set(kinds)


@pytest.mark.parametrize("url", ["nosuch://bucket/folder", "s3://bucket/folder"])
def test_a_scheme_that_cannot_be_had_is_named(url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError) as raised:
        RemoteStore(url, tmp_path)
    assert url in raised.value.asked and "s3fs" in str(raised.value)


@pytest.mark.parametrize("inside", ["/../../../escaped.txt", "/a/../../../../x", "/{absolute}", "/.."])
def test_a_name_that_leads_out_of_the_mirror_is_refused(inside: str, tmp_path: Path) -> None:
    """An object store takes any text as a name, and whoever writes there any name."""
    store = RemoteStore(f"memory://{tmp_path.name}", tmp_path / "mirror" / "here")
    store.place.put("adapters/h-1/a.txt", b"inside")
    key = store.place._at("adapters/h-1") + inside.format(absolute=tmp_path / "escaped.txt")
    store.place.files.store[key] = MemoryFile(store.place.files, key, b"escaped")
    with pytest.raises(StoreError, match="leads out of") as raised:
        store.fetch("adapters/h-1")
    assert store.url in raised.value.asked and "a.txt" not in raised.value.wrong
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [] and list((tmp_path / "mirror/here/adapters").iterdir()) == []
