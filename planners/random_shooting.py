"""Random shooting: the best of many uniformly random plans.

Source: Nagabandi et al. (2018). We differ by the warm start: the plan so far competes again after a shift.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_mbrl.planners.base import Planner, check_bounds, check_told, mid_range_plan, require, shift_plan


@dataclass(frozen=True, eq=False)
class RandomShootingState:
    """The plan so far."""

    plan: Tensor
    """[H, A], within bounds."""


@dataclass(frozen=True, eq=False)
class RandomShooting(Planner[RandomShootingState]):
    """argmax over the plan so far and `num_candidates` − 1 uniform plans.

    The warm start is the plan shifted by one step, a mid-range action at its end.
    Raises ValueError on impossible settings, all of them at once.
    """

    low: Tensor
    high: Tensor
    horizon: int = 25
    num_candidates: int = 1000
    num_iterations: int = 1

    def __post_init__(self) -> None:
        require(
            *((False, problem) for problem in check_bounds(self.low, self.high)),
            (self.horizon >= 1, f"need horizon >= 1, got {self.horizon}"),
            (
                self.num_candidates >= 2,
                f"need num_candidates >= 2 (one of them is the plan so far), got {self.num_candidates}",
            ),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
        )

    def init(self) -> RandomShootingState:
        """Mid-range."""
        return RandomShootingState(mid_range_plan(self.low, self.high, self.horizon))

    def ask(self, state: RandomShootingState, *, generator: torch.Generator) -> Tensor:
        """The plan so far, then uniform plans: [C, H, A]."""
        shape = (self.num_candidates - 1, self.horizon, len(self.low))
        uniform = torch.rand(shape, generator=generator, dtype=self.low.dtype, device=self.low.device)
        plans = torch.lerp(self.low, self.high, uniform).clamp(self.low, self.high)
        return torch.cat([state.plan[None], plans])

    def tell(self, state: RandomShootingState, plans: Tensor, scores: Tensor) -> RandomShootingState:
        """The best of `plans`, the plan so far among them: scores of another iteration met other noise."""
        check_told(plans, scores, self.horizon, len(self.low))
        return RandomShootingState(plans.index_select(0, scores.argmax(dim=0, keepdim=True))[0].clone())

    def shift(self, state: RandomShootingState) -> RandomShootingState:
        """The plan one step later."""
        return RandomShootingState(shift_plan(state.plan, self.low, self.high))
