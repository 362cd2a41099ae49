import math
from collections.abc import Callable

import pytest
import torch
from held_first_layer import HeldFirstLayer
from torch import Tensor

from bayes_mbrl.inference import dropout
from bayes_mbrl.inference.base import log_prior
from bayes_mbrl.inference.dropout import DropoutPosterior
from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]
RATE = 0.3


def with_random_weights(model: BayesianNetwork, generator: torch.Generator, rate: float = RATE) -> DropoutPosterior:
    weights = {name: value[0] for name, value in model.initial(1, generator=generator).items()}
    weights = {name: value + 0.1 for name, value in weights.items()}  # no zeros: masks must show
    return DropoutPosterior(weights, dict.fromkeys(model.hidden_weights, rate))


def test_masks_drop_whole_units_at_the_rate(network_problem: Problem, generator: torch.Generator) -> None:
    model, _, _ = network_problem()
    posterior = with_random_weights(model, generator)
    n = 4000
    theta = posterior.sample(n, generator=generator)
    for name, weight in posterior.weights.items():
        if name not in ("weight_1", "weight_2"):
            assert torch.equal(theta[name], weight.expand(n, *weight.shape))
            continue
        kept = theta[name] != 0
        assert torch.equal(kept.all(-1), kept.any(-1)), "a unit is dropped with all that it feeds"
        expected = torch.where(kept, weight / (1 - RATE), torch.zeros_like(weight))
        torch.testing.assert_close(theta[name], expected)
        units = kept.all(-1).double()
        assert (units.mean(0) - (1 - RATE)).abs().max() < 5 * math.sqrt(RATE * (1 - RATE) / n)
        correlation = torch.corrcoef(units.T) - torch.eye(len(weight), dtype=torch.float64)
        assert correlation.abs().max() < 5 / math.sqrt(n), "units are dropped independently"


def test_prediction_moments_where_the_masks_enter_linearly(
    network_problem: Problem, generator: torch.Generator
) -> None:
    """One hidden layer h: mean over masks = h W + b, variance = rate / (1 − rate) Σ_j (h_j W_j)²."""
    model, x, _ = network_problem(hidden=(6,), noise="fixed")
    posterior = with_random_weights(model, generator)
    n = 20_000
    mean, _ = model.predict(posterior.sample(n, generator=generator), x)
    expected, _ = model.predict(posterior.weights, x)
    weights = posterior.weights
    hidden = torch.nn.functional.silu(x @ weights["weight_0"] + weights["bias_0"])
    variance = RATE / (1 - RATE) * hidden**2 @ weights["weight_1"] ** 2
    assert ((mean.mean(0) - expected).abs() < 5 * (variance / n).sqrt()).all()
    torch.testing.assert_close(mean.var(0), variance, rtol=0.1, atol=0)


def test_masked_weight_is_unbiased_with_a_mask_for_each_datum(generator: torch.Generator) -> None:
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_()
    row = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    n = 40_000

    def draw_mask(x: Tensor) -> Tensor:
        return dropout._mask(torch.empty_like(x), RATE, generator)

    out = dropout.MaskedWeight(weight, draw_mask).affine(row.expand(n, 4), bias)
    std = (RATE / (1 - RATE) * row**2 @ weight.detach() ** 2).sqrt()
    assert ((out.mean(0) - (row @ weight + bias)).abs() < 5 * std / math.sqrt(n)).all()
    torch.testing.assert_close(out.std(0), std, rtol=0.05, atol=0)
    out.mean(0).sum().backward()
    assert weight.grad is not None
    assert bias.grad is not None
    error = (RATE / (1 - RATE) / n) ** 0.5 * row.abs()
    assert ((weight.grad - row[:, None]).abs() < 5 * error[:, None]).all()
    torch.testing.assert_close(bias.grad, torch.ones_like(bias))


def test_cross_entropy_against_monte_carlo(network_problem: Problem, generator: torch.Generator) -> None:
    """−E_q[log p(θ)] but for one constant: the difference between two sets of weights has none."""
    model, _, _ = network_problem(noise="homoscedastic", prior_scale=0.7)
    prior = dropout.normal_prior(model)
    exact, estimate, variance = [], [], 0.0
    for _ in range(2):
        posterior = with_random_weights(model, generator)
        exact.append(float(dropout.cross_entropy(posterior.weights, prior, posterior.rates)))
        values = -log_prior(model.prior(), posterior.sample(20_000, generator=generator))
        estimate.append(float(values.mean()))
        variance += float(values.var()) / len(values)
    assert abs(exact[0] - exact[1]) > 1
    assert abs((exact[0] - exact[1]) - (estimate[0] - estimate[1])) < 5 * math.sqrt(variance)


@pytest.mark.parametrize("batch_size", [6, 100])
def test_optimum_of_a_linear_last_layer(generator: torch.Generator, batch_size: int) -> None:
    """With the first layer held, dropout is ridge regression on h with penalty rate / (1 − rate) diag(Σ h²) added.

    E|y − (h∘m) w|² = |y − h w|² + rate / (1 − rate) Σ_j (Σ_i h_ij²) w_j² (Wager et al. 2013).
    """
    hidden = torch.randn(24, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 1.0, 2.0])
    y = hidden @ torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64)
    model = HeldFirstLayer(3, noise_std=0.4)
    posterior, _ = dropout.fit(
        model, hidden, y, generator=generator, rate=RATE, num_steps=3000, learning_rate=0.03, batch_size=batch_size
    )
    variance, ratio = 0.4**2, RATE / (1 - RATE)
    prior_precision = torch.eye(3, dtype=torch.float64) / (1 - RATE)  # E[θ²] = w² / (1 − rate), prior N(0, 1)
    gram = hidden.T @ hidden
    precision = (gram + ratio * gram.diagonal().diag()) / variance + prior_precision
    expected = torch.linalg.solve(precision, hidden.T @ y / variance)
    torch.testing.assert_close(posterior.weights["weight"], expected, rtol=0.03, atol=0.01)


def test_hidden_units_are_needed(network_problem: Problem, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="dropout needs hidden units to drop and the model has none: give it a hidden"):
        dropout.fit(*network_problem(hidden=()), generator=generator)


def test_rate_is_below_one(network_problem: Problem, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="need rate < 1, got 1"):
        dropout.fit(*network_problem(), generator=generator, rate=1)
