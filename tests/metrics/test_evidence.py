"""What a correlation rests on: against closed forms, scipy and constructed cases."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from benchmarks.metrics.evidence import given, needed, without_each


@pytest.mark.parametrize("size", [0.2, 0.5, -0.6])
def test_the_needed_number_is_the_first_that_is_significant(size: float) -> None:
    """p of exactly this correlation, by scipy, on data made to have it."""
    n = needed(size)
    assert n is not None

    def p(count: int) -> float:
        x, noise = np.random.default_rng(count).normal(size=(2, count))
        x -= x.mean()
        noise -= noise.mean() + x * (noise @ x) / (x @ x)
        noise -= x * (noise @ x) / (x @ x)
        y = size * x / np.linalg.norm(x) + np.sqrt(1 - size**2) * noise / np.linalg.norm(noise)
        found = pearsonr(x, y)
        assert found.statistic == pytest.approx(size)
        return float(found.pvalue)

    assert p(n) <= 0.05 < p(n - 1)


@pytest.mark.parametrize(
    ("size", "n"), [(1.0, 5), (0.9, 6), (0.886, 6), (-0.885, 7), (0.786, 7), (0.738, 9), (0.7, 9), (0.69, 10)]
)
def test_few_models_need_what_their_orders_can_reach(size: float, n: int) -> None:
    """Spearman's critical values, two-sided 5 %: 1.000, .886, .786, .738, .700 for n of 5 to 9."""
    assert needed(size) == n


def test_nothing_needs_more_models_than_there_are() -> None:
    assert needed(0.0) is None and needed(1.0) == needed(-1.0) == 5
    assert needed(0.3) > needed(0.6)  # type: ignore[operator]


def test_one_family_can_carry_it_all() -> None:
    x, y = [1.0, 2, 3, 10, 11, 12], [5.0, 4, 6, 20, 21, 22]
    groups = ["a", "a", "a", "b", "b", "b"]
    assert without_each(x, y, groups) == {
        "a": pytest.approx(1.0),
        "b": pytest.approx(spearmanr(x[:3], y[:3]).statistic),
    }
    assert without_each(x[:4], y[:4], ["a", "b", "b", "a"]) == {}, "two models are no correlation"


def test_size_explains_what_only_goes_with_it() -> None:
    stream = np.random.default_rng(2)
    size = np.arange(200.0)
    x, y = size + stream.normal(0, 20, 200), size + stream.normal(0, 20, 200)
    assert spearmanr(x, y).statistic > 0.8
    assert given(x, y, size) == pytest.approx(0, abs=0.2)
    assert given(x, x + stream.normal(0, 1, 200), size) > 0.9  # type: ignore[operator]


def test_partial_by_the_closed_form() -> None:
    x, y, z = np.random.default_rng(4).normal(size=(3, 30))
    a, b, c = (spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    assert given(x, y, z) == pytest.approx((a - b * c) / np.sqrt((1 - b**2) * (1 - c**2)))


def test_where_nothing_is_left_it_is_not_defined() -> None:
    assert given([1, 2, 3], [3, 1, 2], [1, 3, 2]) is None
    assert given([1, 2, 3, 4], [2, 1, 4, 3], [7, 7, 7, 7]) is None
    assert given([1, 2, 3, 4], [2, 1, 4, 3], [1, 2, 3, 4]) is None
