"""What reports say of drawing and knowing, on a made-up store like the whole matrix."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.cell import NO_INTRINSIC, Record
from benchmarks.metrics.statistics import correlation
from benchmarks.report import correlation_panels
from benchmarks.report.correlation import (
    CORRELATION,
    Panel,
    check_comparable,
    correlation_lines,
    correlation_markdown,
    correlation_tables,
    find_panels,
    verdicts,
)
from benchmarks.report.correlation_panels import QUALITIES, noise, values
from benchmarks.report.correlation_pooled import together
from benchmarks.report.correlation_scatter import _figure
from benchmarks.report.curves import find_curves
from benchmarks.report.formats import csv_text
from benchmarks.report.gather import Group, gather, model_facts
from benchmarks.report.picture import style
from benchmarks.report.reading import read_store
from generators.errors import UserError
from tests.report.many import FAMILIES, SHARES, build, changed, matrix, models, planned, record
from tests.report.synthetic import PRIMARY, cell

TWO = models(families=("sd", "stylegan2"))


def panels_of(store: Path) -> list[Panel]:
    results = read_store(store)
    return find_panels(gather(results), model_facts(results))


def small(
    folder: Path, change: Callable[[Record], Record] = lambda r: r, names: Sequence[str] = TWO
) -> list[Panel]:
    """Panels of a few models of rooms, whose records were changed."""
    return panels_of(build(folder, [change(record(c)) for c in planned(names=list(names), seeds=1)]))


@pytest.fixture(scope="module")
def panels(tmp_path_factory: pytest.TempPathFactory) -> list[Panel]:
    return panels_of(matrix(tmp_path_factory.mktemp("results") / "many"))


@pytest.fixture(scope="module")
def rows(panels: list[Panel]) -> list[dict[str, str]]:
    return list(csv.DictReader(csv_text(correlation_lines(panels), CORRELATION).splitlines()))


def test_families_asked_at_their_own_rates_stand_together_and_domains_apart(panels: list[Panel]) -> None:
    assert Counter((p.question.intrinsic, p.method, p.domain, len(p.points)) for p in panels) == {
        (intrinsic, method, domain, n): 1
        for intrinsic in ("normal", "depth")
        for method in ("lora", "linear")
        for domain, n in (("rooms", 30), ("objects", 12))
    }
    for panel in panels:
        assert panel.title.endswith(f", domain {panel.domain}, exact truth")


@pytest.mark.parametrize(("option", "parts"), [("rate", [4]), ("rank", [2, 2])])
def test_an_option_that_is_asked_about_keeps_models_apart(
    tmp_path: Path, option: str, parts: list[int]
) -> None:
    names = ["sd.rooms64-s1", "sd.rooms64-s2", "stylegan2.rooms64-s1", "stylegan2.rooms64-s2"]
    other: dict[str, dict[str, Any]] = {
        "sd": {"rank": 8, "rate": 0.001},
        "stylegan2": {"rank": 8, "rate": 0.001},
    }
    other["stylegan2"][option] = 16
    cells = [cell(m, "normal", "lora", **other[m.split(".")[0]]) for m in names]
    cells += [cell(m, NO_INTRINSIC, "frechet") for m in names]
    found = panels_of(build(tmp_path / "s", [record(c) for c in cells]))
    assert [len(p.points) for p in found] == parts


def test_a_model_trained_on_scrambled_pictures_is_no_stage_of_the_others(tmp_path: Path) -> None:
    """It has seen as many as one of them, and would be averaged with it."""
    results = read_store(build(tmp_path / "s", [record(c) for c in planned(names=TWO, seeds=1)]))
    curves = [c for c in find_curves(gather(results), model_facts(results)) if c.kind.name == "stage"]
    assert curves and all([x for x, _ in c.points] == sorted(SHARES.values()) for c in curves)


def test_controls_make_three_sets_of_models(panels: list[Panel]) -> None:
    first = panels[0]
    assert [(s.name, s.value.n) for s in first.sets] == [("all", 30), ("trained", 20), ("real", 25)]
    by_name = {s.name: {p.facts.name.split("-")[-1] for p in s.points} for s in first.sets}
    assert by_name["all"] - by_name["real"] == {"scrambled"}
    assert by_name["real"] - by_name["trained"] == {"random"}
    assert first.every is first.sets[0].value and first.trained is first.sets[1].value


def test_sets_of_the_same_models_are_told_once(tmp_path: Path) -> None:
    only = [m for m in TWO if "random" not in m]
    assert [s.name for s in small(tmp_path / "a", names=only)[0].sets] == ["all", "trained"]
    only = [m for m in TWO if "random" not in m and "scrambled" not in m]
    (panel, *_) = small(tmp_path / "b", names=only)
    assert [s.name for s in panel.sets] == ["all"] and panel.trained is None


def test_every_family_is_told_with_its_scrambled_control_and_without(panels: list[Panel]) -> None:
    first = panels[0]
    expected = [(f"family: {f}{end}", n) for f in FAMILIES.values() for end, n in (("", 6), (", real", 5))]
    assert [(s.name, s.value.n) for s in first.families] == expected
    for chosen in first.families:
        assert chosen.value.spearman is not None
        assert chosen.value.spearman.value == pytest.approx(spearmanr(*values(chosen.points)).statistic)
    text = correlation_markdown(panels)
    assert "### Within each family" in text and text.count(", n 6; real ") == 4 * 5 + 4 * 2


def test_every_measure_of_pictures_is_correlated(panels: list[Panel], rows: list[dict[str, str]]) -> None:
    told = [r for r in rows if (r["models"], r["coefficient"]) == ("all", "spearman")]
    assert Counter(r["quality"] for r in told) == dict.fromkeys(QUALITIES, 8)
    first = panels[0]
    for quality in QUALITIES:
        x, y = values(first.points, quality)
        row = next(r for r in told if r["quality"] == quality and r["domain"] == "rooms")
        assert float(row["value"]) == pytest.approx(spearmanr(x, y).statistic, rel=1e-6)
    table = next(t for t in correlation_tables(panels) if t.title.startswith("Does another measure"))
    assert len(table.head) == 10 and len(table.rows) == 8 * 2
    assert "extractor_2 dinov2-rooms" in first.quality


def test_what_old_records_do_not_hold_is_not_shown(tmp_path: Path) -> None:
    def without(r: Record) -> Record:
        scores = {k: v for k, v in r.scores.items() if not k.endswith("_2")}
        return changed(r, scores=scores)

    found = small(tmp_path / "s", without)
    assert found and all(set(p.others) == {"kernel"} for p in found)
    head = next(t.head for t in correlation_tables(found) if t.title.startswith("Does another measure"))
    assert head[-2:] == ["Frechet distance", "kernel distance"]


def test_a_measure_only_some_models_have_is_told_of_those(tmp_path: Path) -> None:
    def some(r: Record) -> Record:
        if r.cell.method != "frechet" or "sd." in r.cell.model:
            return r
        return changed(r, scores={"frechet_distance": r.scores["frechet_distance"]})

    panel = small(tmp_path / "s", some)[0]
    assert panel.every.n == 12 and panel.others["frechet_2"][0].value.n == 6


def test_intervals_hold_the_noise_of_pictures_and_seeds(panels: list[Panel]) -> None:
    points = panels[0].points
    x, y = noise(points)
    assert x.shape == y.shape == (2000, 30) and np.ptp(x, 0).max() == 0, "a distance measured once is exact"
    np.testing.assert_allclose(y.mean(0), values(points)[1], rtol=0.02)
    # What all share (hard pictures) moves all together: far less is left between two than each one moves.
    assert (y[:, 0] - y[:, 1]).std() < 0.6 * y[:, 0].std()
    told, plain = panels[0].every.spearman, correlation(*values(points)).spearman
    assert told is not None and plain is not None
    assert (told.value, told.p) == (plain.value, plain.p) and (told.low, told.high) != (plain.low, plain.high)


def test_facets_are_pooled_without_mixing_them(panels: list[Panel], rows: list[dict[str, str]]) -> None:
    found = together(panels)
    assert [(t.name, t.value.n, len(t.panels)) for t in found if t.value] == 4 * [
        ("pooled", 42, 2),
        ("pooled, trained", 28, 2),
    ]
    first = found[0]
    assert first.value is not None
    each = [p.every.spearman.value for p in first.panels if p.every.spearman]
    assert first.value.value == pytest.approx((29 * each[0] + 11 * each[1]) / 40)
    pooled = [r for r in rows if r["models"].startswith("pooled")]
    assert len(pooled) == 8 and {(r["n"], r["facets"]) for r in pooled} == {("42", "2"), ("28", "2")}
    assert "rooms, exact truth; objects, exact truth" in correlation_markdown(panels)


def test_pooled_signs_say_who_knows_more(tmp_path: Path) -> None:
    """Errors on renders and skill on own pictures: opposite signs, one statement."""
    records = [record(c) for c in planned(names=TWO, seeds=1)]
    for r in [r for r in records if (r.cell.intrinsic, r.cell.method) == ("normal", "linear")]:
        error = np.array(r.per_image["mean_angular_error"])
        skill = {"skill": (100 - error).tolist()}
        c = replace(r.cell, data="samples", world="own", labels="rooms-network")
        scores = r.scores | {"skill": float(np.mean(skill["skill"]))}
        records.append(changed(r, cell=c, scores=scores, per_image=r.per_image | skill))
    found = [p for p in panels_of(build(tmp_path / "s", records)) if p.question.intrinsic == "normal"]
    exact, own = (p for p in found if p.method == "linear")
    assert exact.every.spearman is not None and own.every.spearman is not None
    assert exact.every.spearman.value == pytest.approx(-own.every.spearman.value)
    assert own.truth == "truth by rooms-network, own pictures"
    (pooled, *_) = together(found)
    assert pooled.value is not None and pooled.value.value == pytest.approx(exact.every.spearman.value)
    (_, sentence) = verdicts(found)
    assert "predicts normals by linear probe: Spearman within facets +" in sentence
    (sentence,) = verdicts([own])
    assert (
        sentence.startswith("The Frechet distance predicts") and "with skill (higher is better) -" in sentence
    )


def groups_of(folder: Path, change: Callable[[Record], Record], asked: tuple[str, str]) -> list[Group]:
    """Groups of one intrinsic and method, the second model's records changed."""
    names = ["sd.rooms64-s1", "sd.rooms64-s2"]
    made = [record(c) for c in planned(names=names, seeds=1)]
    store = build(folder, [change(r) if r.cell.model == names[1] else r for r in made])
    return [g for g in gather(read_store(store)) if (g.cell.intrinsic, g.cell.method) == asked]


