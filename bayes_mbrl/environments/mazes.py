"""Mazes of Sutton & Barto (2018), chapter 8, whose states and actions can be counted.

Observation: the number of the cell, row by row. Actions: 0 up, 1 down, 2 left, 3 right; a move into a wall or out of
the maze does not happen. The reward is 1 at the goal, which terminates, and 0 elsewhere.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

DYNA_MAZE = (
    ".......#G",
    "..#....#.",
    "S.#....#.",
    "..#......",
    ".....#...",
    ".........",
)
"""Example 8.1. S start, G goal, # wall."""
BLOCKING_MAZE = (
    (
        "........G",
        ".........",
        ".........",
        "########.",
        ".........",
        "...S.....",
    ),
    (
        "........G",
        ".........",
        ".........",
        ".########",
        ".........",
        "...S.....",
    ),
)
"""Example 8.2: before and after the opening at the right is blocked and another opens at the left."""

_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class Maze(gymnasium.Env[np.int64, np.int64]):
    """A maze, or a sequence of mazes that replace each other every `change_after` steps of an episode.

    In a `continuing` one the goal does not terminate: whoever comes there is rewarded and stands at S again.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium.Env)

    def __init__(
        self,
        mazes: tuple[tuple[str, ...], ...] = (DYNA_MAZE,),
        change_after: int | None = None,
        continuing: bool = False,
    ) -> None:
        self._grids = [np.array([list(row) for row in maze]) for maze in mazes]
        self._change_after = change_after
        self._continuing = continuing
        self._num_steps = 0
        rows, columns = self._grids[0].shape
        self.observation_space = gymnasium.spaces.Discrete(rows * columns)
        self.action_space = gymnasium.spaces.Discrete(len(_MOVES))
        self._position = (0, 0)

    @property
    def grid(self) -> NDArray[np.str_]:
        """The maze as it is now: [rows, columns] of single characters."""
        stage = 0 if self._change_after is None else self._num_steps // self._change_after
        return self._grids[min(stage, len(self._grids) - 1)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Start at S."""
        super().reset(seed=seed)
        self._num_steps = 0
        self._position = self._start()
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move, unless a wall is in the way."""
        self._num_steps += 1
        grid = self.grid
        row, column = (here + move for here, move in zip(self._position, _MOVES[int(action)], strict=True))
        if 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1] and grid[row, column] != "#":
            self._position = (row, column)
        at_goal = bool(grid[self._position] == "G")
        if at_goal and self._continuing:
            self._position = self._start()
        return self._observation(), float(at_goal), at_goal and not self._continuing, False, {}

    def _start(self) -> tuple[int, int]:
        row, column = np.argwhere(self.grid == "S")[0]
        return int(row), int(column)

    def _observation(self) -> np.int64:
        return np.int64(self._position[0] * self.grid.shape[1] + self._position[1])
