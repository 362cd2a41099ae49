"""Study 8: how much has to be tried for real with a posterior over models to plan with, and how much without a model.

The main job as it is by default (version 1.5, a mean-field posterior, CEM) against soft actor-critic as it is by
default (one update a step), on the cart-pole with a continuous force. While a run goes on, the policy as it then is,
never the best so far, is evaluated without exploration, always from the same start states for both. The planner is
told what the reward is, as in the lecture; soft actor-critic learns it from what it gets.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_mbrl.analysis.charts import BLUE, VERMILLION, Chart, Line, Rule
from bayes_mbrl.config import resolve
from bayes_mbrl.study import Contrast, Results, Study, log_ratio, per_seed
from bayes_mbrl.study_parts import learning_curve

ENV = "ContinuousCartPole-v0"
BEST, LEVEL = 200.0, 180.0
"""Steps for which the pole stands: the most there are, and what counts as learned."""
MOST_STEPS = (4000, 10_000)
"""Real steps of soft actor-critic, and what counts for whoever does not reach the level: `quick`, and in full."""
PLANNER, SAC = "Bayesian planner", "soft actor-critic"
CLOSE_TO = 0.95


def measure(folder: pathlib.Path, *, algorithm: str, every: int, seed: int, quick: bool) -> dict[str, Any]:
    """Mean returns of the policy as it was after so many real steps, about `every` so many and after the last one."""
    overrides = [f"num_steps={MOST_STEPS[not quick]}"] if algorithm == "sac" else []
    config = resolve(overrides, options={"env": ENV, "algorithm": algorithm, "seed": seed})
    steps, returns = learning_curve(folder, config, every=every, num_episodes=3 if quick else 10)
    return {
        "steps": steps,
        "returns": returns,
        "steps_to_level": steps_to_level(steps, returns, MOST_STEPS[not quick]),
        "last": returns[-1],
    }


def steps_to_level(steps: Sequence[int], returns: Sequence[float], otherwise: int) -> int:
    """Real steps before the first evaluation that reaches the level; `otherwise` if none does."""
    return next((n for n, value in zip(steps, returns, strict=True) if value >= LEVEL), otherwise)


def contrasts(results: Results) -> list[Contrast]:
    """A log ratio of steps (0.69 is twice as many), and differences of returns."""
    together = [(results[PLANNER][seed], results[SAC][seed]) for seed in results[PLANNER]]
    as_many = [
        next(value for n, value in zip(sac["steps"], sac["returns"], strict=True) if n >= planner["steps"][-1])
        for planner, sac in together
    ]
    fewest = min((sac["steps"][-1] for _, sac in together), default=0)
    return [
        Contrast(
            f"real steps of {SAC} to a return of {LEVEL:.0f} over those of the planner (log ratio)",
            log_ratio(per_seed(results, SAC, "steps_to_level"), per_seed(results, PLANNER, "steps_to_level")),
        ),
        Contrast(
            f"the planner's last return less that of {SAC} after as many real steps",
            [planner["last"] - other for (planner, _), other in zip(together, as_many, strict=True)],
        ),
        Contrast(
            f"the planner's last return less {CLOSE_TO:.0%} of the last one of {SAC}, after all its real steps "
            f"({fewest:,} or more)",
            [planner["last"] - CLOSE_TO * sac["last"] for planner, sac in together],
        ),
    ]


def figure(results: Results) -> Chart:
    """Returns against real steps: each seed, and the last policy of each planner held to the end."""
    longest = max(max(measured["steps"]) for by_seed in results.values() for measured in by_seed.values())
    marks: list[Line] = []
    for arm, color in ((SAC, BLUE), (PLANNER, VERMILLION)):
        for number, measured in enumerate(results[arm].values()):
            x, y = np.array(measured["steps"], dtype=float), np.array(measured["returns"])
            marks.append(Line(x, y, "" if number else arm, color, width=1.5, opacity=0.8))
            if arm == PLANNER:
                marks.append(
                    Line(
                        np.array([x[-1], longest]),
                        np.array([y[-1], y[-1]]),
                        "" if number else "the planner's last policy",
                        color,
                        width=1.0,
                        dashed=True,
                        opacity=0.5,
                    )
                )
    return Chart(
        "What is learned from how many real steps: cart-pole",
        "real steps",
        "return (steps the pole stands, at most 200)",
        [*marks, Rule(LEVEL, label=f"level: {LEVEL:.0f}")],
        note="A line for each seed; the policy as it was at the time, without exploration.",
        x_range=(0.0, float(longest)),
        y_range=(0.0, 1.05 * BEST),
    )


STUDY = Study(
    claim="“pure model-based (about 10 minutes real time), model-free training (about 10 days…)”; planning with "
    "uncertainty “exceeds performance of model-free” after the same real steps: a level of return takes fewer of them, "
    "and no “performance gap” to what model-free training reaches with all of its steps here is left.",
    measure="bayes_mbrl.studies.sample_efficiency:measure",
    arms={PLANNER: {"algorithm": "mpc", "every": 1}, SAC: {"algorithm": "sac", "every": 200}},
    contrasts=contrasts,
    figure=figure,
    minutes=(3.5, 30.0),
    num_seeds=(3, 10),
)
