"""The lecture's four steps: what a plan is worth under p(θ | D).

Axes: K parameter samples, M noise draws, C candidate plans, H horizon, S state, A action.
"""

import dataclasses
import math

import torch
from torch import Tensor

from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.inference.base import Posterior, Theta
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers
from bayes_mbrl.planners.objectives import FailureObjective, Objective, check_failure
from bayes_mbrl.planners.propagation import Propagation, carry, ts_infinity

DIVERGENCE_RETURN = -1e6
"""Return of a particle whose state or reward overflowed, unless the caller knows a number that suits the task."""
LARGEST_RETURN = 1e15
"""A return beyond this diverged too: it is finite still, but its variance in an objective would not be."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """All that is random in a rollout, the same for every candidate (common random numbers)."""

    theta: Theta
    """{name: [K, ...]}"""
    noise: Tensor
    """[H, K, M, 1, S] of the dynamics; the 1 stands for the candidates"""
    mixing: Tensor
    """[H, K, M, 1, S], standard normal, of the propagation"""

    def of(self, some: slice) -> "Draws":
        """Those with some of the θ."""
        theta = {name: values[some] for name, values in self.theta.items()}
        return Draws(theta, self.noise[:, some], self.mixing[:, some])


def evaluate_plans(
    plans: Tensor,
    state: Tensor,
    *,
    posterior: Posterior,
    dynamics: Dynamics,
    reward: RewardFunction,
    objective: Objective | FailureObjective,
    termination: TerminationFunction | None = None,
    failure: TerminationFunction | None = None,
    propagation: Propagation = ts_infinity,
    num_theta: int,
    num_noise: int = 1,
    generator: torch.Generator,
    draws: Draws | None = None,
    divergence_return: float = DIVERGENCE_RETURN,
    max_particles: int = 2**13,
    bf16: bool = False,
) -> Tensor:
    """Scores [C] of the plans [C, H, A] from the state [S]: the objective of their returns [K, M, C].

    All candidates meet the same θ and the same noise (common random numbers), so a score does not depend on its
    neighbours. A predicted termination ends the sum of rewards. A particle that diverges, to NaN or infinity while
    alive, gets `divergence_return` as its whole return before anything is averaged; a lower return counts as this,
    so that no plan gains by diverging. A `FailureObjective` is told which particles diverged or, while alive, met a
    transition of which `failure` is true: it needs that function, and no other objective may have one. Gradients flow
    to plans and θ under grad mode; under `torch.no_grad()` the horizon loop works in preallocated buffers, and memory
    is bounded by taking the candidates in chunks of about `max_particles` / (K·M). `draws` were made before, in place
    of new ones; `bf16`: see `Dynamics.sampler`. Source: lecture, "How to plan with uncertainty".
    """
    check_failure(objective, failure)
    if draws is None:
        theta = posterior.sample(num_theta, generator=generator)  # 1. θ ~ p(θ | D)
        draws = Draws(theta, *draw_noise(plans.shape[1], num_theta, num_noise, dynamics, state, generator=generator))
    scratch = NO_SCRATCH if torch.is_grad_enabled() else Buffers()
    sample, take = dynamics.sampler(draws.theta, draws.noise, scratch=scratch, bf16=bf16), scratch.take
    zero, returns, failures = state.new_zeros(()), [], []
    particles = draws.mixing.shape[1:3]
    for chunk in torch.split(plans, _chunk_size(len(plans), max_particles // particles.numel())):
        states = state.expand(*particles, len(chunk), -1)
        total, alive = state.new_zeros(states.shape[:-1]), state.new_ones(states.shape[:-1], dtype=torch.bool)
        failed = torch.zeros_like(alive)
        for t, (action, mixing) in enumerate(zip(chunk.unbind(1), draws.mixing.unbind(0), strict=True)):
            following = sample(t, states, action)  # 2. s' ~ p(s' | s, a, θ)
            check = torch.sum(following, -1, out=take("check", alive.shape, zero))  # 0 times it is 0, or NaN
            out = take("gained", alive.shape, zero)
            gained = torch.add(reward(states, action, following), check, alpha=0, out=out)
            if termination is not None:
                gained = torch.where(alive, gained, zero, out=out)
            total = torch.add(total, gained, out=take("total", alive.shape, zero))  # 3. R = Σ r(s, a)
            if failure is not None:
                failing = torch.logical_and(
                    alive, failure(states, action, following), out=take("failing", alive.shape, alive)
                )
                failed = torch.logical_or(failed, failing, out=take("failed", alive.shape, alive))
                failed = carry(propagation, failed, mixing)
            if termination is not None:
                ended = termination(states, action, following)
                alive = torch.gt(alive, ended, out=take("alive", alive.shape, alive))
            states = propagation(following, mixing)  # TS∞ nothing; TS1 shuffle; E, DS, MM
            total, alive = (carry(propagation, values, mixing) for values in (total, alive))
        sound = total.abs() <= LARGEST_RETURN  # NaN is not
        returns.append(torch.where(sound, total, divergence_return).clamp(min=divergence_return))
        failures.append(failed | (returns[-1] <= divergence_return))
    outcomes = torch.cat(returns, dim=-1)
    if isinstance(objective, FailureObjective):
        return objective(outcomes, torch.cat(failures, dim=-1))
    return objective(outcomes)  # 4. repeat 1 to 3, over [K, M], and average


def _chunk_size(count: int, at_most: int) -> int:
    """Of equal chunks of `count` plans; where they are large a multiple of 16, since rows of a matrix that begin at odd
    places in memory cost a quarter more."""
    size = math.ceil(count / math.ceil(count / max(1, at_most)))
    return math.ceil(size / 16) * 16 if size > 64 else size


def draw_noise(
    horizon: int, num_theta: int, num_noise: int, dynamics: Dynamics, state: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noise of a rollout: as the dynamics' likelihood has it, and standard normal for the propagation [H, K, M, 1, S].

    The 1 stands for the candidates: all meet the same noise. Every (θ, m) has its own.
    """
    shape = (horizon, num_theta, num_noise, 1, dynamics.output_dim)
    noise, mixing = (state.new_empty(shape).normal_(generator=generator) for _ in range(2))
    return dynamics.likelihood.noise(noise), mixing


def imagine(
    plan: Tensor,
    state: Tensor,
    *,
    posterior: Posterior,
    dynamics: Dynamics,
    num_theta: int,
    num_noise: int = 1,
    generator: torch.Generator,
) -> Tensor:
    """Trajectories [K, M, H + 1, S] under the plan [H, A] from the state [S], each with one θ (TS∞): what the model
    believes could happen, for a person to look at. They start with `state`; a learned reward is left out.
    """
    theta = posterior.sample(num_theta, generator=generator)
    noise, _ = draw_noise(len(plan), num_theta, num_noise, dynamics, state, generator=generator)
    states = [state.expand(num_theta, num_noise, 1, -1)]
    for action, noise_now in zip(plan, noise, strict=True):
        states.append(dynamics.sample(theta, states[-1], action, noise_now))
    return torch.stack([s[..., 0, : len(state)] for s in states], dim=2)
