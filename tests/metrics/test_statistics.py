"""Intervals and correlations: closed forms, scipy.stats, exact permutation counts, coverage."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.metrics import draws, statistics
from benchmarks.metrics.statistics import (
    Interval,
    Noise,
    bootstrap_interval,
    correlation,
    mean_over_seeds,
    paired_difference,
    pearson,
)

FEW: dict[str, Any] = {"resamples": 400}
SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


def draw(name: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([3, name]).standard_normal(shape)


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None
    return interval.low, interval.high


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy_on_skewed_values(kind: str) -> None:
    values = np.exp(draw(0, 50))
    found = bootstrap_interval(values, resamples=20_000, seed=1, kind=kind)  # type: ignore[arg-type]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=kind, rng=2).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose(ends(found), theirs, atol=0.04 * width)
    assert (found.value, found.n) == (values.mean(), 50) and kind in found.method


def test_bootstrap_of_normal_values_is_the_normal_interval() -> None:
    values = draw(1, 2000)
    low, high = ends(bootstrap_interval(values))
    half = 1.96 * values.std() / math.sqrt(2000)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-half, half]), atol=0.1 * half)


def test_a_seed_is_a_name_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = draw(2, 40)
    first = bootstrap_interval(values, seed=5)
    assert first == bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)
    monkeypatch.setattr(draws, "BLOCK", 40 * 7)
    assert bootstrap_interval(values, seed=5) == first


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_level_widens_and_equal_values_have_no_width(kind: str) -> None:
    values = draw(3, 60)
    wide, narrow = (bootstrap_interval(values, level, kind=kind) for level in (0.99, 0.5))  # type: ignore[arg-type]
    assert ends(wide)[0] < ends(narrow)[0] < narrow.value < ends(narrow)[1] < ends(wide)[1]
    assert ends(bootstrap_interval(np.full(5, 2.5), kind=kind)) == (2.5, 2.5)  # type: ignore[arg-type]


def test_clusters_are_drawn_together() -> None:
    """Ten copies of each value: as wide as the values alone, not sqrt(10) narrower."""
    values = draw(4, 30)
    copies, labels = np.repeat(values, 10), np.repeat([f"room {i}" for i in range(30)], 10)
    alone = bootstrap_interval(values, seed=1)
    together = bootstrap_interval(copies, seed=1, clusters=labels)
    naive = bootstrap_interval(copies, seed=1)
    np.testing.assert_allclose(np.ptp(ends(together)), np.ptp(ends(alone)), rtol=0.15)
    assert np.ptp(ends(naive)) < 0.5 * np.ptp(ends(together))
    assert together.n == 30 and together.value == pytest.approx(values.mean())


def test_clusters_of_unequal_size_weigh_by_their_pictures() -> None:
    """Two clusters, (0) and (3, 3): means of resamples are 0, 2 (both) or 3."""
    wide, narrow = (bootstrap_interval([0, 3, 3], level, clusters=[7, 8, 8]) for level in (0.9, 0.4))
    assert wide.value == 2 and ends(wide) == (0, 3) and ends(narrow) == (2, 2)


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_the_interval_covers_the_mean_about_as_often_as_it_says(kind: str) -> None:
    hits = 0
    for trial in range(300):
        low, high = ends(bootstrap_interval(draw(100 + trial, 40), 0.9, seed=trial, kind=kind, **FEW))  # type: ignore[arg-type]
        hits += low <= 0 <= high
    assert 0.85 <= hits / 300 <= 0.94  # standard error 0.017; 40 values cost about 0.01


def test_one_value_has_no_interval_and_says_so() -> None:
    for found in (bootstrap_interval([4.0]), mean_over_seeds([[4.0]]), paired_difference([5.0], [1.0])):
        assert (found.value, found.low, found.high, found.defined) == (4, None, None, False)
        assert "no interval" in found.reason and not found.excludes(0)
    assert "one cluster" in bootstrap_interval([1.0, 2.0], clusters=["a", "a"]).reason


def test_mean_over_seeds_has_the_variance_of_both() -> None:
    """Crossed design: resampled variance = seeds' + pictures' parts, and their product's."""
    seeds, pictures = 12, 150
    effect, texture = 0.5 * draw(5, seeds, 1), draw(6, 1, pictures)
    values = effect + texture
    low, high = ends(mean_over_seeds(values, level=0.6827, resamples=4000))
    expected = math.sqrt(effect.var() / seeds + texture.var() / pictures)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.06)
    assert np.ptp(ends(bootstrap_interval(values.mean(0), 0.6827))) / 2 < 0.7 * expected


