"""Linear systems whose error is known at every step, and standard errors against the spread of repetitions."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import Line, Rule
from bayes_mbrl.analysis.error_growth import (
    ErrorGrowth,
    Growth,
    _resampled,
    error_growth,
    fit_growth,
    grouped_mean,
    growth_chart,
)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def with_errors(errors: Tensor, **settings: Tensor) -> ErrorGrowth:
    """errors [W, H + 1] of a one-dimensional state that is really 0, K = M = 1."""
    return error_growth(errors[None, None, :, :, None], torch.zeros(*errors.shape, 1), scale=torch.ones(1), **settings)


def fitted(errors: ErrorGrowth) -> Growth:
    growth = fit_growth(errors, generator=torch.Generator().manual_seed(3))
    assert growth is not None
    return growth


def test_a_first_error_in_an_unstable_linear_system_grows_exponentially() -> None:
    """x' = 1.3 x, truly; the model errs by 0.02 x0 at the first step, and never again: 0.02 x0 · 1.3^(h − 1)."""
    start = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    real = [start]
    for _ in range(20):
        real.append(1.3 * real[-1])
    imagined = [start, 1.3 * start + 0.02 * start]
    for _ in range(19):
        imagined.append(1.3 * imagined[-1])
    errors = error_growth(torch.stack(imagined, 1)[None, None, :, :, None], torch.stack(real, 1)[..., None])
    growth = fitted(errors)
    assert growth.better is growth.exponential
    assert growth.exponential.rate == pytest.approx(math.log(1.3), rel=1e-6)
    assert growth.exponential.residual < 1e-5
    assert growth.exponential.last == growth.num_steps == 20
    assert growth.exponential_share == 1
    torch.testing.assert_close(growth.exponential.at(torch.arange(1, 21)), errors.mean_error)
    assert "λ = 0.26" in growth.verdict
    assert "doubles in 2.6 steps" in growth.verdict


def test_a_wrong_acceleration_grows_quadratically_in_position_and_linearly_in_speed() -> None:
    """p' = p + v + a/2, v' = v + a with a = −1 instead of −0.9: errors 0.1 h²/2 and 0.1 h."""
    steps = torch.arange(31, dtype=torch.float64)
    start = torch.tensor([[0.0, 3.0], [4.0, -1.0]], dtype=torch.float64)  # (position, speed) of two windows

    def fall(acceleration: float) -> Tensor:
        states = [start]
        for _ in steps[1:]:
            position, speed = states[-1].unbind(1)
            states.append(torch.stack([position + speed + acceleration / 2, speed + acceleration], 1))
        return torch.stack(states, 1)

    real, imagined = fall(-0.9), fall(-1.0)[None, None]
    for dimension, exponent, first in ((0, 2.0, 0.05), (1, 1.0, 0.1)):
        errors = error_growth(imagined[..., [dimension]], real[..., [dimension]], scale=torch.tensor([0.5]))
        torch.testing.assert_close(errors.mean_error, 2 * first * steps[1:] ** exponent)
        growth = fitted(errors)
        assert growth.better is growth.power
        assert growth.power.rate == pytest.approx(exponent, abs=1e-6)
        assert growth.power.amplitude == pytest.approx(2 * first, rel=1e-6)
        assert growth.power.last == 30
        assert growth.exponential_share == 0
        assert f"b = {exponent:.2g}" in growth.verdict


@pytest.mark.parametrize("law", ["exponential", "power"])
def test_the_step_at_which_the_error_saturates_is_found(law: str) -> None:
    steps = torch.arange(41, dtype=torch.float64).clamp(max=14)
    curve = 0.01 * torch.exp(0.3 * steps) if law == "exponential" else 0.01 * steps**1.7
    growth = fitted(with_errors(curve.expand(4, -1)))
    fit = growth.better
    assert (fit.law, fit.last) == (law, 14)
    assert fit.rate == pytest.approx(0.3 if law == "exponential" else 1.7, rel=1e-6)
    assert "until step 14, where it saturates" in growth.verdict
    marks = growth_chart(with_errors(curve.expand(4, -1)), growth).marks
    assert [mark.at for mark in marks if isinstance(mark, Rule)] == [14]


def test_a_noisy_curve_is_not_said_to_saturate(generator: torch.Generator) -> None:
    steps = torch.arange(31, dtype=torch.float64)
    curve = torch.exp(0.1 * steps + 0.05 * normal(31, generator=generator))
    assert fitted(with_errors(curve[None])).exponential.last == 30


