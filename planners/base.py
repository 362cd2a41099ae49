"""The contract of a planner: a search over plans that sees nothing but scores.

Axes: C candidate plans, H horizon, A action.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor


class PlannerState(Protocol):
    """What the next iteration needs. `plan` [H, A] is the answer so far: what would be executed now."""

    @property
    def plan(self) -> Tensor:
        """The plan [H, A] that the search would execute now, within bounds."""


State = TypeVar("State", bound=PlannerState)


class Planner(ABC, Generic[State]):
    """A search for a plan a_1..a_H with a high score, by `ask` and `tell`.

    Settings are frozen and the state is explicit, so that nothing survives an episode but what is passed on. Laws,
    tested for every planner from one table (tests/planners/test_conformance.py): plans stay within `low` and
    `high`; the same generator state gives the same plans; the global random state stays where it was; a
    non-finite score raises and says how many there were; the state handed in is never changed.
    """

    low: Tensor
    """[A] lowest action, finite."""
    high: Tensor
    """[A] highest action, finite, above `low`."""
    horizon: int
    num_iterations: int
    """How often to ask and tell before the plan is used."""

    @abstractmethod
    def init(self) -> State:
        """The state at the start of an episode, when nothing is known."""

    @abstractmethod
    def ask(self, state: State, *, generator: torch.Generator) -> Tensor:
        """Candidate plans [C, H, A] to be scored."""

    @abstractmethod
    def tell(self, state: State, plans: Tensor, scores: Tensor) -> State:
        """The state after learning the scores [C] (higher is better) of the plans [C, H, A].

        Raises ValueError when a score is not finite.
        """

    @abstractmethod
    def shift(self, state: State) -> State:
        """The state one time step later: the warm start after the plan's first action was executed."""


def search(
    planner: Planner[State], state: State, score: Callable[[Tensor], Tensor], *, generator: torch.Generator
) -> State:
    """Ask and tell `planner.num_iterations` times; `score` maps plans [C, H, A] to scores [C]."""
    for _ in range(planner.num_iterations):
        plans = planner.ask(state, generator=generator)
        state = planner.tell(state, plans, score(plans))
    return state


def check_scores(scores: Tensor) -> None:
    """Raise ValueError, saying how many, when scores are not finite."""
    if not bool(torch.isfinite(scores).all()):
        count = int((~torch.isfinite(scores)).sum())
        raise ValueError(
            f"{count} of {scores.numel()} scores are NaN or inf; look at the reward function and the objective, "
            "the planner's state is unchanged"
        )


def check_bounds(low: Tensor, high: Tensor) -> list[str]:
    """What is wrong with the action bounds [A]; empty when nothing is."""
    if low.ndim != 1 or low.shape != high.shape:
        return [f"need bounds low [A] and high [A], got shapes {list(low.shape)} and {list(high.shape)}"]
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        return [f"need finite action bounds, got low {low.tolist()} and high {high.tolist()}: rescale the action space"]
    if not bool((low < high).all()):
        return [f"need low < high in every action dimension, got low {low.tolist()} and high {high.tolist()}"]
    return []
