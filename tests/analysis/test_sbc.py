"""Ranks whose distribution is known: a normal truth among normal draws, right, too narrow, too wide or shifted."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bayes_mbrl.analysis.sbc import (
    LEVEL,
    calibrate,
    calibration_verdicts,
    ecdf_chart,
    rank_chart,
    symmetry,
    symmetry_verdicts,
)

R, L, Q = 200, 60, 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(
    scale: float = 1.0, shift: float = 0.0, seed: int = 0, replicates: int = R
) -> tuple[np.ndarray, np.ndarray]:
    """θ ~ N(m, 1) with m of its own for each replicate and quantity; the "posterior" is N(m + shift, scale²)."""
    rng = np.random.default_rng(seed)
    mean = 10 * rng.normal(size=(replicates, Q)) * [1, 100, 0.01]
    units = np.array([1, 100, 0.01])
    truth = mean + units * rng.normal(size=(replicates, Q))
    draws = mean[:, None] + units * (shift + scale * rng.normal(size=(replicates, L, Q)))
    return truth, draws


def test_right_draws_pass_at_the_stated_rate() -> None:
    alarms = 0
    for seed in range(100):
        result = calibrate(*problem(seed=seed, replicates=60), generator=seeded(seed))
        alarms += calibration_verdicts(result)[0].severity == "bad"
    assert alarms <= 100 * LEVEL + 5 * math.sqrt(100 * LEVEL)


@pytest.mark.parametrize(
    ("scale", "shift", "words"),
    [
        (0.5, 0, "too narrow"),
        (2, 0, "too wide"),
        (1, 0.6, "too high"),
        (1, -0.6, "too low"),
        (0.5, -0.6, "and too low"),
    ],
)
def test_wrong_draws_are_caught_and_named(scale: float, shift: float, words: str) -> None:
    result = calibrate(*problem(scale, shift), names=("a", "b", "c"), generator=seeded())
    verdicts = calibration_verdicts(result)
    assert verdicts[0].text.startswith("3 of 3 quantities have ranks that are not uniform over 200 replicates")
    assert [verdict.name for verdict in verdicts[1:]] == ["a", "b", "c"]
    assert all(words in verdict.text for verdict in verdicts[1:])


def test_bias_and_spread_have_their_closed_forms() -> None:
    """(truth − mean) / posterior std, of infinitely many draws."""
    result = calibrate(*problem(scale=1.25, shift=0.5, replicates=4000), generator=seeded())
    assert result.bias == pytest.approx([-0.4] * Q, abs=0.06)
    assert result.spread == pytest.approx([math.hypot(0.8, 0.4)] * Q, abs=0.05)


def test_the_pit_is_the_rank() -> None:
    truth, draws = problem()
    result = calibrate(truth, draws, generator=seeded())
    ranks = (draws < truth[:, None]).sum(1)
    np.testing.assert_array_equal(np.floor(result.pit * (L + 1)), ranks)


def test_ties_are_broken_at_random() -> None:
    """A quantity that takes two values; the ranks stay uniform."""
    rng = np.random.default_rng(2)
    truth, draws = rng.integers(2, size=(R, 1)), rng.integers(2, size=(R, L, 1))
    result = calibrate(truth, draws, generator=seeded())
    assert stats.kstest(result.pit[:, 0], "uniform").pvalue > 1e-3
    assert calibration_verdicts(result)[0].severity == "good"


def test_failed_fits_are_reported() -> None:
    result = calibrate(*problem(), num_failed=7, generator=seeded())
    verdict = calibration_verdicts(result)[0]
    assert verdict.text.startswith("7 of 207 fits failed")
    assert verdict.severity == "bad"


def test_few_replicates_say_that_they_are_few() -> None:
    result = calibrate(*problem(replicates=12), generator=seeded())
    assert "that is few" in calibration_verdicts(result)[0].text
    assert calibrate(*problem(replicates=1), generator=seeded()).pit.shape == (1, Q)
    calibration_verdicts(calibrate(*problem(replicates=1), generator=seeded()))


def test_symmetry_sees_a_shift_and_not_a_width() -> None:
    """What VSBC is for: a mean field that is too narrow may still have the right means."""
    for scale, shift, severity in ((1, 0, "good"), (0.5, 0, "good"), (1, 0.5, "bad"), (0.5, 0.5, "bad")):
        verdicts = symmetry_verdicts(symmetry(calibrate(*problem(scale, shift, seed=1), generator=seeded())))
        assert verdicts[0].severity == severity, (scale, shift)
        assert all("too high" in verdict.text for verdict in verdicts[1:])
    assert symmetry(calibrate(*problem(1, -0.5), generator=seeded())).bias.min() > 0.05


def test_one_seed_one_answer() -> None:
    a, b, c = (calibrate(*problem(), generator=seeded(seed)).pit for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_charts_show_the_ranks() -> None:
    right = calibrate(*problem(), names=("a", "b", "c"), generator=seeded())
    narrow = calibrate(*problem(0.4), generator=seeded())
    histogram = rank_chart(right, 1)
    assert "b" in histogram.title
    assert sum(histogram.marks[1].heights) == R  # type: ignore[union-attr]
    chart = ecdf_chart({"f": right, "sigma": narrow}, generator=seeded())
    band, _, *lines = chart.marks
    assert len(lines) == 2 * Q
    outside = [bool(((line.y < band.low) | (line.y > band.high)).any()) for line in lines]  # type: ignore[union-attr]
    assert outside[Q:] == [True] * Q
    assert sum(outside[:Q]) <= 1


@pytest.mark.parametrize(
    ("truth", "draws", "names", "message"),
    [
        (np.ones((5, 2)), np.ones((5, 3)), None, r"got \[5, 2\] and \[5, 3\]"),
        (np.ones((5, 2)), np.ones((4, 3, 2)), None, r"got \[5, 2\] and \[4, 3, 2\]"),
        (np.ones((5, 2)), np.ones((5, 0, 2)), None, r"got \[5, 2\] and \[5, 0, 2\]"),
        (np.ones((5, 2)), np.ones((5, 3, 2)), ["a"], "a name for each of 2 quantities, got 1"),
        (np.full((5, 2), np.nan), np.ones((5, 3, 2)), None, "NaN"),
        (np.ones((5, 2)), np.full((5, 3, 2), np.nan), None, "30 of 30"),
    ],
)
def test_what_does_not_fit_is_refused(
    truth: np.ndarray, draws: np.ndarray, names: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(truth, draws, names=names, generator=seeded())
