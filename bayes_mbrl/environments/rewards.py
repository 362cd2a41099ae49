"""r(s, a, s') and whether s' is terminal, as the environments themselves compute them.

Shapes: state and next_state [..., S], action [..., A] → [...]; the leading axes of action may be fewer, as long as they
broadcast against those of the states. A planner calls these on millions of states: few operations, nothing in place on
an argument, and gradients flow. Checked against the real environments in tests/bayes_mbrl/environments/test_rewards.py.
Source: gymnasium 1.4, `envs/classic_control` and `envs/mujoco`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bayes_mbrl.environments import cartpole_swingup, linear_gaussian, obstacles

RewardFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A], next_state [..., S]) → reward [...]"""

TerminationFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A], next_state [..., S]) → bool [...]"""


def check_per_state(what: str, got: object, axes: Sequence[int]) -> None:
    """Raise ValueError unless `got`, of the function `what` for states [*axes, S], is one number, or bool, for each.

    A sum over the wrong axis would broadcast in silence. Looks at no number, so that no device is waited for.
    """
    kind = "number" if what == "reward" else "bool"
    if not isinstance(got, Tensor):
        raise ValueError(f"the {what} function should return a tensor, a {kind} for each state, got {got!r}")
    if got.shape != tuple(axes) or (kind == "bool") != (got.dtype == torch.bool):
        states, actions = ", ".join(map(str, axes)), axes[-1]
        raise ValueError(
            f"the {what} function should return a {kind} for each state, states [{states}, S] and actions "
            f"[{actions}, A] → [{states}], got {str(got.dtype).removeprefix('torch.')} {list(got.shape)}: reduce over "
            "the last axis alone"
        )


CARTPOLE_POSITION_LIMIT = 2.4  # m
CARTPOLE_ANGLE_LIMIT = 0.20943951023931953  # rad: 12 degrees
INVERTED_PENDULUM_ANGLE_LIMIT = 0.2  # rad
MOUNTAIN_CAR_GOAL = 0.45
DISCRETE_MOUNTAIN_CAR_GOAL = 0.5
LINK_LENGTH = 0.6  # m, of each of the two links of InvertedDoublePendulum-v5


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


def discrete_mountain_car_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−1 for every step, the last one too."""
    return next_state.new_full(next_state.shape[:-1], -1.0)


def discrete_mountain_car_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Position >= 0.5 and velocity >= 0. State (position, velocity)."""
    return (next_state[..., 0] >= DISCRETE_MOUNTAIN_CAR_GOAL).logical_and_(next_state[..., 1] >= 0.0)


def acrobot_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−1 for every step that does not end the episode."""
    return acrobot_termination(state, action, next_state).to(next_state.dtype).sub_(1.0)


def acrobot_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """The tip is higher than one link above the joint: −cos θ₁ − cos(θ₁ + θ₂) > 1.

    State (cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ̇₁, θ̇₂ in rad/s); θ₁ = 0 hangs down.
    """
    cos_first, sin_first, cos_second, sin_second = (next_state[..., i] for i in range(4))
    return -cos_first - (cos_first * cos_second - sin_first * sin_second) > 1.0


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


def inverted_double_pendulum_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """10 unless the episode ends, − 0.01 x² − (y − 2)² for the tip, − 10⁻³ ω₁² − 5·10⁻³ ω₂², after the step.

    Within 2·10⁻⁴ of the environment's as long as no velocity exceeds 10, where the observation is clipped. That y
    cannot be 2, with two links of 0.6 m, is the environment's own doing.
    """
    tip_x, tip_y = _double_pendulum_tip(next_state)
    ended = inverted_double_pendulum_termination(state, action, next_state)
    velocity_cost = 1e-3 * next_state[..., 6].square() + 5e-3 * next_state[..., 7].square()
    return torch.where(ended, 0.0, 10.0) - 0.01 * tip_x.square() - (tip_y - 2.0).square() - velocity_cost


def inverted_double_pendulum_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """The tip is at most 1 m high. State (x, sin θ₁, sin θ₂, cos θ₁, cos θ₂, ẋ, ω₁, ω₂, force of the limits on x)."""
    return _double_pendulum_tip(next_state)[1] <= 1.0


def _double_pendulum_tip(state: Tensor) -> tuple[Tensor, Tensor]:
    """(x, y) of the upper link's end, two [...]; θ₂ is relative to the lower link."""
    sin_first, sin_second, cos_first, cos_second = (state[..., i] for i in range(1, 5))
    sin_both = sin_first * cos_second + cos_first * sin_second
    cos_both = cos_first * cos_second - sin_first * sin_second
    return state[..., 0] + LINK_LENGTH * (sin_first + sin_both), LINK_LENGTH * (cos_first + cos_both)


def pusher_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """−½ ‖object − fingertip‖ − ‖object − goal‖ after the step − 0.1 ‖a‖² (the action as given).

    Of the 23 numbers of a state these are the last nine: fingertip, object and goal, each (x, y, z) in m.
    """
    tip, moved, goal = (next_state[..., i : i + 3] for i in (14, 17, 20))
    near, far = (torch.linalg.vector_norm(moved - other, dim=-1) for other in (tip, goal))
    return torch.sub(action.square().sum(dim=-1) * -0.1, 0.5 * near + far)


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


def cartpole_swingup_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """exp(−‖tip − (0, l)‖² / (2 · 0.25²) − 0.005 F²) after the step; F is the clipped force. State (x, ẋ, θ, θ̇)."""
    swing = cartpole_swingup
    x, angle = next_state[..., 0], next_state[..., 2].contiguous()
    force = action[..., 0].clamp(-swing.MAX_FORCE, swing.MAX_FORCE)
    across = torch.add(x, angle.sin(), alpha=swing.LENGTH)
    below = swing.LENGTH + swing.LENGTH * angle.cos()
    squared_distance = torch.addcmul(across.square(), below, below)
    nearness = squared_distance / (-2.0 * swing.REWARD_WIDTH * swing.REWARD_WIDTH)
    return torch.exp(nearness - swing.FORCE_PRICE * force.square())


def three_lanes_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Progress in x, in m."""
    return next_state[..., 0] - state[..., 0]


def obstacles_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Minus the distance to the goal after the move. State (x, y, goal x, goal y)."""
    distance: Tensor = torch.linalg.vector_norm(next_state[..., :2] - next_state[..., 2:4], dim=-1)
    return distance.neg()


def obstacles_termination(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Within 0.1 of the goal."""
    return obstacles_reward(state, action, next_state) > -obstacles.GOAL_RADIUS
