"""Skill over the better control: closed forms, scipy, simulated coverage; the rule and how it agrees."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks.metrics.skill import (
    MUCH,
    SOME,
    agreement,
    choose,
    judge,
    leave_one_out,
    skill,
)


def errors(n: int, seed: int = 0, gain: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Errors of a control and of a model that takes away 1 - gain of them, pictures hard for both."""
    stream = np.random.default_rng(seed)
    control = stream.gamma(8, 5, n)
    return control * gain * stream.lognormal(0, 0.2, n) / np.exp(0.02), control


def test_it_is_over_the_better_control() -> None:
    found = skill([1.0, 2.0], {"mean map": [4.0, 8.0], "pixels": [2.0, 4.0]})
    assert found.value == pytest.approx(0.5) and found.control == "pixels"
    assert (found.error, found.against) == (1.5, 3.0)
    assert skill([1.0, 2.0], {"mean map": [4.0, 8.0]}).value == pytest.approx(0.75)
    assert skill([6.0, 6.0], {"pixels": [2.0, 4.0]}).value == pytest.approx(-1.0)


def test_a_control_of_which_the_mean_is_known_alone() -> None:
    found = skill([1.0, 2.0], {"mean map": 6.0, "pixels": [9.0, 9.0]})
    assert (found.value, found.control) == (pytest.approx(0.75), "mean map")
    assert found.low is not None and found.low == pytest.approx(1 - 2 / 6)
    assert found.high == pytest.approx(1 - 1 / 6)


def test_the_interval_is_that_of_scipy() -> None:
    """The same statistic of the same pairs, both resampled: ends agree within Monte Carlo error."""
    error, control = errors(100)
    found = skill(error, {"mean map": control})
    theirs = bootstrap(
        (error, control),
        lambda a, b, axis: 1 - a.mean(axis) / b.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=8000,
        rng=1,
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.006)
    assert found.high == pytest.approx(theirs.high, abs=0.006)


def test_pairing_narrows_it() -> None:
    """Pictures hard for both are hard for neither relative to the other."""
    error, control = errors(100)
    mixed = np.random.default_rng(9).permutation(control)
    paired, apart = skill(error, {"c": control}), skill(error, {"c": mixed})
    assert paired.value == pytest.approx(apart.value)
    assert width(paired) < 0.6 * width(apart)


def width(found: object) -> float:
    return float(found.high - found.low)  # type: ignore[attr-defined]


@pytest.mark.parametrize("controls", [1, 2])
def test_it_covers(controls: int) -> None:
    """The true skill in 93 to 97 % of 1,000 draws; in 91 to 95 % where two controls are equally good."""
    below = above = 0
    for k in range(1000):
        error, control = errors(80, seed=1000 + k)
        other = {"b": control * np.random.default_rng(k).lognormal(0, 0.2, 80) / np.exp(0.02)}
        found = skill(error, {"a": control} | (other if controls == 2 else {}))
        assert found.low is not None and found.high is not None
        below, above = below + (found.high < 0.3), above + (found.low > 0.3)
    covered = 1 - (below + above) / 1000
    assert covered == pytest.approx(0.95 if controls == 1 else 0.93, abs=0.02)
    assert controls == 1 or below > above


def test_pictures_of_a_scene_are_one_unit() -> None:
    error, control = errors(6, seed=3)
    scenes = np.repeat(np.arange(6), 20)
    rows = {"c": np.repeat(control, 20)}
    together, alone = skill(np.repeat(error, 20), rows, scenes), skill(np.repeat(error, 20), rows)
    assert together.n == 6 and alone.n == 120
    assert together.value == pytest.approx(alone.value)
    assert width(together) > 3 * width(alone)
    assert width(together) == pytest.approx(width(skill(error, {"c": control})), rel=1e-6)


def test_seeds_widen_it() -> None:
    error, control = errors(60)
    same, apart = np.stack([error] * 3), np.stack([0.5 * error, error, 1.5 * error])
    assert width(skill(same, {"c": control})) == pytest.approx(width(skill(error, {"c": control})), rel=1e-9)
    assert width(skill(apart, {"c": control})) > 1.5 * width(skill(same, {"c": control}))
    assert skill(apart, {"c": np.stack([control] * 2)}).seeds == 3


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a control"):
        skill([1.0, 2.0], {})
    with pytest.raises(ValueError, match="has 3 pictures, the error 2"):
        skill([1.0, 2.0], {"c": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="finite"):
        skill([1.0, float("nan")], {"c": [1.0, 2.0]})
    with pytest.raises(ValueError, match="nothing is left to know"):
        skill([1.0, 2.0], {"c": [0.0, 0.0]})
    with pytest.raises(ValueError, match="clusters of shape"):
        skill([1.0, 2.0], {"c": [1.0, 1.0]}, [0])


def test_the_rule() -> None:
    assert [judge(v) for v in (-0.1, SOME - 1e-9, SOME, MUCH - 1e-9, MUCH)] == [
        *("no", "no", "partial", "partial", "yes"),
    ]
    assert judge(0.9, low=0.0) == "no" and judge(0.9, low=0.01) == "yes"
    assert judge(0.2, low=-0.01) == "no" and judge(0.2, low=0.01) == "partial"


def test_one_picture_gets_no_mark() -> None:
    assert skill([1.0], {"c": [10.0]}).mark == ""
    assert skill([1.0, 1.1, 0.9], {"c": [10.0, 9.0, 11.0]}).mark == "yes"


def test_kappa_by_hand() -> None:
    """Of 50 grants 20 are granted and 15 refused by both readers, kappa 0.4: the usual example."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement(first, second)
    assert (found.same, found.n) == (35, 50) and found.kappa == pytest.approx(0.4)
    assert agreement(["yes"], ["yes"]).kappa is None
    with pytest.raises(ValueError, match="one length"):
        agreement(["yes"], [])


def test_thresholds_are_found_where_there_are_any() -> None:
    values = [0.0, 0.12, 0.13, 0.22, 0.31, 0.32, 0.62, 0.7, 0.8, 0.9]
    marks = ["no", "no", "no", "partial", "partial", "partial", "yes", "yes", "yes", "yes"]
    assert choose(values, marks) == (0.15, 0.35)
    assert leave_one_out(values, marks) == marks


def test_leaving_out_does_not_look_at_the_mark() -> None:
    """A mark that follows from nothing else is not guessed, though thresholds chosen with it would fit."""
    values = [0.1, 0.5, 0.6, 0.7]
    assert leave_one_out(values, ["no", "yes", "yes", "yes"])[0] != "no"
    flipped = leave_one_out(values, ["yes", "yes", "yes", "yes"])
    assert leave_one_out(values, ["no", "yes", "yes", "yes"])[0] == flipped[0]
