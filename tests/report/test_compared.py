"""Paired comparisons in a report: which pairs there are, and what is said of them."""

import csv
from pathlib import Path

import pytest

from benchmarks.report import write_report
from benchmarks.report.compared import find_comparisons
from benchmarks.report.gather import gather, model_facts
from benchmarks.report.reading import read_store
from tests.report.synthetic import build_store, cell, record, write_record, write_suite


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("store"), seeds=2)


def test_methods_of_a_model_and_models_against_their_random_selves(store: Path) -> None:
    results = read_store(store)
    found = find_comparisons(gather(results), model_facts(results))
    assert found and len({(c.question, c.first, c.second) for c in found}) == len(found)
    for pair in found:
        same = [c for c in found if c.question == pair.question]
        assert pair.questions == len(same) and pair.found.p <= pair.p <= 1
        assert pair.found.n > 1
        method, _, model = pair.first.partition(" of ")
        other, _, against = pair.second.partition(" of ")
        assert model == against or (method == other and "random" in against and "random" not in model)


def test_the_better_one_is_named_only_where_it_is_told(tmp_path: Path) -> None:
    cells = [cell("sd.rooms64-s5", "normal", method) for method in ("lora", "linear")]
    write_suite(tmp_path, cells)
    for c, shift in zip(cells, (0.0, 5.0), strict=True):
        made = record(c)
        values = [30.0 + i % 7 + shift for i in range(len(made.per_image["mean_angular_error"]))]
        made.per_image["mean_angular_error"] = values
        made.scores["mean_angular_error"] = sum(values) / len(values)
        write_record(tmp_path, made)
    results = read_store(tmp_path)
    (pair,) = find_comparisons(gather(results), model_facts(results))
    assert pair.found.value == pytest.approx(-5.0) and pair.verdict.startswith("LoRA of")
    assert pair.p < 0.001


def test_the_report_holds_every_pair(store: Path, tmp_path: Path) -> None:
    write_report(store, tmp_path)
    results = read_store(store)
    found = find_comparisons(gather(results), model_facts(results))
    rows = list(csv.DictReader((tmp_path / "comparison.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(found)
    for row, pair in zip(rows, found, strict=True):
        assert float(row["difference"]) == pytest.approx(pair.found.value, rel=1e-6)
        assert float(row["p_holm"]) == pytest.approx(pair.p, rel=1e-6)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'id="comparison"' in page and f"{found[0].questions} pairs" in page
    assert found[0].verdict in (tmp_path / "comparison.md").read_text(encoding="utf-8").replace("\\", "")


def test_a_correlation_says_what_it_rests_on(store: Path, tmp_path: Path) -> None:
    from benchmarks.metrics.evidence import needed

    write_report(store, tmp_path)
    rows = list(csv.DictReader((tmp_path / "correlation.csv").read_text(encoding="utf-8").splitlines()))
    told = [row for row in rows if row["coefficient"] == "spearman" and row["value"]]
    assert told
    for row in told:
        wanted = needed(float(row["value"]))
        assert row["n_needed"] == ("" if wanted is None else str(wanted))
        assert bool(row["without"]) == bool(row["without_value"])
    others = [row for row in rows if row["coefficient"] in ("pearson", "kendall")]
    assert others and all(row["n_needed"] == row["without"] == "" for row in others)
    text = (tmp_path / "correlation.md").read_text(encoding="utf-8")
    assert "given parameters" in text and "n needed" in text
