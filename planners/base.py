"""The contract of a planner: a search over plans that sees nothing but scores.

Axes: C candidate plans, H horizon, A action.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, TypeVar

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
    needs_gradient: ClassVar[bool] = False
    """Whether the scores must carry a graph to the plans: then `score` has to be called under grad mode."""

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
    planner: Planner[State],
    state: State,
    score: Callable[[Tensor], Tensor],
    *,
    generator: torch.Generator,
    tolerance: float = 0.0,
    num_executed: int = 1,
) -> State:
    """Ask and tell `planner.num_iterations` times; `score` maps plans [C, H, A] to scores [C].

    With a `tolerance` above 0 the search ends early, as soon as an iteration has moved the plan's first `num_executed`
    actions by no more than this share of high − low in every dimension.

    On another device than the CPU the scores are looked at once, after the last iteration, since looking waits for
    the device; a tolerance waits for it after every iteration.
    Raises ValueError, as `Planner.tell`, when a score is not finite, and unless 0 <= tolerance < 1.
    """
    require(
        (0 <= tolerance < 1, f"need 0 <= tolerance < 1, a share of the actions' range, got {tolerance}"),
        (num_executed >= 1, f"need num_executed >= 1, got {num_executed}"),
    )
    enough = tolerance * (planner.high - planner.low)
    unseen = []
    for _ in range(planner.num_iterations):
        before = state.plan[:num_executed]
        plans = planner.ask(state, generator=generator)
        scores = score(plans)
        state = planner.tell(state, plans, scores)
        if not _is_seen_at_once(scores):
            unseen.append(scores)
        if tolerance > 0 and bool(((state.plan[:num_executed] - before).abs() <= enough).all()):
            break
    if unseen:
        _require_finite(torch.cat(unseen))
    return state


def require(*checks: tuple[bool, str]) -> None:
    """Raise one ValueError that names every check that failed."""
    if problems := [message for passed, message in checks if not passed]:
        raise ValueError("; ".join(problems))


def mid_range_plan(low: Tensor, high: Tensor, horizon: int) -> Tensor:
    """The plan [H, A] that always acts half way between low [A] and high [A], as when nothing is known."""
    return (0.5 * low + 0.5 * high).expand(horizon, -1).clone()


def shift_plan(plan: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The plan [H, A] without its first action, a mid-range action appended."""
    return torch.cat([plan[1:], mid_range_plan(low, high, 1)])


def check_told(plans: Tensor, scores: Tensor, horizon: int, num_actions: int) -> None:
    """Raise ValueError unless plans are [C, H, A] with C >= 1 and scores [C], all scores finite."""
    require(
        (
            plans.ndim == 3 and plans.shape[1:] == (horizon, num_actions) and len(plans) > 0,
            f"need plans [C, {horizon}, {num_actions}] with C >= 1, got shape {list(plans.shape)}",
        ),
        (
            scores.shape == plans.shape[:1],
            f"need one score a plan: plans [C, H, A] and scores [C], got {list(plans.shape)} and {list(scores.shape)}",
        ),
    )
    check_scores(scores)


def check_scores(scores: Tensor) -> None:
    """Raise ValueError, saying how many, when scores are not finite; on the CPU only, elsewhere `search` does."""
    if _is_seen_at_once(scores):
        _require_finite(scores)


def _is_seen_at_once(scores: Tensor) -> bool:
    return scores.device.type == "cpu"


def _require_finite(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        count = int((~torch.isfinite(scores)).sum())
        raise ValueError(
            f"{count} of {scores.numel()} scores are NaN or inf; look at the reward function and the objective, "
            "the planner's state is unchanged"
        )


def check_bounds(low: Tensor, high: Tensor) -> list[str]:
    """What is wrong with the action bounds [A]; empty when nothing is."""
    if low.ndim != 1 or low.shape != high.shape or len(low) == 0:
        return [f"need bounds low [A] and high [A], got shapes {list(low.shape)} and {list(high.shape)}"]
    if not low.is_floating_point() or low.dtype != high.dtype or low.device != high.device:
        got = f"{low.dtype} on {low.device} and {high.dtype} on {high.device}"
        return [f"need floating-point bounds of one dtype and device, got {got}"]
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
        return [f"need finite action bounds, got low {low.tolist()} and high {high.tolist()}: rescale the action space"]
    if not bool((low < high).all()):
        return [f"need low < high in every action dimension, got low {low.tolist()} and high {high.tolist()}"]
    return []
