"""Frechet and kernel distances: closed forms, invariances, streams, files and refusals."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from benchmarks.metrics.frechet import (
    FeatureStatistics,
    discrepancy,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    polynomial_kernel,
    trace_of_root,
)
from benchmarks.speed.frechet import WAYS, main
from generators.errors import UserError


def draw(name: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng([2, name]).standard_normal((n, d))


def statistics(mean: np.ndarray, deviations: np.ndarray) -> FeatureStatistics:
    """Statistics of exactly this mean and a diagonal covariance of these standard deviations."""
    d = len(mean)
    corners = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt((2 * d - 1) / 2)
    return FeatureStatistics.of(corners * deviations + mean)


def test_count_mean_and_covariance_are_those_of_numpy() -> None:
    x = draw(0, 40, 7)
    found = FeatureStatistics.of(x)
    assert found.count == 40 and found.dimensions == 7
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-15)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), atol=1e-14)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 3), st.sampled_from([0.0, 1e6]))
def test_batches_and_merging_change_nothing(sizes: list[int], split: int, offset: float) -> None:
    rows = draw(1, sum(sizes) + 2, 3) + offset
    batches = np.split(rows, np.cumsum(sizes))
    left, right = FeatureStatistics(3), FeatureStatistics(3)
    for i, batch in enumerate(batches):
        (left if i < split else right).update(batch)
    both, whole = left.merged(right), FeatureStatistics.of(rows)
    assert both.count == len(rows) and left.count + right.count == len(rows)
    np.testing.assert_allclose(both.mean, whole.mean, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(both.covariance, whole.covariance, rtol=1e-8, atol=1e-9)


def test_a_far_mean_does_not_cancel_the_covariance() -> None:
    x = draw(2, 200, 4)
    streamed = FeatureStatistics(4)
    for batch in np.split(x + 1e6, 20):
        streamed.update(batch)
    np.testing.assert_allclose(streamed.covariance, np.cov(x, rowvar=False), atol=1e-8)


def test_closed_form_of_diagonal_gaussians() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2: with means (0, 0), (3, 4) and deviations (1, 2), (2, 5): 25 + 1 + 9."""
    a = statistics(np.array([0.0, 0.0]), np.array([1.0, 2.0]))
    b = statistics(np.array([3.0, 4.0]), np.array([2.0, 5.0]))
    assert frechet_distance(a, b) == pytest.approx(35, rel=1e-13)


def test_one_dimension() -> None:
    a, b = FeatureStatistics.of([[0.0], [2.0]]), FeatureStatistics.of([[10.0], [14.0]])
    assert frechet_distance(a, b) == pytest.approx(11**2 + 2 * (2 - 1) ** 2, rel=1e-14)


def test_a_shift_moves_only_the_means() -> None:
    x, step = draw(3, 50, 6), np.arange(6.0)
    assert frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(x + step)) == pytest.approx(55)


def test_rotation_and_exchange_leave_it_and_scale_squares_it() -> None:
    x, y = draw(4, 60, 5), 2 * draw(5, 45, 5) + 1
    turn = np.linalg.qr(draw(6, 5, 5))[0]
    a, b = FeatureStatistics.of(x), FeatureStatistics.of(y)
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-12)
    turned = frechet_distance(FeatureStatistics.of(x @ turn), FeatureStatistics.of(y @ turn))
    assert turned == pytest.approx(distance, rel=1e-12)
    scaled = frechet_distance(FeatureStatistics.of(3 * x), FeatureStatistics.of(3 * y))
    assert scaled == pytest.approx(9 * distance, rel=1e-12)


def test_it_agrees_with_sqrtm() -> None:
    c1, c2 = (np.cov(draw(i, 80, 20), rowvar=False) for i in (7, 8))
    assert trace_of_root(c1, c2) == pytest.approx(np.trace(sqrtm(c1 @ c2)).real, rel=1e-12)


def from_features(x: np.ndarray, y: np.ndarray) -> float:
    """tr (S1 S2)^(1/2) is the sum of singular values of X1 X2', centered and scaled: no null space enters."""
    c1, c2 = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y))
    root = np.linalg.svd(c1 @ c2.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (c1**2).sum() + (c2**2).sum() - 2 * root)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 8, 30), (8, 5, 30), (6, 200, 30), (2, 2, 10)])
def test_rank_deficient_covariances_are_exact(n: int, m: int, d: int) -> None:
    x, y = draw(9, n, d), draw(10, m, d) * 3 + 1
    found = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    assert found == pytest.approx(from_features(x, y), rel=1e-12)


@pytest.mark.parametrize("name", range(30, 36))
def test_dependent_features_are_exact_though_cholesky_may_pass_them(name: int) -> None:
    x, y = draw(name, 100, 40), draw(name + 10, 120, 40)
    x[:, 20], x[:, 39] = x[:, 3] - x[:, 4], x[:, 0] + x[:, 1]
    found = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    assert found == pytest.approx(from_features(x, y), rel=1e-12)


def test_dead_features_and_equal_sets_are_at_zero() -> None:
    x = draw(11, 30, 8)
    x[:, 3:] = 0
    same = FeatureStatistics.of(x)
    assert 0 <= frechet_distance(same, same) < 1e-12
    still = FeatureStatistics.of(np.ones((4, 8)))
    assert frechet_distance(still, still) == 0


