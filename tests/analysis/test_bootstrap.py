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
    assert str(mean_interval([2.0, 2.0, 2.0])) == "2 [-inf, inf]", "three alike may be chance"


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


# What rliable 1.2.0 says of `rliable_scores`, by 10,000 resamples: interquartile mean, its interval, the profile at
# 0.5, 1 and 2, and its interval. It cannot be installed beside our pandas (docs/decisions/0014).
RLIABLE = {
    (5, 1): (1.5179, (0.824, 2.010), (1.0, 0.8, 0.2), (1.0, 0.4, 0.0), (1.0, 1.0, 0.6)),
    (10, 1): (0.9048, (0.600, 1.398), (0.8, 0.3, 0.1), (0.5, 0.1, 0.0), (1.0, 0.6, 0.3)),
    (5, 3): (3.0342, (2.190, 4.326), (0.9333, 0.6, 0.4667), (0.8, 0.4, 0.33), (1.0, 0.8, 0.6)),
    (10, 4): (2.4641, (1.821, 3.209), (0.975, 0.675, 0.525), (0.92, 0.57, 0.4), (1.0, 0.78, 0.65)),
}


def rliable_scores() -> dict[tuple[int, int], np.ndarray]:
    """(runs, tasks) → skewed scores [runs, tasks] on unequal scales."""
    rng = np.random.default_rng(5)
    sizes = [(3, 1), *RLIABLE]
    return {(n, t): rng.gamma(2.0, 1.0, (n, t)) * np.array([1.0, 3.0, 0.5, 2.0])[:t] for n, t in sizes}


@pytest.mark.parametrize("size", RLIABLE)
def test_rliable_says_the_same(size: tuple[int, int]) -> None:
    tasks = list(rliable_scores()[size].T)
    mean, ends, share, low, high = RLIABLE[size]
    interval = stratified_interval(tasks)
    assert interval.estimate == pytest.approx(mean, abs=5e-5)
    noise = 0.03 * (ends[1] - ends[0])  # two resamplings of its own differ by up to 0.02
    assert (interval.low, interval.high) == (pytest.approx(ends[0], abs=noise), pytest.approx(ends[1], abs=noise))
    ours = performance_profile(tasks, [0.5, 1.0, 2.0])
    np.testing.assert_allclose(ours[0], share, atol=5e-5)
    np.testing.assert_allclose(ours[1:], (low, high), atol=1 / size[0] + 0.005)  # by one run of one task


def test_one_seed_of_one_task_leaves_all_open() -> None:
    interval = stratified_interval([[1.0, 2.0, 3.0], [4.0]])
    assert (interval.estimate, interval.low, interval.high) == (2.5, -math.inf, math.inf)
    share, low, high = performance_profile([[1.0]], [0.0, 2.0])
    assert (share.tolist(), low.tolist(), high.tolist()) == ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_what_has_no_interval(values: list[float]) -> None:
    for function in (mean_interval, lambda v: stratified_interval([v])):
        with pytest.raises(ValueError, match="need finite values"):
            function(values)
    with pytest.raises(ValueError, match="at least one task"):
        stratified_interval([])
    with pytest.raises(ValueError, match="0 < confidence < 1, got 95"):
        mean_interval([1.0], confidence=95)
