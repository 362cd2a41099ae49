"""Study 8: how much has to be tried for real with a posterior over models to plan with, and how much without a model.

The main job as it is by default (version 1.5, a mean-field posterior, CEM) against soft actor-critic as it is by
default (one update a step), on the cart-pole with a continuous force. While a run goes on, the policy as it then is,
never the best so far, is evaluated without exploration, always from the same start states for both. The planner is
told what the reward is, as in the lecture; soft actor-critic learns it from what it gets.
"""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bayes_mbrl.analysis.charts import BLUE, VERMILLION, Chart, Line, Rule
from bayes_mbrl.config import resolve
from bayes_mbrl.experiment import evaluate_run, run_experiment
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder
from bayes_mbrl.study import Contrast, Results, Study, log_ratio, per_seed

ENV = "ContinuousCartPole-v0"
BEST, LEVEL = 200.0, 180.0
"""Steps for which the pole stands: the most there are, and what counts as learned."""
MOST_STEPS = (4000, 10_000)
"""Real steps of soft actor-critic, and what counts for whoever does not reach the level: `quick`, and in full."""
PLANNER, SAC = "Bayesian planner", "soft actor-critic"
CLOSE_TO = 0.95


def measure(folder: pathlib.Path, *, algorithm: str, every: int, seed: int, quick: bool) -> dict[str, Any]:
    """Mean returns of the policy as it was after so many real steps, about `every` so many and after the last one."""
    torch.set_num_threads(1)
    overrides = [f"num_steps={MOST_STEPS[not quick]}"] if algorithm == "sac" else []
    config = resolve(
        [*overrides, "num_evaluation_episodes=0"], options={"env": ENV, "algorithm": algorithm, "seed": seed}
    )
    shutil.rmtree(folder / "run", ignore_errors=True)  # of a process that was killed
    where = new_run_folder(folder / "run", config)
    watching = Evaluating(where, every=every, num_episodes=3 if quick else 10)
    run_experiment(config, where, observer=watching)
    watching.evaluate()
    shutil.rmtree(where)
    return {
        "steps": watching.steps,
        "returns": watching.returns,
        "steps_to_level": steps_to_level(watching.steps, watching.returns, MOST_STEPS[not quick]),
        "last": watching.returns[-1],
    }


class Evaluating(Silent):
    """Evaluates the policy that stands in the run's folder after the first episode beyond each multiple of `every`."""

    def __init__(self, folder: pathlib.Path, *, every: int, num_episodes: int) -> None:
        self.steps: list[int] = []
        self.returns: list[float] = []
        self._folder, self._every, self._num_episodes = folder, every, num_episodes
        self._num_steps = self._evaluated = 0

    def episode(self, metrics: Mapping[str, object]) -> None:
        """An episode is done, and the checkpoint of it is written."""
        self._num_steps += int(str(metrics["num_steps"]))
        if self._num_steps // self._every > self._evaluated // self._every:
            self.evaluate()

    def evaluate(self) -> None:
        """The policy as it is, unless that was done."""
        if self._evaluated < self._num_steps:
            found = evaluate_run(self._folder, num_episodes=self._num_episodes, seed=None, observer=Silent())
            self._evaluated = self._num_steps
            self.steps.append(self._num_steps)
            self.returns.append(float(np.mean(found)))


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
            f"the planner's last return less {CLOSE_TO:.0%} of the last one of {SAC}, after all its steps",
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
    "and no “performance gap” to what model-free training reaches in the end is left.",
    measure="bayes_mbrl.studies.sample_efficiency:measure",
    arms={PLANNER: {"algorithm": "mpc", "every": 1}, SAC: {"algorithm": "sac", "every": 200}},
    contrasts=contrasts,
    figure=figure,
    minutes=(3.5, 30.0),
    num_seeds=(3, 10),
)
