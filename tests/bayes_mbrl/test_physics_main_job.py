"""The main job, reduced: with physics, one random episode is enough to act as the oracle does."""

import json
import pathlib
import statistics

import pytest
import torch

from bayes_mbrl import experiment
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.environments.rewards import pendulum_reward
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder


@pytest.mark.slow
def test_after_one_random_episode_a_pendulum_is_swung_up_as_by_the_oracle(tmp_path: pathlib.Path) -> None:
    """The same start states and the same planner; the planner's own randomness moves a return by a few per cent."""
    config = resolve(
        ["dynamics=physics", "num_episodes=1", "num_evaluation_episodes=2"], options={"env": "Pendulum-v1"}
    )
    folder = new_run_folder(tmp_path / "run", config)
    state = experiment.run_experiment(config, folder, observer=Silent())
    assert state.transitions is not None
    assert len(state.transitions) == 200
    returns = json.loads((folder / "evaluation.json").read_text())["returns"]
    assert (folder / "parameters.png").exists()
    with Environment(config.env) as environment:
        oracle = MPCAgent(
            posterior=Nothing(),
            dynamics=KnownDynamics(pendulum_step, noise_std=torch.zeros(3)),
            planner=config.planner.build(low=environment.low, high=environment.high),
            objective=config.objective.build(),
            propagation=config.propagation.row.load(),
            reward=pendulum_reward,
            termination=None,
            num_theta=1,
            num_noise=1,
        )
        episodes = experiment.evaluate(Builder(config, environment), oracle, Silent())
    best = [episode.total_reward for episode in episodes]
    assert statistics.fmean(returns) >= statistics.fmean(best) - 5, (returns, best)
