import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from bayes_mbrl.inference import exact_linear, low_rank
from bayes_mbrl.inference.base import seeded_global_state
from bayes_mbrl.inference.low_rank import LowRankPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.parameter_vector import ParameterVector

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def moments(posterior: LowRankPosterior) -> tuple[Tensor, Tensor]:
    """Mean [P] and covariance [P, P] of a linear model with one output, the bias last."""
    loc = torch.cat([posterior.loc["weight_0"].flatten(), posterior.loc["bias_0"]])
    scale = torch.cat([posterior.scale["weight_0"].flatten(), posterior.scale["bias_0"]])
    factor = torch.cat([posterior.factor["weight_0"].flatten(1), posterior.factor["bias_0"]], 1)
    return loc, factor.T @ factor + torch.diag(scale**2)


def test_kl_to_independent_normals_is_that_of_the_full_covariance(generator: torch.Generator) -> None:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q = LowRankMultivariateNormal(normal(6), normal(6, 2), normal(6).exp())
    p = Normal(normal(6), normal(6).exp())
    full = MultivariateNormal(p.loc, torch.diag(p.scale**2))
    expected = kl_divergence(MultivariateNormal(q.loc, q.covariance_matrix), full)
    torch.testing.assert_close(kl_divergence(q, torch.distributions.Independent(p, 1)), expected)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_loss_is_the_elbo_of_the_whole_data_set(
    network_problem: Problem, generator: torch.Generator, num_particles: int
) -> None:
    """At one q, held by a step of no length: −E_q[log p(y|θ)] + 0.3 KL, with the KL by the full covariance."""
    model, x, y = network_problem(noise="fixed", noise_std=3.0, hidden=(4,))
    posterior, _ = low_rank.fit(model, x, y, generator=generator, rank=2, num_steps=20)
    wide = LowRankPosterior(
        posterior.loc, posterior.scale, {name: 2 * factor for name, factor in posterior.factor.items()}
    )
    _, info = low_rank.fit(
        model,
        x,
        y,
        generator=generator,
        warm_start=wide,
        rank=2,
        learning_rate=1e-30,
        num_steps=400,
        batch_size=7,
        num_particles=num_particles,
        kl_weight=0.3,
        kl_warmup=0,
    )
    vector, prior = ParameterVector.of(model), model.prior()
    factor = torch.cat([wide.factor[name].reshape(2, -1) for name in vector.shapes], 1)
    q = MultivariateNormal(vector.join(wide.loc), factor.T @ factor + torch.diag(vector.join(wide.scale) ** 2))
    variances = vector.join({name: distribution.variance for name, distribution in prior.items()})
    divergence = kl_divergence(q, MultivariateNormal(torch.zeros_like(variances), torch.diag(variances)))
    log_likelihood = model.log_likelihood(wide.sample(20_000, generator=generator), x, y).sum(1)
    expected = -log_likelihood.mean() + 0.3 * divergence
    error = math.hypot(float(info.losses.std()) / 20, float(log_likelihood.std()) / 20_000**0.5)
    assert 0.3 * divergence > 20 * error, "a KL left out would show"
    assert abs(float(info.losses.mean() - expected)) < 5 * error


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [60, 15])
def test_full_rank_finds_the_exact_posterior_of_a_linear_regression(linear_problem: Problem, batch_size: int) -> None:
    """Mean within 2 % and covariance within 3 % of its size: where the mean field, without correlation, is 20 % off."""
    model, x, y = linear_problem(input_dim=4)
    exact, info = exact_linear.fit(model, x, y, generator=torch.Generator())
    mean, covariance = exact.mean[:, 0], exact.factor @ exact.factor.T
    posterior, fitted = low_rank.fit(
        model,
        x,
        y,
        generator=torch.Generator().manual_seed(1),
        rank=99,
        batch_size=batch_size,
        num_particles=64,
        num_steps=2500,
        learning_rate=1e-2,
    )
    got_mean, got_covariance = moments(posterior)
    assert posterior.rank == 5
    assert (got_mean - mean).norm() < 0.02 * mean.norm()
    assert (got_covariance - covariance).norm() < 0.03 * covariance.norm()
    assert (covariance - torch.diag(covariance.diagonal())).norm() > 0.2 * covariance.norm(), "there is correlation"
    assert fitted.final_loss == pytest.approx(info.final_loss, abs=0.3), "−ELBO has come down to −log evidence"


def test_draws_have_the_moments_of_q(generator: torch.Generator) -> None:
    """Two parameters of unlike shapes: their covariance comes from the common directions."""
    factor = {"a": torch.tensor([[1.0, 0.0], [0.5, -2.0]]), "b": torch.tensor([0.3, 0.0])}
    posterior = LowRankPosterior(
        {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor(2.0)},
        {"a": torch.tensor([0.1, 0.2]), "b": torch.tensor(0.5)},
        factor,
    )
    n = 100_000
    theta = posterior.sample(n, generator=generator)
    both = torch.cat([theta["a"], theta["b"][:, None]], 1)
    directions = torch.cat([factor["a"], factor["b"][:, None]], 1)
    covariance = directions.T @ directions + torch.diag(torch.tensor([0.1, 0.2, 0.5]) ** 2)
    assert (
        (both.mean(0) - torch.tensor([1.0, -3.0, 2.0])).abs() < 5 * covariance.diagonal().sqrt() / math.sqrt(n)
    ).all()
    errors = (torch.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2).div(n).sqrt()
    assert ((torch.cov(both.T) - covariance).abs() < 5 * errors).all()


def test_weights_drawn_while_fitting_have_the_moments_of_q(generator: torch.Generator) -> None:
    """The outputs of a linear layer, drawn as the fit draws them: variance (xᵀ F Fᵀ x + Σ x² scale²)."""
    model = BayesianNetwork(3, 2, hidden=(), noise="fixed", dtype=torch.float64)
    vector = ParameterVector.of(model)
    loc, scale = (torch.randn(vector.size, generator=generator).double() for _ in range(2))
    scale, factor = scale.exp(), torch.randn(2, vector.size, generator=generator).double()
    x = torch.randn(1, 3, generator=generator).double()
    n = 40_000
    with seeded_global_state(generator):
        theta = low_rank._draw(model, vector, loc, scale, factor, n)
        mean, _ = model.predict(theta, x.expand(n, 1, 3))
    means, scales, factors = vector.split(loc), vector.split(scale), vector.split(factor)
    expected = x @ means["weight_0"] + means["bias_0"]
    along = x @ factors["weight_0"] + factors["bias_0"][:, None]
    variance = (x**2 @ scales["weight_0"] ** 2 + scales["bias_0"] ** 2) + (along**2).sum(0)
    assert ((mean.mean(0) - expected).abs() < 5 * (variance / n).sqrt()).all()
    assert ((mean.var(0) - variance).abs() < 5 * variance * math.sqrt(2 / n)).all()


def test_warm_start_of_another_rank_is_refused(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    last, _ = low_rank.fit(model, x, y, generator=generator, rank=2, num_steps=2)
    with pytest.raises(ValueError, match="need a warm_start of the same rank, got 2 and 3"):
        low_rank.fit(model, x, y, generator=generator, rank=3, num_steps=2, warm_start=last)
