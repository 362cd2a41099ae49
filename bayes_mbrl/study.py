"""What a study is: a claim as an experiment of arms over seeds, a figure, and a verdict that nobody writes by hand.

A study is one file in bayes_mbrl/studies/ with a `STUDY`. Its measurements are tasks of a sweep: one for each arm and
seed, done once, by whichever engine.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from bayes_mbrl.analysis.bootstrap import Interval, mean_interval
from bayes_mbrl.analysis.charts import Chart, Slides
from bayes_mbrl.sweep.task import Outcome, Task

Verdict = Literal["supported", "refuted", "undecided"]

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm → seed → what was measured, for the seeds that all arms have."""

FIRST_SEED = 1000
"""Those below are for choosing settings."""


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A number for each seed that the claim says is positive."""

    statement: str
    """What the claim says of it, with its unit."""
    values: Sequence[float]
    """[n]"""

    @property
    def interval(self) -> Interval:
        """Of its mean over seeds, 95 %."""
        return self.interval_at(0.95)

    def interval_at(self, confidence: float) -> Interval:
        """Of its mean over seeds; unbounded where one of them is no finite number, or all are equal."""
        if not all(map(math.isfinite, self.values)):
            return Interval(math.nan, -math.inf, math.inf, confidence)
        return mean_interval(self.values, confidence=confidence)

    @property
    def verdict(self) -> Verdict:
        """On which side of 0 the interval of 95 % lies."""
        interval = self.interval
        if interval.low > 0:
            return "supported"
        return "refuted" if interval.high < 0 else "undecided"


@dataclasses.dataclass(frozen=True)
class Study:
    """A claim and how it is tested."""

    claim: str
    """In a sentence, with the lecture's words."""
    measure: str
    """"module:function", called as measure(folder, *, seed, quick, **arm): what JSON can hold, nothing of time."""
    arms: Mapping[str, Mapping[str, Any]]
    """What is compared: arguments of `measure` by name."""
    contrasts: Callable[[Results], Sequence[Contrast]]
    """What the claim says, in numbers. It is supported if all are, and refuted if one is."""
    figure: Callable[[Results], Chart | Slides]
    """What a teacher would show."""
    minutes: tuple[float, float]
    """Of one processor, measured on two shared cores: `--quick`, and in full."""
    num_seeds: tuple[int, int] = (3, 10)
    """`--quick`, and in full."""

    def tasks(self, name: str, *, quick: bool, num_seeds: int | None = None) -> list[Task]:
        """A task for each seed and arm; those of one seed stand together."""
        seeds = range(FIRST_SEED, FIRST_SEED + (num_seeds or self.num_seeds[not quick]))
        return [
            Task(f"{name}, {arm}, seed {seed}", self.measure, {**arguments, "seed": seed, "quick": quick})
            for seed in seeds
            for arm, arguments in self.arms.items()
        ]

    def results(self, outcomes: Sequence[Outcome]) -> dict[str, dict[int, Mapping[str, Any]]]:
        """By arm and seed, in the order of the tasks; seeds of which an arm failed are left out of all."""
        arms, found = list(self.arms), dict[str, dict[int, Mapping[str, Any]]]()
        for index, outcome in enumerate(outcomes):
            if outcome.result is not None:
                found.setdefault(arms[index % len(arms)], {})[outcome.task.arguments["seed"]] = outcome.result
        whole = set.intersection(*(set(found.get(arm, {})) for arm in arms))
        return {arm: {seed: value for seed, value in found.get(arm, {}).items() if seed in whole} for arm in arms}


def verdict_of(contrasts: Sequence[Contrast]) -> Verdict:
    """Of a claim that says all k of them. Raises ValueError when there is none.

    Supported if all are. Refuted if the interval of one lies below 0 at the level 1 − 0.05 / k (Bonferroni): one of
    many numbers falls there by chance more often than one alone does.
    """
    if not contrasts:
        raise ValueError("need at least one contrast to judge a claim by, got none")
    if any(contrast.interval_at(1 - 0.05 / len(contrasts)).high < 0 for contrast in contrasts):
        return "refuted"
    return "supported" if {contrast.verdict for contrast in contrasts} == {"supported"} else "undecided"


def per_seed(results: Results, arm: str, key: str) -> list[float]:
    """One number of one arm for each seed."""
    return [float(measured[key]) for measured in results[arm].values()]


def difference(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """These less those, for each seed."""
    return [a - b for a, b in zip(these, those, strict=True)]


def log_ratio(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """log(over / under) for each seed: 0 where they are equal, and alike for twice and for half."""
    return [math.log(a / b) for a, b in zip(over, under, strict=True)]
