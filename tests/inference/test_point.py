from collections.abc import Callable

import torch
from torch import Tensor

from bayes_mbrl.inference import exact_linear, point
from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def test_one_theta(network_problem: Problem, generator: torch.Generator) -> None:
    posterior, _ = point.fit(*network_problem(), generator=generator, num_steps=3)
    for value in posterior.sample(4, generator=generator).values():
        assert torch.equal(value, value[:1].expand_as(value))


def test_maximum_likelihood_by_default_and_map_on_request(linear_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = linear_problem(20, 6, 2)
    exact, _ = exact_linear.fit(model, x, y, generator=generator)
    least_squares = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[:, :1])], 1), y).solution
    for prior_weight, expected in (({}, least_squares), ({"prior_weight": 1.0}, exact.mean)):
        settings = {"num_steps": 1200, "learning_rate": 0.05}
        posterior, _ = point.fit(model, x, y, generator=generator, **settings, **prior_weight)
        got = torch.cat([posterior.draws["weight_0"][0], posterior.draws["bias_0"]])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def test_learned_noise_is_the_residuals_std(linear_problem: Problem, generator: torch.Generator) -> None:
    """With homoscedastic noise the maximum-likelihood std is the root mean square residual, output by output."""
    _, x, y = linear_problem(60, 3, 2)
    y = y * torch.tensor([1.0, 0.2], dtype=y.dtype)
    model = BayesianNetwork(3, 2, hidden=(), noise="homoscedastic", dtype=x.dtype)
    posterior, _ = point.fit(model, x, y, generator=generator, num_steps=1500, learning_rate=0.05)
    mean, std = model.predict(posterior.draws, x)
    torch.testing.assert_close(std[0, 0], (y - mean[0]).square().mean(0).sqrt(), rtol=1e-3, atol=0)
