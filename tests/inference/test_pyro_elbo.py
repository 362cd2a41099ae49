"""The model as a Pyro program has the model's log joint; and so has its NumPyro declaration (test_nuts.py)."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from bayes_mbrl.inference.base import log_prior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.pyro_elbo import as_pyro_program, pyro_session

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noise": "homoscedastic", "likelihood": "student-t", "activation": "tanh"},
        {"noise": "fixed", "prior_scale_log_std": 0.5, "activation": "relu"},
    ],
)
def test_the_pyro_program_has_the_models_log_joint(
    network_problem: Problem, generator: torch.Generator, settings: dict[str, Any]
) -> None:
    model, x, y = network_problem(**settings)
    theta = {name: value[0] + 0.3 for name, value in model.initial(1, generator=generator).items()}
    with pyro_session(generator):
        conditioned = pyro.poutine.condition(as_pyro_program(model), data=theta)
        got = pyro.poutine.trace(conditioned).get_trace(x, y).log_prob_sum()
    prior = log_prior(model.prior(), {name: value[None] for name, value in theta.items()})[0]
    torch.testing.assert_close(got, prior + model.log_likelihood(theta, x, y).sum(), rtol=1e-12, atol=0)
