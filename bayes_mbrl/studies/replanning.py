"""Study 2: version 1.0 collects data where its plans lead; version 1.5 looks where each action led, and plans again.

For each of three tasks, a model from episodes of random actions (version 0.5), and one from as many of which the second
half are of its own plans (1.0), learned in as many steps. Then plans through the model of version 0.5: by CEM or by
random sampling, for the horizon that suits the task or for half of it, executed to their end or but for their first
action; and through the true dynamics, which tells what is lost to the model's error. Scores are 0 for random actions
and 1 for CEM through the true dynamics at every step.

What replanning makes up for is asked in two ways. Is less lost to the model's error by planning at each step? That is a
difference of differences, which is small where plans that are executed to their end all fail, however they were made.
So also: are worse plans, made at each step, better than better plans, made rarely?
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.analysis.charts import BLACK, BLUE, SKY_BLUE, VERMILLION, Band, Chart, Line
from bayes_mbrl.analysis.shift import energy_distance
from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.sections.one_step import change_scale
from bayes_mbrl.study import Contrast, Results, Study
from bayes_mbrl.study_parts import episodes, knowing, learned, mean_return, step_error, true_dynamics
from bayes_mbrl.sweep.runs import run


@dataclasses.dataclass(frozen=True)
class Task:
    """Sizes that suit an environment."""

    num_episodes: int
    """Of data."""
    steps: int
    """Of an episode, at most."""
    horizon: int
    num_played: tuple[int, int]
    """Episodes of each agent: `--quick`, and in full."""


TASKS: Mapping[str, Task] = {
    "ThreeLanes-v0": Task(20, 12, 12, (10, 30)),
    "Obstacles-v0": Task(10, 100, 10, (3, 10)),
    "Pendulum-v1": Task(4, 200, 20, (2, 5)),
}
NUM_STEPS = (1000, 3000)
"""Of the fits that are compared: `--quick`, and in full."""
NUM_STEPS_COLLECTING = 200
"""Of each fit of version 1.0, while its data are collected."""
CEM = ("planner=cem", "planner.num_candidates=100", "planner.num_elites=10", "planner.num_iterations=3")
RANDOM = ("planner=random-shooting", "planner.num_candidates=100", "planner.num_iterations=1")
"""A third of the plans that CEM looks at."""
WORKS_WELL = 0.8
"""What random sampling has to reach of CEM's score."""
FIRST_PLAYED = 1000
"""Number of the first episode that nothing is learned from."""


