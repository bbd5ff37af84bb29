"""Reports of many cells: what is worked out together is what each says alone; what is left out is told."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cell import NO_MODEL, Cell, Record, unsealed
from benchmarks.metrics import draws
from benchmarks.metrics.paired import sign_flip
from benchmarks.metrics.statistics import mean_over_seeds, means_over_seeds
from benchmarks.report import ceiling, curves, open_store, page, picture, terminal_table, write_report
from benchmarks.report.ceiling import read_ceilings
from benchmarks.report.curves import find_curves, write_curves
from benchmarks.report.gather import gather
from benchmarks.report.measures import metrics_in, summary
from benchmarks.report.reading import Results, packed, read_store
from generators.errors import UserError
from tests.report.synthetic import build_store, cell, record, write_record, write_suite

MODEL = "sd.rooms64-s5"


def put(folder: Path, cells: list[Cell], measured: list[Cell] | None = None) -> Path:
    """A store of planned cells, some of them measured."""
    folder.mkdir(parents=True, exist_ok=True)
    write_suite(folder, cells)
    for c in cells if measured is None else measured:
        write_record(folder, record(c))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("many") / "s", seeds=2, intrinsics=("normal", "depth"))


# Means.


@pytest.mark.parametrize("shape", [(3, 40), (1, 40), (3, 1), (1, 1), (2, 1200)])
def test_many_means_are_what_each_is_alone(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).lognormal(0, 0.3, (4, *shape))
    for rows, found in zip(values, means_over_seeds(values), strict=True):
        alone = mean_over_seeds(rows)
        numbers = [(found.value, found.low, found.high), (alone.value, alone.low, alone.high)]
        assert replace(found, value=0, low=None, high=None) == replace(alone, value=0, low=None, high=None)
        if alone.defined:
            np.testing.assert_allclose(*numbers, rtol=1e-12)
        else:
            assert numbers[0] == numbers[1]


def test_an_interval_is_that_of_the_crossed_bootstrap_drawn_out() -> None:
    """Owen's pigeonhole bootstrap, written as its definition says, from the same stream."""
    values, seeds, n, times = np.random.default_rng(1).lognormal(0, 0.3, (3, 25)), 3, 25, 500
    stream = draws.random_stream("seeds-and-pictures", 7)
    rows = stream.multinomial(seeds, np.full(seeds, 1 / seeds), times)
    columns = stream.multinomial(n, np.full(n, 1 / n), times)
    means = [(np.outer(r, c) * values).sum() / (seeds * n) for r, c in zip(rows, columns, strict=True)]
    found = mean_over_seeds(values, resamples=times, seed=7)
    np.testing.assert_allclose((found.low, found.high), np.quantile(means, [0.025, 0.975]), rtol=1e-12)


