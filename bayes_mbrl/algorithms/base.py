"""The contract of an agent. Axes: S state, A action."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.planners.discrete import one_hot


class Agent(ABC):
    """A frozen composition that acts. What it remembers within an episode is passed on explicitly as `memory`.

    The memory is None at the start of every episode, so nothing survives a reset. Learning makes another agent, by
    `dataclasses.replace(agent, posterior=...)`.
    """

    @abstractmethod
    def act(self, observation: Tensor, memory: Any, *, generator: torch.Generator) -> tuple[Tensor, Any]:
        """(action [A] within bounds, memory for the next step) for the observation [S]."""


@dataclasses.dataclass(frozen=True, eq=False)
class RandomAgent(Agent):
    """The base policy π_0: actions uniform within bounds, or every choice as likely as the others."""

    low: Tensor
    """[A]"""
    high: Tensor
    """[A]"""
    choices: tuple[int, ...] = ()
    """Where actions are one-hot vectors of choices, between how many there is to choose."""

    def act(self, observation: Tensor, memory: None, *, generator: torch.Generator) -> tuple[Tensor, None]:
        """See `Agent.act`."""
        if self.choices:
            chosen = [int(torch.randint(n, (), generator=generator)) for n in self.choices]
            return one_hot(torch.tensor(chosen), self.choices), None
        share = torch.rand(self.low.shape, dtype=self.low.dtype, generator=generator)
        return torch.lerp(self.low, self.high, share), None
