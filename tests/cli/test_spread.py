"""`spread`, as far as one process goes: what it refuses, and where it writes."""

import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks import needs
from benchmarks import spread as spreading
from benchmarks.cell import Cell, Record
from benchmarks.claims import Claim
from benchmarks.cli import main
from benchmarks.files import StoreError
from benchmarks.remote import RemoteStore
from benchmarks.runner import open_store
from benchmarks.store import Store
from benchmarks.suite import load_suite

SUITE = """name = "mine"
title = "Mine"
question = "Why?"
train = 4
validation = 2
test = 2
[[grid]]
models = ["{model}"]
intrinsics = ["normal"]
methods = ["{method}"]
"""


def spread(folder: Path, model: str, method: str, *more: str) -> Result:
    (folder / "mine.toml").write_text(SUITE.format(model=model, method=method))
    return CliRunner().invoke(main, ["spread", "mine.toml", *more])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_not_on_this_machine_is_refused_before_there_is_a_store(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "_here", lambda spec: False)
    result = spread(here, "sd.v1-5", "lora", "--device", "cpu")
    assert result.exit_code == 2 and "model sd.v1-5" in result.stderr, result.output
    assert "intrinsic-bench fetch sd.v1-5" in result.stderr
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


def test_a_device_that_is_not_there_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = spread(here, "none", "constant", "--device", "cuda")
    assert result.exit_code == 2 and "CUDA devices here: 0" in result.stderr, result.output
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


def test_a_store_at_a_url_is_no_folder_of_that_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(here / "cache"))
    url = f"file://{here}/far"
    result = spread(here, "none", "constant", "--device", "cpu", "--store", url)
    assert result.exit_code == 0, result.output
    assert not (here / "file:").exists()
    (record,) = RemoteStore(url).all()
    assert record.status == "done" and (here / "far" / "records" / f"{record.cell.hash}.json").is_file()
    again = spread(here, "none", "constant", "--device", "cpu", "--store", url)
    assert again.exit_code == 0 and "done:" not in again.stdout


@pytest.fixture
def kept(here: Path) -> tuple[Cell, Store]:
    """One cell, and a store without its record."""
    (here / "mine.toml").write_text(SUITE.format(model="none", method="constant"))
    suite = load_suite("mine.toml")
    return suite.cells[0], open_store(suite, here / "kept")


def alone() -> spreading.Place:
    return spreading.Place(0, 1, "cpu")


def done(cell: Cell) -> Record:
    return Record(cell, "done", scores={"mean": 1.0})


def test_the_first_process_shows_that_it_is_alive(
    kept: tuple[Cell, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreading, "PULSE", 0.01)
    said, pulses, own = set(), kept[1].pulse, Claim.own()

    def pulse() -> None:
        pulses()
        raise StoreError("write", "the way is broken for a moment", "", "")

    monkeypatch.setattr(kept[1], "pulse", pulse)
    with spreading.pulsing(kept[1]):
        end = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < end:
            said.add(kept[1].pulse_of(own))
    assert len(said - {""}) >= 2
    assert kept[1].pulse_of(own) == ""


def test_a_failure_replaces_no_number(kept: tuple[Cell, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    cell, store = kept

    def lead(cell: Cell, store: Store, device: str) -> None:
        store.write(done(cell))  # somebody took the cell over, and ended it
        raise ValueError("too late")

    monkeypatch.setattr(spreading, "lead", lead)
    with pytest.raises(ValueError, match="too late"):
        spreading.first_process([cell], store, alone())
    record = store.read(cell)
    assert record is not None and record.status == "done"


def test_what_another_ends_between_two_looks_is_not_computed_again(
    kept: tuple[Cell, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, store = kept
    claim = store.claim

    def late(cell: Cell) -> Claim | None:
        store.write(done(cell))
        return claim(cell)

    monkeypatch.setattr(store, "claim", late)
    monkeypatch.setattr(spreading, "lead", lambda *given: pytest.fail("computed twice"))
    spreading.first_process([cell], store, alone())
    assert not list(store.claims.glob("*.json"))