def test_mean_and_single_trajectories_by_hand(generator: torch.Generator) -> None:
    """Imagined = real + bias + noise: the mean over K·M = 15 keeps a 15th of the noise's variance."""
    bias, noise, scale = torch.tensor([0.3, -20.0]), torch.tensor([0.5, 10.0]), torch.tensor([1.0, 100.0])
    real = normal(4_000, 3, 2, generator=generator)
    imagined = real + bias + noise * normal(5, 3, 4_000, 3, 2, generator=generator)
    errors = error_growth(imagined.float(), real.float(), scale=scale)
    of_bias, of_noise = (bias / scale).square().mean(), (noise / scale).square().mean()
    for got, standard_error, truth in (
        (errors.mean_error, errors.mean_standard_error, (of_bias + of_noise / 15).sqrt()),
        (errors.single_error, errors.single_standard_error, (of_bias + of_noise).sqrt()),
    ):
        assert bool(((got - truth).abs() < 5 * standard_error).all())
        assert bool((standard_error < 0.01 * truth).all())
    assert errors.num_trajectories == 60_000
    assert errors.diverged.tolist() == [0, 0]


def test_the_standard_error_is_the_spread_of_the_rmse(generator: torch.Generator) -> None:
    real = torch.zeros(60, 2, 1, dtype=torch.float64)
    rmse, claimed = [], []
    for _ in range(300):
        errors = error_growth(normal(1, 1, 60, 2, 1, generator=generator) + 0.5, real, scale=torch.ones(1))
        rmse.append(float(errors.mean_error[0]))
        claimed.append(float(errors.mean_standard_error[0]))
    assert float(torch.tensor(claimed).mean() / torch.tensor(rmse).std()) == pytest.approx(1, abs=0.2)


def test_resamples_are_of_whole_groups(generator: torch.Generator) -> None:
    squares = torch.tensor([1.0, 3.0, 100.0], dtype=torch.float64)[:, None].expand(-1, 4)
    errors = dataclasses.replace(with_errors(torch.ones(3, 5)), squared_errors=squares, groups=torch.tensor([0, 0, 1]))
    found = torch.exp(2 * _resampled(errors, 4, 200, generator))[:, 0]
    possible = torch.tensor([2.0, 104 / 3, 100.0], dtype=torch.float64)  # both times the first group, one each, ...
    assert {int((value - possible).abs().argmin()) for value in found} == {0, 1, 2}
    assert float((found[:, None] - possible).abs().amin(1).max()) < 1e-9


def test_without_a_scale_errors_are_in_standard_deviations_of_the_real_states(generator: torch.Generator) -> None:
    real = torch.tensor([1.0, 50.0, 0.0]) * normal(30, 4, 3, generator=generator)
    std = torch.tensor(
        [*real[..., :2].flatten(0, 1).std(0, correction=0).tolist(), 1.0]
    )  # what never varies counts as is
    errors = error_growth((real + std.double())[None, None], real)
    torch.testing.assert_close(errors.mean_error, torch.ones(3, dtype=torch.float64))


def test_diverged_trajectories_are_counted_and_end_the_fit() -> None:
    steps = torch.arange(11, dtype=torch.float64)
    imagined = (0.01 * torch.exp(0.2 * steps)).repeat(2, 3, 5, 1)[..., None]  # K 2, M 3, W 5
    imagined[0, 0, 1, 7:] = math.nan
    imagined[1, 2, 4, 9] = math.inf  # and what comes back after that is not believed
    imagined[0, 1, 4, 8] = -1e7
    imagined[:, :, 3, 10] = math.nan  # a whole window
    errors = error_growth(imagined, torch.zeros(5, 11, 1))
    assert errors.diverged.tolist() == [0] * 6 + [1, 2, 3, 9]
    assert errors.num_sound_steps == 6
    assert int(errors.squared_errors.isnan().sum()) == 1
    torch.testing.assert_close(errors.mean_error, 0.01 * torch.exp(0.2 * steps[1:]))  # of the others
    growth = fitted(errors)
    assert growth.num_steps == 6
    assert growth.exponential.rate == pytest.approx(0.2)
    chart = growth_chart(errors, growth)
    assert [mark.label for mark in chart.marks if isinstance(mark, Rule)] == ["first diverges"]


