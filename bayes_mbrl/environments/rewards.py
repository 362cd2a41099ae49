"""r(s, a, s') and whether s' is terminal, as the environments themselves compute them.

Shapes: state and next_state [..., S], action [..., A] → [...]; the leading axes of action may be fewer, as long as they
broadcast against those of the states. A planner calls these on millions of states: few operations, nothing in place on
an argument, and gradients flow. Checked against the real environments in tests/bayes_mbrl/environments/test_rewards.py.
Source: gymnasium 1.4, `envs/classic_control` and `envs/mujoco`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bayes_mbrl.environments import linear_gaussian

RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A], next_state [..., S]) → reward [...]"""

TerminationFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A], next_state [..., S]) → bool [...]"""

CARTPOLE_POSITION_LIMIT = 2.4  # m
CARTPOLE_ANGLE_LIMIT = 0.20943951023931953  # rad: 12 degrees
INVERTED_PENDULUM_ANGLE_LIMIT = 0.2  # rad
MOUNTAIN_CAR_GOAL = 0.45


def never(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """False everywhere: only a time limit ends an episode."""
    return next_state.new_zeros(next_state.shape[:-1], dtype=torch.bool)


def pendulum_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−(θ² + 0.1 θ̇² + 0.001 u²) of the state before the step; θ in [−π, π], 0 upright; u is the clipped torque.

    State (cos θ, sin θ, θ̇ in rad/s), action in N m.
    """
    # On columns that lie apart in memory atan2 takes twenty times as long as on copies of them.
    angle = torch.atan2(state[..., 1].contiguous(), state[..., 0].contiguous())
    speed = state[..., 2]
    torque_cost = action[..., 0].clamp(-2.0, 2.0).square() * -0.001
    return torch.addcmul(torch.addcmul(torque_cost, speed, speed, value=-0.1), angle, angle, value=-1.0)


def mountain_car_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """100 at the goal, minus 0.1 a² (the action as given, not as clipped)."""
    force_cost = action[..., 0].square() * -0.1
    return torch.add(force_cost, mountain_car_termination(state, action, next_state), alpha=100.0)


def mountain_car_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Position >= 0.45 and velocity >= 0. State (position, velocity)."""
    return (next_state[..., 0] >= MOUNTAIN_CAR_GOAL).logical_and_(next_state[..., 1] >= 0.0)


def continuous_cartpole_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """1 for every step, the last one too."""
    return next_state.new_ones(next_state.shape[:-1])


def continuous_cartpole_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """|x| > 2.4 m or |θ| > 12 degrees. State (x, ẋ, θ, θ̇) in m and rad."""
    position, angle = next_state[..., 0], next_state[..., 2]
    return (position.abs() > CARTPOLE_POSITION_LIMIT).logical_or_(angle.abs() > CARTPOLE_ANGLE_LIMIT)


def inverted_pendulum_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """1 for every step that does not end the episode."""
    return inverted_pendulum_termination(state, action, next_state).logical_not_().to(next_state.dtype)


def inverted_pendulum_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """|θ| > 0.2 rad, or a number of s' is not finite. State (x, θ, ẋ, θ̇).

    A sum is finite where all of its terms are; it stands for the slower isfinite().all().
    """
    not_finite = next_state.sum(dim=-1).isfinite().logical_not_()
    return not_finite.logical_or_(next_state[..., 1].abs() > INVERTED_PENDULUM_ANGLE_LIMIT)


def reacher_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−‖fingertip − target‖ after the step − ‖a‖² (the action as given).

    The last two of the ten numbers of a state are the vector from the target to the fingertip, in m. Both weights are
    1: so says the code of Reacher-v5, while its documentation says 0.1 for the second.
    """
    distance = torch.hypot(next_state[..., 8].contiguous(), next_state[..., 9].contiguous())
    return torch.sub(action.square().sum(dim=-1).neg(), distance)


def linear_gaussian_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−(sᵀ Q s + aᵀ R a) of the state before the step."""
    state_cost = torch.as_tensor(linear_gaussian.STATE_COST, dtype=state.dtype, device=state.device)
    action_cost = torch.as_tensor(linear_gaussian.ACTION_COST, dtype=action.dtype, device=action.device)
    return -((state @ state_cost) * state).sum(dim=-1) - ((action @ action_cost) * action).sum(dim=-1)
