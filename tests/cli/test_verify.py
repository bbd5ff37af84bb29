"""Cells computed again and set against their records; the cells are cheap, or pretend."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import make_cell, run
from benchmarks.cache import cache_folder
from benchmarks.cell import Cell, Record, unsealed
from benchmarks.cli import main
from benchmarks.store import Store
from benchmarks.verify import APART, CLOSE, FAILED, IDENTICAL, Verdict, _from_nothing, choose, judge
from tests.runner import fakes


def real_cells() -> list[Cell]:
    sizes = {"train": 12, "validation": 4, "test": 6}
    return [
        make_cell("none", "normal", "constant", **sizes),  # type: ignore[arg-type]
        make_cell("sd.rooms64-s1", "albedo", "linear", **sizes),  # type: ignore[arg-type]
    ]


def verified(store: Path, *options: object) -> Result:
    result = CliRunner().invoke(main, ["verify", str(store), *(str(o) for o in options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def changed(path: Path, before: str, after: str) -> None:
    """Write a record anew with one number changed, as its owner may."""
    text = unsealed(path.read_text(encoding="utf-8"))
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_what_was_measured_is_measured_again_and_the_store_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(real_cells(), store=tmp_path / "store")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    cache = os.environ["INTRINSIC_BENCH_CACHE"]
    result = verified(tmp_path / "store", "--keep", tmp_path / "kept")
    assert result.exit_code == 0 and "2 identical" in result.stdout, result.output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == files
    assert os.environ["INTRINSIC_BENCH_CACHE"] == cache
    made = [path for path in (tmp_path / "kept" / "cache").rglob("*.safetensors") if "ops" not in path.parts]
    assert made  # nothing was taken from the cache that was there
    again = verified(tmp_path / "store", "--keep", tmp_path / "kept")
    assert again.stdout == result.stdout and "to compute" not in again.stderr


@pytest.mark.parametrize(("factor", "status", "said"), [(1.001, 0, "1 within 2.00%"), (1.1, 1, "1 apart")])
def test_a_score_that_is_another_is_told(tmp_path: Path, factor: float, status: int, said: str) -> None:
    (cell, _) = real_cells()
    record = run(cell, store=tmp_path / "store")
    score = record.scores["mean_angular_error"]
    name = '"mean_angular_error": '
    changed(Store(tmp_path / "store").path(cell), f"{name}{score}", f"{name}{score * factor}")
    result = verified(tmp_path / "store")
    assert result.exit_code == status and said in result.stdout, result.output
    assert cell.hash in result.stdout and f"{score:.6g}" in result.stdout


def test_a_cell_that_fails_now_is_told_with_its_reason(tmp_path: Path) -> None:
    good, bad = fakes.cell(0), fakes.cell(1, "raise")
    run([good], store=tmp_path / "store", execute=fakes.EXECUTE)
    place = Store(tmp_path / "store")
    place.add_cells([bad])
    place.write(Record(bad, "done", scores={"mean_angular_error": 1.0}))
    result = verified(place.folder, "--execute", fakes.EXECUTE)
    assert result.exit_code == 3 and "1 identical, 1 failed" in result.stdout
    assert "the layer is broken" in result.stdout


def test_kinds() -> None:
    cell = real_cells()[0]
    before = Record(
        cell, "done", scores={"mean_angular_error": 20.0}, per_image={"mean_angular_error": [20.0]}
    )
    for scores, pictures, kind in (
        ({"mean_angular_error": 20.0}, [20.0], IDENTICAL),
        ({"mean_angular_error": 20.0}, [21.0], CLOSE),
        ({"mean_angular_error": 20.3}, [20.3], CLOSE),
        ({"mean_angular_error": 19.5}, [19.5], APART),
        ({"other": 20.0}, [20.0], APART),
    ):
        after = Record(cell, "done", scores=scores, per_image={"mean_angular_error": pictures})
        assert judge(before, after, 0.02).kind == kind
    assert judge(before, Record(cell, "failed", reason="no"), 0.02).kind == FAILED


def test_the_choice_is_of_all_kinds_and_the_same_for_a_seed() -> None:
    cells = [make_cell("sd.rooms64-s1", "normal", "linear", seed=seed) for seed in range(20)]
    cells += [make_cell("none", "depth", "constant"), make_cell("vqgan.rooms64-s1", "depth", "linear")]
    records = [Record(cell, "done") for cell in cells]
    first = choose(records, 4, 0)
    assert first == choose(records[::-1], 4, 0) and len({r.cell.hash for r in first}) == 4
    kinds = [(r.cell.method, r.cell.model) for r in first]
    assert len(set(kinds)) == 3
    assert any(choose(records, 4, seed) != first for seed in range(1, 9))
    assert len(choose(records, 100, 0)) == len(records)


def test_what_was_fetched_is_there_and_what_was_computed_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(cache))
    for name in ("ops", "weights", "data", "codes"):
        (cache / name).mkdir(parents=True)
        (cache / name / "x").write_text("")
    for _ in range(2):  # a folder that is kept is used again
        with _from_nothing(tmp_path / "kept"):
            names = ["data", "ops", "weights"]
            assert sorted(path.name for path in cache_folder().iterdir()) == names
            assert all((cache_folder() / name / "x").exists() for name in names)
    assert cache_folder() == cache
    shutil.rmtree(tmp_path / "kept")
    assert len(list(cache.glob("*/x"))) == 4


def test_a_folder_that_is_kept_outlives_the_cache_it_was_linked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cache in (tmp_path / "first", tmp_path / "second"):
        monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(cache))
        (cache / "ops").mkdir(parents=True)
        with _from_nothing(tmp_path / "kept"):
            assert (cache_folder() / "ops").resolve() == (cache / "ops").resolve()
        shutil.rmtree(cache)


def test_a_folder_that_a_killed_one_left_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def verify_records(records: list[Record], place: Path, *rest: object, **more: object) -> list[Verdict]:
        places.append(place)
        return [judge(record, record, 0.0) for record in records]

    monkeypatch.setattr("benchmarks.verify.verify_records", verify_records)
    store = Store(tmp_path / "store")
    store.prepare()
    store.write(Record(fakes.cell(0), "done", scores={"mean_angular_error": 1.0}))
    assert verified(store.folder).exit_code == 0
    assert [place.name.startswith("intrinsic-bench-verify-") for place in places] == [True]
    assert not places[0].exists()


def test_nothing_to_verify(tmp_path: Path) -> None:
    place = Store(tmp_path / "store")
    place.prepare()
    place.add_cells([fakes.cell(0)])
    result = verified(place.folder)
    assert result.exit_code == 2 and "no record of it has scores" in result.stderr
    assert verified(tmp_path / "nowhere").exit_code == 2
    run([fakes.cell(0)], store=place.folder, execute=fakes.EXECUTE)
    assert "matches no cell" in verified(place.folder, "--only", "*/lora").stderr