def test_one_seed_is_the_interval_over_pictures() -> None:
    values = draw(7, 1, 80)
    found, plain = mean_over_seeds(values, resamples=6000), bootstrap_interval(values[0], resamples=6000)
    np.testing.assert_allclose(ends(found), ends(plain), atol=0.06 * np.ptp(ends(plain)))
    assert (found.seeds, found.n) == (1, 80) and "over pictures" in found.method
    many = mean_over_seeds(draw(8, 5, 9))
    assert (many.seeds, many.n) == (5, 9) and "seeds and pictures" in many.method
    assert "over seeds," in mean_over_seeds(draw(8, 5, 1)).method


def test_pairing_removes_what_both_share() -> None:
    pictures = 10 * draw(9, 100)
    a, b = pictures + 0.1 * draw(10, 100) + 0.5, pictures + 0.1 * draw(11, 100)
    paired = paired_difference(a, b)
    assert paired.value == pytest.approx((a - b).mean()) and paired.excludes(0)
    assert np.ptp(ends(paired)) < 0.1 < 3 < np.ptp(ends(bootstrap_interval(a)))
    swapped = paired_difference(b, a)
    np.testing.assert_allclose(ends(swapped), [-x for x in reversed(ends(paired))], atol=1e-12)
    assert not paired_difference(a, a).excludes(0) and ends(paired_difference(a, a)) == (0, 0)


def test_pairing_of_seeds_resamples_them_too() -> None:
    a, b = draw(12, 4, 30), draw(13, 4, 30)
    assert paired_difference(a, b, seed=3) == mean_over_seeds(a - b, seed=3)
    assert paired_difference(a[:1], b[:1], seed=3) == bootstrap_interval((a - b)[0], seed=3)


@pytest.mark.parametrize("n", [3, 5, 9, 40])
@pytest.mark.parametrize("ties", [False, True])
def test_coefficients_agree_with_scipy(n: int, ties: bool) -> None:
    x, y = draw(14, 6, n), draw(15, 6, n)
    if ties:
        x, y = np.round(x), np.round(y)
        x[:, 0], y[:, 0] = 9, 9
    for name, theirs in SCIPY.items():
        expected = [theirs(a, b)[0] for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(getattr(statistics, name)(x, y), expected, atol=1e-14)


def test_kendall_and_spearman_by_hand() -> None:
    """One of six pairs of (1, 2, 4, 3) is out of order: tau 4 / 6; ranks differ by 0, 0, 1, 1: rho 0.8."""
    found = correlation([1, 2, 3, 4], [10, 20, 40, 30], **FEW)
    assert found.kendall is not None and found.spearman is not None
    assert found.kendall.value == pytest.approx(4 / 6) and found.spearman.value == pytest.approx(0.8)


@pytest.mark.parametrize(("n", "p"), [(3, 2 / 6), (4, 2 / 24), (6, 2 / 720), (9, 2 / 362880)])
def test_exact_p_of_a_perfect_order_is_two_of_all_orders(n: int, p: float) -> None:
    x = np.arange(n)
    found = correlation(x, -(x**2), **FEW)
    assert found.permutation == f"exact p of {math.factorial(n)} orders"
    for coefficient in (found.spearman, found.kendall):
        assert coefficient is not None
        assert coefficient.value == pytest.approx(-1) and coefficient.p == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_exact_p_is_a_count_over_all_orders(ties: bool) -> None:
    x, y = draw(16, 5), draw(17, 5)
    if ties:
        x, y = np.array([1.0, 1, 2, 3, 4]), np.array([2.0, 1, 2, 3, 3])
    found = correlation(x, y, **FEW)
    for name, theirs in SCIPY.items():
        observed = abs(theirs(x, y)[0]) - 1e-12
        reached = [abs(theirs(x, list(order))[0]) >= observed for order in itertools.permutations(y)]
        assert getattr(found, name).p == pytest.approx(np.mean(reached), rel=1e-12)


def test_exact_p_of_kendall_is_scipys() -> None:
    x, y = np.arange(8.0), draw(18, 8) + np.arange(8)
    found = correlation(x, y, **FEW)
    assert found.kendall is not None
    assert found.kendall.p == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue, rel=1e-12)


def test_monte_carlo_p_above_eight_pairs_says_so_and_is_never_zero() -> None:
    x = np.arange(12.0)
    noisy, perfect = correlation(x, x + 6 * draw(19, 12), **FEW), correlation(x, x, **FEW)
    assert noisy.permutation == "Monte Carlo p of 9999 orders"
    assert noisy.kendall is not None and perfect.pearson is not None
    exact = stats.kendalltau(x, x + 6 * draw(19, 12), method="exact").pvalue
    assert noisy.kendall.p == pytest.approx(exact, abs=5 * math.sqrt(exact / 9999))
    assert perfect.pearson.p == pytest.approx(1e-4)


