"""What a report answers in words: the winner, gaps over models, ceilings and claims, from records alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cell import NO_MODEL, Cell, Record
from benchmarks.metrics.paired import holm, sign_flip
from benchmarks.metrics.statistics import mean_over_seeds
from benchmarks.report import terminal_table, write_report, write_results_readme
from benchmarks.report.answers import Answer, find_answers
from benchmarks.report.ceiling import ceiling_text, ceilings_of, read_ceilings
from benchmarks.report.claims import (
    AGREES,
    DOES_NOT,
    NOT_MEASURED,
    NOT_TOLD,
    PARTLY,
    claims_markdown,
    evidence,
    verdict,
)
from benchmarks.report.correlation import find_panels
from benchmarks.report.findings import blocks, finding_lines
from benchmarks.report.gaps import NO, OPEN, YES
from benchmarks.report.gather import gather, model_facts
from benchmarks.report.reading import read_store
from tests.report.synthetic import cell, write_record, write_suite

METRIC = "mean_angular_error"
PICTURES = 40
OWN: dict[str, Any] = {"data": "samples", "world": "own-1-cafe", "labels": "rooms-network"}
PUBLISHED = Path(__file__).parents[2] / "results/published"


def generator(name: str, trained: float = 1.0, control: str = "") -> dict[str, Any]:
    family = name.split(".")[0]
    about = {"name": name, "family": family, "title": name.upper(), "domain": "rooms", "takes": "images"}
    return about | {"trained": trained, "control": control}


def asked(c: Cell, error: float, wave: float = 1.0, spec: Mapping[str, Any] | None = None) -> Record:
    """A record whose pictures' errors spread by `wave` around a mean; all records spread over them alike."""
    spread = np.sin(np.arange(c.test) * 1.7)
    values = error + wave * (spread - spread.mean())
    told = dict(spec) if spec is not None else (generator(c.model) if c.model != NO_MODEL else {})
    name = METRIC if c.intrinsic == "normal" else "rms"
    scores, each = {name: error}, {name: values.tolist()}
    if c.data == "samples":
        each["skill"], scores["skill"] = (100 * (1 - values / 40)).tolist(), 100 * (1 - error / 40)
    return Record(c, "done", scores=scores, per_image=each, parameters={"total": 5}, generator=told)


def put(store: Path, records: list[Record]) -> Path:
    store.mkdir(parents=True, exist_ok=True)
    write_suite(store, [r.cell for r in records], title="A store", question="Who knows?")
    for one in records:
        write_record(store, one)
    return store


def answers_of(store: Path) -> dict[tuple[str, str], Answer]:
    results = read_store(store)
    groups, facts = gather(results), model_facts(results)
    found = find_answers(groups, facts, find_panels(groups, facts))
    return {(a.about, a.topic): a for a in found}


def frechet(model: str, value: float, spec: Mapping[str, Any] | None = None) -> Record:
    c = cell(model, "none", "frechet")
    return Record(c, "done", scores={"frechet_distance": value}, generator=dict(spec or generator(model)))


def test_the_model_that_knows_most_is_no_control_and_its_lead_is_tested(tmp_path: Path) -> None:
    control = generator("a.scrambled", control="scrambled")
    records = [
        asked(cell("a.s", "normal", "lora"), 30.0),
        asked(cell("a.s", "normal", "linear"), 29.0),
        asked(cell("b.s", "normal", "lora"), 31.0),
        asked(cell("a.scrambled", "normal", "lora"), 20.0, spec=control),
        asked(cell("a.random", "normal", "lora"), 21.0, spec=generator("a.random", 0.0)),
        asked(cell("a.s", "normal", "finetune"), 10.0),
        asked(cell(NO_MODEL, "normal", "constant"), 39.0),
        asked(cell(NO_MODEL, "normal", "pixels"), 28.0),
    ]
    found = answers_of(put(tmp_path / "s", records))
    most = found["normal", "most"]
    assert most.short == "A.S" and most.models == 2
    assert "29.00 °" in most.brief and "by linear probe, lead certain" in most.brief
    assert (
        "second B.S, 31.00 °" in most.text
        and "With every weight trained (fine-tuning): A.S, 10.00" in most.text
    )
    assert (
        most.sign == NO and "worse by 1.00 °" in most.text and "no better than knowing no model" in most.brief
    )
    named = found["normal", "scrambled"]
    assert named.sign == NO and "by LoRA worse by 10.00 °" in named.text
    assert found["normal", "random"].sign == NO