def test_where_there_is_nothing_to_fit(generator: torch.Generator) -> None:
    exact = with_errors(torch.zeros(3, 9))
    assert fit_growth(exact, generator=generator) is None
    assert exact.mean_error.tolist() == exact.mean_standard_error.tolist() == [0.0] * 8
    short = with_errors(torch.ones(3, 3))
    assert fit_growth(short, generator=generator) is None
    all_gone = with_errors(torch.full((3, 9), math.nan))
    assert fit_growth(all_gone, generator=generator) is None
    assert all_gone.diverged.tolist() == [3] * 8
    for errors in (exact, short, all_gone):
        assert any(isinstance(mark, Line) for mark in growth_chart(errors).marks)
    one_window = fitted(with_errors(torch.arange(9.0)[None]))
    assert math.isnan(one_window.power.rate_standard_error)
    assert "does not say how sure" in one_window.verdict


def test_the_uncertainty_of_the_rate_is_its_spread_over_repetitions(generator: torch.Generator) -> None:
    """12 groups of 3 equal windows, each group with a rate of its own: repeated groups add no certainty."""
    steps = torch.arange(16, dtype=torch.float64)
    groups = torch.arange(36) // 3
    rates, claimed = [], []
    for _ in range(60):
        own = 0.15 + 0.02 * normal(12, 1, generator=generator)
        curves = (0.01 * torch.exp(own * steps + 0.3 * normal(12, 1, generator=generator))).repeat_interleave(3, 0)
        growth = fit_growth(with_errors(curves, groups=groups), num_resamples=100, generator=generator)
        assert growth is not None
        rates.append(growth.exponential.rate)
        claimed.append(growth.exponential.rate_standard_error)
    spread = float(torch.tensor(rates).std())
    assert 0.65 < float(torch.tensor(claimed).mean()) / spread < 1.4


def test_a_mean_by_groups(generator: torch.Generator) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    mean, error = grouped_mean(values, torch.tensor([5, 5, 5, 9]))
    assert float(mean) == 4
    assert float(error) == pytest.approx(math.sqrt(2 / 1 * (6**2 + 6**2)) / 4)
    # Groups of one row: the ordinary standard error.
    assert float(grouped_mean(values, torch.arange(4))[1]) == pytest.approx(float(values.std()) / 2)
    mean, error = grouped_mean(torch.tensor([1.0, math.nan, 5.0, 3.0]), torch.arange(4))
    assert float(mean) == 3
    # A group without any value does not count: per column.
    gaps = torch.tensor([[1.0, 1.0], [3.0, 5.0], [math.nan, math.nan], [math.nan, 9.0]])
    mean, error = grouped_mean(gaps, torch.tensor([0, 0, 1, 2]))
    assert mean.tolist() == [2.0, 5.0]
    assert math.isnan(float(error[0]))
    assert float(error[1]) == pytest.approx(math.sqrt(2 * (4.0**2 + 4.0**2)) / 3)
    assert math.isnan(float(grouped_mean(values, torch.zeros(4))[1]))
    # Dependent rows: the error covers the truth as often as it should.
    means, errors = [], []
    for _ in range(400):
        rows = normal(20, 1, generator=generator).expand(-1, 6) + 0.2 * normal(20, 6, generator=generator)
        mean, error = grouped_mean(rows.flatten(), torch.arange(20).repeat_interleave(6))
        means.append(float(mean))
        errors.append(float(error))
    assert float(torch.tensor(errors).square().mean().sqrt() / torch.tensor(means).std()) == pytest.approx(1, abs=0.18)


def test_one_seed_one_fit(generator: torch.Generator) -> None:
    errors = with_errors(normal(6, 12, generator=generator).abs().cumsum(1))
    assert fitted(errors) == fitted(errors)


def test_bad_data_are_named() -> None:
    imagined, real = torch.zeros(2, 1, 3, 5, 2), torch.zeros(3, 5, 2)
    with pytest.raises(ValueError, match=r"got shapes \[2, 1, 3, 5, 2\] and \[3, 4, 2\]"):
        error_growth(imagined, real[:, :4])
    with pytest.raises(ValueError, match="H = 0"):
        error_growth(imagined[:, :, :, :1], real[:, :1])
    with pytest.raises(ValueError, match=r"need scale \[2\] of finite positive"):
        error_growth(imagined, real, scale=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"need groups \[3\]"):
        error_growth(imagined, real, groups=torch.zeros(4))
    with pytest.raises(ValueError, match=r"groups \[W\], got shapes \[4, 2\] and \[3\]"):
        grouped_mean(torch.zeros(4, 2), torch.zeros(3))
    real[1, 2] = math.nan
    with pytest.raises(ValueError, match="real has 2 of 30 numbers that are NaN"):
        error_growth(imagined, real)
