"""What several studies are made of: episodes of an agent, a model learned from them, and how wrong it is."""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.experiment import evaluate_run, run_experiment
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder
from bayes_mbrl.seeding import generator_for, stream_seed


def episodes(builder: Builder, agent: Agent, num_episodes: int, *, seed: int, first: int = 0) -> Transitions:
    """Episodes of the agent, numbered from `first` on; other numbers are other episodes."""
    return Transitions.concatenate(
        [
            run_episode(
                builder.environment,
                agent,
                number=number,
                seed=stream_seed(seed, "environment", number),
                generator=generator_for(seed, "acting", number),
            ).transitions
            for number in range(first, first + num_episodes)
        ]
    )


def learned(builder: Builder, transitions: Transitions, *, seed: int) -> tuple[Posterior, Dynamics]:
    """p(θ | these transitions), as configured, and the dynamics θ belongs to."""
    torch.set_num_threads(1)
    posterior, _ = builder.fit(transitions, None, generator=generator_for(seed, "inference", len(transitions)))
    return posterior, builder.learned_dynamics(transitions, posterior)


def mean_return(transitions: Transitions) -> float:
    """Of the episodes that these are."""
    return float(transitions.reward.sum(dtype=torch.float64)) / len(set(transitions.episode.tolist()))


def true_dynamics(env: str, state_dim: int) -> KnownDynamics:
    """The environment's own, without its noise."""
    return KnownDynamics(KNOWN_STEPS[env], noise_std=torch.zeros(state_dim))


def knowing(agent: MPCAgent, truth: KnownDynamics) -> MPCAgent:
    """The agent, who plans as before but through these dynamics."""
    return dataclasses.replace(agent, posterior=Nothing(), dynamics=truth)


def step_error(
    posterior: Posterior, dynamics: Dynamics, truth: KnownDynamics, transitions: Transitions, scale: Tensor
) -> float:
    """Of the mean next state under one θ: root mean square over N and S, in units of scale [S].

    It is held against the true mean, so noise is no error.
    """
    theta = posterior.sample(1, generator=torch.Generator())
    states = transitions.state[None]
    expected, true = (model.predict(theta, states, transitions.action)[0] for model in (dynamics, truth))
    return float(((expected - true) / scale).square().mean().sqrt())


def learning_curve(
    folder: pathlib.Path, config: Config, *, every: int, num_episodes: int
) -> tuple[list[int], list[float]]:
    """(real steps, mean returns) of a run's policy as it then was, never the best so far, and without exploration.

    Evaluated in `num_episodes` episodes, from start states that are the same for all algorithms of a seed, after the
    first episode that goes beyond each multiple of `every` steps, and after the last one. `folder` is left empty.
    """
    torch.set_num_threads(1)
    shutil.rmtree(folder / "run", ignore_errors=True)  # of a process that was killed
    config = config.model_copy(update={"num_evaluation_episodes": 0})
    where = new_run_folder(folder / "run", config)
    watching = _Evaluating(where, every=every, num_episodes=num_episodes)
    run_experiment(config, where, observer=watching)
    watching.evaluate()
    shutil.rmtree(where)
    return watching.steps, watching.returns


class _Evaluating(Silent):
    """Evaluates the policy that stands in the run's folder; the run goes on as if it had not."""

    def __init__(self, folder: pathlib.Path, *, every: int, num_episodes: int) -> None:
        self.steps: list[int] = []
        self.returns: list[float] = []
        self._folder, self._every, self._num_episodes = folder, every, num_episodes
        self._num_steps = self._evaluated = 0

    def episode(self, metrics: Mapping[str, object]) -> None:
        """An episode is done, and its checkpoint is written."""
        self._num_steps += int(str(metrics["num_steps"]))
        if self._num_steps // self._every > self._evaluated // self._every:
            self.evaluate()

    def evaluate(self) -> None:
        """The policy as it is, unless that was done."""
        if self._evaluated < self._num_steps:
            returns = evaluate_run(self._folder, num_episodes=self._num_episodes, seed=None, observer=Silent())
            self._evaluated = self._num_steps
            self.steps.append(self._num_steps)
            self.returns.append(sum(returns) / len(returns))
