import dataclasses

import pytest
import torch

from bayes_mbrl.algorithms.base import RandomAgent
from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.linear import LinearDynamics
from bayes_mbrl.environments import linear_gaussian
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.inference import exact_linear


@pytest.fixture(scope="module")
def episodes() -> Transitions:
    """500 random transitions of LinearGaussian-v0, in float64."""
    with Environment("LinearGaussian-v0") as environment:
        agent = RandomAgent(environment.low, environment.high)
        batches = [
            run_episode(environment, agent, number=i, seed=i, generator=torch.Generator().manual_seed(i)).transitions
            for i in range(10)
        ]
    fields = Transitions.concatenate(batches).tensors()
    return Transitions(**{name: t.double() if t.is_floating_point() else t for name, t in fields.items()})


def test_the_exact_posterior_recovers_the_environments_matrices(
    episodes: Transitions, generator: torch.Generator
) -> None:
    """Within 5 standard errors of least squares, an independent formula: σ² (XᵀX)⁻¹."""
    dynamics = LinearDynamics.from_data(episodes)
    posterior, _ = exact_linear.fit(dynamics.model, *dynamics.regression_data(episodes), generator=generator)
    theta = {"weight_0": posterior.mean[None, :-1], "bias_0": posterior.mean[None, -1]}
    units = torch.eye(5, dtype=torch.float64)
    origin, _ = dynamics.predict(theta, torch.zeros(1, 1, 3).double(), torch.zeros(1, 2).double())
    columns, _ = dynamics.predict(theta, units[None, :, :3], units[:, 3:])
    got = (columns - origin)[0].T  # [S, S + A]

    truth = torch.tensor(linear_gaussian.TRANSITION_MATRIX.tolist()).double()
    truth = torch.cat([truth, torch.tensor(linear_gaussian.CONTROL_MATRIX.tolist()).double()], dim=1)
    noise_std = torch.tensor(linear_gaussian.NOISE_STD.tolist()).double()
    x = torch.cat([episodes.state, episodes.action, torch.ones(len(episodes), 1).double()], dim=1)
    standard_error = noise_std[:, None] * torch.linalg.inv(x.T @ x).diagonal()[:5].sqrt()
    assert standard_error.max() < 0.02
    assert ((got - truth).abs() < 5 * standard_error).all()
    assert (origin.flatten().abs() < 5 * noise_std * torch.linalg.inv(x.T @ x)[5, 5].sqrt()).all()


def test_a_termination_is_not_learned(episodes: Transitions, generator: torch.Generator) -> None:
    """So that the exact posterior goes on with data of an unknown environment."""
    ended = dataclasses.replace(episodes, terminated=torch.arange(len(episodes)) % 9 == 0)
    dynamics = LinearDynamics.from_data(ended, learns_reward=True, learns_termination=True)
    assert (dynamics.output_dim, dynamics.learns_termination, dynamics.termination) == (4, False, None)
    exact_linear.fit(dynamics.model, *dynamics.regression_data(ended), generator=generator)


def test_settings_reach_the_model(episodes: Transitions) -> None:
    dynamics = LinearDynamics.from_data(episodes, learns_reward=True, noise_std=0.3, prior_scale=2.0)
    assert dynamics.output_dim == 4
    assert dynamics.model.num_layers == 1
    assert dynamics.model.noise_std == 0.3
    assert dynamics.model.prior()["bias_0"].stddev.unique().item() == 2.0
