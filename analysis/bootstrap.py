"""Intervals over seeds: of a mean, of an interquartile mean over many tasks, and performance profiles.

Few seeds are the rule, and there the plain bootstrap is too narrow. An interval of a mean is therefore the wider of two
at each end: the bootstrap percentiles, expanded as in Hesterberg, What Teachers Should Know About the Bootstrap (2015),
section 5.3, and Student's t. Interquartile means and profiles are those of Agarwal et al., Deep Reinforcement Learning
at the Edge of the Statistical Precipice (2021). Axes: n seeds, T tasks.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bayes_mbrl.analysis.arrays import as_array

Floats = NDArray[np.float64]

NUM_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate, and where the truth may lie."""

    estimate: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean_interval(values: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Of the mean of values [n], one for each seed; unbounded for a single one, and where all are equal.

    Equal values, such as "found in no run of three", say nothing of how far another one may lie.
    Raises ValueError for NaN, no value, or a confidence outside of (0, 1).
    """
    sample = _checked(values, confidence)
    mean, n = float(sample.mean()), len(sample)
    if np.ptp(sample) == 0:
        return Interval(mean, -math.inf, math.inf, confidence)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(sample.std(ddof=1)) / math.sqrt(n)
    tail = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.5 - confidence / 2, n - 1)))
    rows = np.random.default_rng(seed).integers(n, size=(NUM_RESAMPLES, n))
    low, high = np.quantile(sample[rows].mean(1), [tail, 1 - tail])
    return Interval(mean, min(mean - half, float(low)), max(mean + half, float(high)), confidence)


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores, whatever their axes; of fewer than four, the mean."""
    return float(stats.trim_mean(as_array(scores).reshape(-1), 0.25))


def stratified_interval(scores: Sequence[ArrayLike], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Of the interquartile mean of the scores of T tasks, each [n_t]: seeds are drawn anew within each task.

    With fewer than about 10 scores in all it is too narrow, as any bootstrap; unbounded where a task has a single
    score, of which nobody knows how it varies. Raises ValueError as `mean_interval`.
    """
    tasks = [_checked(values, confidence) for values in scores]
    if not tasks:
        raise ValueError("need the scores of at least one task, got none")
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))] for values in tasks]
    resampled = stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2])
    if _unknown_spread(tasks):
        low, high = -math.inf, math.inf
    return Interval(interquartile_mean(np.concatenate(tasks)), float(low), float(high), confidence)


def performance_profile(
    scores: Sequence[ArrayLike], thresholds: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """(share of runs with a score above each threshold, its lower and its upper end): three [number of thresholds].

    Scores of T tasks, each [n_t]; all tasks count alike. Ends by the stratified bootstrap; 0 and 1 where a task has a
    single score.
    """
    tasks, levels = [_checked(values, confidence) for values in scores], as_array(thresholds)
    rng = np.random.default_rng(seed)

    def share(values: Floats) -> Floats:
        return np.asarray((values[..., None] > levels).mean(-2), dtype=np.float64)

    resampled = np.zeros((1_000, len(levels)))
    for values in tasks:
        resampled += share(values[rng.integers(len(values), size=(1_000, len(values)))]) / len(tasks)
    low, high = np.quantile(resampled, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    if _unknown_spread(tasks):
        low, high = np.zeros(len(levels)), np.ones(len(levels))
    return np.mean([share(values) for values in tasks], axis=0), low, high


def _unknown_spread(tasks: Sequence[Floats]) -> bool:
    return any(len(values) == 1 for values in tasks)


def _checked(values: ArrayLike, confidence: float) -> Floats:
    sample = as_array(values).reshape(-1)
    if not 0 < confidence < 1:
        raise ValueError(f"need 0 < confidence < 1, got {confidence}")
    if len(sample) == 0 or not np.isfinite(sample).all():
        raise ValueError(f"need finite values, at least one, got {sample.tolist()[:10]}")
    return sample
