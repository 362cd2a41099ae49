from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayes_mbrl.inference import ensemble, exact_linear
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def coefficients(draws: dict[str, Tensor]) -> Tensor:
    return torch.cat([draws["weight_0"], draws["bias_0"][:, None]], 1)


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[:, :1])], 1), y).solution


def test_members_without_resampling_all_reach_maximum_likelihood(
    linear_problem: Problem, generator: torch.Generator
) -> None:
    model, x, y = linear_problem(30, 4, 2)
    settings = {"resample": False, "prior_weight": 0.0, "num_steps": 800, "learning_rate": 0.05, "num_members": 3}
    posterior, info = ensemble.fit(model, x, y, generator=generator, **settings)
    expected = least_squares(x, y).expand(3, -1, -1)
    torch.testing.assert_close(coefficients(posterior.draws), expected, rtol=1e-4, atol=1e-4)
    loss = -model.log_likelihood(posterior.draws, x, y).sum(1)
    torch.testing.assert_close(info.final_losses, loss, rtol=1e-4, atol=1e-4)
    assert info.losses.shape == (800, 3)


@pytest.mark.parametrize("batch_size", [10, 100])
def test_prior_counts_once_for_the_data_set(
    linear_problem: Problem, generator: torch.Generator, batch_size: int
) -> None:
    """Maximum a posteriori of a linear-Gaussian model is the mean of its exact posterior, for any batch size."""
    model, x, y = linear_problem(20, 6, 2)
    exact, _ = exact_linear.fit(model, x, y, generator=generator)
    settings = {"resample": False, "prior_weight": 1.0, "num_steps": 2000, "learning_rate": 0.05, "num_members": 2}
    posterior, _ = ensemble.fit(model, x, y, generator=generator, batch_size=batch_size, **settings)
    assert (least_squares(x, y) - exact.mean).abs().max() > 0.1, "the prior must matter for this test to mean anything"
    torch.testing.assert_close(coefficients(posterior.draws), exact.mean.expand(2, -1, -1), rtol=0, atol=0.02)


def test_batched_members_equal_single_fits(network_problem: Problem) -> None:
    model, x, y = network_problem(noise="homoscedastic")
    settings = {"num_steps": 30, "batch_size": 7}
    together, info = ensemble.fit(model, x, y, generator=torch.Generator().manual_seed(1), num_members=4, **settings)
    one_by_one = torch.Generator().manual_seed(1)
    for member in range(4):
        single, single_info = ensemble.fit(model, x, y, generator=one_by_one, num_members=1, **settings)
        for name, value in single.draws.items():
            torch.testing.assert_close(together.draws[name][member], value[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(info.losses[:, member], single_info.losses[:, 0], rtol=1e-9, atol=1e-9)


def test_spread_of_a_bootstrap_is_the_sandwich(linear_problem: Problem, generator: torch.Generator) -> None:
    """Var of the bootstrapped least-squares fit ≈ (ΦᵀΦ)⁻¹ Φᵀ diag(r²) Φ (ΦᵀΦ)⁻¹ (White 1980), which no start gives."""
    model, x, y = linear_problem(200, 3, 1)
    settings = {"prior_weight": 0.0, "num_steps": 400, "learning_rate": 0.05, "num_members": 150}
    posterior, _ = ensemble.fit(model, x, y, generator=generator, **settings)
    features = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    inverse = torch.linalg.inv(features.T @ features)
    residual = y - features @ least_squares(x, y)
    sandwich = inverse @ (features * residual**2).T @ features @ inverse
    ratio = coefficients(posterior.draws).squeeze(-1).var(0) / sandwich.diagonal()
    # the variance of 150 normal draws has a relative standard error of sqrt(2 / 149) = 0.12
    assert (ratio > 0.6).all()
    assert (ratio < 1.6).all()


def test_warm_start_needs_as_many_members(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    last, _ = ensemble.fit(model, x, y, generator=generator, num_members=3, num_steps=1)
    with pytest.raises(ValueError, match="as many members as num_members, got 3 and 5"):
        ensemble.fit(model, x, y, generator=generator, warm_start=last)


def _moments(posterior: DrawsPosterior) -> tuple[Tensor, Tensor]:
    members = torch.cat([posterior.draws["weight_0"].flatten(1), posterior.draws["bias_0"]], 1)
    return members.mean(0), torch.cov(members.T)


def test_randomised_priors_scatter_as_theory_says(linear_problem: Problem, generator: torch.Generator) -> None:
    """Shared data: mean of the exact posterior, covariance Σ Λ Σ. Without them all members are one point."""
    model, x, y = linear_problem(12, 3)
    exact, _ = exact_linear.fit(model, x, y, generator=generator)
    covariance = exact.factor @ exact.factor.T
    prior = model.prior()
    precision = torch.cat([prior["weight_0"].stddev.flatten(), prior["bias_0"].stddev]) ** -2
    expected = covariance @ precision.diag() @ covariance
    num_members = 400
    settings = {"num_members": num_members, "resample": False, "num_steps": 300, "learning_rate": 0.05}
    posterior, _ = ensemble.fit(model, x, y, generator=generator, randomised_prior=True, **settings)
    mean, got = _moments(posterior)
    errors = (torch.outer(expected.diagonal(), expected.diagonal()) + expected**2).div(num_members).sqrt()
    assert ((got - expected).abs() < 5 * errors).all()
    assert ((mean - exact.mean[:, 0]).abs() < 5 * (expected.diagonal() / num_members).sqrt() + 1e-3).all()
    _, alike = _moments(ensemble.fit(model, x, y, generator=generator, **settings)[0])
    assert alike.abs().max() < 0.01 * got.abs().max()


def test_randomised_priors_on_resampled_data_are_almost_exact(
    linear_problem: Problem, generator: torch.Generator
) -> None:
    """Σ Λ Σ of the priors and the bootstrap's Σ (XᵀX / noise²) Σ together are Σ."""
    model, x, y = linear_problem(300, 3)
    exact, _ = exact_linear.fit(model, x, y, generator=generator)
    covariance = exact.factor @ exact.factor.T
    posterior, _ = ensemble.fit(
        model,
        x,
        y,
        generator=generator,
        randomised_prior=True,
        num_members=200,
        num_steps=400,
        learning_rate=0.05,
        batch_size=300,
    )
    _, got = _moments(posterior)
    assert (got - covariance).norm() < 0.25 * covariance.norm()
