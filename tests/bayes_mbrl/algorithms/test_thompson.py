"""One θ an episode: drawn at its start, held to its end, another one in the next."""

import dataclasses
import pathlib
from typing import Any

import pytest
import torch
from toy_runs import configure, start

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.algorithms.thompson import ThompsonAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.experiment import fitted
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.propagation import moment_matching, ts_infinity


@pytest.fixture(autouse=True)
def _no_artefacts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "write", lambda *_: {})


@pytest.fixture
def agent(tmp_path: pathlib.Path) -> ThompsonAgent:
    """Of a tiny run, with five θ that disagree."""
    state = start(tmp_path / "run", "LinearGaussian-v0", "posterior=ensemble", "algorithm.exploration=thompson")
    config = configure("LinearGaussian-v0", "posterior=ensemble", "algorithm.exploration=thompson")
    with Environment("LinearGaussian-v0") as environment:
        agent = Builder(config, environment).exploring_agent(*fitted(state))
    assert isinstance(agent, ThompsonAgent)
    return agent


def _theta(memory: Any) -> torch.Tensor:
    posterior = memory.believer.posterior
    assert isinstance(posterior, DrawsPosterior)
    assert posterior.num_draws == 1
    return posterior.draws["weight_0"][0]


def test_theta_is_held_for_the_episode_and_drawn_anew_for_the_next(agent: ThompsonAgent) -> None:
    generator, seen = torch.Generator().manual_seed(3), []
    for _ in range(12):
        memory = None
        for _ in range(3):
            _, memory = agent.act(torch.zeros(3), memory, generator=generator)
            seen.append(_theta(memory))
        assert torch.equal(seen[-1], seen[-2])
        assert torch.equal(seen[-1], seen[-3])
    assert len({tuple(theta.flatten().tolist()) for theta in seen}) > 2


def test_it_acts_as_mpc_with_that_theta(agent: ThompsonAgent) -> None:
    observation = torch.tensor([0.5, -1.0, 0.2])
    action, memory = agent.act(observation, None, generator=torch.Generator().manual_seed(1))
    assert isinstance(memory.believer, MPCAgent)
    generator = torch.Generator().manual_seed(1)
    agent.planning.posterior.sample(1, generator=generator)
    expected, _ = memory.believer.act(observation, None, generator=generator)
    assert torch.equal(action, expected)
    averaged, _ = agent.planning.act(observation, None, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(action, averaged)


def test_evaluation_averages_over_theta(tmp_path: pathlib.Path) -> None:
    config = configure("LinearGaussian-v0", "algorithm.exploration=thompson")
    state = start(tmp_path / "run", "LinearGaussian-v0")
    with Environment("LinearGaussian-v0") as environment:
        assert isinstance(Builder(config, environment).agent(*fitted(state)), MPCAgent)
        without = Builder(configure("LinearGaussian-v0"), environment)
        assert isinstance(without.exploring_agent(*fitted(state)), MPCAgent)


def test_one_particle_needs_no_propagation(agent: ThompsonAgent) -> None:
    """One θ and one noise draw are too few for a covariance; with two noise draws there is one."""
    for num_noise, kept in ((1, ts_infinity), (2, moment_matching)):
        planning = dataclasses.replace(agent.planning, propagation=moment_matching, num_noise=num_noise)
        _, memory = ThompsonAgent(planning).act(torch.zeros(3), None, generator=torch.Generator().manual_seed(0))
        assert memory.believer.propagation is kept