def measure(folder: pathlib.Path, *, env: str, seed: int, quick: bool) -> dict[str, Any]:
    """Shift, error and score of versions 0.5 and 1.0; scores by planner, horizon and steps between two plans."""
    task = TASKS[env]

    def configured(planner: Sequence[str], horizon: int, version: str = "v0.5") -> Config:
        return configure(env, [*planner, f"planner.horizon={horizon}"], version, seed=seed, quick=quick)

    config = configured(CEM, task.horizon)
    with Environment(config.env) as environment:
        builder, truth = Builder(config, environment), true_dynamics(env, environment.state_dim)

        def play(agent: Agent) -> Transitions:
            return episodes(builder, agent, task.num_played[not quick], seed=seed, first=FIRST_PLAYED)

        data = episodes(builder, builder.base_policy(), task.num_episodes, seed=seed)
        scale = change_scale(data)
        posterior, _ = learned(builder, data, seed=seed)
        blind = builder.agent(data, posterior)
        run(folder, config=configured(CEM, task.horizon, "v1.0").to_mapping())
        more = Transitions.load(folder / "run" / "transitions.npz")
        renewed = builder.agent(more, learned(builder, more, seed=seed)[0])
        versions = {}
        for version, agent, rows in (("v0.5", blind, data), ("v1.0", renewed, more)):
            own = play(agent)
            versions[version] = {
                "shift": energy_distance(*(some.state[evenly_spaced(len(some), 1000)] for some in (rows, own))),
                "error": step_error(agent.posterior, agent.dynamics, truth, own, scale),
                "return": mean_return(own),
            }

        def returns(planner: Sequence[str], horizon: int, agent: MPCAgent) -> list[float]:
            search = Builder(configured(planner, horizon), environment).planner()
            intervals = [every for every in (1, task.horizon // 2, task.horizon) if every <= horizon]
            return [
                mean_return(play(dataclasses.replace(agent, planner=search, replan_every=every))) for every in intervals
            ]

        by_way = {
            "true": returns(CEM, task.horizon, knowing(blind, truth)),
            "cem": returns(CEM, task.horizon, blind),
            "short": returns(CEM, task.horizon // 2, blind),
            "random": returns(RANDOM, task.horizon, blind),
        }
        nothing = mean_return(play(builder.base_policy()))
    unit = by_way["true"][0] - nothing
    return {
        "scores": {way: [(one - nothing) / unit for one in found] for way, found in by_way.items()},
        "unit": unit,
        "error_ratio": math.log(versions["v0.5"]["error"] / versions["v1.0"]["error"]),
        "shift_less": versions["v0.5"]["shift"] - versions["v1.0"]["shift"],
        "score_more": (versions["v1.0"]["return"] - versions["v0.5"]["return"]) / unit,
    }


def configure(env: str, planner: Sequence[str], version: str, *, seed: int, quick: bool) -> Config:
    """Of version 1.0 half of the data are of random actions."""
    task = TASKS[env]
    return resolve(
        [
            "posterior=point",
            f"posterior.num_steps={NUM_STEPS_COLLECTING if version == 'v1.0' else NUM_STEPS[not quick]}",
            "dynamics.noise=homoscedastic",  # then the mean is that of least squares
            "rollout.num_theta=1",
            f"num_episodes={task.num_episodes}",
            f"num_base_steps={task.num_episodes // 2 * task.steps}",
            "num_evaluation_episodes=0",
            *planner,
        ],
        options={"env": env, "algorithm": version, "seed": seed},
    )


def contrasts(results: Results) -> list[Contrast]:
    """Means over the tasks; scores as above."""
    return [
        Contrast(
            statement,
            np.mean([[of(one) for one in by_seed.values()] for by_seed in results.values()], axis=0).tolist(),
        )
        for statement, of in _CLAIMED.items()
    ]


def _score(measured: Mapping[str, Any], way: str, place: int) -> float:
    """place 0: planning at each step, −1: plans executed to their end."""
    return float(measured["scores"][way][place])


_CLAIMED: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "version 1.0: how much nearer its data are to the states of its plans than those of 0.5 (energy distance)": (
        lambda one: float(one["shift_less"])
    ),
    "version 1.0: error where the plans of 0.5 lead over that where its own lead (log ratio)": (
        lambda one: float(one["error_ratio"])
    ),
    "version 1.0: score, less that of 0.5": lambda one: float(one["score_more"]),
    "one model: score of planning at each step, less that of plans executed to their end": (
        lambda one: _score(one, "cem", 0) - _score(one, "cem", -1)
    ),
    "score lost to the model's error by plans executed to their end, less that lost by planning at each step": (
        lambda one: (
            (_score(one, "true", -1) - _score(one, "cem", -1)) - (_score(one, "true", 0) - _score(one, "cem", 0))
        )
    ),
    "score of random sampling at each step, less that of CEM's plans executed to their end": (
        lambda one: _score(one, "random", 0) - _score(one, "cem", -1)
    ),
    "score of half the horizon at each step, less that of the whole one executed to its end": (
        lambda one: _score(one, "short", 0) - _score(one, "cem", -1)
    ),
    f"score of random sampling at each step, less {WORKS_WELL:.0%} of that of CEM": (
        lambda one: _score(one, "random", 0) - WORKS_WELL * _score(one, "cem", 0)
    ),
}
"""What is positive, if the claim is true, of one task and seed."""


def figure(results: Results) -> Chart:
    """Scores by how often a plan is made anew: means over tasks and seeds, ± 1 standard error over seeds."""
    bands, lines = list[Band](), list[Line]()
    for way, (label, color) in _WAYS.items():
        scores = np.mean([[one["scores"][way] for one in by_seed.values()] for by_seed in results.values()], axis=0)
        places, mean = np.arange(float(scores.shape[1])), scores.mean(0)
        error = scores.std(0, ddof=1) / np.sqrt(len(scores))
        bands.append(Band(places, mean - error, mean + error, color=color, opacity=0.15))
        lines.append(Line(places, mean, label, color, dashed=way == "true"))
    return Chart(
        "What planning again makes up for",
        "executed: first action (0), half the horizon (1), all (2)",
        "score (0 random actions, 1 truth known)",
        [*bands, *lines],
        note=f"Means over {', '.join(results)} and over seeds, ± 1 standard error.",
    )


_WAYS = {
    "true": ("true dynamics, CEM", BLACK),
    "cem": ("model, CEM", BLUE),
    "short": ("model, CEM, half the horizon", SKY_BLUE),
    "random": ("model, random sampling", VERMILLION),
}

STUDY = Study(
    claim="Version 1.0 repairs the shift: “need to collect data from p_{π_f}(s_t)”; version 1.5 recovers from "
    "mistakes within an episode; and “the more you replan, the less perfect each individual plan needs to be”, it "
    "“can use shorter horizons”, and “even random sampling can often work well here”.",
    measure="bayes_mbrl.studies.replanning:measure",
    arms={env: {"env": env} for env in TASKS},
    contrasts=contrasts,
    figure=figure,
    minutes=(3.0, 27.0),
    num_seeds=(3, 12),
)
