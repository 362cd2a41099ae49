"""The cross-entropy method: fit a truncated normal to the best of its own draws, again and again.

Source: Rubinstein (1999); as a planner Chua et al. (2018), appendix. We differ by truncating exactly at the action
bounds, where PETS truncates at two standard deviations and shrinks the variance near a bound.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_mbrl.planners.base import Planner, check_bounds, check_told, mid_range_plan, require, shift_plan


@dataclass(frozen=True, eq=False)
class CEMState:
    """The distribution over plans: independent normals, truncated at the action bounds."""

    mean: Tensor
    """[H, A], within bounds. Of the normal before truncation."""
    variance: Tensor
    """[H, A], of the normal before truncation."""

    @property
    def plan(self) -> Tensor:
        """The mean [H, A]."""
        return self.mean


@dataclass(frozen=True, eq=False)
class CEM(Planner[CEMState]):
    """Mean and variance of the `num_elites` best of `num_candidates` plans, mixed with the old ones by `momentum`.

    mean ← momentum · mean + (1 − momentum) · mean(elites), the variance likewise. The warm start is the mean shifted by
    one step, a mid-range action at its end, with the initial variance. The defaults search thoroughly, within 1 % of
    the optimum of linear-quadratic problems; PETS, with a warm start, takes 400 candidates, 40 elites and 5 iterations.
    Raises ValueError on impossible settings, all of them at once.
    """

    low: Tensor
    high: Tensor
    horizon: int = 25
    num_candidates: int = 1000
    num_elites: int = 50
    num_iterations: int = 30
    momentum: float = 0.1
    initial_std_fraction: float = 0.25
    """Initial standard deviation as a fraction of the range high − low."""

    def __post_init__(self) -> None:
        require(
            *((False, problem) for problem in check_bounds(self.low, self.high)),
            (self.horizon >= 1, f"need horizon >= 1, got {self.horizon}"),
            (
                1 <= self.num_elites <= self.num_candidates,
                f"need 1 <= num_elites <= num_candidates, got {self.num_elites} and {self.num_candidates}",
            ),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
            (0 <= self.momentum < 1, f"need 0 <= momentum < 1, got {self.momentum}"),
            (
                0 < self.initial_std_fraction < math.inf,
                f"need initial_std_fraction finite and > 0, got {self.initial_std_fraction}",
            ),
        )

    def init(self) -> CEMState:
        """Mid-range, with the initial variance."""
        return CEMState(mid_range_plan(self.low, self.high, self.horizon), self._initial_variance())

    def ask(self, state: CEMState, *, generator: torch.Generator) -> Tensor:
        """`num_candidates` draws [C, H, A] from the truncated normal."""
        shape = (self.num_candidates, *state.mean.shape)
        uniform = torch.rand(shape, generator=generator, dtype=self.low.dtype, device=self.low.device)
        return _truncated_normal(uniform, state.mean, state.variance.sqrt(), self.low, self.high)

    def tell(self, state: CEMState, plans: Tensor, scores: Tensor) -> CEMState:
        """Move mean and variance towards those of the elites; the variance of a single elite is 0."""
        check_told(plans, scores, self.horizon, len(self.low))
        require(
            (len(plans) >= self.num_elites, f"need at least num_elites = {self.num_elites} plans, got {len(plans)}")
        )
        elites = plans.index_select(0, scores.topk(self.num_elites).indices)
        mean = torch.lerp(elites.mean(dim=0), state.mean, self.momentum).clamp(self.low, self.high)
        variance = torch.lerp(elites.var(dim=0, correction=0), state.variance, self.momentum)
        return CEMState(mean, variance)

    def shift(self, state: CEMState) -> CEMState:
        """The mean one step later, with the initial variance."""
        return CEMState(shift_plan(state.mean, self.low, self.high), self._initial_variance())

    def _initial_variance(self) -> Tensor:
        return (self.initial_std_fraction * (self.high - self.low)).square().expand(self.horizon, -1).clone()


def _truncated_normal(uniform: Tensor, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Quantile of N(mean, std²) truncated to [low, high] at `uniform`, for a mean within the bounds; std may be 0.

    The interval's ends lie on either side of the mean, so that erf and its inverse lose no digits there, however wide
    or narrow the normal is against the bounds; Φ would, near 1.
    """
    width = math.sqrt(2) * torch.where(std == 0, 1, std)
    lowest, highest = torch.erf((low - mean) / width), torch.erf((high - mean) / width)
    almost_one = 1 - torch.finfo(uniform.dtype).eps / 2  # erfinv(1) is infinite
    z = math.sqrt(2) * torch.erfinv(torch.lerp(lowest, highest, uniform).clamp(-almost_one, almost_one))
    return (mean + std * z).clamp(low, high)
