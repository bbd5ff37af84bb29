"""Reports of synthetic stores: what is in the files, what is refused, the same bytes the second time."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.cell import NO_MODEL, Cell, Record
from benchmarks.metrics.statistics import correlation, mean_over_seeds
from benchmarks.report import fill_front_page, terminal_table, write_report, write_results_readme
from benchmarks.report.gather import Context, Question
from generators.errors import UserError
from tests.report.synthetic import build_store, cell, record, write_maps, write_record, write_suite

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("results") / "synthetic", intrinsics=("normal", "depth"))


@pytest.fixture(scope="module")
def report(store: Path) -> Path:
    write_report(store, store / "report")
    return store / "report"


def small_store(folder: Path, cells: list[Cell], maps: bool = False) -> Path:
    """A store of a few finished cells."""
    folder.mkdir(exist_ok=True)
    write_suite(folder, cells)
    for c in cells:
        made = record(c)
        if maps:
            write_maps(folder, made)
        write_record(folder, made)
    return folder


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Tags(HTMLParser):
    """Counts tags and keeps every address a browser would load or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_all_files_are_written_and_returned(store: Path, tmp_path: Path) -> None:
    files = write_report(
        small_store(tmp_path / "s", [cell("sd.rooms64-s5", "normal", "lora")], True), tmp_path / "out"
    )
    assert sorted(files) == sorted((tmp_path / "out").iterdir())
    names = {path.name for path in files}
    tables = {"table.md", "table.csv", "table.tex", "expanded.csv", "correlation.md", "correlation.csv"}
    tables |= {"comparison.md", "comparison.csv", "known.md", "known.csv"}
    assert names == tables | {"qualitative.png", "qualitative-normal.png", "index.html"}