def test_a_lead_of_noise_is_not_certain(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    records = [asked(cell(f"{m}.s", "normal", "lora"), 30.0) for m in "abc"]
    for record in records:
        values = 30 + rng.normal(0, 1, PICTURES)
        record.per_image[METRIC], record.scores[METRIC] = values.tolist(), float(values.mean())
    ranked = sorted(records, key=lambda r: r.scores[METRIC])
    best, *others = (np.asarray(r.per_image[METRIC]) for r in ranked)
    p = holm([sign_flip(best - other)[0] for other in others])[0]
    text = answers_of(put(tmp_path / "s", records))["normal", "most"].text
    assert p > 0.05 and f"the lead is not certain (p {p:.2g} after Holm over 2 others)" in text


def test_lora_against_the_linear_probe_over_models(tmp_path: Path) -> None:
    """The mean gain, its interval over models and pictures, and how many are certain after Holm."""
    rng, rows, records = np.random.default_rng(5), [], []
    for number, model in enumerate("abcd"):
        for method, shift in (("lora", -0.1 - 0.5 * number), ("linear", 0.0)):
            record = asked(cell(f"{model}.s", "normal", method), 0.0)
            values = 30 + shift + rng.normal(0, 1, PICTURES)
            record.per_image[METRIC], record.scores[METRIC] = values.tolist(), float(values.mean())
            records.append(record)
        rows.append(np.subtract(records[-1].per_image[METRIC], records[-2].per_image[METRIC]))
    answer = answers_of(put(tmp_path / "s", records))["normal", "linear"]
    expected = mean_over_seeds(np.stack(rows))
    p = holm([sign_flip(row)[0] for row in rows])
    sure = int((p < 0.05).sum())
    assert 0 < sure < 4 and answer.models == 4 and answer.sign == YES
    assert (
        f"better by {expected.value:.2f} ° [{expected.low:.2f}, {expected.high:.2f}] on average"
        in answer.text
    )
    better = sum(row.mean() > 0 for row in rows)
    assert f"better in {better} of 4 models, certainly in {sure}" in answer.text
    turned = [replace(r, cell=r.cell.with_(train=64)) if r.cell.method == "linear" else r for r in records]
    unfair = answers_of(put(tmp_path / "t", turned))["normal", "linear"]
    assert unfair.sign is None and unfair.short == "not measured" and unfair.models == 0


def test_a_model_is_set_against_the_control_of_its_own_family(tmp_path: Path) -> None:
    specs = {"a.one-s1": 0.1, "a.one-s2": 1.0, "a.one-random": 0.0, "a.two-s1": 1.0, "a.two-random": 0.0}
    errors = {
        "a.one-s1": 39.0,
        "a.one-s2": 30.0,
        "a.one-random": 33.0,
        "a.two-s1": 20.0,
        "a.two-random": 22.0,
    }
    records = [asked(cell(n, "normal", "linear"), errors[n], spec=generator(n, t)) for n, t in specs.items()]
    answer = answers_of(put(tmp_path / "s", records))["normal", "random"]
    assert answer.models == 2 and "by linear probe better by 2.50 °" in answer.text
    assert answers_of(tmp_path / "s")["normal", "scrambled"].text.startswith("no model and its control")


def test_the_scrambled_control_stands_against_the_stage_of_its_own_length(tmp_path: Path) -> None:
    trained = {"a.s1": 0.1, "a.s2": 0.3, "a.s3": 1.0}
    errors = {"a.s1": 36.0, "a.s2": 33.0, "a.s3": 30.0}
    records = [asked(cell(n, "normal", "lora"), errors[n], spec=generator(n, t)) for n, t in trained.items()]
    control = generator("a.scrambled", 0.3, control="scrambled")
    records.append(asked(cell("a.scrambled", "normal", "lora"), 34.5, spec=control))
    answer = answers_of(put(tmp_path / "s", records))["normal", "scrambled"]
    assert answer.names == ("a.s2",) and "better by 1.50 °" in answer.text


def test_a_scrambled_control_without_a_stage_of_its_length_is_compared_with_none(tmp_path: Path) -> None:
    """Beside the stage that saw three times as much, what is found would be the training's length."""
    control = generator("a.scrambled", 0.3, control="scrambled")
    records = [
        asked(cell("a.s3", "normal", "lora"), 30.0, spec=generator("a.s3", 1.0)),
        asked(cell("a.scrambled", "normal", "lora"), 34.5, spec=control),
    ]
    answer = answers_of(put(tmp_path / "s", records))["normal", "scrambled"]
    assert answer.text.startswith("no model and its control")


def test_skill_below_zero_is_no_worse_than_the_mean_map(tmp_path: Path) -> None:
    """An untrained network whose pictures are all alike is thousands of percent worse: that tells nothing."""
    records = [
        asked(cell("a.s", "normal", "lora", **OWN), 30.0),
        asked(cell("a.random", "normal", "lora", **OWN), 400.0, spec=generator("a.random", 0.0)),
    ]
    answer = answers_of(put(tmp_path / "s", records))["normal", "random"]
    assert "by LoRA better by 25.0 points" in answer.text and answer.sign == YES


def test_an_error_above_the_mean_map_s_is_no_worse_than_the_mean_map(tmp_path: Path) -> None:
    """With exact truth, too: of two networks that know nothing neither knows more."""
    mean_map = asked(cell(NO_MODEL, "normal", "constant"), 39.0)
    records = [
        mean_map,
        asked(cell("a.s", "normal", "lora"), 36.0),
        asked(cell("a.random", "normal", "lora"), 90.0, spec=generator("a.random", 0.0)),
        asked(cell("b.s", "normal", "lora"), 60.0, spec=generator("b.s", 1.0)),
        asked(cell("b.random", "normal", "lora"), 80.0, spec=generator("b.random", 0.0)),
    ]
    answer = answers_of(put(tmp_path / "s", records))["normal", "random"]
    assert "by LoRA better by 1.50 °" in answer.text and answer.models == 2
    raw = answers_of(put(tmp_path / "t", [r for r in records if r is not mean_map]))["normal", "random"]
    assert "by LoRA better by 37.00 °" in raw.text  # what the mean map reaches is not known


def test_one_small_p_among_many_questions_is_not_told(tmp_path: Path) -> None:
    """Holm's correction over the questions of a store: p 0.033 alone, 0.067 as the better one of two."""
    models, order = [f"{m}.s" for m in "abcdef"], [1, 0, 2, 3, 5, 4]
    normal = [asked(cell(m, "normal", "lora"), 30.0 + order[i]) for i, m in enumerate(models)]
    drawn = [frechet(m, 5.0 + i) for i, m in enumerate(models)]
    alone = answers_of(put(tmp_path / "s", normal + drawn))["normal", "frechet"]
    assert alone.sign == YES and "Holm" not in alone.text
    shape = [2, 5, 0, 3, 1, 4]
    depth = [asked(cell(m, "depth", "lora"), 1.0 + shape[i]) for i, m in enumerate(models)]
    both = answers_of(put(tmp_path / "t", normal + depth + drawn))["normal", "frechet"]
    assert both.sign == OPEN and "after Holm over 2 questions" in both.text


@pytest.mark.parametrize(("slope", "sign"), [(1.0, YES), (-1.0, NO), (0.0, OPEN)])
def test_what_the_frechet_distance_predicts(tmp_path: Path, slope: float, sign: int) -> None:
    models = [f"{m}.s" for m in "abcdefg"]
    noise = [0.3, -0.2, 0.25, -0.3, 0.1, -0.15, 0.2]
    records = [asked(cell(m, "normal", "lora"), 30 + slope * i + noise[i]) for i, m in enumerate(models)]
    records += [frechet(m, 5.0 + 3 * i) for i, m in enumerate(models)]
    records.append(asked(cell("z.random", "normal", "lora"), 99.0, spec=generator("z.random", 0.0)))
    records.append(frechet("z.random", 90.0, generator("z.random", 0.0)))
    answer = answers_of(put(tmp_path / "s", records))["normal", "frechet"]
    assert answer.sign == sign and answer.models == 7 and "7 trained models" in answer.text


def test_three_models_cannot_be_significant_and_two_are_not_measured(tmp_path: Path) -> None:
    models = ["a.s", "b.s", "c.s"]
    records = [asked(cell(m, "normal", "lora"), 30.0 + i) for i, m in enumerate(models)]
    records += [frechet(m, 5.0 + i) for i, m in enumerate(models)]
    answer = answers_of(put(tmp_path / "s", records))["normal", "frechet"]
    assert answer.sign == OPEN and "the least p that 3 can reach is 0.33" in answer.text
    few = put(tmp_path / "t", [r for r in records if r.cell.model != "c.s"])
    assert "of 2 trained models: three are the least" in answers_of(few)["normal", "frechet"].text


def test_few_labels_small_ranks_and_few_steps(tmp_path: Path) -> None:
    records = [
        asked(cell("sd.s", "normal", "lora"), 30.0),
        asked(cell("sd.s", "normal", "lora", train=4000), 28.0),
        asked(cell("sd.s", "normal", "lora", rank=2), 30.6),
        asked(cell("sd.s", "normal", "lora", rank=32), 29.9),
        asked(cell("sd-aug.s", "normal", "lora"), 37.0),
        asked(cell(NO_MODEL, "normal", "constant"), 39.0),
        asked(cell(NO_MODEL, "normal", "pixels"), 38.0),
    ]
    found = answers_of(put(tmp_path / "s", records))
    few, rank, single = (found["normal", topic] for topic in ("few", "rank", "single"))
    assert few.sign == YES and few.models == 2 and "4,000 pictures against 250: better by 2.00 °" in few.text
    assert rank.sign == YES and "rank 2 against 32 (the best): worse by 0.70 °" in rank.text
    assert single.sign == YES and "one step is better by 7.00 °" in single.text
    records[2] = asked(records[2].cell, 33.0)
    assert answers_of(put(tmp_path / "t", records))["normal", "rank"].sign == NO
    assert ("normal", "single") not in answers_of(put(tmp_path / "u", records[:4]))


def test_lists_say_what_was_not_measured(tmp_path: Path) -> None:
    results = read_store(put(tmp_path / "s", [asked(cell("a.s", "normal", "lora"), 30.0)]))
    groups, facts = gather(results), model_facts(results)
    (block,) = blocks(find_answers(groups, facts, []))
    lines = finding_lines(block, str)
    assert block.title == "rooms, 64 x 64 pixels, exact truth"
    assert lines[0].startswith("- *Which model knows most?* normal: **A.S** (30.00 °")
    assert lines[-1] == (
        "- Not measured: LoRA against a linear probe; LoRA against fine-tuning; trained against random "
        "weights; trained against scrambled pictures; the Frechet distance against the error."
    )


def judged(error: float, network: str = "cafe", **changes: Any) -> Record:
    """The supervised network on renders."""
    c = cell(NO_MODEL, "normal", "supervised", **changes)
    return asked(replace(c, options={"network": network}), error)


def stores(root: Path, *there: Record) -> Path:
    """A store whose truth is a predictor's, and one beside it that scored predictors."""
    own = [
        asked(cell("a.s", "normal", "lora", **OWN), 30.0),
        asked(cell("a.s", "normal", "linear", **OWN), 31.0),
    ]
    if there:
        put(root / "beside", list(there))
    return put(root / "own", own)


def test_the_predictors_own_error_stands_beside_every_number_of_its_truth(tmp_path: Path) -> None:
    flat = asked(cell(NO_MODEL, "normal", "constant"), 40.0)
    store = stores(tmp_path, judged(12.0), flat, judged(13.0, network="beef"))
    (question,) = {g.question for g in gather(read_store(store))}
    (one,) = ceilings_of(question, read_ceilings(store))
    assert one.value.value == pytest.approx(12.0) and one.skill == pytest.approx(70.0)
    text = ceiling_text(question, read_ceilings(store))
    assert "itself off by 12.00 ° [" in text and text.endswith("on rooms (skill over the mean map 70.0 %).")
    write_report(store, tmp_path / "out")
    assert "itself off by 12.00 °" in (tmp_path / "out/table.md").read_text()
    assert (tmp_path / "out/index.html").read_text().count("itself off by 12.00 °") >= 2
    with (tmp_path / "out/table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {(line["ceiling"], line["ceiling_data"]) for line in lines} == {("12", "rooms")}
    assert "itself off by 12.00 °" in write_results_readme(tmp_path).read_text()
    columns = list(terminal_table(store).columns[0].cells)
    assert any("itself off by 12.00 °" in str(each) for each in columns)


@pytest.mark.parametrize(
    "other",
    [(), (judged(12.0, network="beef"),), (judged(12.0, size=128),), (judged(12.0, labels="omnidata"),)],
    ids=["nothing", "other weights", "other size", "no exact truth"],
)
def test_a_ceiling_that_is_not_of_this_predictor_is_not_shown(
    tmp_path: Path, other: tuple[Record, ...]
) -> None:
    store = stores(tmp_path, *other)
    (question,) = {g.question for g in gather(read_store(store))}
    assert ceilings_of(question, read_ceilings(store)) == []
    assert "was not measured" in ceiling_text(question, read_ceilings(store))
    write_report(store, tmp_path / "out")
    assert "how far off that is itself was not measured" in (tmp_path / "out/index.html").read_text()


def test_exact_truth_has_no_ceiling(tmp_path: Path) -> None:
    store = put(tmp_path / "s", [asked(cell("a.s", "normal", "lora"), 30.0), judged(12.0)])
    for group in gather(read_store(store)):
        assert ceiling_text(group.question, read_ceilings(store)) == ""


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ([], NOT_MEASURED),
        ([YES, YES, OPEN], AGREES),
        ([YES, OPEN], AGREES),
        ([YES, OPEN, OPEN], PARTLY),
        ([YES, YES, NO], PARTLY),
        ([OPEN, OPEN], NOT_TOLD),
        ([NO, OPEN], DOES_NOT),
        ([NO, OPEN, OPEN], NOT_TOLD),
        ([YES, NO, OPEN, OPEN, OPEN], NOT_TOLD),
        ([YES, NO, OPEN], DOES_NOT),
        ([YES, YES, NO, OPEN, OPEN, OPEN, OPEN], PARTLY),
    ],
)
def test_what_some_answers_come_to(signs: list[int], said: str) -> None:
    assert verdict(signs) == said


