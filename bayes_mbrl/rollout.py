"""The lecture's four steps: what a plan is worth under p(θ | D).

Axes: K parameter samples, M noise draws, C candidate plans, H horizon, S state, A action.
"""

import dataclasses
import math

import torch
from torch import Tensor

from bayes_mbrl.dynamics.base import Dynamics, Sampler
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers, Scratch
from bayes_mbrl.planners.objectives import FailureObjective, Objective, check_failure
from bayes_mbrl.planners.propagation import Propagation, carry, distribution_sampling, ts_infinity

DIVERGENCE_RETURN = -1e6
"""Return of a particle whose state or reward overflowed, unless the caller knows a number that suits the task."""
LARGEST_RETURN = 1e15
"""A return beyond this diverged too: it is finite still, but its variance in an objective would not be."""


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
    divergence_return: float = DIVERGENCE_RETURN,
    max_particles: int = 2**13,
    bf16: bool = False,
    finalists: float = 1.0,
) -> Tensor:
    """Scores [C] of the plans [C, H, A] from the state [S]: the objective of their returns [K, M, C].

    All candidates meet the same θ and the same noise (common random numbers), so a score does not depend on its
    neighbours. A predicted termination ends the sum of rewards. A particle that diverges, to NaN or infinity while
    alive, gets `divergence_return` as its whole return before anything is averaged; a lower return counts as this,
    so that no plan gains by diverging. A `FailureObjective` is told which particles diverged or, while alive, met a
    transition of which `failure` is true: it needs that function, and no other objective may have one. Gradients flow
    to plans and θ under grad mode; under `torch.no_grad()` the horizon loop works in preallocated buffers, and memory
    is bounded by taking the candidates in chunks of about `max_particles` / (K·M). `bf16`: see `Dynamics.sampler`.

    With `finalists` below 1 all candidates meet a third of the θ first, and only this share of them, the best so far,
    the others: finalists get the score that they would have got anyway, and the rest, which is below the last finalist
    by what was seen, its score so far or that of the last finalist, whichever is lower.
    Source: lecture, "How to plan with uncertainty".
    """
    check_failure(objective, failure)
    check_finalists(finalists, propagation)
    theta = posterior.sample(num_theta, generator=generator)  # 1. θ ~ p(θ | D)
    noise, mixing = draw_noise(plans.shape[1], num_theta, num_noise, dynamics, state, generator=generator)

    def outcomes(plans: Tensor, of: slice) -> tuple[Tensor, Tensor]:
        """Returns and failures [K', M, C] with these θ."""
        scratch = NO_SCRATCH if torch.is_grad_enabled() else Buffers()
        theta_now, noise_now = {name: value[of] for name, value in theta.items()}, noise[:, of]
        sample = dynamics.sampler(theta_now, noise_now, scratch=scratch, bf16=bf16)
        chunks = torch.split(plans, _chunk_size(len(plans), max_particles // (noise_now.shape[1] * num_noise)))
        rollout = _Rollout(sample, reward, termination, failure, propagation, divergence_return, scratch)
        ends = [rollout.follow(chunk, state, mixing[:, of]) for chunk in chunks]
        returns, failed = (torch.cat(parts, dim=-1) for parts in zip(*ends, strict=True))
        return returns, failed

    def score(returns: Tensor, failed: Tensor) -> Tensor:
        """4. repeat 1 to 3, over [K, M], and average."""
        return objective(returns, failed) if isinstance(objective, FailureObjective) else objective(returns)

    num_finalists, first = math.ceil(finalists * len(plans)), max(1, num_theta // 3)
    if num_finalists >= len(plans) or first == num_theta:
        return score(*outcomes(plans, slice(None)))
    seen = outcomes(plans, slice(first))
    scores = score(*seen)
    best = scores.topk(num_finalists).indices
    rest = outcomes(plans.index_select(0, best), slice(first, None))
    final = score(
        *(torch.cat([before.index_select(-1, best), after]) for before, after in zip(seen, rest, strict=True))
    )
    return torch.minimum(scores, final.min()).index_copy(0, best, final)


def _chunk_size(count: int, at_most: int) -> int:
    """Of equal chunks of `count` plans; where they are large a multiple of 16, since rows of a matrix that begin at odd
    places in memory cost a quarter more."""
    size = math.ceil(count / math.ceil(count / max(1, at_most)))
    return math.ceil(size / 16) * 16 if size > 64 else size


def check_finalists(finalists: float, propagation: Propagation) -> None:
    """Raise ValueError where some of the θ alone cannot be asked."""
    if not 0 < finalists <= 1:
        raise ValueError(f"need 0 < finalists <= 1, a share of the candidates, got {finalists}")
    if finalists < 1 and propagation not in (ts_infinity, distribution_sampling):
        raise ValueError(
            "finalists below 1 is for propagations that keep the θ of a particle, ts-infinity and "
            f"distribution-sampling, got {getattr(propagation, '__name__', propagation)}: write rollout.finalists=1"
        )


@dataclasses.dataclass(frozen=True)
class _Rollout:
    """What happens to a plan, with θ bound."""

    sample: Sampler
    reward: RewardFunction
    termination: TerminationFunction | None
    failure: TerminationFunction | None
    propagation: Propagation
    divergence_return: float
    scratch: Scratch

    def follow(self, plans: Tensor, state: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Returns and failures [K, M, C] of plans [C, H, A], with the noise `mixing` [H, K, M, 1, S] to propagate."""
        take, zero = self.scratch.take, state.new_zeros(())
        states = state.expand(*mixing.shape[1:3], len(plans), -1)
        total, alive = state.new_zeros(states.shape[:-1]), state.new_ones(states.shape[:-1], dtype=torch.bool)
        failed = torch.zeros_like(alive)
        for step, (action, mixing_now) in enumerate(zip(plans.unbind(1), mixing.unbind(0), strict=True)):
            following = self.sample(step, states, action)  # 2. s' ~ p(s' | s, a, θ)
            check = torch.sum(following, -1, out=take("check", alive.shape, zero))  # 0 times it is 0, or NaN
            out = take("gained", alive.shape, zero)
            gained = torch.add(self.reward(states, action, following), check, alpha=0, out=out)
            if self.termination is not None:
                gained = torch.where(alive, gained, zero, out=out)
            total = torch.add(total, gained, out=take("total", alive.shape, zero))  # 3. R = Σ r(s, a)
            if self.failure is not None:
                failing = self.failure(states, action, following)
                failing = torch.logical_and(alive, failing, out=take("failing", alive.shape, alive))
                failed = torch.logical_or(failed, failing, out=take("failed", alive.shape, alive))
                failed = carry(self.propagation, failed, mixing_now)
            if self.termination is not None:
                ended = self.termination(states, action, following)
                alive = torch.gt(alive, ended, out=take("alive", alive.shape, alive))
            states = self.propagation(following, mixing_now)  # TS∞ nothing; TS1 shuffle; E, DS, MM
            total, alive = (carry(self.propagation, values, mixing_now) for values in (total, alive))
        sound = total.abs() <= LARGEST_RETURN  # NaN is not
        returns = torch.where(sound, total, self.divergence_return).clamp(min=self.divergence_return)
        return returns, failed | (returns <= self.divergence_return)


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
