"""MPC by iLQR: the "second order LQR-like method" of the lecture, on the expected dynamics.

    s' = f(s, a) = (1/K) Σ_k mean(s, a, θ_k),  θ_k ~ p(θ | D),  drawn anew for each plan

A plan is worth its return under f: neither noise nor what the θ disagree about counts, so no objective but the mean is
served. `MPCAgent.replan` comes here when its planner is `ILQR`. Source: planners/ilqr.py.
Axes: K parameter samples, B points, S state (O with a learned reward), A action.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.planners.differentiable_model import Step
from bayes_mbrl.planners.ilqr import ILQR, ILQRState
from bayes_mbrl.rollout import LARGEST_RETURN


def replan_by_ilqr(
    planner: ILQR,
    state: ILQRState,
    observation: Tensor,
    *,
    posterior: Posterior,
    dynamics: Dynamics,
    reward: RewardFunction,
    termination: TerminationFunction | None,
    num_theta: int,
    divergence_return: float,
    generator: torch.Generator,
) -> ILQRState:
    """The planner's state with the best plan from the observation [S]; see `ILQR.solve`.

    A step in which the expected dynamics diverges has `divergence_return` as its reward.
    """
    start = torch.cat([observation, observation.new_zeros(dynamics.output_dim - len(observation))])
    found, _ = planner.solve(
        state,
        start,
        step=expected_dynamics(dynamics, posterior.sample(num_theta, generator=generator), num_theta),
        reward=_or_penalty(reward, divergence_return),
        termination=termination,
        generator=generator,
    )
    return found


def expected_dynamics(dynamics: Dynamics, theta: Mapping[str, Tensor], num_theta: int) -> Step:
    """(states [B, O], actions [B, A]) → (1/K) Σ_k mean(s, a, θ_k) [B, O], for the samples {name: [K, ...]}."""

    def step(states: Tensor, actions: Tensor) -> Tensor:
        mean, _ = dynamics.predict(theta, states.expand(num_theta, *states.shape), actions)
        return mean.mean(dim=0)

    return step


def _or_penalty(reward: RewardFunction, divergence_return: float) -> RewardFunction:
    def checked(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        gained = reward(state, action, next_state)
        sound = next_state.isfinite().all(-1) & (gained.abs() <= LARGEST_RETURN)  # NaN is not
        return torch.where(sound, gained, divergence_return)

    return checked


def check_slope(reward: RewardFunction, state_dim: int, action_dim: int) -> None:
    """Raise ValueError where a reward depends on neither state nor action in a way that has a derivative."""
    state, action = torch.zeros(1, state_dim, requires_grad=True), torch.zeros(1, action_dim, requires_grad=True)
    if not reward(state, action, state).requires_grad:
        raise ValueError(
            "the reward is constant but for jumps, so that its derivative says nothing: take a planner that needs "
            "scores alone, like cem"
        )
