import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from bayes_mbrl.inference import exact_linear, svi
from bayes_mbrl.inference.base import normal_prior, sample_prior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.optimise import DivergedFitError
from bayes_mbrl.inference.svi import MeanFieldPosterior

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def flat(theta: dict[str, Tensor]) -> Tensor:
    """[P] of a linear model with one output, the bias last."""
    return torch.cat([theta["weight_0"].flatten(), theta["bias_0"]])


def optimum(model: BayesianNetwork, x: Tensor, y: Tensor) -> tuple[MeanFieldPosterior, Tensor, float]:
    """(the mean-field optimum, the exact covariance, log evidence): the exact mean, and sd_i = Λ_ii^(-1/2)."""
    exact, info = exact_linear.fit(model, x, y, generator=torch.Generator())
    covariance = exact.factor @ exact.factor.T
    scale = torch.linalg.inv(covariance).diagonal().rsqrt()
    loc = {"weight_0": exact.mean[:-1], "bias_0": exact.mean[-1]}
    return MeanFieldPosterior(loc, {"weight_0": scale[:-1, None], "bias_0": scale[-1:]}), covariance, info.log_evidence


LONG = [pytest.mark.slow]


@pytest.mark.parametrize(
    ("batch_size", "num_particles", "gradient", "num_steps", "learning_rate"),
    [
        # as many steps as the gradient's noise asks for: a scale spreads by about 2 / sqrt(batch · particles · steps)
        (8, 8, "local-reparameterisation", 4000, 5e-2),
        (60, 8, "local-reparameterisation", 2500, 5e-2),
        pytest.param(40, 8, "local-reparameterisation", 4000, 3e-2, marks=LONG),
        pytest.param(8, 1, "local-reparameterisation", 40_000, 1e-2, marks=[*LONG, pytest.mark.timeout(1800)]),
        pytest.param(40, 1, "local-reparameterisation", 12_000, 3e-2, marks=LONG),
        pytest.param(60, 1, "local-reparameterisation", 12_000, 3e-2, marks=LONG),
        pytest.param(60, 32, "weight-sampling", 5000, 3e-2, marks=LONG),
        pytest.param(8, 32, "weight-sampling", 8000, 3e-2, marks=LONG),
        pytest.param(60, 8, "flipout", 4000, 3e-2, marks=LONG),
        pytest.param(8, 8, "flipout", 12_000, 3e-2, marks=LONG),
    ],
)
def test_linear_regression_within_two_percent_of_the_closed_form(
    linear_problem: Problem,
    batch_size: int,
    num_particles: int,
    gradient: svi.Gradient,
    num_steps: int,
    learning_rate: float,
) -> None:
    model, x, y = linear_problem()
    best, covariance, _ = optimum(model, x, y)
    assert (flat(best.scale) / covariance.diagonal().sqrt()).min() < 0.8, "correlated enough to tell from the exact sd"
    posterior, _ = svi.fit(
        model,
        x,
        y,
        generator=torch.Generator().manual_seed(1),
        batch_size=batch_size,
        num_particles=num_particles,
        gradient=gradient,
        num_steps=num_steps,
        learning_rate=learning_rate,
        average_last=0.5,
    )
    ratio = flat(posterior.scale) / flat(best.scale)
    assert (ratio - 1).abs().max() < 0.02, ratio
    assert (flat(posterior.loc) - flat(best.loc)).norm() < 0.02 * flat(best.loc).norm()
    assert ((flat(posterior.loc) - flat(best.loc)) / flat(best.scale)).abs().max() < 0.3


