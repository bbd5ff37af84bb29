"""One correlation over strata: by hand, by counting, and where strata taken together would lie."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.metrics import pooled, statistics
from benchmarks.metrics.pooled import stratified
from benchmarks.metrics.statistics import correlation


def test_one_stratum_is_spearmans() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 7))
    found, alone = stratified([(x, y)]), correlation(x, y).spearman
    assert found is not None and alone is not None
    assert found.value == pytest.approx(alone.value) and found.p == alone.p
    assert (found.n, found.strata) == (7, 1) and found.permutation == "exact p of 5040 orders within facets"
    np.testing.assert_allclose([found.low, found.high], [alone.low, alone.high], atol=0.1)


def test_strata_weigh_by_their_pairs_less_one() -> None:
    """Coefficients 1 of three and 0.8 of four pairs: (2 * 1 + 3 * 0.8) / 5."""
    found = stratified([([1, 2, 3], [4, 5, 6]), ([1, 2, 3, 4], [1, 2, 4, 3])])
    assert found is not None and found.value == pytest.approx(0.88) and (found.n, found.strata) == (7, 2)


def test_p_counts_all_orders_within_strata() -> None:
    first, second = ([1.0, 2, 3], [1.0, 3, 2]), ([1.0, 2, 3, 4], [1.0, 2, 4, 3])
    found = stratified([first, second])
    assert found is not None and "exact p of 144 orders" in found.permutation

    def value(a: object, b: object) -> float:
        return float((2 * spearmanr(first[0], a).statistic + 3 * spearmanr(second[0], b).statistic) / 5)

    every = itertools.product(itertools.permutations(first[1]), itertools.permutations(second[1]))
    reached = [abs(value(a, b)) >= abs(value(first[1], second[1])) - 1e-12 for a, b in every]
    assert found.p == pytest.approx(np.mean(reached))


def test_no_value_is_set_against_another_stratums() -> None:
    """Within both strata x and y fall together oppositely; taken together they would rise (Simpson)."""
    stream = np.random.default_rng(1)
    x = np.concatenate([stream.normal(0, 1, 15), stream.normal(10, 1, 15)])
    y = np.concatenate([-x[:15], 20 - x[15:]])
    found = stratified([(x[:15], y[:15]), (x[15:], y[15:])])
    assert found is not None and found.value == pytest.approx(-1) and spearmanr(x, y).statistic > 0.4
    assert found.p == pytest.approx(1e-4) and (found.low, found.high) == pytest.approx((-1, -1))


def test_more_strata_say_more_than_one() -> None:
    pairs = [([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2, 3, 4], [2, 3, 4, 5])]
    one, two = stratified(pairs[:1]), stratified(pairs)
    assert one is not None and two is not None
    assert (one.p, two.p) == (pytest.approx(2 / 24), pytest.approx(2 / 24**2))


def test_p_is_uniform_and_the_interval_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 trials of strata of 8 and 16 pairs with levels of their own; standard errors 0.03 and 0.013."""
    monkeypatch.setattr(pooled, "ORDERS", 199)
    p, hits, truth = [], 0, 6 / math.pi * math.asin(0.3)
    for trial in range(300):
        stream = np.random.default_rng([2, trial])
        x, noise = stream.normal(size=(2, 24))
        levels = np.repeat([0.0, 50.0], [8, 16])
        free = stratified([(x[:8], noise[:8]), (x[8:], (noise + levels)[8:])], trial, resamples=100)
        y = 0.6 * x + 0.8 * noise + levels
        bound = stratified([(x[:8], y[:8]), (x[8:], y[8:])], trial, resamples=300)
        assert free is not None and bound is not None
        p.append(free.p)
        hits += bound.low <= truth <= bound.high
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=0.08)
    assert 0.91 <= hits / 300 <= 0.98


def test_models_of_two_strata_are_not_twice_as_many() -> None:
    """The same models asked twice, with the same answers, are as many as asked once."""
    x, y = np.random.default_rng(4).normal(size=(2, 7))
    names = list("abcdefg")
    once, twice = stratified([(x, y)]), stratified([(x, y), (x, y)], names=[names, names])
    apart = stratified([(x, y), (x, y)])
    assert once is not None and twice is not None and apart is not None
    assert (twice.value, twice.p) == (pytest.approx(once.value), once.p) and twice.n == 14
    np.testing.assert_allclose([twice.low, twice.high], [once.low, once.high], atol=0.1)
    assert apart.p < once.p and apart.high - apart.low < twice.high - twice.low


