"""What each model knows: controls on the same pictures only, the paper's marks, and how the rule agrees."""

import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cell import NO_MODEL, Cell, Record
from benchmarks.metrics import primary_metric
from benchmarks.metrics.skill import MUCH, SOME, choose
from benchmarks.report import write_report
from benchmarks.report.gather import gather, model_facts
from benchmarks.report.known import COLUMNS, Known, find_known, known_block, known_lines, known_markdown
from benchmarks.report.paper import write_paper, writing
from benchmarks.report.paper.artifacts import MARK
from benchmarks.report.paper.catalog import ARTIFACTS
from benchmarks.report.paper.published import read_published
from benchmarks.report.paper.table1 import agree, extras, judge_published, most
from benchmarks.report.reading import read_store
from tests.report.paper_stores import lines_of, table
from tests.report.synthetic import INTRINSICS, PRIMARY, cell, generator, record, write_record, write_suite

RESULTS = Path(__file__).parents[2] / "results"


def scored(c: Cell, error: float, **details: Any) -> Record:
    """A record whose error is this on the mean, pictures hard for all at the same places."""
    hard = np.linspace(0.5, 1.5, c.test)
    values = [float(v) for v in error * hard]
    facts = generator(c.model)
    return Record(
        c,
        "done",
        scores={PRIMARY[c.intrinsic]: error},
        per_image={PRIMARY[c.intrinsic]: values},
        details=details,
        generator=facts,
    )


