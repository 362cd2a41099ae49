"""Gradient ascent through the rollout: several plans climb their scores side by side, by Adam.

Source: Kingma & Ba, Adam (2015), algorithm 1; plans by backpropagation: Parmas et al. (2018), Bharadhwaj et al. (2020).
Bounds are respected by a logistic map from unbounded numbers u to actions, which the gradient goes through.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bayes_mbrl.planners.base import Planner, check_bounds, check_told, mid_range_plan, require, shift_plan

_BETA_1, _BETA_2 = 0.9, 0.999
_MARGIN = 1e-3
"""Share of the range by which a start keeps away from a bound, where the map's slope is 0."""


@dataclass(frozen=True, eq=False)
class GradientState:
    """Where each restart stands, and Adam's moments."""

    plans: Tensor
    """[C, H, A], strictly within bounds; before the first iteration they mean nothing, `ask` draws starts."""
    first_moment: Tensor
    """[C, H, A]"""
    second_moment: Tensor
    """[C, H, A]"""
    plan: Tensor
    """[H, A], within bounds: the best of the last iteration."""
    iteration: int
    """Of the present search: 0 .. num_iterations - 1."""


@dataclass(frozen=True, eq=False)
class GradientAscent(Planner[GradientState]):
    """u ← u + learning_rate · Adam(∂ score / ∂ u), for `num_candidates` restarts of which the best is the plan.

    The first restart begins at the plan so far (warm start), the others at uniform plans. The scores that are told
    must carry a graph to the plans that were asked for. A restart whose gradient is not finite (a diverged particle)
    stays where it is in that iteration. The learning rate falls to 0 along a cosine.
    Raises ValueError on impossible settings, all of them at once.
    """

    needs_gradient: ClassVar[bool] = True

    low: Tensor
    high: Tensor
    horizon: int = 25
    num_candidates: int = 8
    num_iterations: int = 100
    learning_rate: float = 0.2

    def __post_init__(self) -> None:
        require(
            *((False, problem) for problem in check_bounds(self.low, self.high)),
            (self.horizon >= 1, f"need horizon >= 1, got {self.horizon}"),
            (self.num_candidates >= 1, f"need num_candidates >= 1, got {self.num_candidates}"),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
            (0 < self.learning_rate < math.inf, f"need learning_rate finite and > 0, got {self.learning_rate}"),
        )

    def init(self) -> GradientState:
        """Mid-range, Adam's moments at 0."""
        return self._start(mid_range_plan(self.low, self.high, self.horizon))

    def ask(self, state: GradientState, *, generator: torch.Generator) -> Tensor:
        """The plans of all restarts [C, H, A], leaves of a graph."""
        if state.iteration > 0:
            return state.plans.clone().requires_grad_()
        shape = (self.num_candidates - 1, self.horizon, len(self.low))
        share = torch.rand(shape, generator=generator, dtype=self.low.dtype, device=self.low.device)
        share = torch.cat([self._share(state.plan)[None], share]).clamp(_MARGIN, 1 - _MARGIN)
        return torch.lerp(self.low, self.high, share).requires_grad_()

    def tell(self, state: GradientState, plans: Tensor, scores: Tensor) -> GradientState:
        """One step of Adam from each of the plans, along the gradient that the scores carry.

        Raises ValueError also when they carry none.
        """
        check_told(plans, scores, self.horizon, len(self.low))
        require(
            (
                scores.requires_grad and plans.requires_grad,
                "gradient ascent needs scores with a graph to the plans: evaluate them under torch.enable_grad(), with "
                "a differentiable reward and objective",
            )
        )
        (slope,) = torch.autograd.grad(scores.sum(), plans)
        plans, scores = plans.detach(), scores.detach()
        share = self._share(plans)
        gradient = slope * (self.high - self.low) * share * (1 - share)  # of the score by u
        sound = torch.isfinite(gradient).flatten(1).all(1)[:, None, None]
        gradient = torch.where(sound, gradient, 0)
        first = torch.lerp(gradient, state.first_moment, _BETA_1)
        second = torch.lerp(gradient.square(), state.second_moment, _BETA_2)
        step = state.iteration % self.num_iterations
        rate = 0.5 * self.learning_rate * (1 + math.cos(math.pi * step / self.num_iterations))
        unbiased = 1 - _BETA_1 ** (state.iteration + 1), 1 - _BETA_2 ** (state.iteration + 1)
        scale = (second / unbiased[1]).sqrt()
        direction = torch.where(scale > 0, first / unbiased[0] / torch.where(scale > 0, scale, 1), 0)
        moved = torch.sigmoid(torch.logit(share) + torch.where(sound, rate * direction, 0))
        moved = torch.lerp(self.low, self.high, moved.clamp(_MARGIN, 1 - _MARGIN))
        best = plans.index_select(0, scores.argmax(dim=0, keepdim=True))[0].clone()
        return GradientState(moved, first, second, best, state.iteration + 1)

    def shift(self, state: GradientState) -> GradientState:
        """The plan one step later, from which a new search begins."""
        return self._start(shift_plan(state.plan, self.low, self.high))

    def _start(self, plan: Tensor) -> GradientState:
        plans = plan.expand(self.num_candidates, -1, -1).clone()
        return GradientState(plans, torch.zeros_like(plans), torch.zeros_like(plans), plan, 0)

    def _share(self, plans: Tensor) -> Tensor:
        """Where between low and high, kept off the bounds."""
        return ((plans - self.low) / (self.high - self.low)).clamp(_MARGIN, 1 - _MARGIN)
