"""The Jacobian trap: a positive latent with the prior LogNormal(0, 1) and nothing to learn from.

In unconstrained space its posterior is N(0, 1). A framework that drops the Jacobian of the transform answers N(−1, 1)
(inference with Pyro's TraceMeanField_ELBO and AutoNormal). A second, informative data set is held against a grid.
"""

import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import LogNormal

from bayes_mbrl.inference import ensemble, laplace, low_rank, svi
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.parametric import ParametricRegression

FITS: dict[str, tuple[Callable[..., tuple[Posterior, Any]], dict[str, Any]]] = {
    "mean-field": (svi.fit, {"num_steps": 3000, "num_particles": 16, "average_last": 0.5}),
    "low-rank": (low_rank.fit, {"num_steps": 3000, "num_particles": 32}),
    "laplace": (laplace.fit, {"num_steps": 1000, "subset": "all"}),
    "ensemble": (
        ensemble.fit,
        {"num_members": 2000, "resample": False, "randomised_prior": True, "num_steps": 200, "learning_rate": 0.05},
    ),
}
DRAWS = 20_000


def silent(p: Mapping[str, Tensor], x: Tensor, lib: ModuleType) -> Tensor:
    """A mean that does not depend on the rate."""
    return lib.stack([0.0 * p["rate"] * x[..., 0]], -1)


def proportional(p: Mapping[str, Tensor], x: Tensor, lib: ModuleType) -> Tensor:
    return lib.stack([p["rate"] * x[..., 0]], -1)


def model(function: Any) -> ParametricRegression:
    prior = {"rate": LogNormal(torch.tensor(0.0), torch.tensor(1.0))}
    settings = {"input_dim": 1, "output_dim": 1, "noise_std": 0.5, "noise_log_std": 1e-3, "dtype": torch.float64}
    return ParametricRegression(function, prior, **settings)


@pytest.mark.parametrize("family", FITS)
def test_without_information_the_posterior_is_the_prior(family: str, generator: torch.Generator) -> None:
    fit, settings = FITS[family]
    x, y = torch.ones(5, 1).double(), torch.zeros(5, 1).double()
    posterior, _ = fit(model(silent), x, y, generator=generator, **settings)
    log_rate = posterior.sample(DRAWS, generator=generator)["log_rate"]
    assert float(log_rate.mean()) == pytest.approx(0, abs=0.08), "-1 without the Jacobian"
    assert float(log_rate.std()) == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("family", ["mean-field", "low-rank", "laplace"])
def test_with_data_the_posterior_is_that_of_a_grid(family: str, generator: torch.Generator) -> None:
    """y = 0.8 x + noise: the posterior of log rate is almost normal, so that all three come near."""
    fit, settings = FITS[family]
    x = torch.linspace(0.5, 2, 12, dtype=torch.float64)[:, None]
    y = 0.8 * x + 0.5 * torch.randn(12, 1, generator=generator, dtype=torch.float64)
    grid = torch.linspace(-4, 2, 6001, dtype=torch.float64)
    log_joint = -0.5 * grid**2 - 0.5 * ((y - grid.exp() * x) ** 2).sum(0) / (0.5 + 1e-3) ** 2
    weight = torch.softmax(log_joint, 0)
    mean = float((weight * grid).sum())
    std = math.sqrt(float((weight * (grid - mean) ** 2).sum()))
    posterior, _ = fit(model(proportional), x, y, generator=generator, **settings)
    log_rate = posterior.sample(DRAWS, generator=generator)["log_rate"]
    assert float(log_rate.mean()) == pytest.approx(mean, abs=0.25 * std)
    assert float(log_rate.std()) == pytest.approx(std, rel=0.12)
