"""How much prior, KL and entropy count in each loss: the difference that `kl_weight` or `prior_weight` makes, by hand.

Two fits of equal seeds draw alike, so at one θ their losses differ by exactly what the weight multiplies.
"""

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bayes_mbrl.inference import concrete_dropout, dropout, ensemble, low_rank, svi
from bayes_mbrl.inference.base import log_prior
from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]
RATE = 0.2


def losses(fit: Callable[..., object], *data: object, **settings: object) -> Tensor:
    """Of a fit whose steps have no length."""
    generator = torch.Generator().manual_seed(3)
    found: Tensor = fit(*data, generator=generator, learning_rate=1e-30, **settings)[1].losses  # type: ignore[index]
    return found


@pytest.mark.parametrize("module", [dropout, concrete_dropout])
def test_dropout(network_problem: Problem, module: ModuleType) -> None:
    """0.3 of (prior's second moment − entropy): with concrete dropout H(rate) for each of the 5 + 4 hidden units."""
    model, x, y = network_problem(noise="homoscedastic", prior_scale=0.7)
    rate = {"rate" if module is dropout else "initial_rate": RATE}
    without, with_prior = (losses(module.fit, model, x, y, num_steps=1, kl_weight=w, **rate) for w in (0.0, 0.3))
    start = {name: value[0] for name, value in model.initial(1, generator=torch.Generator().manual_seed(3)).items()}
    expected = 0.0
    for name, weight in start.items():
        kept = 1 - RATE if name in ("weight_1", "weight_2") else 1.0
        expected += float((weight**2).sum() / kept / (2 * model.prior()[name].variance.flatten()[0]))
    if module is concrete_dropout:
        expected -= 9 * -(RATE * math.log(RATE) + (1 - RATE) * math.log(1 - RATE))
    assert float(with_prior - without) == pytest.approx(0.3 * expected, rel=1e-6)


def test_ensemble(network_problem: Problem) -> None:
    model, x, y = network_problem(noise="homoscedastic")
    settings = {"num_members": 3, "num_steps": 1}
    without, with_prior = (losses(ensemble.fit, model, x, y, prior_weight=w, **settings) for w in (0.0, 0.4))
    posterior, _ = ensemble.fit(
        model, x, y, generator=torch.Generator().manual_seed(3), num_members=3, num_steps=1, learning_rate=1e-30
    )
    torch.testing.assert_close(with_prior - without, -0.4 * log_prior(model.prior(), posterior.draws)[None])


def test_mean_field_warms_up(network_problem: Problem) -> None:
    """Over the first half of 6 steps the KL counts 1/3, 2/3, 1, and then 1, times its weight."""
    model, x, y = network_problem(noise="homoscedastic")
    settings = {"num_steps": 6, "kl_weight": 0.3}
    cold, warm = (losses(svi.fit, model, x, y, kl_warmup=share, **settings) for share in (0.5, 0.0))
    generator = torch.Generator().manual_seed(3)
    posterior, _ = svi.fit(model, x, y, generator=generator, learning_rate=1e-30, num_steps=1)
    divergence = sum(
        kl_divergence(Normal(posterior.loc[n], posterior.scale[n]), prior).sum() for n, prior in model.prior().items()
    )
    shares = torch.tensor([1 / 3, 2 / 3, 1, 1, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(warm - cold, 0.3 * (1 - shares) * divergence)


def test_low_rank_warms_up(network_problem: Problem) -> None:
    model, x, y = network_problem(noise="homoscedastic")
    cold, warm = (losses(low_rank.fit, model, x, y, kl_warmup=share, num_steps=4) for share in (1.0, 0.0))
    difference = warm - cold
    torch.testing.assert_close(difference / difference[0], torch.tensor([3, 2, 1, 0], dtype=torch.float64) / 3)
    assert difference[0] > 1
