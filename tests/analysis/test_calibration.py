"""Calibration against closed forms, an installed peer and simulation: what is right passes, what is wrong does not."""

import math

import numpy as np
import pytest
import torch
import uncertainty_toolbox
from scipy import stats

from bayes_mbrl.analysis.calibration import (
    LEVELS,
    calibration_error,
    calibration_error_by_chance,
    coverage,
    coverage_chart,
    coverage_verdict,
    horizon_chart,
    pit_chart,
    pit_of_draws,
    sharpness,
    simultaneous_band,
)
from bayes_mbrl.analysis.charts import Band, Line, Rule
from bayes_mbrl.analysis.mixture import Mixture


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal_problem(width: float = 1.0, shift: float = 0.0, num_data: int = 700) -> tuple[Mixture, np.ndarray]:
    """One component whose std is `width` times the truth's, S 2."""
    random = np.random.default_rng(1)
    mean, std = random.normal(size=(1, num_data, 2)), random.uniform(0.5, 3, (1, num_data, 2))
    y = mean[0] + std[0] * random.normal(size=(num_data, 2))
    return Mixture(mean + shift * std, std * width), y


def test_against_uncertainty_toolbox() -> None:
    mixture, y = _normal_problem(width=0.6, shift=0.2)
    for s in range(2):
        mean, std, outcome = mixture.mean[0, :, s], mixture.std[0, :, s], y[:, s]
        levels = np.linspace(0, 1, 100)
        expected, observed = uncertainty_toolbox.get_proportion_lists_vectorized(
            mean, std, outcome, num_bins=100, prop_type="interval"
        )
        np.testing.assert_allclose(expected, levels)
        pit = mixture.pit(y)[:, s : s + 1]
        np.testing.assert_allclose(coverage(pit, levels.tolist())[:, 0], observed, atol=1e-12)
        theirs = uncertainty_toolbox.mean_absolute_calibration_error(mean, std, outcome, num_bins=100)
        np.testing.assert_allclose(calibration_error(pit, levels.tolist()), [theirs])
        np.testing.assert_allclose(sharpness(mixture.total_std())[s], uncertainty_toolbox.sharpness(std))


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_coverage_in_closed_form(width: float) -> None:
    """Intervals of width w hold 2 Φ(w q) - 1."""
    mixture, y = _normal_problem(width, num_data=20_000)
    levels = (0.1, 0.5, 0.9)
    expected = 2 * stats.norm.cdf(width * stats.norm.ppf(0.5 + np.array(levels) / 2)) - 1
    error = 5 * np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(coverage(mixture.pit(y), levels) - expected[:, None]) < error[:, None]).all()


def test_calibration_error_of_what_is_calibrated_is_chance_alone() -> None:
    random = np.random.default_rng(2)
    for num_data in (20, 500):
        errors = calibration_error(random.uniform(size=(num_data, 3000)))
        assert errors.mean() == pytest.approx(calibration_error_by_chance(num_data), rel=0.05)
    assert calibration_error(np.full((5, 1), 1.0))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("num_draws", [1, 4, 37])
def test_the_rank_of_an_outcome_among_draws_is_uniform(num_draws: int) -> None:
    random = np.random.default_rng(num_draws)
    draws, y = random.normal(size=(num_draws, 5000, 2)), random.normal(size=(5000, 2))
    pit = pit_of_draws(draws, y, generator=_generator())
    assert ((pit > 0) & (pit < 1)).all()
    assert stats.kstest(pit.ravel(), "uniform").pvalue > 1e-6
    np.testing.assert_allclose(coverage(pit, (0.9,))[0], 0.9, atol=5 * 0.3 / math.sqrt(5000))


def test_ties_are_uniform_too() -> None:
    """Outcomes and draws from {0, 1, 2}; and a constant that is predicted as such."""
    random = np.random.default_rng(3)
    draws, y = random.integers(3, size=(9, 20_000, 1)), random.integers(3, size=(20_000, 1))
    assert stats.kstest(pit_of_draws(draws, y, generator=_generator())[:, 0], "uniform").pvalue > 1e-6
    constant = pit_of_draws(np.zeros((9, 20_000, 1)), np.zeros((20_000, 1)), generator=_generator())
    assert stats.kstest(constant[:, 0], "uniform").pvalue > 1e-6


def test_ranks_by_hand_and_draws_that_diverged() -> None:
    draws = np.array([1.0, 2.0, np.inf, -np.inf, 5.0]).reshape(5, 1, 1)
    v = float(torch.rand(1, generator=_generator(4), dtype=torch.float64))
    assert pit_of_draws(draws, [[3.0]], generator=_generator(4))[0, 0] == pytest.approx((3 + v) / 6)
    assert pit_of_draws(draws, [[5.0]], generator=_generator(4))[0, 0] == pytest.approx((3 + 2 * v) / 6)
    with pytest.raises(ValueError, match="draws has NaN in 1 of 5"):
        pit_of_draws(np.where(draws == 2, np.nan, draws), [[3.0]], generator=_generator())
    with pytest.raises(ValueError, match="R >= 1"):
        pit_of_draws(draws[:0], [[3.0]], generator=_generator())


@pytest.mark.parametrize(("num_data", "probability"), [(7, 0.9), (60, 0.95), (1500, 0.5), (1500, 0.95)])
def test_the_band_holds_as_often_as_it_says(num_data: int, probability: float) -> None:
    """At all points at once, on new samples: at least as often (counts are whole), and no more than a little above."""
    band = simultaneous_band(num_data, probability=probability, generator=_generator(5))
    random = np.random.default_rng(6)
    held = np.mean([band.holds(random.uniform(size=num_data)) for _ in range(3000)])
    error = 5 * math.sqrt(probability * (1 - probability) * (1 / 3000 + 1 / 4000))
    assert probability - error < held < probability + error + (0.08 if num_data < 10 else 0.01)


