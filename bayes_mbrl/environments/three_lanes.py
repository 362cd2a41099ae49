"""Three ways to get ahead: a slow quiet lane, a fast gusty one, and beyond it one that only looks faster. Truth known.

    x' = x + 0.2 a_x speed(y) + gust(y) ε,   y' = y + 0.3 a_y + 0.02 ε',   reward x' − x

The farther south (y < 0), the faster, until a swamp begins at y = −0.25, of which data from y > −0.1 show nothing.
A planner neutral to risk takes the gusts of the middle lane (y about 0); one averse to all spread stays north, in the
quiet; one that extrapolates from the north and the middle without doubt goes south, and gets stuck. Start at y = 0.6.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

ADVANCE, SIDESTEP = 0.2, 0.3
"""m a step at speed 1, forward and sideways."""
SLOPE = 0.5
"""How much slower or faster the outer lanes are; speed is 1 at y = 0."""
SWAMP_EDGE, SWAMP_WIDTH = -0.25, 0.04
"""m: where speed has fallen by half, and how gradually."""
GUST_STD, GUST_WIDTH = 0.2, 0.25
"""m a step at y = 0, and how far it reaches."""
QUIET_STD = 0.02
"""m a step, everywhere and in both directions."""
START, START_RANGE = 0.6, 0.05
"""m: an episode starts at (0, START ± START_RANGE), uniformly in both."""


class ThreeLanes(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """State (x, y) in m, float64 inside and observed as float32; action [2] in ±1. Never terminates."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium.Env)

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state: NDArray[np.float64] = np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start in the north lane."""
        super().reset(seed=seed)
        self.state = np.array([0.0, START]) + self.np_random.uniform(-START_RANGE, START_RANGE, 2)
        return self.state.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step; the reward is the progress in x, gust included."""
        control = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        x, y = self.state
        speed = (1 - SLOPE * np.tanh(2 * y)) / (1 + np.exp(-(y - SWAMP_EDGE) / SWAMP_WIDTH))
        mean = np.array([x + ADVANCE * speed * control[0], y + SIDESTEP * control[1]])
        gust = QUIET_STD + GUST_STD * np.exp(-((y / GUST_WIDTH) ** 2))
        self.state = self.np_random.normal(mean, [gust, QUIET_STD])
        return self.state.astype(np.float32), float(self.state[0] - x), False, False, {}