def of_cell(**changes: Any) -> Callable[[Record], Record]:
    return lambda r: changed(r, cell=replace(r.cell, **changes))


PROBE, DISTANCE = ("normal", "lora"), (NO_INTRINSIC, "frechet")


@pytest.mark.parametrize(
    ("change", "asked", "named"),
    [
        (of_cell(data="objects"), PROBE, "data set"),
        (of_cell(world="w2"), PROBE, "world"),
        (of_cell(labels="rooms-network"), PROBE, "labels"),
        (of_cell(alignment="scale"), PROBE, "alignment"),
        (of_cell(test=39), PROBE, "test pictures"),
        (of_cell(train_labels="omnidata"), PROBE, "training labels"),
        (lambda r: changed(r, generator={"domain": "faces"}), PROBE, "domain"),
        (lambda r: changed(r, details={"extractor": "inception"}), DISTANCE, "extractor"),
        (lambda r: changed(r, details={"extractor_2": "inception"}), DISTANCE, "second extractor"),
        (lambda r: changed(r, details={"samples": 512}), DISTANCE, "samples"),
    ],
)
def test_what_does_not_compare_is_refused_and_named(
    tmp_path: Path, change: Callable[[Record], Record], asked: tuple[str, str], named: str
) -> None:
    groups = groups_of(tmp_path / "s", change, asked)
    assert len(groups) == 2
    with pytest.raises(UserError) as caught:
        check_comparable(groups)
    assert f"they differ in {named}" in str(caught.value) and f"{named}: " in caught.value.known
    check_comparable(groups[:1])
    check_comparable([])