def test_p_of_strata_that_share_some_models_counts_orders_of_all() -> None:
    """Three of four models stand in both; whoever gets another's x gets it in both."""
    x = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 3.0}
    first, second = {"a": 1.0, "b": 3.0, "c": 2.0}, {"d": 2.0, "c": 3.0, "b": 4.0, "a": 0.0}
    pairs = [([x[m] for m in y], list(y.values())) for y in (first, second)]
    found = stratified(pairs, names=[list(first), list(second)])
    assert found is not None and "exact p of 24 orders" in found.permutation

    def value(given: dict[str, float]) -> float:
        each = [spearmanr([given[m] for m in y], list(y.values())).statistic for y in (first, second)]
        return float((2 * each[0] + 3 * each[1]) / 5)

    orders = [dict(zip(x, order, strict=True)) for order in itertools.permutations(x.values())]
    reached = [abs(value(order)) >= abs(value(x)) - 1e-12 for order in orders]
    assert found.p == pytest.approx(np.mean(reached)) and found.value == pytest.approx(value(x))


def test_one_name_with_two_distances_is_two_models() -> None:
    pairs = [([1.0, 2, 3], [1.0, 3, 2]), ([10.0, 20, 30], [1.0, 2, 3])]
    same = [list("abc"), list("abc")]
    assert stratified(pairs, names=same) == stratified(pairs)


def test_coefficients_of_repeated_pairs_are_spearmans() -> None:
    stream = np.random.default_rng(5)
    x, y = stream.integers(0, 5, size=(2, 40, 6)).astype(float)  # with ties
    times = stream.multinomial(6, np.full(6, 1 / 6), 40).astype(float)
    found, defined = pooled._repeated(x, y, times)
    for k in range(40):
        many = [np.repeat(v[k], times[k].astype(int)) for v in (x, y)]
        assert defined[k] == all(np.ptp(v) > 0 for v in many)
        if defined[k]:
            assert found[k] == pytest.approx(spearmanr(*many).statistic)


def test_p_of_shared_models_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 trials without a relation, the second asking nearly as the first; apart, p is too small."""
    monkeypatch.setattr(pooled, "ORDERS", 199)
    p: dict[bool, list[float]] = {True: [], False: []}
    names = [[str(n) for n in range(12)]] * 2
    for trial in range(400):
        x, y, noise = np.random.default_rng([6, trial]).normal(size=(3, 12))
        for shared in p:
            found = stratified(
                [(x, y), (x, y + 0.3 * noise)], trial, resamples=100, names=names if shared else None
            )
            assert found is not None
            p[shared].append(found.p)
    below = {shared: np.mean(np.array(values) <= 0.05) for shared, values in p.items()}
    assert 0.02 <= below[True] <= 0.08 and below[False] >= 0.12


def test_what_has_no_coefficient_is_left_out() -> None:
    pair = ([1.0, 2, 3, 5], [1.0, 2, 4, 3])
    found = stratified([pair, ([1.0, 2], [2.0, 1]), ([1.0, 1, 1], [1.0, 2, 3]), ([], [])])
    assert found == stratified([pair]) and stratified([([1.0], [1.0])]) is None and stratified([]) is None


def test_noise_belongs_to_its_stratum() -> None:
    stream = np.random.default_rng(3)
    pairs = [(np.arange(6.0), np.arange(6.0)) for _ in range(2)]
    draws = [(np.tile(x, (500, 1)), y + stream.normal(0, 2, (500, 6))) for x, y in pairs]
    still, noisy = stratified(pairs, resamples=500), stratified(pairs, resamples=500, noise=draws)
    assert still is not None and noisy is not None
    assert (still.low, still.value) == pytest.approx((1, 1)) and still.p == noisy.p and noisy.low < 0.8
    assert statistics.EXACT == 9 and "Monte Carlo" in noisy.permutation
    with pytest.raises(ValueError, match="noise needs"):
        stratified(pairs, noise=draws)
