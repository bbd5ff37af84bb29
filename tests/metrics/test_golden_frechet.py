"""Frechet and kernel distances against the golden vectors in GOLDEN_DIR (default: tests/golden).

Tolerances are ten times the rounding floor, see `root_floor`.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.metrics.frechet import (
    FeatureStatistics,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    polynomial_kernel,
    trace_of_root,
)

DEFAULT = Path(__file__).parents[1] / "golden"
FOLDER = Path(os.environ.get("GOLDEN_DIR", DEFAULT))
FILES = sorted(FOLDER.glob("metrics_fid_kid*.json"))
EPS, EPS32 = float(np.finfo(np.float64).eps), float(np.finfo(np.float32).eps)


@cache
def golden(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def cases(group: str) -> list[Any]:
    found = [(path, name) for path in FILES for name in golden(path)[group]]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


@cache
def features(path: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    stored = load_file(path.with_suffix(".safetensors"))
    return stored[f"{case}.f1"].astype(np.float64), stored[f"{case}.f2"].astype(np.float64)


def test_the_golden_file_is_there_and_holds_cases() -> None:
    assert FOLDER.is_dir(), f"GOLDEN_DIR {FOLDER} is no directory"
    if not FILES and FOLDER.resolve() != DEFAULT.resolve():
        pytest.skip(f"{FOLDER} holds no metrics_fid_kid*.json: nothing to compare with")
    assert FILES
    for path in FILES:
        assert golden(path)["cases"] and golden(path)["kid"]
        stored = {name.rsplit(".", 1)[0] for name in load_file(path.with_suffix(".safetensors"))}
        assert stored == set(golden(path)["cases"]), "features and distances name different cases"


def root_floor(f1: np.ndarray, f2: np.ndarray) -> float:
    """Rounding floor of a distance computed from roots of the eigenvalues of S1 S2.

    An eigenvalue l^2 known to eps s^2, s^2 = |S1| |S2|, has a root known to eps s^2 / (2 l), and to
    about sqrt(eps) s / 2 where l vanishes: about 1e-14 at full rank and 1e-6 on rank-deficient covariances,
    as the golden README says.
    """
    c1, c2 = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (f1, f2))
    roots = np.zeros(f1.shape[1])
    found = np.linalg.svd(c1 @ c2.T, compute_uv=False)[: len(roots)]
    roots[: len(found)] = found
    s = np.linalg.norm(c1, 2) * np.linalg.norm(c2, 2)
    loss = np.minimum(np.sqrt(EPS) * s / 2, EPS * s**2 / np.maximum(roots, 1e-200))
    return float(loss.sum() + EPS * ((c1**2).sum() + (c2**2).sum() + ((f1.mean(0) - f2.mean(0)) ** 2).sum()))


@pytest.mark.parametrize(("path", "name"), cases("cases"))
def test_frechet_distance(path: Path, name: str) -> None:
    expected, (f1, f2) = golden(path)["cases"][name], features(path, name)
    assert (len(f1), len(f2), f1.shape[1]) == (expected["n1"], expected["n2"], expected["d"])
    a, b = FeatureStatistics.of(f1), FeatureStatistics.of(f2)
    distance, tolerance = frechet_distance(a, b), 10 * root_floor(f1, f2)
    assert distance == pytest.approx(expected["fid_torch_fidelity_eig_f64"], rel=0, abs=tolerance)
    assert distance == pytest.approx(expected["fid_symmetric_eigh_f64"], rel=0, abs=tolerance)
    assert np.trace(a.covariance) == pytest.approx(expected["trace1"], rel=1e-12)
    assert np.trace(b.covariance) == pytest.approx(expected["trace2"], rel=1e-12)
    assert ((a.mean - b.mean) ** 2).sum() == pytest.approx(expected["mean_sqdist"], rel=1e-11)


@pytest.mark.parametrize(("path", "name"), cases("cases"))
def test_frechet_distance_of_sqrtm(path: Path, name: str) -> None:
    expected, (f1, f2) = golden(path)["cases"][name], features(path, name)
    a, b = FeatureStatistics.of(f1), FeatureStatistics.of(f2)
    if expected["fid_cleanfid_sqrtm_f64"] is None:  # its check on imaginary parts refused the case
        assert expected["cleanfid_info"]["imag_check_would_raise"]
        return
    distance = frechet_distance(a, b)
    if expected["cleanfid_info"]["used_eps"]:  # the root is then of S1 + 1e-6 and S2 + 1e-6
        more = 1e-6 * np.eye(a.dimensions)
        roots = trace_of_root(a.covariance + more, b.covariance + more)
        distance = float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * roots)
    tolerance = 10 * root_floor(f1, f2)
    assert distance == pytest.approx(expected["fid_cleanfid_sqrtm_f64"], rel=0, abs=tolerance)


@pytest.mark.parametrize(("path", "name"), cases("cases"))
def test_frechet_distance_of_other_conventions(path: Path, name: str) -> None:
    """Covariances over N give stylegan2-ada's value; the mean of float32 features moves it in digit 7."""
    expected, (f1, f2) = golden(path)["cases"][name], features(path, name)
    a, b = FeatureStatistics.of(f1), FeatureStatistics.of(f2)
    s1, s2 = (s.covariance * (s.count - 1) / s.count for s in (a, b))
    step, tolerance = a.mean - b.mean, 10 * root_floor(f1, f2)
    biased = float(step @ step + np.trace(s1 + s2) - 2 * trace_of_root(s1, s2))
    # It subtracts the squared mean from raw second moments, whose rounding comes on top.
    raw = 10 * EPS * float((f1**2).mean(0).sum() + (f2**2).mean(0).sum())
    assert biased == pytest.approx(expected["fid_stylegan2ada_biased_cov_f64"], rel=0, abs=tolerance + raw)
    rounded = 2 * np.abs(step).sum() * EPS32 * max(np.abs(f1).max(), np.abs(f2).max())
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(
        expected["fid_torch_fidelity_f32_input"], rel=0, abs=tolerance + 10 * rounded
    )


