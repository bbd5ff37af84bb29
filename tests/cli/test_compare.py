"""Two records against each other: the numbers, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.cell import Record
from benchmarks.cli import main
from benchmarks.compare import compare_records
from benchmarks.suite import make_cell
from generators.errors import UserError

SMALL = {"train": 12, "validation": 4, "test": 6}


def record(
    model: str = "sd.rooms64-s5", intrinsic: str = "normal", shift: float = 0.0, **more: object
) -> Record:
    cell = make_cell(model, intrinsic, str(more.pop("method", "linear")), **{**SMALL, **more})  # type: ignore[arg-type]
    name = "mean_angular_error" if intrinsic == "normal" else "rms"
    values = [float(v) for v in 20 + shift + np.arange(6) % 3]
    return Record(cell, "done", scores={name: float(np.mean(values))}, per_image={name: values})


def test_first_minus_second() -> None:
    found = compare_records(record(), record("sd.rooms64-s1", shift=2.0))
    assert found["value"] == -2 and found["low"] == found["high"] == -2
    assert found["p"] == 2 / 2**6 and found["n"] == 6 and found["metric"] == "mean_angular_error"


def test_what_is_asked_may_differ() -> None:
    other = record(method="lora", options={"rank": 2}, train=8, seed=1, train_labels="rooms-network")
    assert compare_records(record(), other)["value"] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": "rooms-network"}, "labels: 'exact' and 'rooms-network'"),
        ({"test_size": 128}, "pixels a side: 64 and 128"),
        ({"test": 7}, "test pictures: 6 and 7"),
        ({"intrinsic": "albedo"}, "intrinsic: 'normal' and 'albedo'"),
    ],
)
def test_what_must_agree_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match="they do not compare") as raised:
        compare_records(record(), record(**change))
    assert named in raised.value.known


def test_protocols_worlds_and_alignments_are_not_mixed() -> None:
    depth = record(intrinsic="depth")
    for other, named in (
        (replace(depth, cell=depth.cell.with_(protocol=2)), "protocol: 1 and 2"),
        (replace(depth, cell=depth.cell.with_(world="another")), "world: "),
        (record(intrinsic="depth", alignment="unit"), "alignment: 'none' and 'unit'"),
    ):
        with pytest.raises(UserError) as raised:
            compare_records(depth, other)
        assert named in raised.value.known


def test_two_extractors_are_two_measures() -> None:
    cell = make_cell("sd.rooms64-s1", "none", "frechet", {"samples": 16, "reference": 16})
    a = Record(cell, "done", scores={"frechet_distance": 1.0}, details={"extractor": "rooms"})
    b = replace(a, details={"extractor": "Inception"})
    with pytest.raises(UserError, match="differ in extractor"):
        compare_records(a, b)


def test_own_pictures_compare_with_none_but_their_own() -> None:
    a = replace(record(), generator={"code": "drawn"})
    b = replace(record("sd.rooms64-s1"), generator={"code": "drawn"})
    with pytest.raises(UserError, match="pictures drawn by"):
        compare_records(a, b)


def test_groups_are_kept_together() -> None:
    grouped = record()
    grouped.details["groups"] = ["a", "a", "a", "b", "b", "b"]
    assert compare_records(grouped, record("sd.rooms64-s1", shift=1.0))["n"] == 2


def test_from_the_command_line(tmp_path: Path) -> None:
    paths = []
    for number, made in enumerate((record(), record("sd.rooms64-s1", shift=1.0))):
        paths.append(str(tmp_path / f"{number}.json"))
        Path(paths[-1]).write_text(made.to_json())
    done = CliRunner().invoke(main, ["compare", *paths])
    assert done.exit_code == 0 and json.loads(done.output)["value"] == -1
    wrong = CliRunner().invoke(main, ["compare", paths[0], paths[1], "--metric", "delta1"])
    assert wrong.exit_code == 2 and "both have: mean_angular_error" in wrong.output
    absent = CliRunner().invoke(main, ["compare", paths[0], str(tmp_path / "none.json")])
    assert absent.exit_code == 2 and "a record is results/SUITE/records/HASH.json" in absent.output


def test_a_failure_has_no_scores() -> None:
    with pytest.raises(UserError, match="it failed"):
        compare_records(record(), Record(record().cell, "failed", reason="diverged"))
