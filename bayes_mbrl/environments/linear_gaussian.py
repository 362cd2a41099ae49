"""s' = A s + B a + ε, ε ~ N(0, diag(noise_std²)), r = −(sᵀ Q s + aᵀ R a): an environment whose truth is known.

Asymmetric, coupled and badly scaled on purpose (S = 3, A = 2, unequal bounds), so that a swapped axis or a transposed
matrix shows.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TRANSITION_MATRIX: Array = np.array([[0.95, 0.10, 0.0], [-0.20, 0.90, 0.05], [0.0, 0.15, 0.98]])
"""A [S, S]"""
CONTROL_MATRIX: Array = np.array([[0.0, 0.10], [0.30, 0.0], [-0.05, 0.20]])
"""B [S, A]"""
NOISE_STD: Array = np.array([0.02, 0.05, 0.10])
"""[S]"""
STATE_COST: Array = np.array([[1.0, 0.2, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 2.0]])
"""Q [S, S], positive definite"""
ACTION_COST: Array = np.array([[0.10, 0.02], [0.02, 0.05]])
"""R [A, A], positive definite"""
ACTION_LOW: Array = np.array([-2.0, -1.0])
"""[A]"""
ACTION_HIGH: Array = np.array([2.0, 1.5])
"""[A]"""
START_SCALE: Array = np.array([1.0, 0.5, 2.0])
"""[S]: an episode starts uniformly in ± this"""


class LinearGaussian(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The system above; state [S] is float64 inside and observed as float32. Never terminates."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium.Env)

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, START_SCALE.shape, np.float32)
        self.action_space = gymnasium.spaces.Box(ACTION_LOW.astype(np.float32), ACTION_HIGH.astype(np.float32))
        self.state: Array = np.zeros_like(START_SCALE)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start uniformly in ± START_SCALE."""
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-START_SCALE, START_SCALE)
        return self.state.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step; the reward is that of the state before it."""
        control = np.asarray(action, dtype=np.float64)
        reward = -float(self.state @ STATE_COST @ self.state + control @ ACTION_COST @ control)
        mean = TRANSITION_MATRIX @ self.state + CONTROL_MATRIX @ control
        self.state = self.np_random.normal(mean, NOISE_STD)
        return self.state.astype(np.float32), reward, False, False, {}
