"""One episode of an agent in an environment."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError

MAX_STEPS_WITHOUT_LIMIT = 1000
"""Where the environment itself has no time limit."""

AfterStep = Callable[[Sequence[Transitions]], Agent | None]
"""Shown the steps so far, after each; may return another agent that goes on from there."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """What happened."""

    transitions: Transitions
    acting_seconds: float
    """Time spent in `Agent.act`, all steps together."""

    @property
    def total_reward(self) -> float:
        """The return Σ_t r_t."""
        return float(self.transitions.reward.sum(dtype=torch.float64))


class EpisodeCutShortError(UserError):
    """What is done after a step failed; `episode` is what had happened until then."""

    def __init__(self, message: str, episode: Episode) -> None:
        super().__init__(message)
        self.episode = episode


def run_episode(
    environment: Environment,
    agent: Agent,
    *,
    number: int,
    seed: int,
    generator: torch.Generator,
    after_step: AfterStep = lambda _: None,
) -> Episode:
    """Act from a reset with `seed` until the environment ends the episode; `number` is written into its transitions.

    Raises EnvironmentFault when the environment fails or returns a number that is not finite, and EpisodeCutShortError
    with the steps so far when `after_step` raises a UserError.
    """
    state, memory = environment.reset(seed=seed), None
    steps: list[Transitions] = []
    acting_seconds, ended = 0.0, False
    while not ended:
        started = time.perf_counter()
        action, memory = agent.act(state, memory, generator=generator)
        acting_seconds += time.perf_counter() - started
        step = environment.step(action)
        steps.append(_transition(state, action, step.reward, step.next_state, step.terminated, number))
        state = step.next_state
        too_long = environment.max_episode_steps is None and len(steps) >= MAX_STEPS_WITHOUT_LIMIT
        ended = step.terminated or step.truncated or too_long
        try:
            agent = after_step(steps) or agent
        except UserError as failure:
            done = Episode(Transitions.concatenate(steps), acting_seconds)
            raise EpisodeCutShortError(str(failure), done) from failure
    return Episode(Transitions.concatenate(steps), acting_seconds)


def _transition(
    state: Tensor, action: Tensor, reward: float, next_state: Tensor, terminated: bool, number: int
) -> Transitions:
    return Transitions(
        state[None],
        action[None],
        torch.tensor([reward], dtype=state.dtype),
        next_state[None],
        torch.tensor([terminated]),
        torch.tensor([number]),
    )
