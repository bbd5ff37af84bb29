"""The paper's tables: every published number is shown, and ours stand beside the right ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.cell import Record
from benchmarks.report.paper import write_paper, writing
from benchmarks.report.paper.artifacts import MARK
from benchmarks.report.paper.catalog import ARTIFACTS
from benchmarks.report.paper.counts import count_models, read_counts
from benchmarks.report.paper.formats import difference_text
from benchmarks.report.paper.measured import Slot, fill, suite_groups
from benchmarks.report.paper.published import SHEETS, read_published
from benchmarks.report.paper.worlds import PAPER, ROOMS
from benchmarks.report.paper.writing import twins_of
from benchmarks.suite import SUITES
from generators.errors import UserError
from tests.report.paper_stores import cell, draw_maps, lines_of, made, store, table
from tests.report.test_page_in_chromium import BROWSER, WIDTHS, look

RESULTS = Path(__file__).parents[2] / "results"
SHOWN = {  # file of published numbers -> artifacts that show all of them
    "table1": ("table-1",),
    "table2": ("table-2",),
    "table3": ("table-3",),
    "table4": ("table-4",),
    "table5": ("table-5",),
    "table6": ("table-6",),
    "figure7": ("figure-7",),
    "figure8": ("figure-8",),
    "figure9": ("figure-9",),
    "figure13_steps": ("figure-13",),
    "figure14_cfg": ("figure-14",),
    "figure15_targets": ("figure-15",),
    "fid": ("correlation",),
    "fid_charts": ("figure-9",),
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder that holds the published numbers alone."""
    folder = tmp_path / "results"
    shutil.copytree(RESULTS / "published", folder / "published")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Leaves out every artifact but one, since figures take their time."""

    def only(*names: str) -> None:
        kept = tuple(a for a in ARTIFACTS if a.name in names)
        assert len(kept) == len(names)
        monkeypatch.setattr(writing, "ARTIFACTS", kept)

    return only


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole report where nothing has been measured."""
    folder = tmp_path_factory.mktemp("bare") / "results"
    shutil.copytree(RESULTS / "published", folder / "published")
    (folder / "paper").mkdir()
    shutil.copy(RESULTS / "paper" / "counts.json", folder / "paper")
    write_paper(folder, folder / "paper")
    return folder / "paper"


def published_cells(path: Path) -> Counter[str]:
    return Counter(c for line in table(path) if "published" in line for c in line if c)


@pytest.mark.parametrize("name", sorted(SHEETS))
def test_every_published_number_is_in_the_tables(bare: Path, name: str) -> None:
    """As many times as the file holds it, in lines that say so; nothing is dropped."""
    shown: Counter[str] = Counter()
    for artifact in SHOWN[name]:
        shown += published_cells(bare / f"{artifact}.md")
    values = [line[k] for line in lines_of(RESULTS / "published" / f"{name}.csv") for k in SHEETS[name][1]]
    if name == "table4":  # steps and memory stand once per method, not once per number of pictures
        values = [v for v in values if "." in v]
        values = list(dict.fromkeys(values))
    wanted = Counter(MARK.get(v, v) for v in values if v)
    assert wanted and not wanted - shown


def test_a_changed_number_is_shown_changed(results: Path, quick: Callable[[str], None]) -> None:
    quick("table-5")
    path = results / "published" / "table5.csv"
    path.write_text(path.read_text().replace("46.65", "99.125"))
    write_paper(results, results / "paper")
    shown = published_cells(results / "paper" / "table-5.md")
    assert shown["99.125"] == 1 and shown["46.65"] == 0


def test_where_nothing_is_measured_every_artifact_says_so(bare: Path) -> None:
    for artifact in ARTIFACTS:
        text = (bare / f"{artifact.name}.md").read_text()
        assert "| not measured here |" in text or artifact.name == "table-6", artifact.name
        assert all(
            not line["here"] or line["kind"] in ("counted", "set")
            for line in lines_of(bare / f"{artifact.name}.csv")
        )
    page = (bare / "index.html").read_text()
    assert "not measured here" in page
    assert "Nothing of the twin on rooms has been run yet" in page


def test_figures_are_drawn_from_the_published_numbers_alone(bare: Path) -> None:
    drawn = {path.stem for path in bare.glob("*.svg")}
    assert drawn == {f"figure-{n}" for n in (7, 8, 9, 10, 13, 14, 15)} | {"correlation"}
    assert {path.stem for path in bare.glob("*.png")} == drawn


