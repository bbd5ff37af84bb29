"""`doctor` on stores that something is wrong with: claims and things of the dead, corrupt records, rights."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import health_stores, place, remote
from benchmarks.cell import Record
from benchmarks.claims import Claim
from benchmarks.store import Store
from generators.finding import FAILED, OK, SKIPPED, WARNING, Finding
from tests.cli.told import HERE, SOMEBODY, doctor, empty, one, sound
from tests.runner.fakes import cell


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sound store of two records."""
    return sound(tmp_path / "store")


def findings(store: Store, end: float | None = None) -> list[Finding]:
    return list(health_stores.one_store(store.folder, end))


def test_a_sound_store(store: Store) -> None:
    one(findings(store), OK, "2 records are whole; nothing was left behind")
    result = doctor("--store", store.folder)
    assert result.exit_code == 0 and "python" not in result.output  # nothing else was looked at


def test_corrupt_records_are_named_and_fail(store: Store) -> None:
    path = store.path(cell(1))
    path.write_text(path.read_text().replace('"rms": 1.0', '"rms": 1.0,,'))
    found = one(findings(store), FAILED, "corrupt records: 1")
    assert f"{path}: the file is corrupt" in found.text and f"rm {path}" in found.cure
    result = doctor("--store", store.folder)
    assert result.exit_code == 1 and str(path) in result.output


def test_records_that_were_not_read_in_time_are_told(store: Store) -> None:
    store.path(cell(1)).write_text("{")
    one(findings(store, time.monotonic() - 1), OK, "0 records are whole, 2 more not read for lack of time")


def test_claims_of_the_dead(store: Store, dead: int) -> None:
    (store.claims / "a.json").write_text(json.dumps(asdict(Claim(dead, HERE, "1", "then"))))
    store.claim(cell(2))
    found = one(findings(store), WARNING, "claims of the dead: 1")
    assert f"a.json (process {dead} on {HERE} since then)" in found.text and "next run" in found.cure


@pytest.mark.parametrize(("days", "mark"), [(6, OK), (8, WARNING)])
def test_old_claims_of_another_machine(store: Store, days: float, mark: str) -> None:
    path = store.claims / "a.json"
    path.write_text(json.dumps(asdict(Claim(7, "elsewhere", "1", "then"))))
    os.utime(path, (time.time() - days * 86400,) * 2)
    found = one(findings(store), mark, "claims older than a week: 1" if mark == WARNING else "whole")
    assert mark == OK or "the next run takes them over" in found.cure


def test_a_torn_claim(store: Store) -> None:
    (store.claims / "a.json").write_text("{")
    found = one(findings(store), FAILED, "unreadable claims: 1")
    assert found.cure.endswith(f"rm {store.claims / 'a.json'}")


def test_what_was_left_behind(store: Store, dead: int) -> None:
    (store.folder / "attempts" / f"h.{HERE}.{dead}").mkdir(parents=True)
    (store.folder / "attempts" / f"h.{HERE}.{os.getpid()}").mkdir()
    (store.maps / f".x.npz.{HERE}.{dead}.tmp").write_text("")
    found = one(findings(store), WARNING, "leftovers of the dead: 2")
    assert f"attempts/h.{HERE}.{dead}" in found.text and "next run" in found.cure


def test_what_another_machine_left_behind(store: Store) -> None:
    path = store.folder / "attempts" / "h.elsewhere.7"
    path.mkdir(parents=True)
    os.utime(path, (time.time() - 5 * 86400,) * 2)
    assert [each.mark for each in findings(store)] == [OK]
    os.utime(path, (time.time() - 9 * 86400,) * 2)
    assert f"rm -r {path}" in one(findings(store), WARNING, "leftovers older than a week: 1").cure


def test_a_store_without_a_suite(store: Store) -> None:
    (store.folder / "suite.json").unlink()
    one(findings(store), WARNING, "it has no suite.json")
    (store.folder / "suite.json").write_text("[]")
    one(findings(store), FAILED, "suite.json: the file is corrupt")


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    result = doctor("--store", tmp_path / "none")
    assert result.exit_code == 1 and "there is no such folder" in result.output


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no other user to become")
def test_rights(unprivileged: Path) -> None:
    made = empty(unprivileged / "store")
    made.write(Record(cell(0), "done", scores={"rms": 1.0}))
    cache = unprivileged / "cache"
    cache.mkdir()
    doctor("--store", made.folder)  # imports what it needs, which another user may not read
    for path in (made.folder, *made.folder.rglob("*"), cache):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        os.seteuid(SOMEBODY)
    found = one(findings(made), WARNING, "folders that cannot be read and written: 8")
    assert f"chmod -R u+rwX {made.folder}" in found.cure
    one(health_stores.cache(cache), FAILED, f"{cache} cannot be written")
    one(health_stores.clocks([made.folder]), SKIPPED, "no file can be made")
    assert doctor("--store", made.folder).exit_code == 0


def test_all_stores_below_results(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one(health_stores.stores(health_stores.places(None)), SKIPPED, "there is none below")
    (tmp_path / "results").mkdir()
    store.folder.rename(tmp_path / "results" / "mine")
    one(health_stores.stores(health_stores.places(None)), OK, "store results/mine: 2 records")


def test_a_store_at_a_url(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_FRESH", 0.0)
    url = f"file://{store.folder}"
    result = doctor("--store", url)
    assert result.exit_code == 0 and f"store {url}: 2 records are whole" in result.output
    assert not list(store.claims.iterdir())  # what was written to see whether it can be
    store.path(cell(1)).write_text("{")
    result = doctor("--store", url)
    assert result.exit_code == 1 and f"rm {url}/records/{cell(1).hash}.json" in result.output


def test_urls_where_nothing_is_or_nobody_may_write(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    result = doctor("--store", f"file://{tmp_path}/nowhere")
    assert result.exit_code == 1 and "nothing is there" in result.output
    result = doctor("--store", "nosuch://bucket/rooms")
    assert result.exit_code == 1 and "pip install the package for it" in result.output

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place.Place, "_write", refuse)
    result = doctor("--store", f"file://{store.folder}")
    assert result.exit_code == 1 and "Permission denied" in result.output and "your rights" in result.output
