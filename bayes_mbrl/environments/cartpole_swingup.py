"""A pole that hangs from a cart and has to be swung up and held there, by pushing the cart: the task of PILCO.

    (M + m) ẍ + m d (θ̈ cos θ − θ̇² sin θ) = F − b ẋ        M, m: cart and pole in kg; d: pivot to the pole's centre, m
    I θ̈ + m d (ẍ cos θ + g sin θ) = 0                     I: the pole's inertia about its pivot, kg m²

θ = 0 hangs, π stands; the tip is at (x + l sin θ, −l cos θ). The reward of a step lies in [0, 1] and saturates:
exp(−‖tip − (0, l)‖² / (2 · 0.25²) − 0.005 F²) of the state after it. 40 steps of 0.1 s (given at registration), force
F in ±10 N, the track without end.

Source: Deisenroth & Rasmussen, PILCO (2011), section 3.2, for the system (masses 0.5 kg, length 0.5 m, friction 0.1
N s/m, g = 9.82 m/s²), the width of the reward and the start, N(0, 0.1² I); the price of force is that of the Deep-PILCO
replication prob_mbrl. Integrated by the fourth-order Runge-Kutta method in steps of 0.02 s.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CART_MASS, POLE_MASS = 0.5, 0.5
"""kg"""
LENGTH = 0.5
"""m; a uniform rod: d = l / 2, I = m l² / 3"""
FRICTION = 0.1
"""N s/m, of the cart"""
GRAVITY = 9.82
"""m/s²"""
MAX_FORCE = 10.0
"""N"""
STEP_SECONDS, NUM_SUBSTEPS = 0.1, 5
REWARD_WIDTH = 0.25
"""m"""
FORCE_PRICE = 0.005
"""1/N²"""
START_STD = 0.1
"""Of each number of the first state, in its unit."""


def slope(state: Array, force: float, *, friction: float = FRICTION) -> Array:
    """d/dt of (x, ẋ, θ, θ̇) [4]; the equations above for a uniform rod, solved for the accelerations."""
    _, speed, angle, spin = state
    sin, cos = np.sin(angle), np.cos(angle)
    push = 4 * (force - friction * speed) + 2 * POLE_MASS * LENGTH * spin**2 * sin
    x_acc = (push + 3 * POLE_MASS * GRAVITY * sin * cos) / (4 * (CART_MASS + POLE_MASS) - 3 * POLE_MASS * cos**2)
    return np.array([speed, x_acc, spin, -1.5 * (x_acc * cos + GRAVITY * sin) / LENGTH])


def runge_kutta(state: Array, force: float, seconds: float, *, friction: float = FRICTION) -> Array:
    """The state [4] after one step of the fourth-order method under a constant force."""
    k1 = slope(state, force, friction=friction)
    k2 = slope(state + 0.5 * seconds * k1, force, friction=friction)
    k3 = slope(state + 0.5 * seconds * k2, force, friction=friction)
    k4 = slope(state + seconds * k3, force, friction=friction)
    following: Array = state + seconds / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return following


class CartPoleSwingUp(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """State (x, ẋ, θ, θ̇) in m, m/s, rad (not wrapped), rad/s; action [1] in N. Never terminates.

    The state is rounded to float32 after each step, so that what is observed is all there is.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium.Env)

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gymnasium.spaces.Box(-MAX_FORCE, MAX_FORCE, (1,), np.float32)
        self.state = np.zeros(4, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start hanging, nearly at rest."""
        super().reset(seed=seed)
        self.state = self.np_random.normal(0.0, START_STD, 4).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Push for 0.1 s; a force beyond the bounds is clipped."""
        force = float(np.clip(action[0], -MAX_FORCE, MAX_FORCE))
        state = self.state.astype(np.float64)
        for _ in range(NUM_SUBSTEPS):
            state = runge_kutta(state, force, STEP_SECONDS / NUM_SUBSTEPS)
        self.state = state.astype(np.float32)
        x, _, angle, _ = self.state.astype(np.float64)
        squared_distance = (x + LENGTH * np.sin(angle)) ** 2 + (LENGTH + LENGTH * np.cos(angle)) ** 2
        reward = float(np.exp(-squared_distance / (2 * REWARD_WIDTH**2) - FORCE_PRICE * force**2))
        return self.state.copy(), reward, False, False, {}