def test_elbo_at_the_optimum_is_log_evidence_minus_kl(linear_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = linear_problem()
    best, covariance, log_evidence = optimum(model, x, y)
    mean_field = MultivariateNormal(flat(best.loc), torch.diag(flat(best.scale) ** 2))
    divergence = kl_divergence(mean_field, MultivariateNormal(flat(best.loc), covariance))
    value, error = svi.elbo(model, best, x, y, num_samples=20_000, generator=generator)
    assert abs(value - (log_evidence - float(divergence))) < 5 * error
    assert error < 0.1 < divergence


def _minibatch_losses(
    model: BayesianNetwork,
    x: Tensor,
    y: Tensor,
    guide: dict[str, Normal],
    gradient: svi.Gradient,
    num_particles: int,
    repeats: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(losses [repeats], their gradients [repeats, P] by parameter) at KL weight 0.3, batches of 7."""
    q = MeanFieldPosterior(*({name: getattr(guide[name], part) for name in guide} for part in ("loc", "scale")))
    groups = svi._groups(model, q, 1.0, gradient, generator)
    leaves = [leaf for group in groups.values() for leaf in (group.loc, group.log_scale)]
    losses, gradients = [], []
    with svi.pyro_session(generator):
        for _ in range(repeats):
            rows = torch.randperm(len(x), generator=generator)[:7]
            loss = svi._negative_elbo(
                model,
                groups,
                x[rows],
                y[rows],
                kl_weight=0.3,
                likelihood_scale=len(x) / 7,
                num_particles=num_particles,
            )
            losses.append(float(loss.detach()))
            found = iter(torch.autograd.grad(loss, leaves))
            by_name: dict[str, list[Tensor]] = {}
            for group in groups.values():
                loc, log_scale = group.vector.split(next(found)), group.vector.split(next(found))
                by_name |= {name: [loc[name].flatten(), log_scale[name].flatten()] for name in loc}
            gradients.append(torch.cat([part for name in sorted(by_name) for part in by_name[name]]))
    return torch.tensor(losses), torch.stack(gradients)


GRADIENTS = get_args(svi.Gradient)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("noise", ["homoscedastic", "heteroscedastic"])
def test_the_loss_is_the_elbo_of_the_whole_data_set(
    network_problem: Problem, generator: torch.Generator, noise: str, num_particles: int, gradient: svi.Gradient
) -> None:
    """At one fixed q, the mean over many minibatches of 7, at KL weight 0.3, equals −E_q[log p(y|θ)] + 0.3 KL."""
    model, x, y = network_problem(noise=noise, hidden=(4,))
    posterior, _ = svi.fit(model, x, y, generator=generator, num_steps=20)
    wide = MeanFieldPosterior(posterior.loc, {name: 5 * scale for name, scale in posterior.scale.items()})
    guide = {name: Normal(wide.loc[name], wide.scale[name]) for name in wide.loc}
    losses, _ = _minibatch_losses(model, x, y, guide, gradient, num_particles, 400, generator)
    value, error = svi.elbo(model, wide, x, y, num_samples=20_000, generator=generator)
    prior = normal_prior(model)
    divergence = float(sum(kl_divergence(guide[name], prior[name]).sum() for name in prior))
    expected = -value - 0.7 * divergence
    assert abs(float(losses.mean()) - expected) < 5 * math.hypot(float(losses.std()) / 20, error)


def test_gradients_are_equal_in_expectation_and_least_noisy_drawn_locally(
    network_problem: Problem, generator: torch.Generator
) -> None:
    """All entries of the ELBO's gradient, in means and scales, within 5 standard errors for each pair of the three."""
    model, x, y = network_problem(noise="homoscedastic", hidden=(4,), prior_scale_log_std=0.3)
    prior, start = normal_prior(model), model.initial(1, generator=generator)
    guide = {name: Normal(start[name][0], 0.3 * prior[name].scale) for name in prior}
    repeats = 1000
    means, errors = {}, {}
    for gradient in GRADIENTS:
        _, gradients = _minibatch_losses(model, x, y, guide, gradient, 1, repeats, generator)
        means[gradient], errors[gradient] = gradients.mean(0), gradients.std(0) / math.sqrt(repeats)
    for one, other in itertools.combinations(GRADIENTS, 2):
        distance = (means[one] - means[other]).abs() / torch.hypot(errors[one], errors[other])
        assert distance.max() < 5, (one, other)
    noise = {gradient: (errors[gradient] / errors["weight-sampling"]).median() for gradient in GRADIENTS}
    assert noise["local-reparameterisation"] < noise["flipout"] < noise["weight-sampling"]
    assert noise["local-reparameterisation"] < 0.8


def test_prior_predictive_draws(network_problem: Problem, generator: torch.Generator) -> None:
    """Prior-predictive draws: y of a linear model with the prior's scale has variance Σ x² 1.5²/3 + 1.5² + noise²."""
    model, x, _ = network_problem(hidden=(), noise="fixed", noise_std=0.5, prior_scale=1.5)
    theta = sample_prior(model, 40_000, generator=generator)
    drawn = model.sample(theta, x[:2], generator=generator)
    expected = (x[:2] ** 2).sum(1) * 1.5**2 / 3 + 1.5**2 + 0.25
    torch.testing.assert_close(drawn.var(0), expected[:, None].expand(2, 2), rtol=0.05, atol=0)
    assert (drawn.mean(0).abs() < 5 * (expected[:, None] / 40_000).sqrt()).all()


def test_draws_have_the_moments_of_q(generator: torch.Generator) -> None:
    loc, scale = torch.tensor([1.0, -3.0]), torch.tensor([0.1, 4.0])
    drawn = MeanFieldPosterior({"a": loc}, {"a": scale}).sample(40_000, generator=generator)["a"]
    assert ((drawn.mean(0) - loc).abs() < 5 * scale / 200).all()
    torch.testing.assert_close(drawn.std(0), scale, rtol=0.03, atol=0)


def test_kl_weight_tempers_the_posterior(linear_problem: Problem, generator: torch.Generator) -> None:
    """log p(y|θ) − w KL(q‖p) is the ELBO of the noise variance times w: its optimum is known too."""
    _, x, y = linear_problem(20, 3)
    tempered = BayesianNetwork(
        3, 1, hidden=(), noise="fixed", noise_std=0.5 * math.sqrt(0.2), prior_scale=1.5, dtype=torch.float64
    )
    best, _, _ = optimum(tempered, x, y)
    settings: dict[str, Any] = {"num_particles": 16, "num_steps": 1500, "learning_rate": 3e-2, "average_last": 0.5}
    warmer = BayesianNetwork(3, 1, hidden=(), noise="fixed", noise_std=0.5, prior_scale=1.5, dtype=torch.float64)
    posterior, _ = svi.fit(warmer, x, y, generator=generator, kl_weight=0.2, **settings)
    torch.testing.assert_close(flat(posterior.scale), flat(best.scale), rtol=0.03, atol=0)
    torch.testing.assert_close(flat(posterior.loc), flat(best.loc), rtol=0, atol=0.01)


def test_settings_are_checked_all_at_once(network_problem: Problem, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"need num_steps > 0, got 0; need kl_warmup <= 1, got 2; gradient is one of"):
        svi.fit(*network_problem(), generator=generator, num_steps=0, kl_warmup=2, gradient="sideways")  # type: ignore[arg-type]


def test_prior_must_be_normal(network_problem: Problem, generator: torch.Generator) -> None:
    class WithOtherPrior(BayesianNetwork):
        def prior(self) -> dict[str, torch.distributions.Distribution]:
            return {**super().prior(), "bias_0": torch.distributions.Laplace(torch.zeros(4), torch.ones(4))}

    _, x, y = network_problem()
    with pytest.raises(ValueError, match=r"need normal priors .* got others for bias_0"):
        svi.fit(WithOtherPrior(3, 2, hidden=(4,), dtype=x.dtype), x, y, generator=generator)


def test_a_diverging_fit_says_when(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    with pytest.raises(DivergedFitError, match=r"diverged at step \d+ of 50: lower learning_rate, got 1e\+200") as got:
        svi.fit(model, x, y, generator=generator, num_steps=50, learning_rate=1e200)
    theta = got.value.posterior.sample(3, generator=generator)
    assert model.log_likelihood(theta, x, y).isfinite().all(), "the last finite state is kept"
