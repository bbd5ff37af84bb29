"""What survives a power cut: what gets its name has its content on the disk before."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cell import Record
from benchmarks.files import atomic_folder
from benchmarks.place import Place
from benchmarks.remote import RemoteStore
from benchmarks.store import Store
from tests.runner.fakes import cell


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced ("sync NAME") and renamed or linked ("name NAME"), in order."""
    found: list[str] = []

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        found.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real(descriptor)

    def naming(real: Callable[..., None]) -> Callable[..., None]:
        def name(source: Any, target: Any) -> None:
            found.append(f"name {Path(target).name}")
            real(source, target)

        return name

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", naming(os.replace))
    monkeypatch.setattr(os, "link", naming(os.link))
    return found


def before(told: list[str], name: str) -> set[str]:
    """What was synced before something had its name."""
    return {line.removeprefix("sync ") for line in told[: told.index(f"name {name}")]}


def test_a_folder_has_its_files_on_the_disk_before_its_name(tmp_path: Path, told: list[str]) -> None:
    with atomic_folder(tmp_path / "adapter") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "weights").write_text("x")
        (folder / "facts").write_text("x")
        temporary = folder.name
    assert before(told, "adapter") == {"weights", "inside", "facts", temporary}
    assert told[-1] == f"sync {tmp_path.name}"


def test_a_claim_is_on_the_disk_before_it_is_taken(tmp_path: Path, told: list[str]) -> None:
    store = Store(tmp_path)
    store.prepare()
    assert store.claim(cell()) is None
    assert len(before(told, f"{cell().hash}.json")) == 1


@pytest.mark.parametrize("write", [Place.put, Place.create])
def test_a_file_at_a_url_is_on_the_disk_before_its_name(write: Any, tmp_path: Path, told: list[str]) -> None:
    write(Place(f"file://{tmp_path}"), "records/a.json", b"x")
    (content,) = before(told, "a.json") - {tmp_path.name}
    assert content.startswith(".a.json.") and told[-1] == "sync records"


def test_what_is_uploaded_is_on_the_disk_before_a_record_names_it(tmp_path: Path, told: list[str]) -> None:
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    store.prepare()
    with store.attempt(cell()) as own:
        with atomic_folder(own.adapters / "a") as folder:
            (folder / "weights").write_text("x")
        told.clear()
        record = Record(cell(), "done", scores={"rms": 1.0}, adapter="adapters/a")
        assert store.publish(own, record, None)
    (name,) = (path.name for path in (tmp_path / "there" / "adapters").iterdir())
    assert {"weights", name, "adapters"} <= before(told, f"{cell().hash}.json")


def test_what_is_fetched_is_on_the_disk_before_its_name(tmp_path: Path, told: list[str]) -> None:
    place = Place(f"file://{tmp_path}/there")
    place.write_once("adapters/a/weights", b"x")
    told.clear()
    RemoteStore(place.url, tmp_path / "here").fetch("adapters/a")
    assert "weights" in before(told, "a")


def test_a_sign_of_life_waits_for_no_disk(tmp_path: Path, told: list[str]) -> None:
    store = RemoteStore(f"file://{tmp_path}/there", tmp_path / "here")
    store.prepare()
    store.pulse()
    store.beat(cell(), 0.5, "fit", "then", "then")
    told.clear()
    store.pulse()
    store.beat(cell(), 0.5, "fit", "then", "then")
    assert [line for line in told if line.startswith("sync")] == []
