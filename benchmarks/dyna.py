"""Dyna in the textbook's mazes, and the best that is possible in the tables of Gymnasium.

    .venv/bin/python benchmarks/dyna.py curve [--seeds 30] [--episodes 50] [--picture docs/dyna.png]
    .venv/bin/python benchmarks/dyna.py blocking [--seeds 30]
    .venv/bin/python benchmarks/dyna.py optimum

curve: steps of each episode in the maze of Sutton & Barto (2018), figure 8.2: α 0.1, γ 0.95, ε 0.1, sampled targets.
blocking: the maze of figure 8.4, whose way is blocked after 1,000 of 3,000 steps, by how much the model forgets
    and by the bonus of Dyna-Q+; K 50, α 0.5.
optimum: expected returns of the best policy by value iteration on the true tables, over the steps that there are.
Prints tables in Markdown: means over seeds ± standard errors. Runs of the main job: benchmarks/ladder.py.
"""

import argparse
import pathlib
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from bayes_mbrl.algorithms.tabular import DynaLearner, walk
from bayes_mbrl.analysis.charts import BLUE, GREEN, VERMILLION, Band, Chart, Line, Rule
from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.environments.mazes import BLOCKING_MAZE, Maze

Array = NDArray[np.float64]

PLANNING_STEPS = (0, 5, 50)
BEST = 14
"""Steps of the shortest way through the maze of figure 8.2."""
BLOCKED_AFTER, BLOCKING_STEPS = 1000, 3000
FORGETFUL = ((1.0, 0.0), (0.0, 0.0), (1.0, 0.001), (0.0, 0.001))
"""(memory, bonus)"""


def episode_lengths(planning_steps: int, num_episodes: int, seed: int) -> list[int]:
    """Steps of each episode of one learner."""
    learner, maze = DynaLearner(54, 4, planning_steps=planning_steps, target="sample"), Maze()
    rng = np.random.default_rng(seed)
    return [len(walk(learner, maze, generator=rng)) for _ in range(num_episodes)]


def rewards_while_blocked(memory: float, bonus: float, seed: int) -> Array:
    """Rewards so far [3000], of one learner in the maze that changes."""
    learner = DynaLearner(54, 4, planning_steps=50, step_size=0.5, memory=memory, bonus=bonus)
    maze = Maze(BLOCKING_MAZE, change_after=BLOCKED_AFTER, continuing=True)
    return np.cumsum(walk(learner, maze, generator=np.random.default_rng(seed), num_steps=BLOCKING_STEPS))


def best_return(env: str, num_steps: int) -> float:
    """Expected return of the best policy over so many steps, by backward induction on the true table."""
    table: Any = gymnasium.make(env).unwrapped
    values = np.zeros(table.observation_space.n)
    for _ in range(num_steps):
        values = np.array([
            max(sum(p * (r + values[t] * (not end)) for p, t, r, end in outcomes) for outcomes in actions.values())
            for _, actions in sorted(table.P.items())
        ])  # fmt: skip
    return float(np.dot(table.initial_state_distrib, values))


def _spread(values: Array) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1) / len(values) ** 0.5:.1f}"


def curve(num_seeds: int, num_episodes: int, picture: pathlib.Path | None) -> None:
    """Print and draw."""
    shown = [e for e in (1, 2, 3, 5, 10, 20, 50) if e <= num_episodes]
    print("| planning steps | " + " | ".join(f"episode {e}" for e in shown) + " |")
    print("|---|" + "---|" * len(shown))
    marks: list[Any] = []
    for planning_steps, color in zip(PLANNING_STEPS, (BLUE, VERMILLION, GREEN), strict=True):
        lengths = np.array([episode_lengths(planning_steps, num_episodes, seed) for seed in range(num_seeds)], float)
        print(f"| {planning_steps} | " + " | ".join(_spread(lengths[:, e - 1]) for e in shown) + " |", flush=True)
        x, mean = np.arange(2, num_episodes + 1, dtype=float), lengths.mean(0)[1:]
        error = lengths.std(0, ddof=1)[1:] / num_seeds**0.5
        marks.append(Band(x, mean - error, mean + error, color=color))
        label = f"{planning_steps} planning steps" + ("" if planning_steps else ": Q-learning")
        marks.append(Line(x, mean, label=label, color=color))
    if picture:
        chart = Chart(
            "The same real steps, more imagined ones: Dyna-Q in a maze",
            "episode",
            "steps to the goal",
            [*marks, Rule(BEST, label=f"shortest way: {BEST}")],
            note=f"Mean of {num_seeds} seeds ± standard error; the first episode, random for all, is left out.",
            y_range=(0.0, 800.0),
        )
        save_chart(chart, picture)


def blocking(num_seeds: int) -> None:
    """Print."""
    print(f"| memory | bonus | goals in steps 1–{BLOCKED_AFTER} | goals in the 2,000 steps after | in the last 500 |")
    print("|---|---|---|---|---|")
    for memory, bonus in FORGETFUL:
        so_far = np.array([rewards_while_blocked(memory, bonus, seed) for seed in range(num_seeds)])
        before, end = so_far[:, BLOCKED_AFTER - 1], so_far[:, -1]
        columns = before, end - before, end - so_far[:, -501]
        print(f"| {memory:g} | {bonus:g} | " + " | ".join(map(_spread, columns)) + " |", flush=True)


def optimum() -> None:
    """Print."""
    taxi = max(name for name in gymnasium.registry if name.startswith("Taxi-"))
    for env, num_steps in (("FrozenLake-v1", 100), ("FrozenLake8x8-v1", 200), ("CliffWalking-v1", 1000), (taxi, 200)):
        print(f"{env}, {num_steps} steps: {best_return(env, num_steps):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("curve", "blocking", "optimum"))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--picture", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.what == "curve":
        curve(arguments.seeds, arguments.episodes, arguments.picture)
    elif arguments.what == "blocking":
        blocking(arguments.seeds)
    else:
        optimum()


if __name__ == "__main__":
    main()