def test_saved_statistics_come_back_bit_for_bit(tmp_path: Path) -> None:
    path, found = tmp_path / "reference.npz", FeatureStatistics.of(draw(12, 9, 4))
    found.save(path)
    back = FeatureStatistics.load(path)
    assert back.count == 9 and [p.name for p in tmp_path.iterdir()] == ["reference.npz"]
    np.testing.assert_array_equal(back.mean, found.mean)
    np.testing.assert_array_equal(back.covariance, found.covariance)


def test_empty_statistics_are_saved_too(tmp_path: Path) -> None:
    FeatureStatistics(3).save(tmp_path / "empty.npz")
    assert FeatureStatistics.load(tmp_path / "empty.npz").update(draw(13, 5, 3)).count == 5


def test_broken_files_are_named(tmp_path: Path) -> None:
    good, path = tmp_path / "good.npz", tmp_path / "bad.npz"
    FeatureStatistics.of(draw(14, 9, 4)).save(good)
    for content in (b"", b"PK\x03\x04", good.read_bytes()[:200], b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.npz"):
            FeatureStatistics.load(path)
    np.savez(path, mean=np.zeros(3), count=2)
    with pytest.raises(UserError, match="it holds"):
        FeatureStatistics.load(path)
    np.savez(path, mean=np.zeros(3), count=2, scatter=np.zeros((2, 2)))
    with pytest.raises(UserError, match="do not fit"):
        FeatureStatistics.load(path)
    np.savez(path, mean=np.array([{}], dtype=object), count=2, scatter=np.zeros((1, 1)))
    with pytest.raises(UserError, match="allow_pickle"):
        FeatureStatistics.load(path)
    with pytest.raises(FileNotFoundError):
        FeatureStatistics.load(tmp_path / "absent.npz")


def test_bad_features_are_refused() -> None:
    found = FeatureStatistics.of(draw(15, 5, 3))
    with pytest.raises(UserError, match="row 1"):
        found.update(np.array([[0, 0, 0], [0, np.nan, 0]]))
    assert found.count == 5
    with pytest.raises(UserError, match=r"\(n, 3\)"):
        found.update(np.zeros((2, 4)))
    with pytest.raises(UserError, match="3 and 4"):
        frechet_distance(found, FeatureStatistics.of(draw(16, 5, 4)))
    with pytest.raises(UserError, match="3 and 4"):
        found.merged(FeatureStatistics(4))
    with pytest.raises(UserError, match="two and more"):
        frechet_distance(found, FeatureStatistics.of(np.zeros((1, 3))))


def test_discrepancy_by_hand() -> None:
    """Linear kernel of x = (0, 2) and y = (1, 5): 0 + 5 - 2 * (0 + 0 + 2 + 10) / 4 = -1."""
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])
    assert discrepancy(x @ x.T, y @ y.T, x @ y.T) == -1
    whole = kernel_distance(x, y, subsets=3, subset_size=2, seed=0, degree=1, gamma=1.0, coef0=0.0)
    assert (whole.mean, whole.std) == (-1, 0)


def test_kernels_by_hand() -> None:
    x, y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 2.0]])
    np.testing.assert_allclose(polynomial_kernel(x, y, 3, None, 1.0), [[6.5**3, 3.5**3]])
    np.testing.assert_allclose(gaussian_kernel(x, y, 2.0), [[np.exp(-1), 1]])


def test_kernel_distance_is_unbiased_and_grows_with_a_shift() -> None:
    x, y = draw(17, 400, 8), draw(18, 400, 8)
    near, far = (kernel_distance(x, y + s, subsets=20, subset_size=100, seed=1) for s in (0.0, 0.5))
    assert abs(near.mean) < 3 * near.std < far.mean
    assert kernel_distance(x, y, subsets=20, subset_size=100, seed=1) == near
    assert kernel_distance(x, y, subsets=20, subset_size=100, seed=2) != near


def test_kernel_distance_refuses() -> None:
    x = draw(19, 10, 2)
    for subsets, size in ((1, 11), (1, 1), (0, 5)):
        with pytest.raises(UserError, match="10 and 10 rows"):
            kernel_distance(x, x, subsets, size)
    with pytest.raises(UserError, match="did you mean 'poly'"):
        kernel_distance(x, x, 1, 5, kernel="polly")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"\(n, 2\)"):
        kernel_distance(x, draw(20, 10, 3), 1, 5)
    with pytest.raises(TypeError, match="sigma"):
        kernel_distance(x, x, 1, 5, sigma=2.0)


def test_the_timed_ways_agree_and_the_command_prints_them() -> None:
    a, b = FeatureStatistics.of(draw(21, 60, 10)), FeatureStatistics.of(draw(22, 60, 10))
    found = [way(a, b) for way in WAYS.values()]
    np.testing.assert_allclose(found, found[0], rtol=1e-11)
    result = CliRunner().invoke(main, ["--dimensions", "12"], catch_exceptions=False)
    assert result.exit_code == 0 and "12 dimensions, 24 pictures" in result.output
    assert result.output.count("1.0 ") >= 1 and "sqrtm" in result.output
    assert "median of 3 rounds by turns" in result.output and result.output.count("0.00-0.0") == 3
