"""How much of what a plan may return is ignorance and how much is noise: Var[R] = Var_θ(E[R | θ]) + E_θ(Var[R | θ]).

    parts = split_plan_returns(plan[None], state, posterior=..., dynamics=..., reward=..., num_theta=50, num_noise=10)
    parts.variance.epistemic[-1].sqrt()   # in units of reward

Source: the decomposition of Depeweg et al. (2018), eq. 10, of whole returns in place of predictions.
Axes: H horizon, K parameter samples, M noise draws, C candidate plans, S state, A action.
"""

import dataclasses

import torch
from torch import Tensor

from bayes_mbrl.analysis.uncertainty import VarianceSplit, split_return_variance
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.rollout import DIVERGENCE_RETURN, LARGEST_RETURN, draw_noise


@dataclasses.dataclass(frozen=True)
class PlanReturnSplit:
    """Returns of plans and their variance in two parts, along the horizon; the last row [-1] is of whole plans."""

    mean: Tensor
    """[H, C] expected return so far, in units of reward."""
    variance: VarianceSplit
    """[H, C] of the return so far, in squared units of reward."""
    diverged: Tensor
    """[H, C] share of the K·M trajectories that had diverged. Above 0 the mean and the split say nothing of the task
    but how many did: each counts as the `divergence_return`."""


@torch.no_grad()
def split_plan_returns(
    plans: Tensor,
    state: Tensor,
    *,
    posterior: Posterior,
    dynamics: Dynamics,
    reward: RewardFunction,
    termination: TerminationFunction | None = None,
    num_theta: int,
    num_noise: int,
    generator: torch.Generator,
    divergence_return: float = DIVERGENCE_RETURN,
    clamp: bool = True,
) -> PlanReturnSplit:
    """The split for the plans [C, H, A] from the state [S]; see `plan_returns`, for the clamp `split_return_variance`.

    An `MPCAgent` has all that is asked for under the same names. Of K samples a standard deviation is known within
    about 1 / √(2 (K − 1)) of itself: 10 % for K = 50.
    Raises ValueError when num_noise < 2.
    """
    returns = plan_returns(
        plans,
        state,
        posterior=posterior,
        dynamics=dynamics,
        reward=reward,
        termination=termination,
        num_theta=num_theta,
        num_noise=num_noise,
        generator=generator,
        divergence_return=divergence_return,
    )
    diverged = (returns <= divergence_return).to(returns.dtype).mean((1, 2))
    return PlanReturnSplit(returns.mean((1, 2)), split_return_variance(returns, clamp=clamp), diverged)


@torch.no_grad()
def plan_returns(
    plans: Tensor,
    state: Tensor,
    *,
    posterior: Posterior,
    dynamics: Dynamics,
    reward: RewardFunction,
    termination: TerminationFunction | None = None,
    num_theta: int,
    num_noise: int,
    generator: torch.Generator,
    divergence_return: float = DIVERGENCE_RETURN,
    max_particles: int = 2**13,
) -> Tensor:
    """Returns so far [H, K, M, C], Σ of the rewards of steps 1..h, of the plans [C, H, A] from the state [S].

    Each row k is of one θ_k, held for the whole trajectory (TS∞), with noise of its own for each m; all candidates meet
    the same. The last step's are the returns of `rollout.evaluate_plans` under TS∞ and the same generator: a predicted
    termination ends the sum, and from the step in which a particle diverges its return is `divergence_return`, below
    which none counts. Candidates are taken in chunks of about `max_particles` / (K·M).
    """
    theta = posterior.sample(num_theta, generator=generator)
    noise, _ = draw_noise(plans.shape[1], num_theta, num_noise, dynamics, state, generator=generator)
    chunks = []
    for chunk in torch.split(plans, max(1, max_particles // (num_theta * num_noise))):
        states = state.expand(num_theta, num_noise, len(chunk), -1)
        total, alive = state.new_zeros(states.shape[:-1]), state.new_ones(states.shape[:-1], dtype=torch.bool)
        so_far = []
        for action, noise_now in zip(chunk.unbind(1), noise, strict=True):
            following = dynamics.sample(theta, states, action, noise_now)
            gained = torch.where(following.isfinite().all(-1), reward(states, action, following), torch.nan)
            total = torch.where(alive, total + gained, total)
            if termination is not None:
                alive = alive & ~termination(states, action, following)
            sound = total.abs() <= LARGEST_RETURN  # NaN is not, and stays
            so_far.append(torch.where(sound, total, divergence_return).clamp(min=divergence_return))
            states = following
        chunks.append(torch.stack(so_far))
    return torch.cat(chunks, dim=-1)
