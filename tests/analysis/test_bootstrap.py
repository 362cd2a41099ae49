"""Intervals over seeds: their coverage for few seeds, closed forms, and what cannot be asked for."""

import math

import numpy as np
import pytest

from bayes_mbrl.analysis.bootstrap import (
    interquartile_mean,
    mean_interval,
    performance_profile,
    stratified_interval,
)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("skewed", [False, True])
def test_few_seeds_are_covered(n: int, skewed: bool) -> None:
    """95 % intervals hold the mean in at least 95 % of 200 draws for a normal, and in 85 % for an exponential."""
    rng = np.random.default_rng(n)
    draws = rng.exponential(1.0, (200, n)) if skewed else rng.normal(1.0, 2.0, (200, n))
    held = np.mean([interval.low <= 1.0 <= interval.high for interval in map(mean_interval, draws)])
    aim = 0.85 if skewed else 0.95
    assert held >= aim - 3 * math.sqrt(aim * (1 - aim) / 200)


def test_many_seeds_give_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(0.0, 1.0, 2000)
    interval = mean_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.1)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.1)
    assert mean_interval(values, confidence=0.5).high < interval.high


def test_one_seed_says_nothing() -> None:
    interval = mean_interval([3.0])
    assert (interval.estimate, interval.low, interval.high) == (3.0, -math.inf, math.inf)
    assert mean_interval([2.0, 2.0]).low == mean_interval([2.0, 2.0]).high == 2.0
    assert str(mean_interval([2.0, 2.0])) == "2 [2, 2]"


def test_the_interquartile_mean_leaves_out_the_outer_halves() -> None:
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 1000]) == pytest.approx(np.mean([2, 3, 4, 5]))
    assert interquartile_mean([[1.0, 3.0], [2.0, 2.0]]) == 2.0
    assert interquartile_mean([1.0, 4.0]) == 2.5


def test_seeds_are_drawn_within_their_task() -> None:
    """Two tasks of one number each leave nothing to chance, though they differ."""
    interval = stratified_interval([np.full(5, 1.0), np.full(5, 3.0)])
    assert interval.low == interval.high == interval.estimate == 2.0
    rng = np.random.default_rng(1)
    held = [
        (one := stratified_interval([rng.normal(0, 1, 10), rng.normal(0, 1, 10)], seed=i)).low <= 0 <= one.high
        for i in range(100)
    ]
    assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 100)


def test_profiles_count_runs_above_a_threshold_and_tasks_alike() -> None:
    share, low, high = performance_profile([[1.0, 2.0], [3.0, 3.0, 3.0, 5.0]], [0.0, 1.5, 3.0, 9.0])
    np.testing.assert_allclose(share, [1.0, 0.75, 0.125, 0.0])
    assert (low <= share).all()
    assert (share <= high).all()


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_what_has_no_interval(values: list[float]) -> None:
    for function in (mean_interval, lambda v: stratified_interval([v])):
        with pytest.raises(ValueError, match="need finite values"):
            function(values)
    with pytest.raises(ValueError, match="at least one task"):
        stratified_interval([])
    with pytest.raises(ValueError, match="0 < confidence < 1, got 95"):
        mean_interval([1.0], confidence=95)