def test_the_band_is_wider_than_that_of_any_one_point() -> None:
    band = simultaneous_band(400, generator=_generator(7))
    pointwise = stats.binom.ppf(0.025, 400, band.points) / 400
    assert (band.low <= pointwise).all()
    assert (band.low < pointwise).mean() > 0.8
    assert ((band.low < band.points) & (band.points < band.high)).all()


@pytest.mark.parametrize(("width", "shift"), [(0.8, 0.0), (1.25, 0.0), (1.0, 0.25)])
def test_the_band_finds_what_is_wrong(width: float, shift: float) -> None:
    band = simultaneous_band(700, generator=_generator(8))
    right, y = _normal_problem()
    wrong, _ = _normal_problem(width, shift)
    assert band.holds(right.pit(y)[:, 0])
    assert not band.holds(wrong.pit(y)[:, 0])


def test_one_datum() -> None:
    band = simultaneous_band(1, generator=_generator(9))
    assert band.holds([0.5])
    assert coverage([[0.5]], (0.0, 0.9)).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("level", "held", "num_data", "verdict"),
    [
        (0.9, 0.71, 1000, "too narrow"),
        (0.9, 0.97, 1000, "too wide"),
        (0.9, 0.88, 1000, "about right"),
        (0.9, 0.85, 100_000, "about right"),  # off, and surely so, but by no more than what counts
        (0.9, 0.849, 100_000, "too narrow"),
        (0.5, 0.551, 100_000, "too wide"),
        (0.9, 0.5, 2, "too few outcomes to tell"),
        (0.9, 1.0, 10, "too few outcomes to tell"),
        (0.9, 0.9, 10, "too few outcomes to tell"),  # so it might be with intervals that hold 75 %
        (0.9, 0.75, 10, "too few outcomes to tell"),
        (0.99, 0.9, 10, "too few outcomes to tell"),  # one of ten missed
        (0.9, 0.2, 10, "too narrow"),  # few, yet enough
        (0.5, 1.0, 12, "too wide"),
        (0.9, 0.9, 145, "about right"),  # two standard errors are 5 points at 144
        (0.9, 0.9, 143, "too few outcomes to tell"),
        (0.5, 0.54, 300, "too few outcomes to tell"),
        (0.5, 0.54, 500, "about right"),
    ],
)
def test_a_verdict_in_words(level: float, held: float, num_data: int, verdict: str) -> None:
    sentence = coverage_verdict(level, held, num_data)
    assert sentence == f"{100 * level:.0f} % intervals hold {100 * held:.0f} % of {num_data:,} outcomes: {verdict}"


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("num_data", [2, 10, 50, 200, 3000])
def test_a_fault_is_rarely_found_in_what_is_right(level: float, num_data: int) -> None:
    counts = np.arange(num_data + 1)
    chance = stats.binom.pmf(counts, num_data, level)
    found = [coverage_verdict(level, k / num_data, num_data).endswith(("too narrow", "too wide")) for k in counts]
    assert chance[found].sum() < 0.06


def test_charts_say_what_was_counted() -> None:
    mixture, y = _normal_problem(width=0.5)
    pit = mixture.pit(y)
    band = simultaneous_band(700, generator=_generator(10))
    chart = pit_chart({"s[0]": pit[:, 0], "s[1]": pit[:, 1]}, band, title="PIT")
    lines = [mark for mark in chart.marks if isinstance(mark, Line)]
    assert [line.label for line in lines] == ["s[0]", "s[1]"]
    at = int(np.argmin(np.abs(lines[0].x - 0.1)))
    assert lines[0].y[at] == pytest.approx((pit[:, 0] <= 0.1).mean() - 0.1)
    assert lines[0].y[[0, -1]].tolist() == [0, 0]
    (drawn,) = [mark for mark in chart.marks if isinstance(mark, Band)]
    assert (drawn.low[1:-1] < 0).all()
    assert (drawn.high[1:-1] > 0).all()
    levels = [mark for mark in coverage_chart({"both": pit}, title="Coverage").marks if isinstance(mark, Line)]
    assert levels[1].label == "both"
    assert levels[1].y[90] == pytest.approx((np.abs(2 * pit - 1) <= 0.9).mean())
    assert levels[1].y[90] < LEVELS[89]
    horizon = horizon_chart({"a": [0.9, 0.8]}, y_label="held", title="t", note="n", levels=(0.9,))
    assert [type(mark) for mark in horizon.marks] == [Rule, Line]
    assert horizon.marks[1].x.tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    pairs = horizon_chart({name: [0.5] for name in "abcd"}, y_label="held", title="t", note="n", together=2).marks
    assert [mark.dashed for mark in pairs] == [True, False, True, False]  # type: ignore[union-attr]
    assert pairs[0].color == pairs[1].color != pairs[2].color == pairs[3].color  # type: ignore[union-attr]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        coverage([[1.5]])
    for levels in ((0.5, 2.0), (-0.1,), (math.nan,), (90,), ()):
        for function in (coverage, calibration_error):
            with pytest.raises(ValueError, match=r"levels within \[0, 1\], at least one, got (none|\[)"):
                function([[0.5]], levels)
    for level, held, num_data in ((2.0, 0.5, 9), (0.9, 1.5, 9), (0.9, math.nan, 9), (0.9, 0.9, 0)):
        with pytest.raises(ValueError, match="num_data >= 1"):
            coverage_verdict(level, held, num_data)
    with pytest.raises(ValueError, match="pit has NaN or infinity in 1 of 2"):
        calibration_error([[0.5], [np.nan]])
    with pytest.raises(ValueError, match="num_data >= 1"):
        simultaneous_band(0, generator=_generator())
