"""s' = f(s, a) as the environments compute it, in torch: for oracles (a planner on the true dynamics) and for tests.

Shapes: state [..., S], action [..., A] → next_state [..., S], in the dtype of state; the leading axes of action may be
fewer, as long as they broadcast against those of state.
Source: gymnasium 1.4, `envs/classic_control`. Checked against the real environments.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bayes_mbrl.environments import cartpole_swingup, linear_gaussian, obstacles, three_lanes

StepFunction = Callable[[Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A]) → next_state [..., S]"""


def pendulum_step(state: Tensor, action: Tensor) -> Tensor:
    """θ̇' = clip(θ̇ + (15 sin θ + 3 u) 0.05, ±8), θ' = θ + 0.05 θ̇'. State (cos θ, sin θ, θ̇)."""
    sin = state[..., 1].contiguous()
    torque = action[..., 0].clamp(-2.0, 2.0)
    speed = (state[..., 2] + (15.0 * sin + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
    angle = torch.atan2(sin, state[..., 0].contiguous()) + 0.05 * speed
    return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)


def cartpole_step(state: Tensor, action: Tensor) -> Tensor:
    """`continuous_cartpole_step` with all of the force to the left, action (1, 0), or to the right, (0, 1)."""
    return continuous_cartpole_step(state, action[..., 1:] - action[..., :1])


def continuous_cartpole_step(state: Tensor, action: Tensor) -> Tensor:
    """One Euler step of 0.02 s. State (x, ẋ, θ, θ̇); cart 1 kg, pole 0.1 kg and 1 m long, force 10 clip(a, ±1) N."""
    x_dot, theta, theta_dot = state[..., 1], state[..., 2], state[..., 3]
    cos, sin = theta.cos(), theta.sin()
    temp = (10.0 * action[..., 0].clamp(-1.0, 1.0) + 0.05 * theta_dot.square() * sin) / 1.1
    theta_acc = (9.8 * sin - cos * temp) / (0.5 * (4.0 / 3.0 - 0.1 * cos.square() / 1.1))
    x_acc = temp - 0.05 * theta_acc * cos / 1.1
    return state + 0.02 * torch.stack([x_dot, x_acc, theta_dot, theta_acc], dim=-1)


def mountain_car_step(state: Tensor, action: Tensor) -> Tensor:
    """v' = clip(v + 0.0015 clip(a, ±1) − 0.0025 cos 3x, ±0.07), x' = clip(x + v', −1.2, 0.6); a wall on the left."""
    return _rolled(state, 0.0015 * action[..., 0].clamp(-1.0, 1.0))


def discrete_mountain_car_step(state: Tensor, action: Tensor) -> Tensor:
    """The same with a push of −0.001, 0 or 0.001."""
    return _rolled(state, 0.001 * (action[..., 2] - action[..., 0]))


def _rolled(state: Tensor, push: Tensor) -> Tensor:
    position = state[..., 0]
    velocity = (state[..., 1] + push - 0.0025 * (3.0 * position).cos()).clamp(-0.07, 0.07)
    unbounded = position + velocity
    velocity = torch.where(unbounded <= -1.2, velocity.clamp(min=0.0), velocity)
    return torch.stack([unbounded.clamp(-1.2, 0.6), velocity], dim=-1)


def acrobot_step(state: Tensor, action: Tensor) -> Tensor:
    """One step of 0.2 s of the fourth-order Runge-Kutta method; a torque of −1, 0 or 1 N m between the two links.

    State (cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ̇₁, θ̇₂), the velocities bounded by 4π and 9π.
    """
    first, second = (torch.atan2(state[..., i + 1], state[..., i]) for i in (0, 2))
    start = torch.stack([first, second, state[..., 4], state[..., 5]], dim=-1)
    torque = action[..., 2] - action[..., 0]
    k1 = _acrobot_slope(start, torque)
    k2 = _acrobot_slope(start + 0.1 * k1, torque)
    k3 = _acrobot_slope(start + 0.1 * k2, torque)
    k4 = _acrobot_slope(start + 0.2 * k3, torque)
    end = start + 0.2 / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    first, second = end[..., 0], end[..., 1]
    speeds = end[..., 2].clamp(-4 * math.pi, 4 * math.pi), end[..., 3].clamp(-9 * math.pi, 9 * math.pi)
    return torch.stack([first.cos(), first.sin(), second.cos(), second.sin(), *speeds], dim=-1)


def _acrobot_slope(state: Tensor, torque: Tensor) -> Tensor:
    """d/dt of (θ₁, θ₂, θ̇₁, θ̇₂) for two links of 1 kg and 1 m, inertia 1 kg m². Source: Sutton & Barto, "book"."""
    first, second, first_speed, second_speed = state.unbind(-1)
    d1 = 3.5 + second.cos()
    d2 = 1.25 + 0.5 * second.cos()
    phi2 = 0.5 * 9.8 * (first + second).sin()
    phi1 = -0.5 * second.sin() * second_speed * (second_speed + 2.0 * first_speed) + 1.5 * 9.8 * first.sin() + phi2
    push = torque + d2 / d1 * phi1 - 0.5 * first_speed.square() * second.sin() - phi2
    second_acc = push / (1.25 - d2.square() / d1)
    first_acc = -(d2 * second_acc + phi1) / d1
    return torch.stack([first_speed, second_speed, first_acc, second_acc], dim=-1)


def cartpole_swingup_step(state: Tensor, action: Tensor) -> Tensor:
    """Five steps of 0.02 s of the fourth-order Runge-Kutta method. State (x, ẋ, θ, θ̇), force F = clip(a, ±10) N."""
    swing = cartpole_swingup
    force = action[..., 0].clamp(-swing.MAX_FORCE, swing.MAX_FORCE)
    seconds = swing.STEP_SECONDS / swing.NUM_SUBSTEPS
    for _ in range(swing.NUM_SUBSTEPS):
        k1 = _cartpole_slope(state, force)
        k2 = _cartpole_slope(state + 0.5 * seconds * k1, force)
        k3 = _cartpole_slope(state + 0.5 * seconds * k2, force)
        k4 = _cartpole_slope(state + seconds * k3, force)
        state = state + seconds / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return state


def _cartpole_slope(state: Tensor, force: Tensor) -> Tensor:
    """d/dt of (x, ẋ, θ, θ̇), θ = 0 hanging; by the mass matrix, where the environment has it solved by hand."""
    swing = cartpole_swingup
    _, speed, angle, spin = state.unbind(-1)
    moment = 0.5 * swing.POLE_MASS * swing.LENGTH
    inertia, mass = swing.POLE_MASS * swing.LENGTH**2 / 3.0, swing.CART_MASS + swing.POLE_MASS
    coupling = moment * angle.cos()
    push = force - swing.FRICTION * speed + moment * spin.square() * angle.sin()
    torque = -moment * swing.GRAVITY * angle.sin()
    determinant = mass * inertia - coupling.square()
    x_acc = (inertia * push - coupling * torque) / determinant
    angle_acc = (mass * torque - coupling * push) / determinant
    return torch.stack([speed, x_acc, spin, angle_acc], dim=-1)


def linear_gaussian_step(state: Tensor, action: Tensor) -> Tensor:
    """The mean A s + B a; the environment adds noise of standard deviation `linear_gaussian.NOISE_STD`."""
    transition = torch.as_tensor(linear_gaussian.TRANSITION_MATRIX, dtype=state.dtype, device=state.device)
    control = torch.as_tensor(linear_gaussian.CONTROL_MATRIX, dtype=state.dtype, device=state.device)
    return state @ transition.mT + action @ control.mT


def three_lanes_step(state: Tensor, action: Tensor) -> Tensor:
    """The mean of s': x + 0.2 a_x speed(y), y + 0.3 a_y. State (x, y) in m, action clipped to ±1."""
    y, control = state[..., 1], action.clamp(-1.0, 1.0)
    firm = torch.sigmoid((y - three_lanes.SWAMP_EDGE) / three_lanes.SWAMP_WIDTH)
    speed = (1 - three_lanes.SLOPE * torch.tanh(2 * y)) * firm
    ahead = state[..., 0] + three_lanes.ADVANCE * speed * control[..., 0]
    return torch.stack([ahead, y + three_lanes.SIDESTEP * control[..., 1]], dim=-1)


def obstacles_step(state: Tensor, action: Tensor) -> Tensor:
    """(x, y) + 0.1 clip(a, ±0.99) where that is free, else (x, y). State (x, y, goal x, goal y)."""
    moves = obstacles.STEP * action.clamp(-obstacles.LIMIT, obstacles.LIMIT)
    target = state[..., :2] + moves
    left, top, width, height = torch.from_numpy(obstacles.RECTANGLES.T).to(state)
    x, y = target[..., :1], target[..., 1:]
    inside = ((x >= left) & (x <= left + width) & (y <= top) & (y >= top - height)).any(-1, keepdim=True)
    blocked = inside | (target.abs() >= obstacles.LIMIT).any(-1, keepdim=True)
    return torch.cat([torch.where(blocked, state[..., :2], target), state[..., 2:]], dim=-1)


def three_lanes_noise_std(state: Tensor) -> Tensor:
    """Of s' given state [..., S]: gusts along x that depend on y, in m."""
    reach = (state[..., 1] / three_lanes.GUST_WIDTH).square()
    gust = three_lanes.QUIET_STD + three_lanes.GUST_STD * torch.exp(-reach)
    return torch.stack([gust, torch.full_like(gust, three_lanes.QUIET_STD)], dim=-1)


KNOWN_STEPS: Mapping[str, StepFunction] = {
    "Pendulum-v1": pendulum_step,
    "ContinuousCartPole-v0": continuous_cartpole_step,
    "CartPole-v1": cartpole_step,
    "MountainCarContinuous-v0": mountain_car_step,
    "MountainCar-v0": discrete_mountain_car_step,
    "Acrobot-v1": acrobot_step,
    "CartPoleSwingUp-v0": cartpole_swingup_step,
    "LinearGaussian-v0": linear_gaussian_step,
    "ThreeLanes-v0": three_lanes_step,
    "Obstacles-v0": obstacles_step,
}
"""By the name in `specs.ENVIRONMENTS`; what is missing here has no true step in torch."""

KNOWN_PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "Pendulum-v1": {
        "length": 1.0,
        "mass": 1.0,
        "gain": 1.0,
        "friction": 0.0,
        "gain_per_inertia": 3.0,
        "friction_per_inertia": 0.0,
    },
}
"""True values of what `dynamics/pendulum.py` names, by environment: to be drawn beside what was inferred."""