def test_the_published_correlation_is_that_of_the_three_models(bare: Path) -> None:
    """FID falls from VQGAN to StyleGAN-XL as normals do; shading goes the other way."""
    found = {
        (line["error"], line["coefficient"]): float(line["value"])
        for line in lines_of(bare / "correlation-coefficients.csv")
        if line["numbers"] == "published"
    }
    assert found["Surface Normal: Mean Error ° ↓", "spearman"] == 1
    assert found["Shading: RMS ↓", "spearman"] == -1
    assert found["Surface Normal: Mean Error ° ↓", "pearson"] == pytest.approx(
        np.corrcoef([9.6, 3.62, 2.19], [19.97, 16.93, 15.28])[0, 1]
    )


def measured_table2(results: Path) -> Path:
    normals = [cell("vqgan.ffhq256", "normal", seed=s, labels="omnidata-v2", data="samples") for s in (0, 1)]
    depth = cell("vqgan.ffhq256", "depth", labels="zoedepth", data="samples")
    planned = cell("vqgan.ffhq256", "albedo", labels="paradigms", data="samples")
    broken = cell("vqgan.ffhq256", "shading", labels="paradigms", data="samples")
    records = [made(c, mean_angular_error=21.37 + 0.2 * c.seed, l1_x100=16.0) for c in normals]
    records.append(made(depth, rms=0.17, delta1=60.0))
    records.append(Record(broken, "failed", reason="out of memory"))
    return store(results, "table2", records, [planned])


def test_ours_stand_beside_the_published_ones_with_their_difference(
    results: Path, quick: Callable[[str], None]
) -> None:
    measured_table2(results)
    quick("table-2")
    write_paper(results, results / "paper")
    rows = table(results / "paper" / "table-2.md")
    place = next(k for k, row in enumerate(rows) if row[:1] == ["VQGAN"])
    head, published, here, difference = rows[0], *rows[place : place + 3]
    at = {name: k for k, name in enumerate(head)}
    assert [row[3] for row in (published, here, difference)] == ["published", "here", "difference"]
    mean = at["Surface Normal: Mean Error ° ↓"]
    assert published[mean] == "19.97" and difference[mean] == "+1.50"
    assert re.fullmatch(r"21\.47 \\\[2\d\.\d\d, 2\d\.\d\d\\\] \(2\)", here[mean])
    assert here[at["Surface Normal: L1 Error × 100 ↓"]].startswith("16.00 ")
    assert difference[at["Surface Normal: L1 Error × 100 ↓"]] == "-0.33"
    assert here[at["Depth: RMS ↓"]].startswith("0.1700 ") and difference[at["Depth: RMS ↓"]] == "-0.0119"
    assert here[at["LoRA Param. %"]] == "0.20 (2)" and difference[at["LoRA Param. %"]] == "+0.02"
    assert here[at["Surface Normal: Median Error ° ↓"]] == "n/a"
    assert (here[at["Albedo: RMS ↓"]], here[at["Shading: RMS ↓"]]) == (".", "!")
    assert "not measured here" in rows[place + 4]
    line = next(
        one
        for one in lines_of(results / "paper" / "table-2.csv")
        if one["subject"].startswith("VQGAN") and one["metric"] == "mean_angular_error"
    )
    assert float(line["difference"]) == pytest.approx(1.5) and float(line["low"]) < 21.47 < float(
        line["high"]
    )


def test_a_share_is_one_of_the_counted_parameters(results: Path, quick: Callable[[str], None]) -> None:
    """A record's total is of the network that is adapted: of VQGAN the decoder, of StyleGAN synthesis."""
    measured_table2(results)
    quick("table-2", "table-6")
    (results / "paper").mkdir()
    shutil.copy(RESULTS / "paper" / "counts.json", results / "paper")
    write_paper(results, results / "paper")
    lines = [line for n in (2, 6) for line in lines_of(results / "paper" / f"table-{n}.csv")]
    found = {
        x["metric"]: (float(x["here"]), x["kind"])
        for x in lines
        if x["subject"].startswith("VQGAN / ") and x["here"]
    }
    assert found["trainable_percent"] == (pytest.approx(100 * 0.2 / 72.141699), "measured")
    assert found["total_m"] == (pytest.approx(873.940099), "counted")
    assert found["trainable_m"] == (pytest.approx(0.2), "measured")


