"""Closed forms for the split, on targets of unequal sizes so that a swapped axis or a wrong divisor shows."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.analysis.uncertainty import (
    VarianceSplit,
    mixture_log_likelihood,
    split_predictive_covariance,
    split_predictive_variance,
    split_return_variance,
)
from bayes_mbrl.inference import exact_linear
from bayes_mbrl.inference.network import BayesianNetwork


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_mean_within_5_standard_errors(estimates: Tensor, truth: Tensor) -> None:
    """estimates [repetitions, ...] against truth [...]."""
    standard_error = estimates.std(dim=0) / math.sqrt(len(estimates))
    assert bool(((estimates.mean(dim=0) - truth).abs() < 5 * standard_error).all())


def test_predictive_split_by_hand() -> None:
    mean = torch.tensor([[[1.0, 10.0]], [[3.0, 10.0]], [[8.0, 16.0]]])  # K = 3, one state, S = 2
    std = torch.tensor([[[1.0, 2.0]], [[2.0, 2.0]], [[4.0, 5.0]]])
    split = split_predictive_variance(mean, std)
    torch.testing.assert_close(split.epistemic, torch.tensor([[13.0, 12.0]]))  # (9 + 1 + 16)/2, (4 + 4 + 16)/2
    torch.testing.assert_close(split.aleatoric, torch.tensor([[7.0, 11.0]]))  # (1 + 4 + 16)/3, (4 + 4 + 25)/3
    torch.testing.assert_close(split.total, torch.tensor([[20.0, 23.0]]))
    torch.testing.assert_close(split.epistemic_share, torch.tensor([[13 / 20, 12 / 23]]))


def test_predictive_split_is_unbiased_for_few_samples(generator: torch.Generator) -> None:
    mean_std, noise_std = torch.tensor([0.3, 5.0, 40.0]), torch.tensor([2.0, 0.1, 7.0])
    mean = 1e3 + mean_std * normal(4, 20_000, 3, generator=generator)  # K = 4
    split = split_predictive_variance(mean, noise_std.expand_as(mean))
    assert_mean_within_5_standard_errors(split.epistemic, mean_std.square())
    torch.testing.assert_close(split.aleatoric, noise_std.square().expand_as(split.aleatoric))


def test_parts_add_up_to_the_variance_of_the_simulated_mixture(generator: torch.Generator) -> None:
    num_samples, num_draws = 5, 200_000
    mean = torch.tensor([3.0, 0.2]) * normal(num_samples, 2, generator=generator)
    std = torch.tensor([0.5, 4.0]) * normal(num_samples, 2, generator=generator).abs()
    draws = mean + std * normal(num_draws, num_samples, 2, generator=generator)
    split = split_predictive_variance(mean, std)
    mixture_variance = split.epistemic * (num_samples - 1) / num_samples + split.aleatoric
    squares = (draws - mean.mean(dim=0)).square().mean(dim=1)  # [num_draws, 2], expectation: the mixture's variance
    assert_mean_within_5_standard_errors(squares, mixture_variance)


def test_epistemic_part_falls_like_one_over_n(generator: torch.Generator) -> None:
    """Exact posterior of a Gaussian mean, N(0, 2²) prior, noise 0.7: variance 1 / (1/4 + N/0.49)."""
    noise_std, prior_std, num_samples = 0.7, 2.0, 50_000
    truths, estimates = [], []
    for num_data in (10, 100, 1_000):
        variance = 1 / (1 / prior_std**2 + num_data / noise_std**2)
        data = 1.3 + noise_std * normal(num_data, generator=generator)
        centre = variance * data.sum() / noise_std**2
        mean = centre + math.sqrt(variance) * normal(num_samples, 1, generator=generator)
        split = split_predictive_variance(mean, torch.full_like(mean, noise_std))
        truths.append(variance)
        estimates.append(float(split.epistemic))
        assert abs(estimates[-1] / variance - 1) < 5 * math.sqrt(2 / num_samples)
        assert float(split.aleatoric) == pytest.approx(noise_std**2)
    slope = math.log(estimates[2] / estimates[1]) / math.log(10)
    assert slope == pytest.approx(-1, abs=0.02)
    assert truths[0] > truths[1] > truths[2]


def test_exact_linear_posterior_learns_like_one_over_n_and_rises_off_the_data(generator: torch.Generator) -> None:
    """Bayesian linear regression on badly scaled inputs: slope −1 where there are data and off them."""
    noise_std, num_samples = 0.4, 4_000
    model = BayesianNetwork(2, 1, hidden=(), noise="fixed", noise_std=noise_std, prior_scale=3.0, dtype=torch.float64)
    scale = torch.tensor([2.0, 0.1], dtype=torch.float64)
    x = normal(10_000, 2, generator=generator) * scale
    y = x @ torch.tensor([[0.5], [-3.0]], dtype=torch.float64) + noise_std * normal(10_000, 1, generator=generator)
    where = torch.tensor([[0.5, 0.3], [3.0, 3.0], [20.0, 20.0]], dtype=torch.float64) * scale
    epistemic = []
    for num_data in (100, 1_000, 10_000):
        posterior, _ = exact_linear.fit(model, x[:num_data], y[:num_data], generator=generator)
        mean, std = model.predict(posterior.sample(num_samples, generator=generator), where)
        split = split_predictive_variance(mean, std)
        features = torch.cat([where, torch.ones(3, 1)], 1)
        truth = (features @ posterior.factor).square().sum(1)
        assert bool(((split.epistemic[:, 0] / truth - 1).abs() < 5 * math.sqrt(2 / num_samples)).all())
        torch.testing.assert_close(split.aleatoric, torch.full_like(split.aleatoric, noise_std**2))
        torch.testing.assert_close(split.total, split.epistemic + noise_std**2)
        epistemic.append(split.epistemic[:, 0])
    slopes = torch.log10(epistemic[-1] / epistemic[0]) / 2
    torch.testing.assert_close(slopes, torch.full_like(slopes, -1.0), atol=0.08, rtol=0)
    for parts in epistemic:
        assert bool((parts.diff() > 0).all())
        assert float(parts[2] / parts[1]) == pytest.approx(20**2 / 3**2, rel=0.3)  # like the square of the distance


def test_a_known_noise_is_found_wherever_it_is_loud(generator: torch.Generator) -> None:
    """y = 7 sin x + δ + 3 |cos(x / 2)| ε with δ ~ N(0, 0.5²) for ignorance: alike everywhere, the noise not."""
    x = torch.linspace(-math.pi, math.pi, 9, dtype=torch.float64)[:, None]
    truth = 3 * (x / 2).cos().abs() * torch.tensor([1.0, 100.0], dtype=torch.float64)
    mean = 7 * x.sin() + 0.5 * normal(3_000, 1, 2, generator=generator)
    split = split_predictive_variance(mean, truth.expand_as(mean))
    torch.testing.assert_close(split.aleatoric, truth.square())
    assert bool(((split.epistemic / 0.25 - 1).abs() < 5 * math.sqrt(2 / 3_000)).all())
    assert float(split.epistemic_share[0, 0]) > 0.999  # at −π
    assert float(split.epistemic_share[4, 1]) < 1e-5


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_joint_split_is_torchs_covariance(shape: tuple[int, ...], generator: torch.Generator) -> None:
    scale = torch.tensor([1e-3, 1.0, 40.0], dtype=torch.float64)
    mean = 1e3 + normal(6, *shape, 3, generator=generator).cumsum(-1) * scale  # the dimensions go together
    std = normal(6, *shape, 3, generator=generator).abs()
    joint, each = split_predictive_covariance(mean, std), split_predictive_variance(mean, std)
    assert joint.epistemic.shape == joint.aleatoric.shape == (*shape, 3, 3)
    flat = mean.reshape(6, -1, 3)
    for n, got in enumerate(joint.epistemic.reshape(-1, 3, 3)):
        torch.testing.assert_close(got, torch.cov(flat[:, n].T))
    for together, apart in ((joint.epistemic, each.epistemic), (joint.aleatoric, each.aleatoric)):
        torch.testing.assert_close(together.diagonal(dim1=-2, dim2=-1), apart)
    assert int((joint.aleatoric != 0).sum()) == 3 * math.prod(shape)
    torch.testing.assert_close(joint.total, joint.epistemic + joint.aleatoric)


def test_joint_split_of_a_linear_gaussian_prediction(generator: torch.Generator) -> None:
    """y = A θ + ε, θ ~ N(0, Σ): A Σ Aᵀ is ignorance and diag(σ²) noise, without bias at K = 3."""
    a = torch.tensor([[1.0, 2.0], [0.0, 30.0], [0.5, -1.0]], dtype=torch.float64)
    factor = torch.tensor([[0.6, 0.0], [0.4, 0.1]], dtype=torch.float64)
    noise = torch.tensor([0.2, 5.0, 1.0], dtype=torch.float64)
    mean = normal(3, 20_000, 2, generator=generator) @ (a @ factor).T
    split = split_predictive_covariance(mean, noise.expand_as(mean))
    truth = a @ factor @ factor.T @ a.T
    assert_mean_within_5_standard_errors(split.epistemic, truth)
    assert_mean_within_5_standard_errors(split.total, truth + torch.diag(noise.square()))
    torch.testing.assert_close(split.aleatoric[7], torch.diag(noise.square()))


def test_one_sample_knows_no_ignorance() -> None:
    split = split_predictive_variance(torch.tensor([[4.0, 5.0]]), torch.tensor([[1.0, 3.0]]))
    assert split.epistemic.tolist() == [0.0, 0.0]
    assert split.aleatoric.tolist() == [1.0, 9.0]
    assert split_return_variance(torch.tensor([[[1.0], [3.0]]])).epistemic.tolist() == [0.0]
    joint = split_predictive_covariance(torch.tensor([[4.0, 5.0]]), torch.tensor([[1.0, 3.0]]))
    assert joint.epistemic.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert joint.total.tolist() == [[1.0, 0.0], [0.0, 9.0]]


def test_nothing_uncertain_has_share_zero() -> None:
    split = VarianceSplit(epistemic=torch.tensor([0.0, 3.0]), aleatoric=torch.tensor([0.0, 1.0]))
    assert split.epistemic_share.tolist() == [0.0, 0.75]
    assert math.isnan(float(VarianceSplit(torch.tensor(math.nan), torch.tensor(1.0)).epistemic_share))


def test_return_split_by_hand() -> None:
    returns = torch.tensor([[0.0, 2.0], [10.0, 14.0], [5.0, 5.0]]).unsqueeze(-1)  # K = 3, M = 2, C = 1
    split = split_return_variance(returns)
    within = (2 + 8 + 0) / 3
    between = ((1 - 6) ** 2 + (12 - 6) ** 2 + (5 - 6) ** 2) / 2
    assert float(split.aleatoric) == pytest.approx(within)
    assert float(split.epistemic) == pytest.approx(between - within / 2)


def test_return_split_of_a_linear_gaussian_system(generator: torch.Generator) -> None:
    """s' = 0.8 s + θ a + noise, r = s', θ ~ N(1, 0.5²): the return is linear in θ and in the noise.

    Few noise draws and loud noise: without the correction the epistemic part of plan 0 is off by a factor.
    """
    decay, theta_std, noise_std, horizon = 0.8, 0.5, 1.5, 5
    num_samples, num_noise, num_plans, repetitions = 7, 3, 2, 4_000
    plans = torch.tensor([[0.7, -0.5, 1.0, 0.2, 0.4], [3.0, 2.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    weights = torch.tensor([sum(decay**i for i in range(horizon - t)) for t in range(horizon)], dtype=torch.float64)
    epistemic = theta_std**2 * (plans @ weights).square()
    aleatoric = noise_std**2 * weights.square().sum()

    theta = 1 + theta_std * normal(repetitions, num_samples, 1, 1, generator=generator)
    noise = noise_std * normal(repetitions, horizon, num_samples, num_noise, 1, generator=generator)
    state = torch.zeros(repetitions, num_samples, num_noise, num_plans, dtype=torch.float64)
    returns = torch.zeros_like(state)
    for t in range(horizon):
        state = decay * state + theta * plans[:, t] + noise[:, t]
        returns = returns + state
    splits = [split_return_variance(one) for one in returns]
    assert_mean_within_5_standard_errors(torch.stack([split.aleatoric for split in splits]), aleatoric)
    # The clamp at zero would bias plan 0, so its unclamped average is checked through the between-sample variance.
    between = returns.mean(dim=2).var(dim=1)
    unclamped = between - torch.stack([split.aleatoric for split in splits]) / num_noise
    assert_mean_within_5_standard_errors(unclamped, epistemic)
    estimated = torch.stack([split.epistemic for split in splits])
    torch.testing.assert_close(estimated, unclamped.clamp(min=0))
    assert_mean_within_5_standard_errors(estimated[:, 1], epistemic[1])


def test_return_split_along_the_horizon_and_for_each_candidate(generator: torch.Generator) -> None:
    returns = normal(4, 5, 3, 2, generator=generator).cumsum(0)  # H = 4, K = 5, M = 3, C = 2
    along = split_return_variance(returns)
    assert along.epistemic.shape == along.aleatoric.shape == (4, 2)
    for h in range(4):
        alone = split_return_variance(returns[h])
        torch.testing.assert_close(along.epistemic[h], alone.epistemic)
        torch.testing.assert_close(along.aleatoric[h], alone.aleatoric)
    for c in range(2):
        torch.testing.assert_close(along.epistemic[:, c], split_return_variance(returns[..., [c]]).epistemic[:, 0])


def test_return_split_is_unbiased_for_two_draws_of_each_of_three_samples(generator: torch.Generator) -> None:
    """Without the clamp: where there is no ignorance, half of the estimates are negative and their mean is 0."""
    ignorance = torch.tensor([0.0, 0.3, 5.0])
    theta = ignorance * normal(30_000, 3, 1, 3, generator=generator)
    returns = -1e3 + theta + 2 * normal(30_000, 3, 2, 3, generator=generator)  # K = 3, M = 2, C = 3
    split = split_return_variance(returns, clamp=False)
    assert_mean_within_5_standard_errors(split.epistemic, ignorance.square())
    assert_mean_within_5_standard_errors(split.aleatoric, torch.full((3,), 4.0))
    assert 0.4 < float((split.epistemic[:, 0] < 0).double().mean()) < 0.7
    torch.testing.assert_close(split_return_variance(returns).epistemic, split.epistemic.clamp(min=0))
    assert float(split_return_variance(returns).epistemic[:, 0].mean()) > 0.3  # the bias that the docstring warns of


def test_mixture_log_likelihood_is_the_log_of_the_mean_density() -> None:
    means = torch.tensor([[0.0], [2.0], [7.0]], dtype=torch.float64)
    y = torch.tensor([0.3, 1.9], dtype=torch.float64)
    log_likelihood = Normal(means, 1.7).log_prob(y)
    expected = log_likelihood.exp().mean(dim=0).log()
    torch.testing.assert_close(mixture_log_likelihood(log_likelihood), expected)
    shifted = mixture_log_likelihood(log_likelihood - 5_000)  # underflows unless done in logs
    torch.testing.assert_close(shifted, expected - 5_000)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"raise rollout.num_noise"):
        split_return_variance(torch.zeros(5, 1, 2))
    with pytest.raises(ValueError, match=r"need returns \[..., K, M, C\].*got shape \[5, 2\]"):
        split_return_variance(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"got \[3, 2\] and \[3, 1\]"):
        split_predictive_variance(torch.zeros(3, 2), torch.zeros(3, 1))
    for mean, std in ((torch.zeros(3, 2), torch.zeros(3, 1)), (torch.zeros(3),) * 2, (torch.zeros(0, 2),) * 2):
        with pytest.raises(ValueError, match=r"one shape \[K, ..., S\], K >= 1"):
            split_predictive_covariance(mean, std)
    with pytest.raises(ValueError, match=r"need log_likelihood \[K, N\]"):
        mixture_log_likelihood(torch.zeros(3))
    with pytest.raises(ValueError, match="K >= 1"):
        mixture_log_likelihood(torch.zeros(0, 3))
