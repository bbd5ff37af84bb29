"""The store: whole files or none, corrupt ones named, claims of the dead noticed."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import benchmarks.files
from benchmarks.cell import Record
from benchmarks.files import StoreError, atomic, atomic_folder, temporary_name
from benchmarks.store import Claim, Store
from generators.errors import UserError
from tests.runner.fakes import cell, full


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def record(number: int = 0, score: float = 1.5) -> Record:
    return Record(cell(number), "done", scores={"rms": score}, per_image={"rms": [score]})


def leftovers(store: Store) -> list[Path]:
    return list(store.folder.rglob("*.tmp"))


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    path = store.write(record())
    assert path.name == f"{cell(0).hash}.json"
    assert store.read(cell(0)) == record()
    assert store.read(cell(1)) is None
    assert store.all() == [record()]
    assert not leftovers(store)


def test_a_store_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").all() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"seed": 0', '"seed": 7'),
        lambda text: text.replace('"size"', '"sizes"'),
    ],
    ids=["truncated", "empty", "no record", "another cell", "unknown field"],
)
def test_a_corrupt_record_is_named_and_kept(store: Store, damage) -> None:
    path = store.write(record())
    damaged = damage(path.read_text())
    path.write_text(damaged)
    with pytest.raises(UserError) as raised:
        store.read(cell(0))
    assert str(path) in raised.value.asked
    assert "corrupt" in raised.value.wrong
    assert f"rm {path}" in raised.value.todo
    assert path.read_text() == damaged


def test_bytes_that_are_no_text_are_corrupt(store: Store) -> None:
    store.path(cell(0)).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="corrupt"):
        store.read(cell(0))


def test_a_record_under_the_name_of_another_is_corrupt(store: Store) -> None:
    store.write(record(0)).rename(store.path(cell(1)))
    with pytest.raises(UserError, match=cell(0).hash):
        store.read(cell(1))


def test_a_full_disk_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.write(record(0, 1.0)).read_bytes()
    monkeypatch.setattr(benchmarks.files, "_create", full)
    for number in (0, 1):
        with pytest.raises(StoreError) as raised:
            store.write(record(number, 2.0))
        assert "no space left" in raised.value.wrong
    assert store.path(cell(0)).read_bytes() == before
    assert not store.path(cell(1)).exists()
    assert not leftovers(store)


def test_a_read_only_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "store").prepare()
    monkeypatch.setattr(benchmarks.files, "_create", refuse)
    with pytest.raises(StoreError) as raised, atomic(tmp_path / "file"):
        pass
    assert raised.value.todo == "choose a place you may write"  # who writes may have no option for it


def test_a_file_in_place_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "store").prepare()
    assert (tmp_path / "store").read_text() == "mine"


def test_an_error_while_writing_leaves_the_old_file(store: Store) -> None:
    path = store.folder / "file"
    store.write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert not leftovers(store)


def test_a_folder_appears_whole(store: Store) -> None:
    path = store.adapters / "abc"
    for text in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / "file").write_text(text)
            assert not path.exists() or (path / "file").read_text() != text
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        raise RuntimeError
    assert (path / "file").read_text() == "new"
    assert not leftovers(store)


def test_nan_is_no_record(store: Store) -> None:
    with pytest.raises(ValueError):
        store.write(record(0, float("nan")))
    assert not store.path(cell(0)).exists()
    assert not leftovers(store)


def test_what_killed_writers_left_is_swept(store: Store) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_name(store.path(cell(0)))
    theirs = mine.with_name(mine.name.replace(str(os.getpid()), str(ended.pid)))
    folder = store.adapters / theirs.name
    folder.mkdir()
    mine.touch(), theirs.touch(), (folder / "file").touch()
    store.prepare()
    assert leftovers(store) == [mine]


def test_the_suite_file_lists_every_cell_with_its_hash(store: Store) -> None:
    store.write_suite("name", "Title", "Why?", [cell(0), cell(1)])
    suite = store.suite()
    assert suite is not None
    assert (suite["name"], suite["title"], suite["question"]) == ("name", "Title", "Why?")
    assert [c["hash"] for c in suite["cells"]] == [cell(0).hash, cell(1).hash]
    assert suite["cells"][0]["model"] == cell(0).model
    (store.folder / "suite.json").write_text("{")
    with pytest.raises(UserError, match="corrupt"):
        store.suite()


def test_a_claim_excludes_others_until_it_is_given_back(store: Store) -> None:
    assert store.claim(cell(0)) is None
    owner = Store(store.folder).claim(cell(0))
    assert owner is not None
    assert (owner.pid, owner.here, owner.dead) == (os.getpid(), True, False)
    assert str(os.getpid()) in str(owner)
    store.release(cell(0))
    assert store.claim(cell(0)) is None


def test_the_claim_of_a_dead_process_is_taken_over(store: Store) -> None:
    code = "import sys; from benchmarks.store import Store; from tests.runner.fakes import cell;"
    code += "print(Store(sys.argv[1]).claim(cell(0)))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.folder)], cwd=root, capture_output=True, text=True
    )
    assert done.stdout == "None\n", done.stderr
    assert len(list(store.claims.glob("*.json"))) == 1
    assert store.claim(cell(0)) is None


def place_claim(store: Store, **changes: object) -> None:
    claim = asdict(Claim.own()) | changes
    (store.claims / f"{cell(0).hash}.json").write_text(json.dumps(claim))


def test_a_reused_process_number_is_noticed(store: Store) -> None:
    place_claim(store, started="1")
    assert store.claim(cell(0)) is None


def test_the_claim_of_another_machine_is_left_alone(store: Store) -> None:
    place_claim(store, host="elsewhere", pid=1 << 22)
    owner = store.claim(cell(0))
    assert owner is not None
    assert not owner.here and not owner.dead


def test_a_corrupt_claim_is_named(store: Store) -> None:
    (store.claims / f"{cell(0).hash}.json").write_text("{}")
    with pytest.raises(UserError, match="not a claim"):
        store.claim(cell(0))
