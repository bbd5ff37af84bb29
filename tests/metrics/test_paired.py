"""Paired comparisons: against closed forms, scipy and simulation."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from benchmarks.metrics.paired import EXACT, FLIPS, holm, paired, sign_flip


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    assert holm([]).shape == (0,) and holm([0.2])[0] == 0.2


def test_holm_keeps_the_order_and_never_goes_below() -> None:
    p = np.random.default_rng(3).random(50) ** 2
    found = holm(p)
    assert (found >= p).all() and (np.diff(found[np.argsort(p)]) >= 0).all()
    with pytest.raises(ValueError, match="within 0 and 1"):
        holm([0.5, 1.2])


def test_holm_rarely_finds_anything_where_there_is_nothing() -> None:
    """The family-wise error of 20 true nulls stays at 5 %: it would be 64 % uncorrected."""
    draws = np.random.default_rng(1).random((2000, 20))
    wrong = np.mean([(holm(p) < 0.05).any() for p in draws])
    assert wrong == pytest.approx(0.05, abs=0.015)
    assert np.mean((draws < 0.05).any(1)) > 0.5


@pytest.mark.parametrize("n", [3, 8, EXACT])
def test_few_units_are_counted_out_as_scipy_does(n: int) -> None:
    values = np.random.default_rng(n).normal(0.6, 1, n)
    p, how = sign_flip(values)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert p == pytest.approx(theirs.pvalue) and how == f"exact, {2**n} signs"


def test_many_units_are_sampled_near_the_exact_value() -> None:
    values = np.random.default_rng(7).normal(0.25, 1, 60)
    p, how = sign_flip(values)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=40_000, rng=5)
    assert p == pytest.approx(theirs.pvalue, abs=0.012) and how == f"Monte Carlo, {FLIPS} signs"
    assert sign_flip(values) == (p, how) and sign_flip(values, seed=1)[0] != p


def test_p_is_uniform_where_there_is_no_difference() -> None:
    stream = np.random.default_rng(11)
    p = np.array([sign_flip(stream.normal(0, 1, 10))[0] for _ in range(600)])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.07)


def test_pictures_of_a_group_keep_one_sign() -> None:
    values = np.repeat([1.0, 1.2, 0.9], 20)
    together, alone = sign_flip(values, np.repeat([0, 1, 2], 20)), sign_flip(values)
    assert together == (2 / 8, "exact, 8 signs") and alone[0] < 0.001
    assert paired(values, np.zeros(60), np.repeat([0, 1, 2], 20)).n == 3


def test_the_sign_says_which_is_larger() -> None:
    a, b = np.full(30, 2.0), np.linspace(0.5, 1.5, 30)
    found, turned = paired(a, b), paired(b, a)
    assert found.value == pytest.approx(1.0) == -turned.value
    assert found.low is not None and turned.high is not None and found.low > 0 > turned.high
    assert found.p == turned.p < 0.001
    assert paired(a, a).p == 1.0


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_what_is_no_row_of_numbers_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers in one row"):
        sign_flip(wrong)
    with pytest.raises(ValueError, match="one shape"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="clusters of shape"):
        sign_flip([1.0, 2.0], [0])