def test_claims_count_every_store_but_those_inside_a_larger_one(tmp_path: Path) -> None:
    """A store that says otherwise of other models is never hidden behind a larger one."""

    def told(names: str, lora: float, linear: float) -> list[Answer]:
        pairs = [(n, m, e) for n in names for m, e in (("lora", lora), ("linear", linear))]
        store = put(tmp_path / names, [asked(cell(f"{n}.s", "normal", m), e) for n, m, e in pairs])
        return list(answers_of(store).values())

    every = [*told("a", 30.0, 29.0), *told("ab", 30.0, 33.0), *told("c", 35.0, 33.0), *told("bd", 30.0, 29.0)]
    assert [(a.models, a.sign) for a in evidence(every, "linear")] == [(2, YES), (1, NO)]
    text = claims_markdown(every, None)
    assert "| LoRA finds more than a linear probe |  | **does not agree** | 1 / 1 / 0 | 3 |" in text
    assert "| LoRA finds more than fine-tuning |  | **not measured** |  |  |" in text
    assert "normal: yes, better by 3.00 °" in text
    assert "normal: no, worse by 2.00 °" in text and "one model (c.s)" in text


def test_claims_stand_beside_the_published_numbers() -> None:
    from benchmarks.report.paper.published import read_published

    text = claims_markdown([], read_published(PUBLISHED))
    for number in (
        "27.73 against 29.10 °",
        "20.31 against 28.03 °",
        "StyleGAN-XL 2.19: 15.28 °",
        "16.63 against 21.41",
    ):
        assert number in text
    assert "20 yes, 4 partial, 4 no" in text


def test_the_readme_is_short_with_many_models_and_the_same_twice(tmp_path: Path) -> None:
    names = {
        f"f{n}.{s}": t for n in range(6) for s, t in (("random", 0.0), ("s1", 0.2), ("s2", 0.6), ("s3", 1.0))
    }
    records = [
        asked(cell(m, i, k), 0.3 - 0.1 * t, 0.02, generator(m, t))
        for m, t in names.items()
        for i in ("albedo", "shading")
        for k in ("lora", "linear", "finetune")
    ]
    put(tmp_path / "many", records)
    text = write_results_readme(tmp_path).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| F")]
    assert len(rows) == 12 and "| F0.S3 |" in text and "| F0.S1 |" not in text
    assert "albedo, fine-tuning" not in text and "## What the paper claims and what rooms say" in text
    first = (tmp_path / "README.md").read_bytes()
    assert write_results_readme(tmp_path).read_bytes() == first
