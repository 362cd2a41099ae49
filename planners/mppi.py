"""MPPI: the plan is the mean of all candidates, weighted by the exponential of their scores.

Source: Williams et al., Information Theoretic MPC for Model-Based Reinforcement Learning (2017), algorithm 2, and for
noise filtered over time Nagabandi et al., Deep Dynamics Models for Learning Dexterous Manipulation (PDDM, 2019),
eq. 3-4. We differ in the temperature, which is relative to the spread of the scores, and by noise that shrinks from
one iteration to the next (`decay` 1: it does not).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_mbrl.planners.base import Planner, check_bounds, check_told, mid_range_plan, require, shift_plan


@dataclass(frozen=True, eq=False)
class MPPIState:
    """The plan so far."""

    plan: Tensor
    """[H, A], within bounds."""
    iteration: int
    """Of the present search: 0 .. num_iterations - 1."""


@dataclass(frozen=True, eq=False)
class MPPI(Planner[MPPIState]):
    """plan ← Σ_c w_c plan_c, w ∝ exp((score_c − max score) / (temperature · sd(scores))).

    Candidates are the plan plus normal noise, clipped to the bounds; the first one is the plan itself. `smoothing` is
    PDDM's filter n_t = smoothing · n_{t−1} + (1 − smoothing) · u_t, scaled back to the standard deviation of u, so
    that it changes how long a push lasts and not how strong it is; 0 is Williams' white noise.
    Raises ValueError on impossible settings, all of them at once.
    """

    low: Tensor
    high: Tensor
    horizon: int = 25
    num_candidates: int = 1000
    num_iterations: int = 30
    temperature: float = 0.15
    smoothing: float = 0.0
    decay: float = 0.9
    """Factor of the noise from one iteration to the next; a new search begins with all of it."""
    noise_std_fraction: float = 0.25
    """Standard deviation of the noise as a fraction of the range high − low."""

    def __post_init__(self) -> None:
        require(
            *((False, problem) for problem in check_bounds(self.low, self.high)),
            (self.horizon >= 1, f"need horizon >= 1, got {self.horizon}"),
            (self.num_candidates >= 2, f"need num_candidates >= 2 (one is the plan so far), got {self.num_candidates}"),
            (self.num_iterations >= 1, f"need num_iterations >= 1, got {self.num_iterations}"),
            (0 < self.temperature < math.inf, f"need temperature finite and > 0, got {self.temperature}"),
            (0 <= self.smoothing < 1, f"need 0 <= smoothing < 1, got {self.smoothing}"),
            (0 < self.decay <= 1, f"need 0 < decay <= 1, got {self.decay}"),
            (
                0 < self.noise_std_fraction < math.inf,
                f"need noise_std_fraction finite and > 0, got {self.noise_std_fraction}",
            ),
        )

    def init(self) -> MPPIState:
        """Mid-range."""
        return MPPIState(mid_range_plan(self.low, self.high, self.horizon), 0)

    def ask(self, state: MPPIState, *, generator: torch.Generator) -> Tensor:
        """The plan so far, then the plan plus noise: [C, H, A]."""
        shape = (self.num_candidates - 1, self.horizon, len(self.low))
        noise = torch.randn(shape, generator=generator, dtype=self.low.dtype, device=self.low.device)
        noise_std = self.noise_std_fraction * self.decay**state.iteration * (self.high - self.low)
        plans = torch.addcmul(state.plan, noise_std, _filtered(noise, self.smoothing)).clamp(self.low, self.high)
        return torch.cat([state.plan[None], plans])

    def tell(self, state: MPPIState, plans: Tensor, scores: Tensor) -> MPPIState:
        """The weighted mean of the plans; of equal scores the plain mean."""
        check_told(plans, scores, self.horizon, len(self.low))
        spread = scores.std(correction=0)
        weight = torch.softmax((scores - scores.max()) / (self.temperature * torch.where(spread > 0, spread, 1)), 0)
        plan = torch.einsum("c,cha->ha", weight.to(plans), plans).clamp(self.low, self.high)
        return MPPIState(plan, state.iteration + 1)

    def shift(self, state: MPPIState) -> MPPIState:
        """The plan one step later, with all of the noise again."""
        return MPPIState(shift_plan(state.plan, self.low, self.high), 0)


def _filtered(noise: Tensor, smoothing: float) -> Tensor:
    """A first-order low-pass filter over time of noise [C, H, A], whose variance stays 1 at every step."""
    if smoothing == 0:
        return noise
    steps = [noise[:, 0]]
    for fresh in noise.unbind(1)[1:]:
        steps.append(smoothing * steps[-1] + math.sqrt(1 - smoothing**2) * fresh)
    return torch.stack(steps, dim=1)
