"""Sheets of what models draw: one for each family, stages below renders, on the page and in the folder."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cell import NO_INTRINSIC, Cell
from benchmarks.report import write_report
from generators.errors import UserError
from tests.report.synthetic import cell, record, write_record, write_suite

STAGES = ("random", "s1", "s5")


def frechet(model: str) -> Cell:
    return cell(model, NO_INTRINSIC, "frechet")


def drawn_store(store: Path, with_samples: Sequence[str], without: Sequence[str] = ()) -> Path:
    """Records of Frechet distances, some of which kept pictures: each of one color, above white renders."""
    planned = [frechet(model) for model in (*with_samples, *without)]
    (store / "samples").mkdir(parents=True)
    write_suite(store, planned)
    for number, one in enumerate(planned):
        made = record(one)
        if one.model in with_samples:
            pixels = np.full((128, 512, 3), 255, np.uint8)
            pixels[:64] = 40 * number
            Image.fromarray(pixels).save(store / "samples" / f"{one.hash}.png")
            made.samples = f"samples/{one.hash}.png"
        write_record(store, made)
    return store


def test_every_family_gets_a_sheet_with_its_stages_below_renders(tmp_path: Path) -> None:
    models = [*(f"sd.rooms64-{stage}" for stage in STAGES), "gan.a"]
    files = write_report(drawn_store(tmp_path / "s", models), tmp_path / "out")
    sheets = sorted(path for path in files if path.name.startswith("samples-"))
    assert len(sheets) == 2
    heights = []
    for path in sheets:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L")).astype(int)
        heights.append(round(len(pixels) / 132))
        rows = pixels[66::132, -100]  # the middle of each row, inside its last picture
        assert rows[0] == 255 and len(set(rows.tolist())) == len(rows)
    assert sorted(heights) == [2, 4]  # renders and what each model of the family drew
    page = (tmp_path / "out/index.html").read_text()
    assert "What the models draw" in page and len(re.findall("drawn by ", page)) >= 2


def test_models_without_samples_are_left_out_and_without_any_there_is_no_block(tmp_path: Path) -> None:
    store = drawn_store(tmp_path / "s", [], [f"sd.rooms64-{stage}" for stage in STAGES])
    files = write_report(store, tmp_path / "out")
    assert not [path for path in files if path.name.startswith("samples-")]
    assert "What the models draw" not in (tmp_path / "out/index.html").read_text()


def test_a_second_report_writes_the_same_bytes_and_takes_stale_sheets_away(tmp_path: Path) -> None:
    store, out = drawn_store(tmp_path / "s", ["sd.rooms64-s1"]), tmp_path / "out"
    out.mkdir()
    (out / "samples-gone.png").write_bytes(b"old")
    (first,) = [path for path in write_report(store, out) if path.name.startswith("samples-")]
    before = first.read_bytes()
    write_report(store, out)
    assert first.read_bytes() == before and [p.name for p in out.glob("samples-*")] == [first.name]


def test_missing_or_broken_samples_are_named(tmp_path: Path) -> None:
    store = drawn_store(tmp_path / "s", ["sd.rooms64-s1"])
    (path,) = (store / "samples").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=re.escape(path.name)):
        write_report(store, tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=re.escape(path.name)):
        write_report(store, tmp_path / "out")