def test_depth_in_meters_is_not_set_beside_depth_without_a_unit(
    results: Path, quick: Callable[[str], None]
) -> None:
    asked = cell("sd.v1-5", "depth", alignment="none")
    store(results, "table3", [made(asked, rms=0.2046, delta1=44.9)])
    quick("table-3")
    write_paper(results, results / "paper")
    found = [line for line in lines_of(results / "paper" / "table-3.csv") if line["intrinsic"] == "depth"]
    assert found and not any(line["here"] or line["difference"] for line in found)


def test_predictions_of_another_predictor_are_not_set_beside_the_published_ones(
    results: Path, quick: Callable[[str], None]
) -> None:
    other = cell("vqgan.ffhq256", "normal", labels="marigold-normals", data="samples")
    store(results, "table2", [made(other, mean_angular_error=19.97)])
    quick("table-2")
    write_paper(results, results / "paper")
    assert not any(line["here"] for line in lines_of(results / "paper" / "table-2.csv"))


def test_numbers_of_rooms_are_never_subtracted_from_published_ones(
    results: Path, quick: Callable[[str], None]
) -> None:
    train = {n: cell("sd.rooms64-s5", "normal", data="rooms", train=n) for n in (16, 250)}
    store(
        results, "rooms", [made(c, mean_angular_error=30 + n / 100, l1_x100=25.0) for n, c in train.items()]
    )
    quick("figure-8")
    write_paper(results, results / "paper")
    found = [line for line in lines_of(results / "paper" / "figure-8.csv") if line["world"] == "rooms"]
    assert {line["subject"] for line in found} == {"16", "250"}  # its own columns
    assert not any(line["published"] or line["difference"] for line in found)
    text = (results / "paper" / "figure-8.md").read_text()
    assert "do not compare with the published" in text
    heads = [row for row in table(results / "paper" / "figure-8.md") if "16" in row]
    assert heads == [["", "16", "250"]]


def test_two_cells_for_one_number_are_both_named(results: Path, quick: Callable[[str], None]) -> None:
    two = [cell("sd.v1-5", "normal", options={"steps": steps}) for steps in (10, 20)]
    store(results, "table3", [made(c, mean_angular_error=20.0) for c in two])
    quick("table-3")
    with pytest.raises(UserError) as caught:
        write_paper(results, results / "paper")
    assert all(c.hash in str(caught.value) for c in two) and "steps: 10 and 20" in str(caught.value)
    assert not (results / "paper").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("table2", "19.97", "19,97", "line 2"),
        ("table2", "19.97", "about 20", "is no number"),
        ("table2", "19.97", "nan", "is no number"),
        ("table3", "depth_rms", "depth", "its columns are"),
        ("table1", "partial", "maybe", "none of the paper's marks"),
        ("table5", "I-LoRA on StyleGAN", "StyleGAN knows (latent offset)", "lines 2 and 3 are both"),
        ("table4", "fine-tuning,0.77,86.78,1000", "fine-tuning,0.78,86.78,1000", "two values"),
        ("table4", "fine-tuning", "coarse-tuning", "coarse-tuning"),
        ("table6", "VQGAN,FFHQ", "VQGAN,CelebA", "VQGAN / CelebA"),
        ("figure13_steps", "25,3.0", "25,7.0", "cfg_scale is 7.0"),
        ("fid", "StyleGAN-XL", "StyleGAN-4", "0 lines say so"),
    ],
)
def test_a_corrupt_file_of_published_numbers_is_named(
    results: Path, name: str, old: str, new: str, said: str
) -> None:
    path = results / "published" / f"{name}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as caught:
        write_paper(results, results / "paper")
    assert f"{name}.csv" in str(caught.value) and said in str(caught.value)
    assert not (results / "paper").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b'model,"fid\n'])
def test_an_unreadable_file_of_published_numbers_is_named(results: Path, content: bytes | None) -> None:
    path = results / "published" / "fid.csv"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"fid\.csv"):
        read_published(results / "published")


@pytest.mark.parametrize(
    "text", ["{", '{"models": {"a": {"parameters": 1}}}', '{"models": {"a": {"parameters": -1.5}}}']
)
def test_broken_counts_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counts.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"counts\.json"):
        read_counts(path)


@pytest.mark.slow
def test_the_counts_are_those_of_the_architectures() -> None:
    told = json.loads((RESULTS / "paper" / "counts.json").read_text())
    assert told["models"] == count_models()