def test_resamples_are_drawn_once_for_all_groups(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws._kept.cache_clear()
    calls: list[tuple[str, int]] = []
    drawn = draws.random_stream
    monkeypatch.setattr(draws, "random_stream", lambda *asked: calls.append(asked) or drawn(*asked))
    opened = open_store(store)
    shapes = {(len(g.done), g.cell.test) for g in opened.groups if g.done}
    assert len(opened.groups) > 60 and 0 < len(calls) <= 2 * len(shapes)
    calls.clear()
    open_store(store)
    assert not calls


def test_the_signs_of_pairs_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(0.2, 1, 30)
    first, count, make = sign_flip(values, seed=11), [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda *asked: count.append(asked) or make(*asked))
    assert sign_flip(values, seed=11) == first and not count
    sign_flip(values, seed=12)
    assert len(count) == 1


def test_all_means_of_an_opened_store_are_worked_out_as_asked_one_by_one(store: Path) -> None:
    told, alone = open_store(store).groups, gather(read_store(store))
    for opened, fresh in zip(told, alone, strict=True):
        names = metrics_in(fresh)
        assert set(names) == set(opened.intervals) and not fresh.intervals
        for name in names:
            a, b = opened.intervals[name], summary(fresh, name)
            assert a is not None and b is not None and a.value == b.value
            if b.defined:
                np.testing.assert_allclose((a.low, a.high), (b.low, b.high), rtol=1e-12)


def test_scans_are_drawn_together_in_an_opened_store_too(tmp_path: Path) -> None:
    one = record(cell(MODEL, "normal", "lora"))
    one.details["groups"] = [f"scan {i // 10}" for i in range(one.cell.test)]
    write_suite(put(tmp_path / "s", [one.cell], []), [one.cell])
    write_record(tmp_path / "s", one)
    (group,) = open_store(tmp_path / "s").groups
    found = summary(group, "mean_angular_error")
    assert found is not None and found.n == one.cell.test // 10


def test_seeds_of_other_lengths_are_named_when_a_store_is_opened(tmp_path: Path) -> None:
    asked = [cell(MODEL, "normal", "lora", seed) for seed in (0, 1)]
    folder = put(tmp_path / "s", asked)
    short = record(asked[1])
    short.per_image = {name: values[:-1] for name, values in short.per_image.items()}
    write_record(folder, short)
    with pytest.raises(UserError, match="different numbers of test pictures"):
        open_store(folder)


# Reading.


def test_one_reading_serves_the_table_and_the_page(tmp_path: Path) -> None:
    store = put(tmp_path / "s", [cell(m, "normal", "lora") for m in ("sd.rooms64-s1", MODEL)])
    opened = open_store(store)
    write_report(opened, tmp_path / "a")
    write_report(store, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir()) and "index.html" in names
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert list(terminal_table(opened).columns[0].cells) == list(terminal_table(store).columns[0].cells)


def test_a_record_takes_the_cell_that_was_planned(store: Path) -> None:
    results = read_store(store)
    planned = {c.hash: c for c in results.planned}
    assert all(r.cell is planned[name] for name, r in results.records.items())


def test_a_record_of_other_facts_is_not_taken_for_the_planned_cell(tmp_path: Path) -> None:
    one = cell(MODEL, "normal", "lora")
    folder = put(tmp_path / "s", [one])
    path = folder / "records" / f"{one.hash}.json"
    text = json.loads(unsealed(path.read_text()))
    path.write_text(json.dumps(text | {"cell": text["cell"] | {"test": 39}}))
    with pytest.raises(UserError, match="hashes to"):
        read_store(folder)


@pytest.mark.parametrize("wrong", ['["a"]', "[null]", "7", "[[1.0]]", "[1e400]"])
def test_numbers_of_pictures_that_are_none_are_named(tmp_path: Path, wrong: str) -> None:
    one = cell(MODEL, "normal", "lora")
    folder = put(tmp_path / "s", [one])
    path = folder / "records" / f"{one.hash}.json"
    text, found = re.subn(r'("mean_angular_error": )\[[^]]*\]', rf"\g<1>{wrong}", path.read_text())
    assert found == 1
    path.write_text(text)
    with pytest.raises(UserError, match=path.name):
        read_store(folder)


def test_packed_numbers_are_the_same_numbers() -> None:
    values = np.random.default_rng(3).normal(size=50).tolist()
    found = packed(values)
    assert list(found) == values and len(found) == 50 and found[3] == values[3] and not packed([])


def supervised(test: int = 40, model: str = NO_MODEL) -> Cell:
    return cell(model, "normal", "supervised", test=test)


def test_predictors_of_a_read_store_are_those_of_its_files(tmp_path: Path) -> None:
    planned = [supervised(), cell(NO_MODEL, "normal", "constant"), cell(MODEL, "normal", "lora")]
    folder = put(tmp_path / "r" / "s", planned, [*planned, supervised(30)])  # one of no planned cell
    put(tmp_path / "r" / "beside", [supervised(50)])
    results = read_store(folder)
    assert len(results.strangers) == 1
    found = read_ceilings(folder, results)
    assert found == read_ceilings(folder) and [one.asked.test for one in found] == [50, 40, 30]


def test_of_records_beside_it_a_report_reads_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "r" / "s", [cell(MODEL, "normal", "lora")])
    put(tmp_path / "r" / "beside", [*(cell(MODEL, "normal", "lora", s) for s in range(9)), supervised()])
    read: list[str] = []
    whole = Record.from_json
    monkeypatch.setattr(ceiling.Record, "from_json", lambda text: read.append(text) or whole(text))
    assert len(read_ceilings(folder)) == 1 and len(read) == 1
    monkeypatch.setattr(ceiling, "HEAD", 10)  # too little to tell: then all of it is read
    assert len(read_ceilings(folder)) == 1 and len(read) == 2


# Figures and lists.


def swept(rates: int) -> list[Cell]:
    """LoRA at three ranks and many rates: a curve over the ranks for each rate."""
    asked = [0.001, *(0.01 * (k + 1) for k in range(rates - 1))]
    return [cell(MODEL, "normal", "lora", rank=rank, rate=rate) for rate in asked for rank in (2, 8, 32)]


