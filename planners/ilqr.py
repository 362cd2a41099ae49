"""iLQR within bounds: a linear-quadratic model along the plan, solved by dynamic programming, again and again.

Source: Li & Todorov, Iterative linear quadratic regulator design (2004); with bounds on actions Tassa, Mansard &
Todorov, Control-limited differential dynamic programming (2014), section III-C. We differ in what is done about a
reward that is not concave (the signs of its Hessian's eigenvalues are mended, Dauphin et al. 2014), and by several
starts, which are improved side by side.
Axes: B a batch of points, C starts, L steps of the line search, H horizon, S state, A action, D = S + A.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bayes_mbrl.planners.base import check_bounds, check_scores, mid_range_plan, require, shift_plan
from bayes_mbrl.planners.box_qp import box_qp, solve_free
from bayes_mbrl.planners.differentiable_model import Model, Reward, Step, Termination

_DAMPING, _MOST_DAMPING = 1e-2, 1e6
_FLOOR = 1e-9
"""Least curvature in an action, of the slope in it (both for actions of range 2): keeps a linear problem solvable."""


@dataclass(frozen=True, eq=False)
class ILQRState:
    """What is carried on to the next time step."""

    plan: Tensor
    """[H, A], within bounds: the best that was found."""


@dataclass(frozen=True)
class ILQRInfo:
    """How a search went."""

    plan_return: float
    """Σ_t r_t of the plan under the model that was planned with."""
    start_returns: tuple[float, ...]
    """[C] of the plans that the search began with, the warm start first."""
    num_iterations: int
    converged: bool
    """Whether there was no step left to take from the best plan: it did not stop for want of iterations, nor since its
    derivatives were not finite."""


@dataclass(frozen=True, eq=False)
class ILQR:
    """The best of `num_candidates` plans, each improved by up to `num_iterations` Riccati sweeps and line searches.

    It looks at the model itself, and so is no `Planner` of scores: `solve` in place of `tell`. The first start is the
    plan so far (warm start), the others are uniform plans. Linear dynamics with a quadratic reward need one
    iteration where no bound is active. A start stops when its plan would move by less than `tolerance` of the range.
    Raises ValueError on impossible settings, all of them at once.
    """

    needs_gradient: ClassVar[bool] = True

    low: Tensor
    """[A] lowest action, finite."""
    high: Tensor
    """[A] highest action, finite, above `low`."""
    horizon: int = 25
    num_candidates: int = 8
    num_iterations: int = 50
    num_halvings: int = 8
    """Of the line search: steps of 1, ½, ... 2^−num_halvings are tried."""
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        require(
            *((False, problem) for problem in check_bounds(self.low, self.high)),
            (self.horizon >= 1, f"need horizon >= 1, got {self.horizon}"),
            (self.num_candidates >= 1, f"need num_candidates >= 1, got {self.num_candidates}"),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
            (0 <= self.num_halvings <= 50, f"need 0 <= num_halvings <= 50, got {self.num_halvings}"),
            (0 <= self.tolerance < math.inf, f"need tolerance finite and >= 0, got {self.tolerance}"),
        )

    def init(self) -> ILQRState:
        """Mid-range: the state at the start of an episode."""
        return ILQRState(mid_range_plan(self.low, self.high, self.horizon))

    def shift(self, state: ILQRState) -> ILQRState:
        """The plan one step later, a mid-range action at its end."""
        return ILQRState(shift_plan(state.plan, self.low, self.high))

    def ask(self, state: ILQRState, *, generator: torch.Generator) -> Tensor:
        """Where a search begins [C, H, A]: the plan so far, then uniform plans."""
        shape = (self.num_candidates - 1, *state.plan.shape)
        uniform = torch.rand(shape, generator=generator, dtype=self.low.dtype, device=self.low.device)
        return torch.cat([state.plan[None], torch.lerp(self.low, self.high, uniform).clamp(self.low, self.high)])

    def solve(
        self,
        state: ILQRState,
        start: Tensor,
        *,
        step: Step,
        reward: Reward,
        termination: Termination | None = None,
        generator: torch.Generator,
    ) -> tuple[ILQRState, ILQRInfo]:
        """(the state with the best plan from the state `start` [S], how the search went).

        A predicted termination ends the sum of rewards, but its derivative, which is 0 or infinite, is not seen. A
        start whose derivatives are not finite stays as it is, and a trial step with a return that is not is not taken.
        Raises ValueError when the return of a start is not finite, saying of how many, and when `step` or `reward`
        have no derivative; `state` is never changed.
        """
        model = Model(step, reward, termination, self.low, self.high)
        plans = self.ask(state, generator=generator)
        plans, states, returns = (x[0] for x in model.follow(start.expand(len(plans), -1), plans[None]))
        check_scores(returns)
        start_returns = returns.tolist()
        damping = torch.zeros(len(plans), dtype=torch.float64, device=plans.device)
        active = torch.ones(len(plans), dtype=torch.bool, device=plans.device)
        settled = ~active
        steps = 0.5 ** torch.arange(self.num_halvings + 1, dtype=plans.dtype, device=plans.device)
        num_iterations = 0
        while num_iterations < self.num_iterations and bool(active.any()):
            num_iterations += 1
            chosen = active.nonzero()[:, 0]
            change, gains, sound = _riccati(model, plans[chosen], states[chosen], damping[chosen])
            small = change.abs().amax((1, 2)) < 2 * self.tolerance
            tried = model.follow(
                start.expand(len(chosen), -1), plans[chosen] + steps[:, None, None, None] * model.half * change,
                around=states[chosen], gains=gains,
            )  # fmt: skip
            finite = tried[2].isfinite() & tried[0].isfinite().flatten(2).all(2)
            best = torch.where(finite, tried[2], -torch.inf).argmax(0)
            picked = torch.arange(len(chosen), device=best.device)
            better = sound & finite.any(0) & (tried[2][best, picked] > returns[chosen])
            rows, kept = chosen[better], (best[better], picked[better])
            plans[rows], states[rows], returns[rows] = (x[kept] for x in tried)
            harder = (10 * damping[chosen]).clamp(min=_DAMPING)
            easier = torch.where(damping[chosen] > _DAMPING, damping[chosen] / 10, 0)
            damping[chosen] = torch.where(better, easier, harder)
            settled[chosen] = sound & (small | (damping[chosen] > _MOST_DAMPING))
            active[chosen] = sound & ~settled[chosen]
        winner = int(returns.argmax())
        info = ILQRInfo(float(returns[winner]), tuple(start_returns), num_iterations, bool(settled[winner]))
        return ILQRState(plans[winner].clone()), info


def _riccati(model: Model, plans: Tensor, states: Tensor, damping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(change of u [C, H, A], gains [C, H, A, S], whether all derivatives were finite [C]): the backward pass.

    Costs are negative rewards. damping [C] is added to the curvature in u, as a multiple of its mean.
    """
    jacobian, gradient, hessian = model.derivatives(plans, states)
    sound = torch.stack([x.isfinite().flatten(1).all(1) for x in (jacobian, gradient, hessian)]).all(0)
    jacobian, gradient, hessian = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (jacobian, gradient, hessian))
    slope, curvature = -gradient, _convex(-hessian)
    now = (plans - 0.5 * (model.low + model.high)) / model.half
    lowest, highest = (-1 - now.double()).clamp(max=0), (1 - now.double()).clamp(min=0)
    dim = states.shape[-1]
    value_slope, value_curvature = slope.new_zeros(len(plans), dim), slope.new_zeros(len(plans), dim, dim)
    changes, all_gains = [], []
    for t in range(plans.shape[1] - 1, -1, -1):
        forward = jacobian[:, t]
        q = slope[:, t] + (forward.mT @ value_slope[..., None])[..., 0]
        qq = curvature[:, t] + forward.mT @ value_curvature @ forward
        q_u, q_uu, q_us = q[:, dim:], qq[:, dim:, dim:], qq[:, dim:, :dim]
        damped = _damped(q_uu, q_u, damping)
        change, free = box_qp(damped, q_u, lowest[:, t], highest[:, t])
        gain = -solve_free(damped, q_us, free)
        value_slope = q[:, :dim] + (gain.mT @ (q_u + (q_uu @ change[..., None])[..., 0])[..., None])[..., 0]
        value_slope = value_slope + (q_us.mT @ change[..., None])[..., 0]
        mixed = gain.mT @ q_us
        value_curvature = qq[:, :dim, :dim] + gain.mT @ q_uu @ gain + mixed + mixed.mT
        value_curvature = 0.5 * (value_curvature + value_curvature.mT)
        changes.append(change)
        all_gains.append(gain)
    change, gains = torch.stack(changes[::-1], 1), torch.stack(all_gains[::-1], 1)
    sound = sound & change.isfinite().flatten(1).all(1) & gains.isfinite().flatten(1).all(1)
    return change.to(plans.dtype), gains.to(plans.dtype), sound


