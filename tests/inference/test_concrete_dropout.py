import math
from collections.abc import Callable

import pytest
import torch
from held_first_layer import HeldFirstLayer
from scipy import optimize
from torch import Tensor

from bayes_mbrl.inference import concrete_dropout
from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def regression(num_data: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    hidden = torch.randn(num_data, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 1.0, 2.0])
    noise = 0.4 * torch.randn(num_data, 1, generator=generator, dtype=torch.float64)
    return hidden, hidden @ torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64) + noise


def best_rate(hidden: Tensor, y: Tensor, variance: float) -> float:
    """argmin over the rate, with the best weights for each, of the loss in closed form (see test_dropout.py)."""
    gram = hidden.T @ hidden

    def loss(logit: float) -> float:
        rate = 1 / (1 + math.exp(-logit))
        ratio = rate / (1 - rate)
        penalty = ratio * gram.diagonal().diag() / variance + torch.eye(3).double() / (1 - rate)
        weights = torch.linalg.solve(gram / variance + penalty, hidden.T @ y / variance)
        fit = ((y - hidden @ weights) ** 2).sum() / variance + (weights.T @ penalty @ weights).sum()
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        return 0.5 * float(fit) - 3 * entropy

    return 1 / (1 + math.exp(-optimize.minimize_scalar(loss, bounds=(-12, 2), method="bounded").x))


@pytest.mark.parametrize("batch_size", [6, 100])
def test_the_rate_is_the_closed_forms_optimum(generator: torch.Generator, batch_size: int) -> None:
    """Only with the entropy's weight 1 against nats of the likelihood; without the ½ the rate is about half."""
    hidden, y = regression(60, generator)
    model = HeldFirstLayer(3, noise_std=5.0)
    posterior, _ = concrete_dropout.fit(
        model,
        hidden,
        y,
        generator=generator,
        num_steps=2500,
        learning_rate=0.02,
        batch_size=batch_size,
        temperature=0.05,
    )
    expected = best_rate(hidden, y, 5.0**2)
    halved = best_rate(hidden, y, 5.0**2 / 2)
    assert halved < 0.75 * expected, "a likelihood counted twice would show"
    assert posterior.rates["weight"] == pytest.approx(expected, rel=0.1)


def test_relaxed_masks_are_almost_bernoulli(generator: torch.Generator) -> None:
    """At a low temperature: 0 at the rate, 1 / (1 − rate) otherwise."""
    logit, n = torch.tensor(-1.0, dtype=torch.float64), 40_000
    rate = 1 / (1 + math.e)
    mask = concrete_dropout.relaxed_mask(torch.zeros(n, 1, dtype=torch.float64), logit, 1e-3, generator)
    dropped = (mask < 0.5 / (1 - rate)).double()
    assert abs(float(dropped.mean()) - rate) < 5 * math.sqrt(rate * (1 - rate) / n)
    assert ((mask < 1e-3) | ((mask - 1 / (1 - rate)).abs() < 1e-3)).double().mean() > 0.99


def test_entropy_counts_every_unit() -> None:
    logits = {"a": torch.tensor(0.0), "b": torch.tensor(math.log(0.1 / 0.9))}
    by_hand = 5 * math.log(2) - 2 * (0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert float(concrete_dropout.sum_of_entropies(logits, {"a": 5, "b": 2})) == pytest.approx(by_hand)


def test_rates_fall_with_data_and_start_from_the_last_fit(generator: torch.Generator) -> None:
    settings = {"num_steps": 1500, "learning_rate": 0.03}
    model, rates = HeldFirstLayer(3, noise_std=0.4), []
    for num_data in (10, 1000):
        hidden, y = regression(num_data, generator)
        posterior, _ = concrete_dropout.fit(model, hidden, y, generator=generator, **settings)  # type: ignore[arg-type]
        rates.append(posterior.rates["weight"])
    assert rates[1] < 0.2 * rates[0]
    again, _ = concrete_dropout.fit(
        model, hidden, y, generator=generator, warm_start=posterior, num_steps=1, learning_rate=1e-30
    )
    assert again.rates["weight"] == pytest.approx(rates[1])


def test_hidden_units_are_needed(network_problem: Problem, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="dropout needs hidden units to drop and the model has none: give it a hidden"):
        concrete_dropout.fit(*network_problem(hidden=()), generator=generator)
