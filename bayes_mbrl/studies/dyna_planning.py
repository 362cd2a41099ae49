"""Study 11: what updates in a learned model save of real steps, and what becomes of them when the world changes.

Two mazes of Sutton & Barto (2018), chapter 8, with the settings of their figures. In the first (figure 8.2) the way
stays; a learner makes 0, 5 or 50 imagined updates after each real step. In the other one (figure 8.4) the way is
blocked after 1,000 of 3,000 steps and another one opens, which nobody tells the learner. Its model keeps the last
outcome of each action, as theirs does; Dyna-Q+ imagines κ √τ more reward for what was not tried for τ steps.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_mbrl.algorithms.tabular import DynaLearner, walk
from bayes_mbrl.analysis.charts import CYCLE, Band, Chart, Line, Rule
from bayes_mbrl.environments.mazes import BLOCKING_MAZE, Maze
from bayes_mbrl.study import Contrast, Results, Study, difference, log_ratio, per_seed

PLANNING_STEPS = (0, 5, 50)
NUM_EPISODES = 100
BEST = 14
"""Steps of the shortest way through the maze of figure 8.2."""
IN_A_ROW = 3
BLOCKED_AFTER, NUM_STEPS = 1000, 3000
BLOCKED, BLOCKED_PLUS = "Dyna-Q, way blocked", "Dyna-Q+, way blocked"


def measure(folder: pathlib.Path, *, maze: str, seed: int, quick: bool, **learner: float) -> dict[str, Any]:
    """One learner in the maze that stays ("still") or in the other one ("blocked"), the same if `quick`.

    `learner` are settings of `DynaLearner`.
    """
    generator = np.random.default_rng(seed)
    dyna: Any = {"target": "sample", **learner}
    if maze == "still":
        walker, place = DynaLearner(54, 4, **dyna), Maze()
        lengths = [len(walk(walker, place, generator=generator)) for _ in range(NUM_EPISODES)]
        return {"lengths": lengths, "episodes_to_solve": episodes_to_solve(lengths)}
    place = Maze(BLOCKING_MAZE, change_after=BLOCKED_AFTER, continuing=True)
    rewards = walk(DynaLearner(54, 4, **dyna), place, generator=generator, num_steps=NUM_STEPS)
    return {"goals_before": sum(rewards[:BLOCKED_AFTER]), "goals_after": sum(rewards[BLOCKED_AFTER:])}


def episodes_to_solve(lengths: Sequence[int]) -> int:
    """The first episode from which on three in a row take at most twice the shortest way; their number if none."""
    short = [length <= 2 * BEST for length in lengths]
    starts = range(len(short) - IN_A_ROW + 1)
    return next((start + 1 for start in starts if all(short[start : start + IN_A_ROW])), len(lengths))


def contrasts(results: Results) -> list[Contrast]:
    """Log ratios of episodes (0.69 is twice as many), and goals in the steps after the change."""
    solved = {steps: per_seed(results, _still(steps), "episodes_to_solve") for steps in PLANNING_STEPS}
    return [
        *(
            Contrast(
                f"episodes to solve the maze with {fewer} planning steps over those with {more} (log ratio)",
                log_ratio(solved[fewer], solved[more]),
            )
            for fewer, more in itertools.pairwise(PLANNING_STEPS)
        ),
        Contrast(
            f"way blocked: goals of Dyna-Q+ less those of Dyna-Q in the {NUM_STEPS - BLOCKED_AFTER:,} steps after",
            difference(per_seed(results, BLOCKED_PLUS, "goals_after"), per_seed(results, BLOCKED, "goals_after")),
        ),
    ]


def figure(results: Results) -> Chart:
    """Steps to the goal against episodes: quartiles over seeds."""
    x = np.arange(1.0, NUM_EPISODES + 1)
    marks: list[Band | Line] = []
    for steps, color in zip(PLANNING_STEPS, CYCLE, strict=False):
        lengths = [measured["lengths"] for measured in results[_still(steps)].values()]
        low, median, high = np.quantile(lengths, [0.25, 0.5, 0.75], axis=0)
        label = f"{steps} planning steps" + ("" if steps else ": Q-learning")
        marks += [Band(x, low, high, color=color, opacity=0.2), Line(x, median, label, color)]
    after = [float(np.mean(per_seed(results, arm, "goals_after"))) for arm in (BLOCKED, BLOCKED_PLUS)]
    return Chart(
        "The same real steps, more imagined ones: Dyna-Q in a maze",
        "episode",
        "steps to the goal",
        [*marks, Rule(float(BEST), label=f"shortest way: {BEST}")],
        note="Medians over seeds, with quartiles. In the other maze, once the way was blocked, Dyna-Q came to the "
        f"goal {after[0]:.0f} times on average and Dyna-Q+ {after[1]:.0f} times.",
        x_range=(1.0, NUM_EPISODES / 2),
        log_y=True,
    )


def _still(planning_steps: int) -> str:
    return f"{planning_steps} planning steps"


_BLOCKED = {"maze": "blocked", "planning_steps": 50, "step_size": 0.5, "memory": 0.0}

STUDY = Study(
    claim="Dyna: “repeat K times: sample (s, a) ~ B from buffer of past states and actions”, Q-update; with more of "
    "these planning steps a maze is solved in fewer episodes. Where the model has become wrong, since the world "
    "changed, one that is curious about what was not tried for long (Dyna-Q+) does better than one that is not.",
    measure="bayes_mbrl.studies.dyna_planning:measure",
    arms={
        **{_still(steps): {"maze": "still", "planning_steps": steps} for steps in PLANNING_STEPS},
        BLOCKED: {**_BLOCKED, "bonus": 0.0},
        BLOCKED_PLUS: {**_BLOCKED, "bonus": 0.001},
    },
    contrasts=contrasts,
    figure=figure,
    minutes=(0.8, 2.5),
    num_seeds=(10, 30),
)