def _convex(hessian: Tensor) -> Tensor:
    """The Hessian [..., D, D] with |eigenvalues|, untouched where none is negative."""
    values, vectors = torch.linalg.eigh(hessian)
    negative = values[..., 0] < -1e-12 * values.abs().amax(-1)
    mended = (vectors * values.abs()[..., None, :]) @ vectors.mT
    return torch.where(negative[..., None, None], mended, hessian)


def _damped(q_uu: Tensor, q_u: Tensor, damping: Tensor) -> Tensor:
    """q_uu [C, A, A] with `damping` of its mean added and no eigenvalue below a floor: positive definite."""
    mean = q_uu.diagonal(dim1=-2, dim2=-1).mean(-1)
    floor = (_FLOOR * torch.maximum(q_u.abs().amax(-1), mean)).clamp(min=torch.finfo(q_uu.dtype).tiny ** 0.5)
    values, vectors = torch.linalg.eigh(q_uu)
    lifted = (vectors * values.clamp(min=floor[:, None])[..., None, :]) @ vectors.mT
    sound = torch.where((values[:, 0] < floor)[:, None, None], lifted, q_uu)
    added = (damping * torch.maximum(mean, floor))[:, None, None]
    return sound + added * torch.eye(q_uu.shape[-1], dtype=q_uu.dtype, device=q_uu.device)
