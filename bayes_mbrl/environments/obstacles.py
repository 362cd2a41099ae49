"""A point that has to get around rectangles to a goal: the task of CS285's homework 4, from its description.

Observation (x, y, goal x, goal y). An action in ±0.99 moves the point by a tenth of it; a move into a rectangle, or to
a coordinate of absolute value 0.99 or more, does not happen. The reward is minus the distance to the goal after the
move; within 0.1 of the goal the episode terminates. 100 steps (given at registration).
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GOAL: Array = np.array([0.7, -0.8])
RECTANGLES: Array = np.array(
    [
        [-0.4, 0.8, 0.4, 0.3],
        [-0.9, 0.3, 0.2, 0.6],
        [0.6, -0.1, 0.12, 0.4],
        [-0.1, 0.2, 0.15, 0.4],
        [0.1, -0.7, 0.3, 0.15],
    ]
)
"""[5, 4]: left, top, width, height; they reach down from the top and count with their edges."""
LIMIT = 0.99
STEP = 0.1
GOAL_RADIUS = 0.1
START_LOW: Array = np.array([-LIMIT, 0.26])
START_HIGH: Array = np.array([0.59, LIMIT])


def is_blocked(positions: Array) -> NDArray[np.bool_]:
    """Whether each position [..., 2] lies in a rectangle or outside: [...]."""
    x, y = positions[..., 0, None], positions[..., 1, None]
    left, top, width, height = RECTANGLES.T
    inside = (x >= left) & (x <= left + width) & (y <= top) & (y >= top - height)
    outside = (np.abs(positions) >= LIMIT).any(-1)
    blocked: NDArray[np.bool_] = inside.any(-1) | outside
    return blocked


class Obstacles(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """See above; positions are float64 inside and observed as float32."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium.Env)

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gymnasium.spaces.Box(-LIMIT, LIMIT, (2,), np.float32)
        self.position: Array = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start uniformly in [−0.99, 0.59] × [0.26, 0.99], outside of the rectangles."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform(START_LOW, START_HIGH)
        while is_blocked(self.position):
            self.position = self.np_random.uniform(START_LOW, START_HIGH)
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move, unless something is in the way."""
        target = self.position + STEP * np.clip(np.asarray(action, dtype=np.float64), -LIMIT, LIMIT)
        if not is_blocked(target):
            self.position = target
        distance = float(np.linalg.norm(self.position - GOAL))
        return self._observation(), -distance, distance < GOAL_RADIUS, False, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate([self.position, GOAL]).astype(np.float32)
