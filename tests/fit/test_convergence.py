"""The convergence study: looking changes nothing, the table is gone on with, and what it says is enough."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.speed import convergence
from benchmarks.speed.convergence import LONGEST, TOLERANCE, Row, append, ended, read, settings, verdicts
from probes.fit import validation_error
from probes.intrinsics import INTRINSICS
from probes.lora import fit
from probes.task import Task
from tests.probes.tiny import TinyGenerator, examples


def _task() -> Task:
    options = {"steps": 6, "batch": 4, "rate": 0.01, "rank": 4, "targets": "all", "variant": "lora"}
    return Task(TinyGenerator(), INTRINSICS["albedo"], examples(12, 0), examples(5, 1), options, 0)


def test_looking_on_the_way_changes_nothing() -> None:
    plain = fit(_task())
    task, seen = _task(), {}
    task.watch = lambda step: seen.update({step: validation_error(task)})
    watched = fit(task)
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    assert watched.details == plain.details and seen[6] == plain.details["validation_error"]
    assert seen[1] != seen[6]
    shown = task.validation
    assert torch.equal(watched.predict(shown), plain.predict(shown))


def _row(steps: int, error: float, batch: int = 8, rate: float = 0.01, **more: object) -> Row:
    row = Row("m", "w", "normal", 0, batch, rate, steps, steps, error, float(steps * batch))
    return replace(row, **more)  # type: ignore[arg-type]


def test_enough_is_the_fewest_pictures_within_the_tolerance() -> None:
    rows = [
        _row(LONGEST, 30.0),
        _row(200, 30.1),
        _row(100, 30.5, batch=8),
        _row(100, 30.5, batch=4, rate=0.02),  # within 2 %, and half the pictures
        _row(50, 30.7, batch=4),  # outside
        _row(LONGEST, 29.0, at=50),  # on the way of a run: never counted
    ]
    (found,) = verdicts(rows)
    assert found.best.error == 30.0 and found.share == TOLERANCE
    assert (found.enough.steps, found.enough.batch, found.enough.rate) == (100, 4, 0.02)
    assert settings(rows) == {"m": (100, 4, 0.02)}


def test_more_steps_are_said_to_be_needed() -> None:
    (found,) = verdicts([_row(LONGEST, 30.0), _row(200, 32.0), _row(100, 35.0)])
    assert found.enough == found.best and "none of 2 other runs, more steps are needed" in str(found)
    assert "not known yet" in str(verdicts([_row(LONGEST, 30.0)])[0])


def test_without_a_longest_run_nothing_is_said() -> None:
    assert verdicts([_row(200, 30.0)]) == [] and settings([_row(200, 30.0)]) == {}


def test_two_seeds_widen_the_tolerance() -> None:
    rows = [_row(LONGEST, 30.0), _row(LONGEST, 33.0, seed=1), _row(100, 31.5)]
    # The standard deviation of 30 and 33 is 3 / sqrt(2), over their mean 31.5.
    assert verdicts(rows)[0].share == pytest.approx(3 / 2**0.5 / 31.5)
    assert verdicts(rows)[0].enough.steps == 100


def test_a_setting_must_do_for_all_intrinsics() -> None:
    albedo = [replace(r, intrinsic="albedo") for r in (_row(LONGEST, 0.10), _row(100, 0.15), _row(200, 0.1))]
    assert settings([_row(LONGEST, 30.0), _row(100, 30.0), _row(200, 30.0), *albedo]) == {"m": (200, 8, 0.01)}


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, rows = tmp_path / "t.csv", [_row(10, 31.25, rate=0.006), _row(25, 30.0, at=10)]
    append(path, rows[:1])
    append(path, rows[1:])
    assert read(path) == rows and ended(rows) == rows[:1]
    assert read(tmp_path / "none.csv") == []


def test_what_is_known_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "t.csv", list(convergence.plan())[:3]
    trained = []

    def measure(cell, looks, session):  # type: ignore[no-untyped-def]
        trained.append(cell.hash)
        row = convergence._row(cell)
        return [*(replace(row, at=look, error=1.0) for look in looks), replace(row, error=1.0)]

    monkeypatch.setattr(convergence, "plan", lambda: iter(asked))
    monkeypatch.setattr(convergence, "measure", measure)
    assert not convergence.fill(path, -1.0) and trained == []
    assert convergence.fill(path, 1.0) and trained == [cell.hash for cell, _ in asked]
    assert convergence.fill(path, 1.0) and len(trained) == 3


OLD = """model,weights,intrinsic,seed,batch,rate,steps,at,error,seconds
vqgan.rooms64-s4,w,normal,0,8,0.03,400,10,80.5,0.0
vqgan.rooms64-s4,w,normal,0,8,0.03,400,400,49.28241,101.55
"""


def test_rows_on_other_layers_are_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "t.csv", "vqgan.rooms64-s4"
    path.write_text(OLD)
    before = read(path)
    assert {row.targets for row in before} == {"all"}
    new = [replace(before[1], error=30.0, targets="convolutions")]
    new.append(replace(new[0], steps=200, at=200, error=45.0))
    append(path, new)
    assert read(path) == [*before, *new]
    assert path.read_text().startswith(OLD.splitlines()[0] + ",targets\n")
    attention, convolutions = verdicts(read(path))
    assert (attention.best.error, attention.tried) == (49.28241, 1)
    assert (convolutions.best.error, convolutions.tried) == (30.0, 2)
    assert convolutions.enough == convolutions.best
    who = {f"{model} (targets all)", f"{model} (targets convolutions)"}
    assert settings(read(path)) == dict.fromkeys(who, (400, 8, 0.03))
    convergence.draw(read(path), tmp_path / "t")


def test_vqgan_is_asked_as_in_the_suites_and_its_old_rows_are_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "vqgan.rooms64-s4"
    cells = [(cell, looks) for cell, looks in convergence.plan() if cell.model == model][:1]
    assert cells[0][0].options["targets"] == "convolutions"
    others = {c.options["targets"] for c, _ in convergence.plan() if c.model != model}
    assert others == {"all"}
    row = replace(convergence._row(cells[0][0]), error=49.0)
    append(tmp_path / "t.csv", [replace(row, targets="all")])
    monkeypatch.setattr(convergence, "plan", lambda: iter(cells))
    monkeypatch.setattr(convergence, "measure", lambda cell, looks, session: [replace(row, error=30.0)])
    assert convergence.fill(tmp_path / "t.csv", 1.0)
    found = read(tmp_path / "t.csv")
    assert [(r.targets, r.error) for r in found] == [("all", 49.0), ("convolutions", 30.0)]
    assert "1 of 1 planned trainings, 1 others; error" in convergence.report(found)
    assert f"{model} (targets convolutions)" in convergence.report(found)
    assert "1 of 1 planned trainings; error" in convergence.report(found[1:])


def test_every_cell_of_the_plan_is_another() -> None:
    cells = [cell.hash for cell, _ in convergence.plan()]
    assert len(set(cells)) == len(cells) > 50


def test_the_figure_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    model = next(iter(convergence.MODELS))
    rows = [replace(_row(s, 30.0 + 100 / s), model=model) for s in (50, 100, LONGEST)]
    rows.append(replace(_row(LONGEST, 33.0, at=50), model=model))
    for name in ("a", "b"):
        convergence.draw(rows, tmp_path / name)
    first, second = ((tmp_path / f"{name}.png").read_bytes() for name in ("a", "b"))
    assert first == second and first[:4] == b"\x89PNG"
    convergence.draw(rows[1:], tmp_path / "c")
    assert (tmp_path / "c.png").read_bytes() != first
