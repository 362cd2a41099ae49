"""The lecture's four steps: what a plan is worth under p(θ | D).

Axes: K parameter samples, M noise draws, C candidate plans, H horizon, S state, A action.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction, check_per_state
from bayes_mbrl.inference.base import Posterior, Theta
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers
from bayes_mbrl.planners.base import require
from bayes_mbrl.planners.objectives import FailureObjective, Objective, check_failure
from bayes_mbrl.planners.propagation import Propagation, carry, ts_1, ts_infinity

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
    Raises ValueError where plans, state, K or M are not as said, a number of the state is not finite (looked at on the
    CPU only, elsewhere that would wait), and where a function does not return one number, or bool, for each state.
    """
    check_failure(objective, failure)
    check_arguments(plans, state, num_theta, num_noise)
    reward = _checked("reward", reward)
    termination = termination and _checked("termination", termination)
    failure = failure and _checked("failure", failure)
    if draws is None:
        theta = posterior.sample(num_theta, generator=generator)  # 1. θ ~ p(θ | D)
        draws = Draws(theta, *draw_noise(plans.shape[1], num_theta, num_noise, dynamics, state, generator=generator))
    scratch = NO_SCRATCH if torch.is_grad_enabled() else Buffers()
    sample, take = dynamics.sampler(draws.theta, draws.noise, scratch=scratch, bf16=bf16), scratch.take
    living = _begin_anew(state) if torch.is_grad_enabled() and termination is not None else _as_they_are
    apart = propagation in (ts_infinity, ts_1)  # else the dead count in what the living become
    zero, returns, failures = state.new_zeros(()), [], []
    particles = draws.mixing.shape[1:3]
    for chunk in torch.split(plans, chunk_size(len(plans), max_particles // particles.numel())):
        states = state.expand(*particles, len(chunk), -1)
        total, alive = state.new_zeros(states.shape[:-1]), state.new_ones(states.shape[:-1], dtype=torch.bool)
        failed = torch.zeros_like(alive)
        for t, (action, mixing) in enumerate(zip(chunk.unbind(1), draws.mixing.unbind(0), strict=True)):
            following = sample(t, living(states, alive) if apart else states, action)  # 2. s' ~ p(s' | s, a, θ)
            check = torch.sum(following, -1, out=take("check", alive.shape, zero))  # 0 times it is 0, or NaN
            out = take("gained", alive.shape, zero)
            rewards = reward(living(states, alive), action, living(following, alive))
            gained = torch.add(rewards, check, alpha=0, out=out)
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


def check_arguments(plans: Tensor, state: Tensor, num_theta: int, num_noise: int) -> None:
    """Raise ValueError where they are not as `evaluate_plans` says."""
    require(
        (
            plans.ndim == 3 and plans.numel() > 0 and plans.is_floating_point(),
            f"need plans [C, H, A] of floats with C, H and A >= 1, got {plans.dtype} {list(plans.shape)}",
        ),
        (
            state.ndim == 1 and len(state) > 0 and state.is_floating_point(),
            f"need one state [S] of floats, got {state.dtype} {list(state.shape)}",
        ),
        (num_theta >= 1 and num_noise >= 1, f"need num_theta and num_noise >= 1, got {num_theta} and {num_noise}"),
    )
    if state.device.type == "cpu" and not bool(state.isfinite().all()):
        raise ValueError(f"need a state of finite numbers, got {state.tolist()}: look at what was observed")


def _checked(what: str, function: RewardFunction) -> RewardFunction:
    """The function, whose results are held against the shape of the states: nothing that is computed or waited for."""

    def checked(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        got = function(state, action, next_state)
        check_per_state(what, got, next_state.shape[:-1])
        return got

    return checked


def _as_they_are(states: Tensor, alive: Tensor) -> Tensor:
    return states


def _begin_anew(start: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """For gradients, which the dead would make NaN, though nothing of theirs counts: 0 times the slope of a NaN is NaN.

    (states [K, M, C, S], alive [K, M, C]) → the states, and `start` in the place of the dead.
    """

    def living(states: Tensor, alive: Tensor) -> Tensor:
        there = torch.nn.functional.pad(start.detach(), (0, states.shape[-1] - len(start)))  # of a learned reward
        return torch.where(alive[..., None], states, there)

    return living


def chunk_size(count: int, at_most: int) -> int:
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
