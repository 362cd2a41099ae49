"""Cart-pole with a continuous force: Gymnasium's physics, limits and pictures, force 10 a for a in [−1, 1].

Differs from CartPole-v1: the action, an episode limit of 200 steps (given at registration), and a reward of 1 for
every step, also for one that is taken after the end. Source: gymnasium 1.4, `envs/classic_control/cartpole.py`.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray


class ContinuousCartPole(CartPoleEnv):
    """State (x, ẋ, θ, θ̇) in m, m/s, rad, rad/s: float64 inside, observed as float32; starts uniform in ±0.05."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One Euler step of 0.02 s under an action [1]; terminates when |x| > 2.4 m or |θ| > 12 degrees."""
        assert self.state is not None, "reset comes before step"
        x, x_dot, theta, theta_dot = self.state
        force = self.force_mag * float(np.clip(action[0], -1.0, 1.0))
        cos, sin = np.cos(theta), np.sin(theta)
        temp = (force + self.polemass_length * np.square(theta_dot) * sin) / self.total_mass
        theta_acc = (self.gravity * sin - cos * temp) / (
            self.length * (4.0 / 3.0 - self.masspole * np.square(cos) / self.total_mass)
        )
        x_acc = temp - self.polemass_length * theta_acc * cos / self.total_mass
        x, x_dot = x + self.tau * x_dot, x_dot + self.tau * x_acc
        theta, theta_dot = theta + self.tau * theta_dot, theta_dot + self.tau * theta_acc
        self.state = np.array((x, x_dot, theta, theta_dot), dtype=np.float64)
        terminated = bool(abs(x) > self.x_threshold or abs(theta) > self.theta_threshold_radians)
        return self.state.astype(np.float32), 1.0, terminated, False, {}
