"""s' = f(s, a) as the environments compute it, in torch: for oracles (a planner on the true dynamics) and for tests.

Shapes: state [..., S], action [..., A] → next_state [..., S], in the dtype of state; the leading axes of action may be
fewer, as long as they broadcast against those of state.
Source: gymnasium 1.4, `envs/classic_control`. Checked against the real environments.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bayes_mbrl.environments import linear_gaussian

StepFunction = Callable[[Tensor, Tensor], Tensor]
"""(state [..., S], action [..., A]) → next_state [..., S]"""


def pendulum_step(state: Tensor, action: Tensor) -> Tensor:
    """θ̇' = clip(θ̇ + (15 sin θ + 3 u) 0.05, ±8), θ' = θ + 0.05 θ̇'. State (cos θ, sin θ, θ̇)."""
    sin = state[..., 1].contiguous()
    torque = action[..., 0].clamp(-2.0, 2.0)
    speed = (state[..., 2] + (15.0 * sin + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
    angle = torch.atan2(sin, state[..., 0].contiguous()) + 0.05 * speed
    return torch.stack([angle.cos(), angle.sin(), speed], dim=-1)


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
    position = state[..., 0]
    push = 0.0015 * action[..., 0].clamp(-1.0, 1.0) - 0.0025 * (3.0 * position).cos()
    velocity = (state[..., 1] + push).clamp(-0.07, 0.07)
    unbounded = position + velocity
    velocity = torch.where(unbounded <= -1.2, velocity.clamp(min=0.0), velocity)
    return torch.stack([unbounded.clamp(-1.2, 0.6), velocity], dim=-1)


def linear_gaussian_step(state: Tensor, action: Tensor) -> Tensor:
    """The mean A s + B a; the environment adds noise of standard deviation `linear_gaussian.NOISE_STD`."""
    transition = torch.as_tensor(linear_gaussian.TRANSITION_MATRIX, dtype=state.dtype, device=state.device)
    control = torch.as_tensor(linear_gaussian.CONTROL_MATRIX, dtype=state.dtype, device=state.device)
    return state @ transition.mT + action @ control.mT


KNOWN_STEPS: Mapping[str, StepFunction] = {
    "Pendulum-v1": pendulum_step,
    "ContinuousCartPole-v0": continuous_cartpole_step,
    "MountainCarContinuous-v0": mountain_car_step,
    "LinearGaussian-v0": linear_gaussian_step,
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