def store(folder: Path, records: Sequence[Record], planned: Sequence[Cell] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_suite(folder, [*(r.cell for r in records), *planned], name=folder.name)
    for one in records:
        write_record(folder, one)
    return folder


def known(folder: Path) -> list[Known]:
    results = read_store(folder)
    return find_known(gather(results), model_facts(results))


def only(found: Sequence[Known], **wanted: Any) -> Known:
    (one,) = [k for k in found if all(getattr(k, name) == value for name, value in wanted.items())]
    return one


def controls(
    intrinsic: str = "normal", flat: float = 40.0, pixels: float = 30.0, **changes: Any
) -> list[Record]:
    return [
        scored(cell(NO_MODEL, intrinsic, "constant", **changes), flat),
        scored(cell(NO_MODEL, intrinsic, "pixels", **changes), pixels),
    ]


def test_it_is_set_against_the_better_control(tmp_path: Path) -> None:
    errors = {"s5": 15.0, "s3": 24.0, "random": 29.0, "s1": 33.0}
    asked = [scored(cell(f"sd.rooms64-{s}", "normal", "lora"), e) for s, e in errors.items()]
    found = known(store(tmp_path, [*asked, *controls()]))
    marks = {one.model.removeprefix("sd.rooms64-"): one.mark for one in found}
    assert marks == {"random": "no", "s1": "no", "s3": "partial", "s5": "yes"}
    assert list(marks) == ["random", "s1", "s3", "s5"]  # by training
    best = only(found, model="sd.rooms64-s5").found
    assert best is not None and best.value == pytest.approx(0.5) and best.against == pytest.approx(30.0)
    assert best.control == "RGB patch + position"


def test_every_error_is_better_when_lower() -> None:
    """Skill is the share of an error: of a score where higher is better it would mean nothing."""
    assert all(primary_metric(name).lower_is_better for name in INTRINSICS)
    assert all(primary_metric(name).name == PRIMARY[name] for name in INTRINSICS)


def test_controls_of_other_pictures_do_not_count(tmp_path: Path) -> None:
    asked = scored(cell("sd.rooms64-s5", "normal", "lora"), 15.0)
    others: list[dict[str, Any]] = [{"train": 1000}, {"world": "w2"}, {"labels": "predicted"}, {"size": 32}]
    for number, changes in enumerate(others):
        found = known(store(tmp_path / str(number), [asked, *controls(**changes)]))
        one = only(found, model="sd.rooms64-s5")
        assert one.found is None and one.mark == "no control" and one.reason and one.shown


def test_one_control_alone_is_told(tmp_path: Path) -> None:
    asked = scored(cell("sd.rooms64-s5", "normal", "lora"), 15.0)
    one = only(known(store(tmp_path / "one", [asked, controls()[0]])), model="sd.rooms64-s5")
    assert one.notes == "‡" and one.found is not None and one.found.value == pytest.approx(1 - 15 / 40)
    two = only(known(store(tmp_path / "two", [asked, *controls()])), model="sd.rooms64-s5")
    assert two.notes == "" and two.controls == ("mean map", "RGB patch + position")


def test_a_models_own_pictures_have_their_own_controls(tmp_path: Path) -> None:
    own: dict[str, Any] = {"data": "samples", "world": "own", "labels": "predicted"}
    records = [
        scored(cell("gan.a", "normal", "lora", **own), 15.0, mean_map_error=40.0),
        scored(cell("gan.a", "normal", "pixels", **own), 30.0, mean_map_error=40.0),
        scored(cell("gan.b", "normal", "lora", **own), 15.0, mean_map_error=20.0),
        *controls(pixels=16.0),  # of renders
    ]
    found = known(store(tmp_path, records))
    first, second = (only(found, model=f"gan.{m}") for m in "ab")
    assert first.found is not None and second.found is not None
    assert first.found.value == pytest.approx(0.5) and first.notes == ""
    assert second.found.value == pytest.approx(0.25) and second.notes == "‡"


def test_lora_stands_for_a_model_and_else_the_linear_probe(tmp_path: Path) -> None:
    both = [
        scored(cell("sd.rooms64-s5", "normal", "lora"), 25.0),
        scored(cell("sd.rooms64-s5", "normal", "linear"), 20.0),
        scored(cell("sd.rooms64-s5", "normal", "finetune"), 5.0),
        scored(cell("sd.rooms64-s4", "normal", "linear"), 20.0),
        scored(cell("sd.rooms64-s3", "normal", "finetune"), 5.0),
    ]
    missing = [cell("sd.rooms64-s4", "normal", "lora"), cell("sd.rooms64-s2", "normal", "lora")]
    found = known(store(tmp_path, [*both, *controls()], missing))
    shown = {one.model.removeprefix("sd.rooms64-"): (one.method, one.mark) for one in found if one.shown}
    assert shown == {"s5": ("lora", "partial"), "s4": ("linear", "partial"), "s2": ("lora", ".")}
    assert only(found, model="sd.rooms64-s4", shown=True).notes == "†"
    assert only(found, model="sd.rooms64-s5", method="finetune").mark == "yes"


def test_noise_shuffled_labels_and_sweeps_are_left_out(tmp_path: Path) -> None:
    records = [scored(cell("sd.rooms64-s5", "normal", "lora", s), 20.0) for s in range(2)]
    records += [scored(cell("sd.rooms64-s5", "normal", "lora", noise=0.5), 29.0)]
    records += [scored(cell("sd.rooms64-s5", "normal", "lora", rank=2), 29.0)]
    true = cell("sd.rooms64-s5", "normal", "lora")
    records += [scored(true.with_(options=dict(true.options) | {"labels": "shuffled"}), 40.0)]
    (one,) = known(store(tmp_path, [*records, *controls()]))
    assert one.found is not None and one.found.seeds == 2 and one.found.value == pytest.approx(1 / 3)


def test_pictures_of_a_scene_are_one_unit(tmp_path: Path) -> None:
    c = cell("sd.rooms64-s5", "normal", "lora")
    noisy = record(c)
    alone = known(store(tmp_path / "a", [noisy, *controls()]))[0].found
    noisy.details["groups"] = [f"scan {i // 10}" for i in range(c.test)]
    together = known(store(tmp_path / "b", [noisy, *controls()]))[0].found
    assert alone is not None and together is not None
    assert (alone.n, together.n) == (c.test, 4) and alone.low != together.low


def test_what_cannot_be_scored_says_why(tmp_path: Path) -> None:
    asked = scored(cell("sd.rooms64-s5", "normal", "lora"), 15.0)
    short = controls()[0]
    short.per_image["mean_angular_error"] = short.per_image["mean_angular_error"][:-1]
    one = only(known(store(tmp_path, [asked, short])), model="sd.rooms64-s5")
    assert one.found is None and "39 pictures, the error 40" in one.reason


def test_the_report_holds_it(tmp_path: Path) -> None:
    asked = [scored(cell("sd.rooms64-s5", n, "lora"), e) for n, e in (("normal", 15.0), ("depth", 28.0))]
    asked.append(scored(cell(NO_MODEL, "normal", "supervised"), 6.0))
    folder = store(tmp_path / "store", [*asked, *controls(), *controls("depth")])
    out = tmp_path / "report"
    assert {out / "known.md", out / "known.csv"} <= set(write_report(folder, out))
    text = (out / "known.md").read_text(encoding="utf-8").replace("\\", "")
    rows = table(out / "known.md")
    assert rows[0] == ["model", "normal", "depth"]
    assert rows[2][1].startswith("yes 50.0 ") and rows[2][2].startswith("partial 6.7 ")
    assert rows[3][0] == "supervised, for scale" and rows[3][1].startswith("yes 80.0 ")
    assert f"{100 * MUCH:.0f} % or more" in text and "labels exact" in text
    lines = list(csv.DictReader((out / "known.csv").read_text(encoding="utf-8").splitlines()))
    assert list(lines[0]) == list(COLUMNS) and len(lines) == 3
    assert float(lines[0]["skill_percent"]) == pytest.approx(50) and lines[0]["mark"] == "yes"
    page = (out / "index.html").read_text(encoding="utf-8")
    block = re.search(r'<section id="known">.*?</section>', page, re.DOTALL)
    assert block and "yes<small>50.0 [" in block[0] and "<script" not in block[0]


def test_titles_are_escaped_and_nothing_is_a_word(tmp_path: Path) -> None:
    asked = scored(cell("sd.rooms64-s5", "normal", "lora"), 15.0)
    asked.generator["title"] = "<b>|x"
    found = known(store(tmp_path, [asked, *controls()]))
    assert "<b>" not in known_markdown(found) and "&lt;b&gt;|x" in known_block(found)
    assert known_markdown([]) == "No model was asked." and known_block([]) == "" and known_lines([]) == []


@pytest.fixture(scope="module")
def judged() -> list[Any]:
    return judge_published(read_published(RESULTS / "published"))


def test_the_thresholds_are_those_the_papers_numbers_choose(judged: list[Any]) -> None:
    assert len(judged) == 28
    assert choose([one.skill for one in judged], [one.paper for one in judged]) == (SOME, MUCH)


def test_the_rule_on_the_papers_numbers(judged: list[Any]) -> None:
    """By hand: 1 - 13.94 / 24.09 = 42.1 %, and the worst of a column has none."""
    bed = next(o for o in judged if o.labels[-1] == "LSUN Bedroom" and o.intrinsic == "normal")
    assert bed.skill == pytest.approx(1 - 13.94 / 24.09) and (bed.paper, bed.rule) == ("yes", "yes")
    assert [one.skill for one in judged if one.worst] == [0.0] * 4
    fixed, apart = agree(judged), agree(judged, apart=True)
    assert (fixed.same, apart.same, most(judged)) == (17, 16, 23)
    assert fixed.kappa == pytest.approx(0.4167, abs=1e-4) and apart.kappa == pytest.approx(0.3437, abs=1e-4)


def test_every_disagreement_is_listed(judged: list[Any]) -> None:
    (extra,) = extras(read_published(RESULTS / "published"))
    text = " ".join((extra.caption, *extra.notes))
    assert (
        "17 of 28 marks" in text and "16 of 28 marks" in text and "say ✓ of everything agrees on 20" in text
    )
    listed = extra.notes[-1]
    differing = [one for one in judged if one.paper != one.rule]
    assert len(differing) == 11
    for one in differing:
        assert f"{one.intrinsic} of {one.labels[0]} ({one.labels[-1]}), {100 * one.skill:.1f} %" in listed
    assert listed.count(" %") == 11


def test_a_changed_number_changes_the_agreement(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "published", tmp_path / "published")
    path = tmp_path / "published" / "table2.csv"
    path.write_text(path.read_text().replace("16.93", "10.93"))
    found = judge_published(read_published(tmp_path / "published"))
    assert agree(found).same == 18


@pytest.fixture
def table_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A results folder with the published numbers, of whose artifacts table 1 alone is made."""
    monkeypatch.setattr(writing, "ARTIFACTS", tuple(a for a in ARTIFACTS if a.name == "table-1"))
    shutil.copytree(RESULTS / "published", tmp_path / "results" / "published")
    return tmp_path / "results"


def test_our_twin_stands_beside_the_published_marks(table_1: Path) -> None:
    asked = [scored(cell("sd.rooms64-s5", "normal", "lora"), 15.0), *controls()]
    store(table_1 / "rooms", asked)
    later = [scored(cell("sd.rooms64-s5", "normal", "lora"), 29.9), *controls()]
    later += [scored(cell("sd.rooms64-s5", "depth", "lora"), 1.0), *controls("depth")]
    store(table_1 / "rooms-aug", later)  # the first store counts
    write_paper(table_1, table_1 / "paper")
    lines = [line for line in lines_of(table_1 / "paper" / "table-1.csv") if line["world"] == "rooms"]
    normal = next(line for line in lines if line["intrinsic"] == "normal")
    assert (normal["published"], normal["mark"], float(normal["here"])) == ("✓", "✓", pytest.approx(50))
    assert normal["difference"] == "" and [line["mark"] for line in lines] == ["✓", ".", ".", "."]
    rows = table(table_1 / "paper" / "table-1.md")
    twin = next(i for i, row in enumerate(rows) if row[2] == "rooms, renders shown to it")
    assert rows[twin][3:5] == ["published", MARK["yes"]]
    assert rows[twin + 1][3] == "here" and rows[twin + 1][4].startswith("✓ 50.0 ")
    page = (table_1 / "paper" / "index.html").read_text(encoding="utf-8")
    assert "<td>✓<small>50.0 [" in page and "The rule on the paper" in page
    latex = (table_1 / "paper" / "table-1.tex").read_text(encoding="utf-8")
    assert "tab:table-1-rule" in latex and "tab:table-1-rooms" in latex


def test_a_measured_model_of_the_paper_gets_its_mark(table_1: Path) -> None:
    own: dict[str, Any] = {"data": "samples", "world": "own", "labels": "omnidata-v2"}
    right = scored(cell("stylegan2.ffhq256", "normal", "lora", **own), 10.0, mean_map_error=20.0)
    wrong = scored(
        cell("stylegan-xl.ffhq256", "normal", "lora", **(own | {"labels": "rooms-network"})),
        10.0,
        mean_map_error=20.0,
    )
    store(table_1 / "table2", [right, wrong])
    write_paper(table_1, table_1 / "paper")
    lines = [line for line in lines_of(table_1 / "paper" / "table-1.csv") if line["here"]]
    assert [(line["subject"], line["mark"]) for line in lines] == [("StyleGAN-v2 / GAN / FFHQ", "✓*")]


def test_the_committed_table_says_what_the_records_say() -> None:
    """Random initialization knows nothing of normals, the supervised network much: by the same rule."""
    found = [one for one in known(RESULTS / "rooms") if one.shown and one.question.intrinsic == "normal"]
    found = [one for one in found if one.question.context.data == "rooms"]
    assert only(found, model="sd.rooms64-random").mark == "no"
    assert only(found, model=NO_MODEL).mark == "yes"
