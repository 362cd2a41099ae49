"""Acting by a policy. Axes: S state, A action."""

import dataclasses

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.policies import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyAgent(Agent):
    """Acts by a policy as it is at the time: what is learned within an episode counts at once."""

    policy: Policy
    explore: bool
    """Whether actions are drawn, or the policy's mode."""

    @torch.no_grad()
    def act(self, observation: Tensor, memory: None, *, generator: torch.Generator) -> tuple[Tensor, None]:
        """See `Agent.act`."""
        if not self.explore:
            return self.policy.mode(observation), None
        noise = self.policy.centre.new_empty(self.policy.centre.shape).normal_(generator=generator)
        return self.policy.sample(observation, noise), None