def test_parameter_counts_agree_with_the_papers_shares(bare: Path) -> None:
    """Tables 2, 3 and 6, to the digits printed; StyleGAN-XL for ImageNet is larger than printed."""
    lines = [
        line for n in (2, 3, 6) for line in lines_of(bare / f"table-{n}.csv") if line["kind"] == "counted"
    ]
    off = {(line["artifact"], line["subject"].split(" / ")[-1]) for line in lines if not same(line)}
    assert len(lines) == 24
    assert off == {("table-2", "ImageNet"), ("table-6", "ImageNet"), ("table-6", "open")}


def test_a_rank_of_two_has_the_parameters_section_4_2_tells(bare: Path) -> None:
    """0.4M, 0.04 %."""
    found = [line for line in lines_of(bare / "figure-7.csv") if line["subject"] == "Rank 2" and line["here"]]
    assert [float(line["here"]) for line in found] == pytest.approx([0.398592, 0.04226066])
    assert all(same(line) for line in found)


def same(line: Mapping[str, str]) -> bool:
    digits = len(line["published"].partition(".")[2])
    return round(float(line["here"]), digits) == float(line["published"])


def test_a_second_run_writes_the_same_bytes_and_takes_stale_files_away(
    results: Path, quick: Callable[[str], None]
) -> None:
    folder = measured_table2(results)
    asked = [cell("sd.v1-5", "normal", options={"rank": r}) for r in (2, 8)]
    folder = results / "figure7"
    store(
        results,
        "figure7",
        [draw_maps(folder, made(c, mean_angular_error=20.0, l1_x100=17.0), 90) for c in asked],
    )
    quick("table-2", "figure-7")
    out = results / "paper"
    first = {path: path.read_bytes() for path in write_paper(results, out)}
    assert {path.suffix for path in first} == {".md", ".tex", ".csv", ".png", ".svg", ".html"}
    (out / "figure-7-maps-gone.png").write_bytes(b"old")
    (out / "notes.txt").write_text("mine")
    again = {path: path.read_bytes() for path in write_paper(results, out)}
    assert again == first
    assert {path.name for path in out.iterdir()} == {path.name for path in first} | {"notes.txt"}


@pytest.mark.slow
def test_the_whole_report_is_the_same_bytes_again(bare: Path) -> None:
    before = {path: path.read_bytes() for path in bare.iterdir()}
    write_paper(bare.parent, bare)
    assert {path: path.read_bytes() for path in bare.iterdir()} == before


def test_maps_of_a_figure_stand_side_by_side(results: Path, quick: Callable[[str], None]) -> None:
    folder = results / "figure15"
    kinds = {"up": 0, "all": 255}
    records = [
        draw_maps(
            folder, made(cell("sd.v1-5", "normal", options={"targets": t}), mean_angular_error=20.0), shade
        )
        for t, shade in kinds.items()
    ]
    store(results, "figure15", records)
    quick("figure-15")
    write_paper(results, results / "paper")
    with Image.open(results / "paper" / "figure-15-maps.png") as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(int)
    middle = [int(pixels[80, 56 + 108 * k]) for k in range(4)]
    assert pixels.shape == (34 + 2 * 108, 4 + 4 * 108)
    assert middle == [60, pytest.approx(142, abs=3), 0, 255]  # picture, truth (0.5 0.5 1), up, all
    assert "figure-15-maps.png" in (results / "paper" / "figure-15.md").read_text()


def test_a_broken_maps_file_is_named(results: Path, quick: Callable[[str], None]) -> None:
    folder = results / "figure7"
    record = draw_maps(folder, made(cell("sd.v1-5", "normal"), mean_angular_error=20.0), 0)
    store(results, "figure7", [record])
    (folder / str(record.maps)).write_bytes(b"PK")
    quick("figure-7")
    with pytest.raises(UserError, match=record.cell.hash):
        write_paper(results, results / "paper")


def test_differences_have_the_digits_of_the_published_number() -> None:
    def text(published: str, here: float) -> str:
        from benchmarks.metrics.statistics import Interval

        return difference_text(Slot(published, Interval(here, None, None, 0.95, 1, ""), ""))

    assert text("19.97", 21.471) == "+1.50" and text("0.1819", 0.17) == "-0.0119"
    assert text("0.17", 0.1695) == "0.00" and text("4000", 4000.0) == "0"
    assert text("1e-3", 0.001) == "0" and text("1e-3", 0.01) == "+0.009"
    assert text("", 1.0) == ""


