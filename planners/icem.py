"""iCEM: the cross-entropy method with coloured noise, kept elites and a population that shrinks.

Source: Pinneri et al., Sample-efficient Cross-Entropy Method for Real-time Planning (2020), algorithm 1. We differ
where the paper draws the last action of a shifted elite at random: it is mid-range here, as in every shift.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_mbrl.planners.base import Planner, check_bounds, check_told, mid_range_plan, require, shift_plan
from bayes_mbrl.planners.coloured_noise import coloured_noise


@dataclass(frozen=True, eq=False)
class ICEMState:
    """The distribution over plans, and what is carried over besides."""

    mean: Tensor
    """[H, A], within bounds."""
    variance: Tensor
    """[H, A]"""
    elites: Tensor
    """[kept, H, A]: plans that compete again in the next iteration; none at the start of an episode."""
    plan: Tensor
    """[H, A]: the best plan of the last iteration, which is executed."""
    iteration: int
    """Of the present search: 0 .. num_iterations - 1."""


@dataclass(frozen=True, eq=False)
class ICEM(Planner[ICEMState]):
    """CEM on mean + std · coloured noise, clipped to the bounds.

    Iteration i has max(num_candidates / decay^i, 2 num_elites) new plans; `kept_share` of the elites compete again,
    also, shifted, at the next time step; in the last iteration so does the mean. `colour` is β of the noise's power
    spectrum 1 / f^β over time: 0 is white, 2 Brownian; high where actions have to push the same way for long.
    Raises ValueError on impossible settings, all of them at once.
    """

    low: Tensor
    high: Tensor
    horizon: int = 25
    num_candidates: int = 1000
    num_elites: int = 50
    num_iterations: int = 30
    colour: float = 1.0
    decay: float = 1.05
    kept_share: float = 0.3
    momentum: float = 0.1
    initial_std_fraction: float = 0.25
    """Initial standard deviation as a fraction of the range high − low."""

    def __post_init__(self) -> None:
        require(
            *((False, problem) for problem in check_bounds(self.low, self.high)),
            (self.horizon >= 1, f"need horizon >= 1, got {self.horizon}"),
            (
                self.num_elites >= 1 and 2 * self.num_elites <= self.num_candidates,
                f"need 1 <= num_elites <= num_candidates / 2, got {self.num_elites} and {self.num_candidates}",
            ),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
            (0 <= self.colour < math.inf, f"need colour finite and >= 0, got {self.colour}"),
            (1 <= self.decay < math.inf, f"need decay finite and >= 1, got {self.decay}"),
            (0 <= self.kept_share <= 1, f"need 0 <= kept_share <= 1, got {self.kept_share}"),
            (0 <= self.momentum < 1, f"need 0 <= momentum < 1, got {self.momentum}"),
            (
                0 < self.initial_std_fraction < math.inf,
                f"need initial_std_fraction finite and > 0, got {self.initial_std_fraction}",
            ),
        )

    def init(self) -> ICEMState:
        """Mid-range, with the initial variance and no elites."""
        middle = mid_range_plan(self.low, self.high, self.horizon)
        return ICEMState(middle, self._initial_variance(), middle[None][:0], middle, 0)

    def ask(self, state: ICEMState, *, generator: torch.Generator) -> Tensor:
        """The elites kept, in the last iteration the mean, and new plans: [C, H, A], fewer in each iteration."""
        count = max(round(self.num_candidates / self.decay**state.iteration), 2 * self.num_elites)
        noise = coloured_noise(count, self.horizon, len(self.low), self.colour, like=self.low, generator=generator)
        plans = torch.addcmul(state.mean, state.variance.sqrt(), noise).clamp(self.low, self.high)
        last = state.iteration % self.num_iterations == self.num_iterations - 1
        return torch.cat([state.elites, state.mean[None][: int(last)], plans])

    def tell(self, state: ICEMState, plans: Tensor, scores: Tensor) -> ICEMState:
        """Move mean and variance towards those of the elites, the best of which are kept."""
        check_told(plans, scores, self.horizon, len(self.low))
        require(
            (len(plans) >= self.num_elites, f"need at least num_elites = {self.num_elites} plans, got {len(plans)}")
        )
        elites = plans.index_select(0, scores.topk(self.num_elites).indices)
        mean = torch.lerp(elites.mean(dim=0), state.mean, self.momentum).clamp(self.low, self.high)
        variance = torch.lerp(elites.var(dim=0, correction=0), state.variance, self.momentum)
        kept = elites[: math.ceil(self.kept_share * self.num_elites)]
        return ICEMState(mean, variance, kept.clone(), elites[0].clone(), state.iteration + 1)

    def shift(self, state: ICEMState) -> ICEMState:
        """Mean, elites and plan one step later, with the initial variance and the whole population again."""
        mean, plan = (shift_plan(p, self.low, self.high) for p in (state.mean, state.plan))
        end = mid_range_plan(self.low, self.high, 1).expand(len(state.elites), 1, -1)
        elites = torch.cat([state.elites[:, 1:], end], dim=1)
        return ICEMState(mean, self._initial_variance(), elites, plan, 0)

    def _initial_variance(self) -> Tensor:
        return (self.initial_std_fraction * (self.high - self.low)).square().expand(self.horizon, -1).clone()
