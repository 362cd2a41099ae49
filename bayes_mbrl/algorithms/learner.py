"""The contract of what learns beside p(θ | D): policies, critics and tables, which are changed in place.

A run makes the learner anew from its tensors for every episode, so that one that was killed and resumed goes on as if
it had not been. Axes: S state, A action.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.data import Transitions
from bayes_mbrl.imagination import World


@dataclasses.dataclass(frozen=True)
class Task:
    """What a learner has to know of the environment."""

    name: str
    state_dim: int
    low: Tensor
    """[A]"""
    high: Tensor
    """[A]"""
    choices: tuple[int, ...] = ()
    """Where actions are one-hot vectors of choices, between how many there is to choose."""
    num_states: int | None = None
    """Where states can be counted, how many there are; the state is its number, S = 1."""
    features: Callable[[Tensor], Tensor] | None = None
    """What suits a network as its input, in place of a state [..., S]: [..., F]; None: the state itself."""


class Learner(ABC):
    """Learns from the steps of an episode and from a posterior; nothing of it but `tensors` outlives the episode."""

    @abstractmethod
    def agent(self, *, explore: bool) -> Agent:
        """Who acts by what is learned, and goes on doing so as more is; with `explore` as suits collecting data."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that is learned, by flat names, less what `remember` brings back."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`. Raises RuntimeError, KeyError or ValueError where they are another learner's."""

    def remember(self, transitions: Transitions) -> None:  # noqa: B027 (to be left out where there is nothing to do)
        """Take note of what happened before, in order; called once, before anything is learned."""

    def after_step(self, step: Transitions, world: World | None, *, generator: torch.Generator) -> None:  # noqa: B027 (to be left out where there is nothing to do)
        """Learn from one real step, a single row, which is not of the base policy. `world` is None without a model."""

    @property
    def num_steps_after_fit(self) -> int:
        """How many times `after_fit` advances, at most."""
        return 0

    def after_fit(  # noqa: B027 (likewise)
        self, world: World, transitions: Transitions, *, generator: torch.Generator, advance: Callable[[], None]
    ) -> None:
        """Learn from a posterior that was just fitted to these transitions."""

    def report(self) -> Mapping[str, Any]:
        """Numbers, and lists of them, for the row of this episode in the metrics."""
        return {}

    def warnings(self) -> list[str]:
        """What should be told, since the learner was made."""
        return []


@dataclasses.dataclass(frozen=True)
class LearningAlgorithm(ABC):
    """Settings of an algorithm that acts by what a `Learner` has learned."""

    base_data_only: ClassVar[bool] = False
    """Whether the base policy collects all data."""
    propagations: ClassVar[tuple[str, ...]] = ("ts-infinity",)
    """Names of those that its imagined trajectories can have."""

    @abstractmethod
    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """A new one. Raises ValueError for a task it cannot serve."""


def check_continuous(task: Task, who: str) -> None:
    """Raise ValueError unless states are numbers and actions lie between bounds."""
    if task.num_states is not None:
        raise ValueError(
            f"{who} needs states that are numbers, and {task.name} only counts its {task.num_states}: take "
            "algorithm=dyna, or register it wrapped in gymnasium.wrappers.FlattenObservation"
        )
    if task.choices:
        kinds = " and out of ".join(map(str, task.choices))
        raise ValueError(
            f"{who} needs continuous actions, and those of {task.name} are choices out of {kinds}: take algorithm=mpc"
        )
