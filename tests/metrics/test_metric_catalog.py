"""The table of metrics: complete, consistent with what is measured, and importable without torch."""

import subprocess
import sys

import pytest
import torch

import benchmarks.metrics as metrics
from benchmarks.metrics import METRICS, metrics_of, primary_metric
from generators.errors import UserError

PRIMARY = {
    "normal": "mean_angular_error",
    "depth": "rms",
    "albedo": "rms",
    "shading": "rms",
    "none": "frechet_distance",
}


@pytest.mark.parametrize("intrinsic", PRIMARY)
def test_every_intrinsic_has_one_primary_metric(intrinsic: str) -> None:
    primary = [m.name for m in metrics_of(intrinsic) if m.primary]
    assert primary == [PRIMARY[intrinsic]] == [primary_metric(intrinsic).name]


@pytest.mark.parametrize("intrinsic", ["normal", "depth", "albedo", "shading"])
def test_scores_are_exactly_those_of_the_table_in_its_order(intrinsic: str) -> None:
    truth = torch.zeros(2, 1 if intrinsic == "depth" else 3, 4, 4)
    truth[:, 0] = 1
    scores = metrics.score(intrinsic, truth + 0.1, truth, torch.ones(2, 1, 4, 4, dtype=torch.bool))
    relative = {"skill"}  # to the mean map of a model's own pictures: see benchmarks.execute
    assert list(scores) == [m.name for m in metrics_of(intrinsic) if m.name not in relative]
    assert all(v.shape == (2,) and v.dtype == torch.float64 for v in scores.values())


def test_direction_and_units() -> None:
    higher = {name for name, m in METRICS.items() if not m.lower_is_better}
    assert higher == {"below_11_25", "below_22_5", "below_30", "delta1", "delta2", "delta3", "skill"}
    assert all(METRICS[name].unit == "%" and METRICS[name].arrow == "↑" for name in higher)
    assert METRICS["rms"].unit_of("depth") == "m" and METRICS["rms"].unit_of("albedo") == ""
    assert METRICS["mean_angular_error"].unit_of("normal") == "°" and METRICS["rms"].arrow == "↓"


def test_an_unknown_intrinsic_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'normal'"):
        metrics_of("normals")


def test_every_later_name_resolves_and_no_other() -> None:
    for name in metrics._MODULES:
        assert callable(getattr(metrics, name))
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        metrics.scores  # noqa: B018


def loaded(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has after a statement."""
    heavy = "{'torch', 'numpy', 'scipy'}"
    code = f"import sys; {statement}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_table_loads_nothing_heavy_and_statistics_no_torch() -> None:
    assert loaded("from benchmarks.metrics import METRICS") == set()
    assert loaded("from benchmarks.metrics import correlation, frechet_distance") == {"numpy", "scipy"}
    assert "torch" in loaded("from benchmarks.metrics import score"), "the check above could not fail"
