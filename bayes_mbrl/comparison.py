"""Runs of a cross product of choices, and what they say together: scores, interquartile means, the table of runs.

A run's score is the mean return of its evaluation episodes, by the policy that it ends with. Over several environments
scores are normalised in each: 0 is what the base policy returned there, 1 the mean of the best method; where no method
is better than the base policy, the worst one is -1. Axes: n runs.
"""

import csv
import dataclasses
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bayes_mbrl.analysis.bootstrap import Interval, stratified_interval

CHOICES = ("env", "algorithm", "posterior", "planner", "objective", "propagation")
"""What may be given several times."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One point of the cross product, without its seed."""

    chosen: Mapping[str, str]
    """Of CHOICES, those that were given."""

    @property
    def env(self) -> str:
        """Where it acts; "" where that is not what is compared."""
        return self.chosen.get("env", "")

    @property
    def method(self) -> str:
        """All but the environment, in a line."""
        return ", ".join(value for key, value in self.chosen.items() if key != "env") or "defaults"

    @property
    def name(self) -> str:
        """All of it, in a line."""
        return ", ".join(self.chosen.values()) or "defaults"


def arms_of(choices: Mapping[str, Sequence[str]]) -> list[Arm]:
    """The cross product of values by key of CHOICES."""
    return [Arm(dict(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of an arm: its result, or why there is none."""

    arm: Arm
    seed: int
    env: str
    """Where it acts, chosen or not."""
    result: Mapping[str, Any] | None
    """Of `sweep.runs.run`."""
    error: str = ""
    folder: str = ""
    """Of the run, seen from the comparison's: for `bayes-mbrl report`."""

    @property
    def score(self) -> float:
        """Mean return of the evaluation episodes, of a run that did not fail."""
        assert self.result is not None
        return statistics.fmean(self.result["returns"])

    @property
    def base_score(self) -> float | None:
        """Mean return of the base policy's episodes, of a run that did not fail and had any."""
        assert self.result is not None
        returns = self.result["base_returns"]
        return statistics.fmean(returns) if returns else None


@dataclasses.dataclass(frozen=True)
class Summary:
    """A method over all environments and seeds."""

    method: str
    interval: Interval
    """Of the interquartile mean of its scores, normalised if there are several environments."""
    num_runs: int
    """That did not fail."""
    num_failed: int


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """Methods from best to worst; those that failed in every run of an environment are left out."""
    num_tried = {run.arm.method: 0 for run in runs}
    for run in runs:
        num_tried[run.arm.method] += 1
    found = []
    for method, tasks in scores_by_method(runs).items():
        num_runs = sum(map(len, tasks))
        found.append(Summary(method, stratified_interval(tasks), num_runs, num_tried[method] - num_runs))
    return sorted(found, key=lambda summary: -summary.interval.estimate)


def scores_by_method(runs: Sequence[Run]) -> dict[str, list[list[float]]]:
    """Method → for each environment the scores of its runs, of methods that have one in every environment."""
    envs = dict.fromkeys(run.arm.env for run in runs)
    found: dict[str, dict[str, list[float]]] = {}
    for env in envs:
        here = [run for run in runs if run.arm.env == env and run.result is not None]
        zero, one = _scale(here) if len(envs) > 1 else (0.0, 1.0)
        for run in here:
            found.setdefault(run.arm.method, {}).setdefault(env, []).append((run.score - zero) / (one - zero))
    return {method: list(tasks.values()) for method, tasks in found.items() if len(tasks) == len(envs)}


def base_score(runs: Sequence[Run]) -> float | None:
    """Mean over the runs that had episodes of the base policy, and numbers as their returns, if any had."""
    known = [run.base_score for run in runs if run.result is not None]
    scores = [score for score in known if score is not None and math.isfinite(score)]
    return statistics.fmean(scores) if scores else None


def as_csv(runs: Sequence[Run]) -> str:
    """A row a run: environment, choices, seed, score, spread of its episodes, base policy's score, and so on.

    What is not known is empty. Numbers are exact.
    """
    keys = ["env", *dict.fromkeys(key for run in runs for key in run.arm.chosen if key != "env")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = ["return", "return_std_of_episodes", "base_return", "num_steps"]
    writer.writerow([*keys, "seed", *numbers, "folder", "error"])
    for run in runs:
        chosen = [run.env, *(run.arm.chosen.get(key, "") for key in keys[1:])]
        writer.writerow([*chosen, run.seed, *_numbers(run), run.folder, run.error])
    return text.getvalue()


def _numbers(run: Run) -> list[float | int | None]:
    if run.result is None:
        return [None] * 4
    returns = run.result["returns"]
    spread = statistics.stdev(returns) if len(returns) > 1 else None
    return [run.score, spread, run.base_score, run.result["num_steps"]]


def _scale(runs: Sequence[Run]) -> tuple[float, float]:
    """The returns in one environment that count as 0 and as 1, the former below the latter."""
    by_method: dict[str, list[float]] = {}
    for run in runs:
        by_method.setdefault(run.arm.method, []).append(run.score)
    means = [statistics.fmean(scores) for scores in by_method.values()]
    if not means:
        return 0.0, 1.0
    base = base_score(runs)
    zero = min(means) if base is None else base
    distance = max(means) - zero if max(means) > zero else zero - min(means)
    return zero, zero + (distance or 1.0)