def test_interval_of_a_correlation_is_scipys_over_pairs() -> None:
    x = draw(20, 40)
    y = 0.6 * x + draw(21, 40)
    found = correlation(x, y, resamples=6000)
    assert found.pearson is not None and found.resamples == 6000 and found.n == 40
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b, axis: pearson(np.atleast_2d(a), np.atleast_2d(b)),
        paired=True,
        method="percentile",
        n_resamples=6000,
        rng=0,
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose([found.pearson.low, found.pearson.high], theirs, atol=0.06 * width)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(3, 7), st.integers(0, 1000), st.floats(1e-150, 1e150), st.floats(-10, 10))
def test_units_do_not_matter_and_order_does_not(n: int, name: int, factor: float, shift: float) -> None:
    x, y = draw(name, n), draw(name + 5000, n)
    found, moved = correlation(x, y, **FEW), correlation(factor * (x + shift), y, **FEW)
    swapped = correlation(y, x, **FEW)
    for coefficient in ("spearman", "pearson", "kendall"):
        first, second, third = (getattr(c, coefficient) for c in (found, moved, swapped))
        assert second.value == pytest.approx(first.value, abs=1e-9) == third.value
        assert second.p == first.p and third.p == pytest.approx(first.p, rel=1e-12)
        assert -1 <= first.low <= first.high <= 1


def test_tied_resamples_are_left_out_and_counted() -> None:
    found = correlation([1, 2, 3], [1, 3, 2], resamples=3000)
    assert found.resamples / 3000 == pytest.approx(1 - 3 / 27, abs=0.03)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "fewer than three pairs"),
        ([1, 2], [2, 1], "fewer than three pairs"),
        ([1, 1, 1], [1, 2, 3], "x constant"),
        ([1, 2, 3], [0.1, 0.1, 0.1], "y constant"),
        ([0, 0, 0], [0, 0, 0], "x and y constant"),
    ],
)
def test_what_is_not_defined_has_no_number_and_a_reason(x: list[float], y: list[float], reason: str) -> None:
    found = correlation(x, y)
    assert not found.defined and (found.spearman, found.pearson, found.kendall) == (None, None, None)
    assert found.reason == reason and found.n == len(x)
    assert str(found) == f"not defined: {reason} (n = {len(x)})"


def test_a_result_reads_as_a_sentence() -> None:
    text = str(correlation([1, 2, 3, 4], [2, 4, 6, 9], **FEW))
    assert text.startswith("Spearman +1.00 [") and "p = 0.083" in text
    assert text.endswith("n = 4, 95% bootstrap, exact p of 24 orders")


def test_the_permutation_test_keeps_its_size() -> None:
    """Independent x and y: p <= 0.1 in about a tenth of the trials, never more by more than chance."""
    found = [correlation(draw(22, 300, 6)[i], draw(23, 300, 6)[i], resamples=100) for i in range(300)]
    small = np.mean([c.spearman.p <= 0.1 for c in found if c.spearman is not None])
    assert 0.05 <= small <= 0.15