def test_a_second_run_writes_the_same_bytes_in_another_process(
    store: Path, report: Path, tmp_path: Path
) -> None:
    code = "import sys, pathlib; from benchmarks.report import write_report; "
    code += (
        "write_report(*map(pathlib.Path, sys.argv[1:])); assert 'torch' not in sys.modules, 'imports torch'"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "86400"}
    subprocess.run(
        [sys.executable, "-c", code, store, tmp_path / "again"], cwd=ROOT, env=environment, check=True
    )
    first = {path.name: path.read_bytes() for path in report.iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert sorted(first) == sorted(again)
    assert [name for name in first if first[name] != again[name]] == []


def test_the_table_holds_the_means_and_intervals_of_the_records(store: Path, report: Path) -> None:
    found = [json.loads(path.read_text()) for path in (store / "records").glob("*.json")]
    mine = [
        r["per_image"]["mean_angular_error"]
        for r in sorted(found, key=lambda r: r["cell"]["seed"])
        if (r["cell"]["model"], r["cell"]["intrinsic"], r["cell"]["method"])
        == ("sd.rooms64-s3", "normal", "lora")
    ]
    expected = mean_over_seeds(mine)
    row = next(
        r
        for r in lines(report / "table.csv")
        if (r["title"], r["intrinsic"], r["method"]) == ("SD rooms, 30% trained", "normal", "LoRA")
    )
    assert float(row["mean"]) == pytest.approx(expected.value, rel=1e-6)
    assert (float(row["low"]), float(row["high"])) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert (row["seeds"], row["unit"], row["block"]) == ("3", "°", "models")


def test_the_best_of_a_column_is_marked_and_is_never_a_control(report: Path) -> None:
    best = [r for r in lines(report / "table.csv") if r["best"] == "1" and r["data"] == "rooms"]
    assert len(best) == 6
    assert {r["block"] for r in best} == {"models"}
    assert {r["title"] for r in best} == {"SD rooms, 100% trained"}


def test_failed_missing_impossible_and_unplanned_look_different(tmp_path: Path) -> None:
    models = [f"sd.rooms64-s{n}" for n in (1, 2, 3, 4)]
    done, missing, failed, impossible = (cell(m, "normal", "lora") for m in models)
    other = cell(models[0], "normal", "linear")
    store = small_store(tmp_path / "s", [done, other])
    write_suite(store, [done, other, missing, failed, impossible])
    suite = json.loads((store / "suite.json").read_text())
    suite["cells"][-1]["impossible"] = "it takes seeds only"
    (store / "suite.json").write_text(json.dumps(suite))
    write_record(store, Record(failed, "failed", reason="loss is NaN at step 7"))
    write_report(store, tmp_path / "out")
    overview = (tmp_path / "out/table.md").read_text().split("## With intervals")[0]
    cells = {
        row.split("|")[1].strip(): row.split("|")[3:5] for row in overview.splitlines() if "| sd.rooms" in row
    }
    assert [part.strip() for part in cells["sd.rooms64-s2"]] == [".", ""]
    assert [part.strip() for part in cells["sd.rooms64-s3"]] == ["!", ""]
    assert [part.strip() for part in cells["sd.rooms64-s4"]] == ["-", ""]
    page = (tmp_path / "out/index.html").read_text()
    assert "loss is NaN at step 7" in page
    assert "cannot be probed: it takes seeds only" in page


def test_missing_seeds_show_in_the_count_of_seeds(tmp_path: Path) -> None:
    cells = [cell("sd.rooms64-s5", "normal", "lora", seed) for seed in range(3)]
    store = small_store(tmp_path / "s", cells)
    (store / "records" / f"{cells[1].hash}.json").unlink()
    write_report(store, tmp_path / "out")
    text = (tmp_path / "out/table.md").read_text()
    assert "(2/3, sd " in text
    assert "\\*" in text.split("## With intervals")[0]


def test_what_another_seed_gives_stands_beside_the_interval(tmp_path: Path) -> None:
    cells = [cell("sd.rooms64-s5", "normal", "lora", seed) for seed in range(3)]
    single = cell("sd.rooms64-s4", "normal", "lora")
    write_report(small_store(tmp_path / "s", [*cells, single]), tmp_path / "out")
    means = [
        json.loads((tmp_path / "s/records" / f"{c.hash}.json").read_text())["scores"]["mean_angular_error"]
        for c in cells
    ]
    deviation = statistics.stdev(means)
    rows = [row for row in lines(tmp_path / "out/table.csv") if row["method"] == "LoRA"]
    one, several = sorted(rows, key=lambda row: row["seeds"])
    assert float(several["seed_deviation"]) == pytest.approx(deviation, rel=1e-6) and deviation > 0
    assert (several["seeds"], one["seeds"], one["seed_deviation"]) == ("3", "1", "")
    said = f"Standard deviation of the means of training seeds: LoRA {deviation:.2f} (SD rooms"
    assert said in (tmp_path / "out/table.md").read_text()
    page = (tmp_path / "out/index.html").read_text()
    assert said in page and f"n 3, sd {deviation:.2f}<" in page


def test_controls_stand_in_their_own_block(report: Path) -> None:
    block = {
        r["title"]
        for r in lines(report / "table.csv")
        if r["block"] == "controls" and r["intrinsic"] == "normal"
    }
    model = "SD rooms, 100% trained"
    doses = {f"{model}, {dose}% noise" for dose in (25, 50, 75, 100)}
    assert block == doses | {
        "SD rooms, random (never trained)",
        "mean map",
        "RGB patch + position",
        "supervised",
        "decoder ceiling: 6 models of sd",
        f"{model}, shuffled labels",
    }


def test_every_metric_of_every_group_is_in_the_expanded_table(store: Path, report: Path) -> None:
    found = lines(report / "expanded.csv")
    names = {r["metric"] for r in found if r["intrinsic"] == "depth" and r["seeds"] != "0"}
    assert names == {"rms", "abs_rel"}
    ranks = {json.loads(r["options"])["rank"] for r in found if r["method"] == "lora"}
    assert ranks == {2, 8, 32}
    kinds = {r["kind"] for r in found}
    assert kinds == {"probe", "control", "noise", "shuffled labels", "random initialization", "quality"}
    assert [r["mark"] for r in found if r["model"] == "sd.rooms64-s2" and r["intrinsic"] == "depth"].count(
        "."
    ) == 1


def test_correlation_never_mixes_domains_and_uses_the_shared_statistics(report: Path) -> None:
    found = lines(report / "correlation.csv")
    assert Counter(
        (r["method"], r["domain"], r["models"], r["n"])
        for r in found
        if r["intrinsic"] == "normal" and r["quality"] == "frechet" and r["models"] in ("all", "trained")
    ) == {
        **{(m, "rooms", "all", "6"): 3 for m in ("lora", "linear", "finetune")},
        **{(m, "rooms", "trained", "5"): 3 for m in ("lora", "linear", "finetune")},
        ("lora", "faces", "all", "3"): 3,
    }
    table = [r for r in lines(report / "expanded.csv") if r["data"] == "rooms"]
    lora = {
        r["model"]: float(r["mean"])
        for r in table
        if (r["metric"], r["method"], r["train"]) == ("mean_angular_error", "lora", "250")
        and json.loads(r["options"])["rank"] == 8
        and json.loads(r["options"])["timestep"] is None
        and r["kind"] in ("probe", "random initialization")
    }
    distance = {r["model"]: float(r["mean"]) for r in table if r["metric"] == "frechet_distance"}
    expected = correlation([distance[m] for m in lora], list(lora.values())).spearman
    assert expected is not None
    row = next(
        r for r in found if (r["intrinsic"], r["method"], r["coefficient"]) == ("normal", "lora", "spearman")
    )
    assert float(row["value"]) == pytest.approx(expected.value)
    assert float(row["p"]) == pytest.approx(expected.p)


@pytest.mark.parametrize("changed", [{"samples": 512}, {"steps": 10}, {"world": "w2"}])
def test_models_whose_frechet_distance_was_measured_otherwise_are_apart(
    tmp_path: Path, changed: dict
) -> None:
    models = [f"sd.rooms64-s{n}" for n in range(1, 5)]
    cells = [cell(m, "normal", "lora") for m in models]
    cells += [cell(m, "none", "frechet", **(changed if m == models[0] else {})) for m in models]
    write_report(small_store(tmp_path / "s", cells), tmp_path / "out")
    assert {r["n"] for r in lines(tmp_path / "out/correlation.csv")} == {"1", "3"}


def test_two_models_give_no_correlation_but_a_reason(tmp_path: Path) -> None:
    models = ["sd.rooms64-s1", "sd.rooms64-s2"]
    cells = [cell(m, i, k) for m in models for i, k in (("normal", "lora"), ("none", "frechet"))]
    write_report(small_store(tmp_path / "s", cells), tmp_path / "out")
    (row,) = lines(tmp_path / "out/correlation.csv")
    assert (row["n"], row["value"], row["reason"]) == ("2", "", "fewer than three pairs")
    assert "not defined" in (tmp_path / "out/correlation.md").read_text()


def test_curves_are_drawn_for_every_knob_the_suite_turns(report: Path) -> None:
    kinds = {path.stem.removeprefix("curve-") for path in report.glob("curve-*.svg")}
    assert kinds == {"stage", "noise", "labels", "rank", "timestep"}


def test_the_page_is_one_file_without_script_or_request(report: Path) -> None:
    tags = Tags()
    tags.feed((report / "index.html").read_text(encoding="utf-8"))
    assert tags.counts["script"] == tags.counts["iframe"] == 0
    assert tags.counts["img"] == 2 + 5 + 4
    assert all(address.startswith("data:") for address in tags.addresses)


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    name = "x.<script>alert('1')</script>|a_b$%&\\#"
    cells = [cell(name, "normal", "lora"), cell(name, "none", "frechet"), cell("x.b", "normal", "lora")]
    cells += [cell("x.b", "none", "frechet"), cell(name, "depth", "lora")]
    store = tmp_path / "s"
    store.mkdir()
    write_suite(store, cells, title=name, question=name)
    for c in cells[:-1]:
        made = record(c)
        made.generator |= {"title": c.model, "family": "x", "domain": "<b>d</b>"}
        if c.method == "lora":
            write_maps(store, made)
        write_record(store, made)
    write_record(store, Record(cells[-1], "failed", reason="<img src=https://example.org/x>"))
    write_report(store, tmp_path / "out")
    tags = Tags()
    tags.feed((tmp_path / "out/index.html").read_text(encoding="utf-8"))
    assert tags.counts["script"] == 0
    assert all(address.startswith("data:") for address in tags.addresses)
    latex = (tmp_path / "out/table.tex").read_text()
    assert r"|a_b$%&" not in latex
    assert r"\textbar{}a\_b\$\%\&\textbackslash{}\#" in latex
    markdown = (tmp_path / "out/table.md").read_text()
    assert "<script>" not in markdown
    rows = [line.replace("\\|", "") for line in markdown.split("## With")[0].splitlines() if line[:2] == "| "]
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1


def test_latex_tables_are_balanced(report: Path) -> None:
    text = (report / "table.tex").read_text(encoding="utf-8")
    for one in ("table", "tabular"):
        assert text.count(rf"\begin{{{one}}}") == text.count(rf"\end{{{one}}}") == 4
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert all(ord(letter) < 128 for letter in text)
    for table in text.split(r"\begin{tabular}")[1:]:
        columns = table.partition("}")[0].count("r") + 1
        rows = [r for r in table.splitlines() if r.endswith(r"\\") and "multicolumn" not in r]
        assert {row.replace(r"\&", "").count("&") for row in rows} == {columns - 1}


def test_the_terminal_table_names_models_methods_and_marks(store: Path) -> None:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(terminal_table(store))
    text = console.export_text()
    console.file.close()
    for word in (
        "SD rooms, 100% trained",
        "LoRA",
        "linear probe",
        "fine-tuning",
        "mean map",
        "! failed",
        "±",
    ):
        assert word in text


def test_a_corrupt_record_is_named(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s", [cell("sd.rooms64-s5", "normal", "lora")])
    path = next((store / "records").iterdir())
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match=re.escape(path.name)):
        write_report(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_under_a_foreign_name_is_refused(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s", [cell("sd.rooms64-s5", "normal", "lora")])
    path = next((store / "records").iterdir())
    path.rename(path.with_name("0123456789abcdef.json"))
    with pytest.raises(UserError, match="0123456789abcdef"):
        terminal_table(store)


def test_mixed_protocols_are_refused_by_name(tmp_path: Path) -> None:
    one = cell("sd.rooms64-s5", "normal", "lora")
    store = small_store(tmp_path / "s", [one, one.with_(protocol=2)])
    with pytest.raises(UserError, match=r"protocol 1: sd\.rooms64-s5.*protocol 2: sd\.rooms64-s5"):
        write_report(store, tmp_path / "out")


def test_a_corrupt_suite_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s", [cell("sd.rooms64-s5", "normal", "lora")])
    (store / "suite.json").write_text('{"cells": [{"model": "a"}], "name": "x"}')
    with pytest.raises(UserError, match=r"suite\.json"):
        terminal_table(store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither suite\.json nor records"):
        terminal_table(tmp_path / "empty")


def test_a_store_may_come_without_its_maps(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy", ignore=shutil.ignore_patterns("maps", "report"))
    write_report(copy, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "table.md" in names and not any(name.startswith("qualitative") for name in names)
    (copy / "maps").mkdir()  # as a run that goes on in it does
    one = next((store / "maps").iterdir())
    shutil.copy(one, copy / "maps" / one.name)
    write_report(copy, tmp_path / "out")
    left = len(list((store / "maps").iterdir())) - 1
    assert f"The maps of {left} cells are not in this store" in (tmp_path / "out/index.html").read_text()


def test_broken_maps_are_named(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s", [cell("sd.rooms64-s5", "normal", "lora")], maps=True)
    path = next((store / "maps").iterdir())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=re.escape(path.name)):
        write_report(store, tmp_path / "out")
    np.savez(path, picture=np.zeros(1))
    with pytest.raises(UserError, match=re.escape(path.name)):
        write_report(store, tmp_path / "out")


def test_records_outside_the_suite_are_counted_and_left_out(tmp_path: Path) -> None:
    inside, outside = cell("sd.rooms64-s5", "normal", "lora"), cell(NO_MODEL, "normal", "constant")
    store = small_store(tmp_path / "s", [inside, outside])
    write_suite(store, [inside])
    write_report(store, tmp_path / "out")
    assert "| mean map |" not in (tmp_path / "out/table.md").read_text()
    assert "1 records of cells not in the suite" in (tmp_path / "out/index.html").read_text()


def test_figures_of_an_earlier_report_are_taken_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scatter-normal.png").write_bytes(b"old")
    (out / "notes.txt").write_text("mine")
    write_report(small_store(tmp_path / "s", [cell("sd.rooms64-s5", "normal", "lora")]), out)
    assert not (out / "scatter-normal.png").exists()
    assert (out / "notes.txt").exists()


def test_the_readme_of_results_links_the_figures_that_exist(store: Path, report: Path) -> None:
    path = write_results_readme(store.parent)
    text = path.read_text(encoding="utf-8")
    first = path.read_bytes()
    targets = [part.split(")")[0] for part in text.split("](")[1:]]
    assert "synthetic/report/scatter-normal.png" in targets
    assert all((store.parent / target).is_file() for target in targets)
    assert "PROTOCOL 1: first" in text
    assert "| SD rooms, 100% trained | 0.570 |" in text
    assert write_results_readme(store.parent).read_bytes() == first


def test_every_protocol_up_to_the_current_one_has_its_reason() -> None:
    from benchmarks.cell import PROTOCOL
    from benchmarks.report.readme import PROTOCOLS

    assert list(PROTOCOLS) == list(range(1, PROTOCOL + 1))


def test_the_front_page_keeps_all_but_what_stands_between_its_marks(store: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- results -->\nold\n<!-- /results -->\nbelow\n")
    fill_front_page(store, readme)
    text = readme.read_text()
    assert text.startswith("above\n<!-- results -->\n") and text.endswith("<!-- /results -->\nbelow\n")
    assert "old" not in text and "| model |" in text
    assert " knows more than the better of two that know none" in text
    # Of several kinds of data each has its table, and its words above.
    assert text.count(":\n\n| model |") == 2 == text.count("| model |")
    readme.write_text("no marks")
    with pytest.raises(UserError, match="does not hold"):
        fill_front_page(store, readme)


def test_models_with_pictures_of_their_own_are_compared_by_skill() -> None:
    """Some models' pictures are easier than others': errors on them do not stand in one column."""
    own = Question(Context("samples", "w", 64, "rooms-network"), "normal", "none")
    shared = Question(Context("rooms", "w", 64, "exact"), "normal", "none")
    assert own.metric.name == "skill" and not own.metric.lower_is_better
    assert shared.metric.name == "mean_angular_error"
    assert own.short == "normal (skill, %)" and shared.short == "normal"