@pytest.mark.parametrize(("path", "name"), cases("cases"))
def test_frechet_distance_to_itself_is_closer_to_zero_than_the_reference(path: Path, name: str) -> None:
    f1, f2 = features(path, name)
    for f in (f1, f2):
        a = FeatureStatistics.of(f)
        assert frechet_distance(a, a) <= 1e-12 * np.trace(a.covariance)
    theirs = golden(path)["cases"][name]["fid_self_cleanfid"]
    assert abs(theirs) <= 10 * max(root_floor(f, f) for f in (f1, f2))


def options(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = {"rbf": {"sigma": "rbf_sigma"}}.get(
        kwargs["kid_kernel"], {"degree": "poly_degree", "gamma": "poly_gamma", "coef0": "poly_coef0"}
    )
    return {name: kwargs[f"kid_kernel_{stored}"] for name, stored in names.items()}


@pytest.mark.parametrize(("path", "name"), cases("kid"))
def test_kernel_distance(path: Path, name: str) -> None:
    expected = golden(path)["kid"][name]
    kwargs, (f1, f2) = expected["kwargs"], features(path, expected["case"])
    chosen = options(kwargs)
    ask = (kwargs["kid_subsets"], kwargs["kid_subset_size"], kwargs["rng_seed"], kwargs["kid_kernel"])
    found = kernel_distance(f1, f2, *ask, **chosen)
    both = np.concatenate([f1, f2])
    kernel = gaussian_kernel if kwargs["kid_kernel"] == "rbf" else polynomial_kernel
    largest = max(float(np.abs(kernel(row[None], row[None], **chosen)).max()) for row in both)
    for digits, floor in (("f64", 1e-14), ("f32", EPS32)):
        reference, tolerance = expected[f"torch_fidelity_{digits}"], 10 * floor * largest
        for moment, value in (("mean", found.mean), ("std", found.std)):
            known = reference[f"kernel_inception_distance_{moment}"]
            assert value == pytest.approx(known, rel=0, abs=tolerance)
    if expected["stylegan2ada_f64"] is not None:
        swapped = kernel_distance(f2, f1, *ask, **chosen)
        assert swapped.mean == pytest.approx(expected["stylegan2ada_f64"], rel=0, abs=1e-13 * largest)
