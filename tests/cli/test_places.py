"""Where `report`, `verify` and the paper's part look: suites, stores, and folders that are neither."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import cli
from benchmarks.named import named_store
from benchmarks.plan import RESULTS
from benchmarks.report.paper import published, writing
from benchmarks.report.paper.catalog import ARTIFACTS
from benchmarks.store import Store
from generators.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no checkout; the paper has one table, for figures take their time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writing, "ARTIFACTS", tuple(a for a in ARTIFACTS if a.name == "table-5"))
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


def store_of(folder: Path) -> Store:
    place = Store(folder)
    place.prepare()
    place.write_suite("rooms", "Rooms", "Why?", [])
    return place


def test_an_empty_folder_does_not_hide_the_suite_of_its_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Path] = []
    monkeypatch.setattr(cli, "_report", told.append)
    (here / "rooms").mkdir()
    store_of(here / "results" / "rooms")
    assert call("report", "rooms").exit_code == 0 and told == [RESULTS / "rooms"]
    result = call("verify", "rooms")
    assert result.exit_code == 2 and "results/rooms" in result.stderr
    assert "results/rooms" in call("status", "rooms").output
    store_of(here / "rooms")
    assert call("report", "rooms").exit_code == 0 and told[1:] == [Path("rooms")]


def test_names_of_stores(here: Path) -> None:
    assert named_store("rooms") == RESULTS / "rooms" and named_store("s3://a/b") == "s3://a/b"
    for name in ("rooms", "other"):
        (here / name).mkdir()
    assert named_store("rooms") == RESULTS / "rooms"
    assert named_store("other") == Path("other")  # nothing else has this name
    (here / "rooms" / "records").mkdir()
    assert named_store("rooms") == Path("rooms")
    with pytest.raises(UserError, match="no suite of this name"):
        named_store("nowhere")


@pytest.mark.parametrize("made", [False, True])
def test_the_paper_is_reported_outside_a_checkout(here: Path, made: bool) -> None:
    if made:
        (here / "paper").mkdir()
    result = call("report", "paper")
    assert result.exit_code == 0, result.output
    assert "13.24" in (here / "results" / "paper" / "table-5.md").read_text()


def test_all_is_reported_outside_a_checkout(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_report", lambda place: None)
    store_of(here / "results" / "rooms")
    result = call("report")
    assert result.exit_code == 0, result.output
    assert "overview: results/README.md" in result.stdout
    assert "paper/README.md" in (here / "results" / "README.md").read_text()


def test_numbers_that_lie_beside_the_stores_come_first(here: Path) -> None:
    folder = here / "results" / "published"
    shutil.copytree(published.SHIPPED, folder)
    text = (folder / "table5.csv").read_text()
    (folder / "table5.csv").write_text(text.replace("13.24", "77.77"))
    assert call("report", "paper").exit_code == 0
    assert "77.77" in (here / "results" / "paper" / "table-5.md").read_text()
    (folder / "table5.csv").unlink()
    result = call("report", "paper")
    assert result.exit_code == 2 and "table5.csv" in result.stderr


def test_the_numbers_that_are_shipped_are_those_of_the_repository() -> None:
    root = Path(__file__).parents[2] / "results" / "published"
    for name in published.SHEETS:
        shipped = published.SHIPPED / f"{name}.csv"
        assert shipped.read_bytes() == (root / shipped.name).read_bytes()