def test_records_of_two_protocols_are_refused(tmp_path: Path) -> None:
    (first, second) = groups_of(tmp_path / "s", lambda r: r, PROBE)
    check_comparable([first, second])
    later = tuple(changed(r, cell=replace(r.cell, protocol=2)) for r in second.done)
    with pytest.raises(UserError, match="protocol"):
        check_comparable([first, Group(second.cells, later, ())])


def test_models_and_settings_may_differ(panels: list[Panel]) -> None:
    check_comparable([p.probe for p in panels[0].points])
    check_comparable([p.quality for p in panels[0].points])


def test_a_panel_that_mixes_extractors_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the facet forgotten, the guard would still refuse: here it is taken away."""

    def other(r: Record) -> Record:
        mixed = r.cell.method == "frechet" and "sd." in r.cell.model
        return changed(r, details={"extractor": "inception"}) if mixed else r

    assert {len(p.points) for p in small(tmp_path / "s", other)} == {6}
    monkeypatch.setattr(correlation_panels, "_measured", lambda group: '{"options":{},"details":{}}')
    with pytest.raises(UserError, match="differ in extractor"):
        small(tmp_path / "t", other)


def test_verdicts_say_what_holds(panels: list[Panel]) -> None:
    found = verdicts(panels)
    assert [s.split(":")[0] for s in found] == [
        f"The Frechet distance predicts {intrinsic} by {method}"
        for intrinsic in ("normals", "depth")
        for method in ("LoRA", "linear probe")
    ]
    for sentence in found:
        assert "n 42" in sentence and "after Holm" in sentence and "trained alone +" in sentence
        assert "rooms, exact truth: +" in sentence and "(n 30); objects" in sentence


def test_verdicts_say_what_does_not_hold(tmp_path: Path) -> None:
    """Errors by chance: no sentence says that they are predicted, and each says what it would take."""
    cells = planned(names=TWO, seeds=1)
    found = verdicts(panels_of(build(tmp_path / "s", [record(c, says=0.0) for c in cells])))
    assert len(found) == 4
    for sentence in found:
        assert sentence.startswith("The Frechet distance does not predict ")
        assert "would need n = " in sentence or "no number of models" in sentence


def test_three_models_are_told_what_three_can_say(tmp_path: Path) -> None:
    names = ["sd.rooms64-s1", "sd.rooms64-s2", "sd.rooms64-s4"]
    for sentence in verdicts(small(tmp_path / "a", names=names)):
        assert sentence.startswith("The Frechet distance does not predict ")
        assert sentence.endswith("; the least p three models can reach is 1/3.")
    for sentence in verdicts(small(tmp_path / "b", names=names[:2])):
        assert sentence.startswith("Nothing is told of ")
        assert sentence.endswith("fewer than three pairs, n 2.")


def test_a_correlation_the_wrong_way_is_not_praised(tmp_path: Path) -> None:
    def turned(r: Record) -> Record:
        if r.cell.method == "frechet":
            return changed(r, scores={k: 100 - v for k, v in r.scores.items()})
        return r

    for sentence in verdicts(small(tmp_path / "s", turned)):
        assert sentence.startswith("The better a model draws, the less it knows of "), sentence


def test_small_p_alone_leaves_it_open(tmp_path: Path) -> None:
    """Five models in perfect order have p = 1/60: enough for one question, not for four."""
    names = [m for m in TWO if m.startswith("sd.") and "scrambled" not in m]

    def ordered(r: Record) -> Record:
        place = names.index(r.cell.model)
        if r.cell.method == "frechet":
            return changed(r, scores={"frechet_distance": 5.0 + place})
        (name,) = r.per_image
        each = (np.array(r.per_image[name]) * 0 + 1 + place).tolist()
        return changed(r, scores={name: 1.0 + place}, per_image={name: each})

    found = small(tmp_path / "s", ordered, names)
    for sentence in verdicts(found):
        assert (
            sentence.startswith("Whether the Frechet distance predicts ")
            and "p is small only alone" in sentence
        )
        assert "p 0.017 (0.067 after Holm), n 5" in sentence
    (alone,) = verdicts(found[:1])
    assert alone.startswith("The Frechet distance predicts normals by LoRA: Spearman +1.00")


@pytest.mark.parametrize("families", [2, 3, 4, 5])
def test_the_legend_of_one_panel_alone_is_not_wider_than_it(panels: list[Panel], families: int) -> None:
    there = list(FAMILIES.values())[:families]
    first = next(p for p in panels if p.question.intrinsic == "normal")
    some = replace(first, points=[p for p in first.points if p.facts.family in there])
    with style():
        figure = _figure([some])
        key, page = figure.legends[0].get_window_extent(), figure.bbox
    assert len(figure.legends) == 1 and page.x0 <= key.x0 and key.x1 <= page.x1


def test_thirty_points_can_be_read(panels: list[Panel]) -> None:
    own = [p for p in panels if p.question.intrinsic == "normal"]
    with style():
        figure = _figure([p for p in own if p.question == own[0].question])
        ax = figure.axes[0]
        boxes = [text.get_window_extent() for text in ax.texts]
        words = Counter(text.get_text() for text in ax.texts)
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        frame = ax.get_window_extent()
    assert words == {name: 5 for name in ("10 %", "30 %", "60 %", "100 %", "untrained", "scrambled")}
    assert legend[:5] == list(FAMILIES.values())
    assert legend[5:] == ["hollow: never trained", "hollow, crossed: trained on scrambled pictures"]
    assert ax.get_title(loc="left") == "LoRA, domain rooms\nexact truth"
    crossed = [line for line in ax.lines if line.get_marker() == "x"]
    assert len(crossed) == 5
    overlap = [
        max(min(a.x1, b.x1) - max(a.x0, b.x0), 0) * max(min(a.y1, b.y1) - max(a.y0, b.y0), 0)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    ]
    area = float(np.mean([box.width * box.height for box in boxes]))
    assert sum(o > 0.1 * area for o in overlap) <= 1
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 + 1 for b in boxes)


def test_one_model_far_below_leaves_the_others_apart(tmp_path: Path) -> None:
    """A skill of -2,000 % on a scale of plain numbers that keeps the others, of 0 to 20 %, apart."""

    def own(r: Record) -> Record:
        if r.cell.method != "linear":
            return r
        error = r.scores[PRIMARY[r.cell.intrinsic]]
        skill = -2000.0 if "stylegan2.rooms64-random" in r.cell.model else 40 - error
        c = replace(r.cell, data="samples", world="own", labels="rooms-network")
        return changed(r, cell=c, scores={"skill": skill}, per_image={"skill": [skill] * c.test})

    panels = [p for p in small(tmp_path / "s", own) if p.method == "linear"]
    with style():
        (ax,) = _figure(panels[:1]).axes
        low, high = (ax.transData.transform((0, y))[1] for y in (0, 20))
        assert (high - low) / ax.get_window_extent().height > 0.05
        assert not any("$" in label.get_text() for label in ax.get_yticklabels())