@pytest.mark.parametrize("artifact", [a for a in ARTIFACTS if a.suite], ids=lambda a: a.name)
def test_the_shipped_suite_plans_every_number_that_can_be_measured(artifact: Any) -> None:
    """Selectors and suites are written apart: a published number without a cell would never be measured."""
    published, groups = read_published(RESULTS / "published"), suite_groups(artifact.suite)
    grid = fill(artifact, artifact.build(PAPER, published, {}, groups), groups, None)
    lost = [
        (subject.labels, column.name)
        for subject, slots in zip(grid.layout.subjects, grid.slots, strict=True)
        for slot, column in zip(slots, grid.layout.columns, strict=True)
        if column.metric and slot.group is None and not _unasked(artifact.name, subject.labels, column.key)
    ]
    assert not lost


def _unasked(name: str, labels: tuple[str, ...], key: str) -> bool:
    """What no suite of ours asks: LoRA's share of a network without LoRA, and Omnidata again in figure 8."""
    share = key == "lora_params_percent" and labels[-1] == "supervised"
    return share or (name == "figure-8" and labels[0].startswith("supervised"))


@pytest.mark.parametrize("artifact", [a for a in ARTIFACTS if a.suite], ids=lambda a: a.name)
def test_every_twin_is_a_shipped_suite_and_plans_something(artifact: Any) -> None:
    published, twins = read_published(RESULTS / "published"), twins_of(artifact)
    assert twins and all((SUITES / f"{name}.toml").is_file() for name in twins)
    planned = 0
    for name in twins:
        groups = suite_groups(name)
        planned += len(fill(artifact, artifact.build(ROOMS, published, {}, groups), groups, None).groups)
    assert planned


def test_a_twin_that_is_no_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = next(a for a in ARTIFACTS if a.name == "table-3")
    monkeypatch.setattr(writing, "SUITES", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        twins_of(artifact)
    (tmp_path / "table3.toml").write_text("twin = 3\n")
    with pytest.raises(UserError, match="neither a name nor a list"):
        twins_of(artifact)


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, pathlib, tempfile; from benchmarks.report.paper import write_paper, writing, catalog\n"
        "writing.ARTIFACTS = tuple(a for a in catalog.ARTIFACTS if a.name in ('table-2', 'table-6'))\n"
        f"write_paper(pathlib.Path({str(RESULTS)!r}), pathlib.Path(tempfile.mkdtemp()))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_latex_needs_booktabs_alone_and_every_row_is_whole(bare: Path) -> None:
    assert re.findall(r"\\usepackage\{(.*?)\}", (bare / "paper.tex").read_text()) == ["booktabs"]
    inputs = re.findall(r"\\input\{(.*?)\}", (bare / "paper.tex").read_text())
    assert inputs == [a.name for a in ARTIFACTS]
    for name in inputs:
        text = (bare / f"{name}.tex").read_text()
        bare_text = re.sub(r"\\[{}]", "", text)
        assert bare_text.count("{") == bare_text.count("}")
        for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
            rows = [row for row in body.splitlines() if row.endswith(r"\\") and "multicolumn" not in row]
            assert rows and {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on the PATH")
def test_latex_compiles_and_no_table_sticks_out(
    results: Path, quick: Callable[[str], None], tmp_path: Path
) -> None:
    """With the widest contents there are: every number of table 2 measured."""
    wide = []
    for model in PAPER.models.values():
        for intrinsic, labels in (("normal", "omnidata-v2"), ("depth", "zoedepth"), ("albedo", "paradigms")):
            wide.append(cell(model, intrinsic, labels=labels, data="samples"))
    scores = {
        "mean_angular_error": 21.0,
        "median_angular_error": 20.0,
        "l1_x100": 16.0,
        "rms": 0.2,
        "delta1": 61.0,
    }
    store(results, "table2", [made(c, **scores) for c in wide])
    for path in (RESULTS / "paper").glob("*.tex"):
        shutil.copy(path, tmp_path)
    quick("table-2")
    write_paper(results, results / "paper")
    shutil.copy(results / "paper" / "table-2.tex", tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (tmp_path / "paper.pdf").stat().st_size > 20_000


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_the_page_in_a_browser(bare: Path, tmp_path: Path) -> None:
    page = (bare / "index.html").read_text(encoding="utf-8")
    for measured, width in zip(look(page, tmp_path), WIDTHS, strict=True):
        wanted = {"width": width, "scroll": width, "images": 8, "broken": [], "requests": []}
        assert {key: measured[key] for key in wanted} == wanted
    assert all(f'id="{a.name}"' in page for a in ARTIFACTS)
