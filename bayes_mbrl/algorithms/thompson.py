"""Thompson sampling: one θ ~ p(θ | D) for a whole episode, planned with as if it were the truth.

It explores since θ that promise much are tried out, and stops as p(θ | D) narrows.
Source: Strens (2000); Osband, Russo & Van Roy, (More) Efficient Reinforcement Learning via Posterior Sampling (2013).
"""

import dataclasses

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.mpc import MPCAgent, MPCMemory
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.propagation import ts_infinity


@dataclasses.dataclass(frozen=True)
class ThompsonMemory:
    """What is carried from step to step of one episode."""

    believer: MPCAgent
    """Plans with the one θ of this episode; also after a refit within it."""
    planned: MPCMemory


@dataclasses.dataclass(frozen=True, eq=False)
class ThompsonAgent(Agent):
    """Draws θ when an episode begins and acts as `planning` would, if its posterior were that θ alone."""

    planning: MPCAgent

    def act(
        self, observation: Tensor, memory: ThompsonMemory | None, *, generator: torch.Generator
    ) -> tuple[Tensor, ThompsonMemory]:
        """See `Agent.act`."""
        if memory is None:
            planning = self.planning
            theta = planning.posterior.sample(1, generator=generator)
            between_steps = planning.propagation if planning.num_noise > 1 else ts_infinity  # of one particle: nothing
            believer = dataclasses.replace(
                planning, posterior=DrawsPosterior(theta), num_theta=1, propagation=between_steps
            )
            action, planned = believer.act(observation, None, generator=generator)
        else:
            believer = memory.believer
            action, planned = believer.act(observation, memory.planned, generator=generator)
        return action, ThompsonMemory(believer, planned)
