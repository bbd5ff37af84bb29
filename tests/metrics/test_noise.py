"""Draws of a cell's mean: its own interval, and what cells on the same pictures share."""

import numpy as np
import pytest

from benchmarks.metrics.noise import cell_means
from benchmarks.metrics.statistics import mean_over_seeds


def values(name: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([9, name]).standard_normal(shape)


@pytest.mark.parametrize("shape", [(1, 60), (4, 60), (6, 1)])
def test_the_draws_spread_like_the_interval(shape: tuple[int, int]) -> None:
    scores = values(0, *shape) + values(1, shape[0], 1)
    found, interval = cell_means(scores, "a", "b"), mean_over_seeds(scores)
    assert found.shape == (2000,) and interval.low is not None and interval.high is not None
    low, high = np.quantile(found, [0.025, 0.975])
    np.testing.assert_allclose(
        [low, high], [interval.low, interval.high], atol=0.1 * (interval.high - interval.low)
    )


def test_pictures_of_a_group_are_drawn_together() -> None:
    scores, groups = np.repeat(values(2, 1, 20), 10, 1), np.repeat(np.arange(20), 10)
    alone, together = cell_means(scores, "a", "b"), cell_means(scores, "a", "b", groups)
    assert together.std() == pytest.approx(np.sqrt(10) * alone.std(), rel=0.1)


def test_what_is_hard_for_all_cancels_on_the_same_pictures() -> None:
    hard = 5 * values(3, 1, 80)
    a, b = hard + 0.1 * values(4, 1, 80), hard + 0.1 * values(5, 1, 80)
    same = cell_means(a, "renders", "a") - cell_means(b, "renders", "b")
    other = cell_means(a, "renders", "a") - cell_means(b, "its own", "b")
    assert same.std() < 0.05 * other.std()


def test_training_seeds_are_each_cells_own() -> None:
    runs = values(6, 5, 1)
    a, b = cell_means(runs, "x", "a"), cell_means(runs, "x", "b")
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    np.testing.assert_array_equal(a, cell_means(runs, "another", "a"))


def test_a_single_number_stays_as_it_is() -> None:
    np.testing.assert_array_equal(cell_means([[3.5]], "a", "b", resamples=200), np.full(200, 3.5))
    with pytest.raises(ValueError, match="NaN"):
        cell_means([[np.nan]], "a", "b")