@pytest.mark.parametrize("n", [6, 12])
def test_p_is_uniform_where_nothing_goes_with_anything(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted out (6) and sampled (12): a value p is reached in a share p of 500 trials, error 0.022."""
    monkeypatch.setattr(statistics, "ORDERS", 499)
    found = [correlation(draw(23, 500, n)[i], draw(24, 500, n)[i], resamples=100) for i in range(500)]
    for name in ("spearman", "pearson", "kendall"):
        p = np.array([getattr(c, name).p for c in found])
        for reached in np.quantile(p, [0.05, 0.25, 0.5, 0.75, 0.95], method="lower"):
            assert np.mean(p <= reached) == pytest.approx(reached, abs=0.06)


def clustered(trial: int, seeds: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (seeds, n) of 200 scenes of two to six pictures, of mean 0, and their scenes."""
    stream = np.random.default_rng([5, trial])
    scenes = np.repeat(np.arange(200), stream.integers(2, 7, 200))
    picture = stream.normal(0, 1, 200)[scenes] + stream.normal(0, 1, len(scenes))
    return picture + stream.normal(0, 0.1, (seeds, len(scenes))), scenes


@pytest.mark.parametrize("kind", ["percentile", "bca", "seeds"])
def test_95_percent_cover_the_mean_over_clustered_scenes_in_93_to_97(kind: str) -> None:
    """500 trials, standard error 0.01. Of 3,000: 94.8 %, 94.4 % and 94.9 %; of 80 scenes 93.4, 93.3, 93.1.

    Without the scenes the interval of the first 100 is far too narrow.
    """
    hits, alone = 0, 0
    for trial in range(500):
        values, scenes = clustered(trial, 2 if kind == "seeds" else 1)
        if kind == "seeds":
            found = mean_over_seeds(values, clusters=scenes, seed=trial, resamples=500)
        else:
            found = bootstrap_interval(values[0], clusters=scenes, seed=trial, resamples=500, kind=kind)  # type: ignore[arg-type]
        low, high = ends(found)
        hits += low <= 0 <= high
        if trial < 100:
            low, high = ends(bootstrap_interval(values[0], seed=trial, resamples=100))
            alone += low <= 0 <= high
    assert 0.93 <= hits / 500 <= 0.97 and alone <= 85


def noisy_pairs(trial: int, rho: float, spread: float, n: int = 25) -> tuple[np.ndarray, np.ndarray, Noise]:
    """Pairs of a normal distribution, y measured with noise, and 500 draws of what it might have been."""
    stream = np.random.default_rng([6, trial])
    x = stream.normal(size=n)
    y = rho * x + math.sqrt(1 - rho**2) * stream.normal(size=n) + spread * stream.normal(size=n)
    return x, y, (np.tile(x, (500, 1)), y + spread * stream.normal(size=(500, n)))


@pytest.mark.parametrize(("rho", "spread"), [(0.0, 0.2), (0.8, 0.2), (0.95, 0.2)])
def test_the_interval_with_noise_covers_spearmans_without_it(
    rho: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """250 trials, standard error 0.014: 90 to 98 %. Spearman's of normal pairs is 6 / pi asin(rho / 2)."""
    monkeypatch.setattr(statistics, "ORDERS", 100)
    monkeypatch.setattr(statistics, "_COEFFICIENTS", {"spearman": statistics.spearman})
    truth, hits = 6 / math.pi * math.asin(rho / 2), 0
    for trial in range(250):
        x, y, noise = noisy_pairs(trial, rho, spread)
        found = correlation(x, y, seed=trial, resamples=500, noise=noise).spearman
        assert found is not None
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 250 <= 0.98


def test_noise_moves_ends_and_neither_coefficients_nor_p() -> None:
    x, y, noise = noisy_pairs(1, 0.8, 0.5)
    without, found = correlation(x, y, resamples=500), correlation(x, y, resamples=500, noise=noise)
    assert without.spearman is not None and found.spearman is not None
    assert (found.spearman.value, found.spearman.p) == (without.spearman.value, without.spearman.p)
    assert (found.spearman.low, found.spearman.high) != (without.spearman.low, without.spearman.high)
    assert found == correlation(x, y, resamples=500, noise=noise)
    for bad in (noise[0][:499], noise[0][:, :24]):
        with pytest.raises(ValueError, match=r"shape \(500, 25\)"):
            correlation(x, y, resamples=500, noise=(bad, noise[1]))


def test_noise_that_swaps_two_models_is_seen() -> None:
    """Five models in perfect order: certain without noise; two that noise cannot tell apart are not."""
    x, y = np.arange(5.0), np.array([0.0, 1.0, 1.1, 3.0, 4.0])
    stream = np.random.default_rng(8)
    noise = np.tile(x, (2000, 1)), y + stream.normal(0, 0.5, (2000, 5))
    without, found = correlation(x, y).kendall, correlation(x, y, noise=noise).kendall
    assert without is not None and found is not None
    assert (without.low, without.high) == (1, 1) and found.low < 0.8 and found.high == 1


def test_bad_input_is_refused() -> None:
    for bad in ([1.0, np.nan], [1.0, np.inf], [], [[1.0]]):
        with pytest.raises(ValueError, match="values"):
            bootstrap_interval(bad)
    with pytest.raises(ValueError, match="index \\[1, 0\\]"):
        mean_over_seeds([[1.0, 2.0], [np.nan, 1.0]])
    with pytest.raises(ValueError, match="axes"):
        mean_over_seeds([1.0, 2.0])
    with pytest.raises(ValueError, match="one shape"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="one length"):
        correlation([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="y has NaN"):
        correlation([1.0, 2.0, 3.0], [1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match="clusters"):
        bootstrap_interval([1.0, 2.0], clusters=[1])
    with pytest.raises(ValueError, match="kind"):
        bootstrap_interval([1.0, 2.0], kind="studentized")  # type: ignore[arg-type]
    for level, resamples in ((0.0, 100), (1.0, 100), (0.9, 99)):
        with pytest.raises(ValueError, match="level"):
            bootstrap_interval([1.0, 2.0], level, resamples)
