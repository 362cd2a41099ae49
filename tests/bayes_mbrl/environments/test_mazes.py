"""The textbook's mazes: walls, goal, the change; shortest ways by breadth-first search."""

import collections

import numpy as np
import pytest

from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.mazes import BLOCKING_MAZE, DYNA_MAZE, Maze

UP, DOWN, LEFT, RIGHT = map(np.int64, range(4))


def shortest_way(grid: tuple[str, ...]) -> int:
    """Steps from S to G, by breadth-first search over the text itself."""
    cells = {(r, c): char for r, row in enumerate(grid) for c, char in enumerate(row) if char != "#"}
    start = next(cell for cell, char in cells.items() if char == "S")
    distance, queue = {start: 0}, collections.deque([start])
    while queue:
        r, c = queue.popleft()
        for cell in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if cell in cells and cell not in distance:
                distance[cell] = distance[r, c] + 1
                queue.append(cell)
    return next(steps for cell, steps in distance.items() if cells[cell] == "G")


@pytest.mark.parametrize(("grid", "steps"), [(DYNA_MAZE, 14), (BLOCKING_MAZE[0], 10), (BLOCKING_MAZE[1], 16)])
def test_the_mazes_are_the_textbooks(grid: tuple[str, ...], steps: int) -> None:
    assert shortest_way(grid) == steps
    assert {len(row) for row in grid} == {9}
    assert len(grid) == 6


def test_moves_walls_and_goal() -> None:
    maze = Maze((("S.", "#G"),))
    assert maze.reset(seed=0)[0] == 0
    assert maze.step(UP)[:3] == (0, 0.0, False)  # out of the maze
    assert maze.step(LEFT)[:3] == (0, 0.0, False)
    assert maze.step(DOWN)[:3] == (0, 0.0, False)  # a wall
    assert maze.step(RIGHT)[:3] == (1, 0.0, False)
    assert maze.step(LEFT)[:3] == (0, 0.0, False)
    maze.step(RIGHT)
    assert maze.step(DOWN)[:4] == (3, 1.0, True, False)


def test_a_continuing_maze_begins_again_at_its_goal_and_changes_by_the_steps_of_an_episode() -> None:
    maze = Maze((("SG", "#."), ("S#", ".G")), change_after=3, continuing=True)
    for _ in range(2):  # what an episode does depends on nothing before its reset, so that a run can be resumed
        maze.reset(seed=0)
        assert maze.step(RIGHT)[:3] == (0, 1.0, False)
        assert maze.step(RIGHT)[:3] == (0, 1.0, False)
        assert maze.step(RIGHT)[:3] == (0, 0.0, False)  # the third step meets the new maze
        assert maze.step(DOWN)[:3] == (2, 0.0, False)
        assert maze.step(RIGHT)[:3] == (0, 1.0, False)


@pytest.mark.parametrize(("name", "limit"), [("DynaMaze-v0", 2000), ("BlockingMaze-v0", 3000)])
def test_they_are_registered(name: str, limit: int) -> None:
    with Environment(name) as environment:
        assert (environment.num_states, environment.choices, environment.max_episode_steps) == (54, (4,), limit)