def test_of_many_curves_the_usual_ones_are_drawn_and_the_rest_is_counted(tmp_path: Path) -> None:
    opened = open_store(put(tmp_path / "s", swept(curves.LINES + 8)))
    found = [c for c in find_curves(opened.groups, opened.facts) if c.kind.name == "rank"]
    assert len(found) == curves.LINES + 8 and sum(c.usual for c in found) == 1
    drawn, left = curves._ordered(found[::-1], found[0].question)
    assert (len(drawn), left) == (curves.LINES, 8) and any(c.usual for c in drawn)
    assert curves._ordered(found[: curves.LINES], found[0].question) == (found[: curves.LINES], 0)


def test_the_figure_says_how_many_curves_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    monkeypatch.setattr(curves, "LINES", 3)
    opened = open_store(put(tmp_path / "s", swept(5)))
    titles: list[str] = []
    title = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda ax, text: titles.append(text) or title(ax, text))
    write_curves(tmp_path, find_curves(opened.groups, opened.facts))
    assert any("\n2 more curves are not drawn, see expanded.csv" in t for t in titles)


def test_every_cell_that_is_not_listed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [cell(MODEL, "normal", "lora", seed) for seed in range(30)]
    folder = put(tmp_path / "s", asked, [])
    for c in asked[:12]:
        write_record(folder, Record(c, "failed", reason="NaN"))
    monkeypatch.setattr(page, "LISTED", 5)
    results = read_store(folder)
    text = page._failures(results)
    assert text.count("NaN") == 5 and text.count("not measured yet") == 5
    assert "7 more cells failed" in text and "13 more cells not measured" in text
    assert "<summary>30 lines</summary>" in text
    monkeypatch.undo()
    assert "more cells" not in page._failures(results) and isinstance(results, Results)


def test_a_color_is_a_subject_and_dashes_are_a_method(tmp_path: Path) -> None:
    def asked(subject: str, method: str) -> curves.Curve:
        kind, question = curves.KINDS[0], None
        return curves.Curve(kind, question, method, subject, f"{subject}, {method}", ())  # type: ignore[arg-type]

    pairs = [(family, method) for method in ("lora", "linear", "finetune") for family in ("A", "B")]
    looks = dict(zip(pairs, curves._looks([asked(*pair) for pair in pairs]), strict=True))
    assert len(set(looks.values())) == len(pairs)
    assert len({looks[pair][::2] for pair in pairs if pair[0] == "A"}) == 1
    assert len({looks[pair][1] for pair in pairs if pair[1] == "lora"}) == 1
    alone = asked("B", "linear")
    assert curves._looks([alone], [asked(*pair) for pair in pairs]) == [looks["B", "linear"]]
    for doubtful in ([asked("A", "lora")] * 2, [asked("A", "lora"), asked("A", "linear")]):
        assert len({color for color, _, _ in curves._looks(doubtful)}) == 2


def test_no_legend_is_cut_off(tmp_path: Path) -> None:
    widths = []
    for whole in (False, True):
        figure, (ax,) = picture.panels(1)
        figure.set_layout_engine("none")
        ax.plot([0, 1], label="steps 4000 " * 12)
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.2))
        with Image.open(picture.save(figure, tmp_path / f"{whole}", vector=False, whole=whole)[0]) as made:
            widths.append(made.width)
    assert widths[1] > 1.2 * widths[0]


@pytest.mark.parametrize("scale", ["root", "linear", "log"])
def test_no_tick_is_written_over_another(scale: str) -> None:
    values = [0, 0.02, 0.05, 0.09, 0.1, 0.15, 0.3, 0.4, 0.43, 0.6, 0.67, 0.83, 1]
    if scale == "log":
        values = [2.0**k * 100 for k in range(13)] + [1000]
    with picture.style():
        figure, (ax,) = picture.panels(1, width=4.8, height=3.6)
        ax.plot(sorted(values), values)
        curves._scale(ax, scale, sorted(values))
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) > 5 and boxes[-1].x1 > 0
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


@pytest.mark.parametrize(("least", "scale"), [(-1800.0, "symlog"), (-150.0, "linear")])
def test_a_value_far_below_zero_presses_no_curve_flat(least: float, scale: str) -> None:
    with picture.style():
        figure, (ax,) = picture.panels(1, width=4.8, height=3.6)
        ax.plot([0, 1, 2], [least, 20, 40])
        picture.squeeze(ax, [least, 20, 40])
        figure.draw_without_rendering()
        (_, first), (_, second) = (ax.transData.transform((0, value)) for value in (20, 40))
        boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
    assert ax.get_yscale() == scale and (second - first) / ax.bbox.height > 0.05
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
