"""`bayes-mbrl compare`: the cross product of choices over seeds, as a table of runs and as a page.

A run's score is the mean return of its evaluation episodes, by the policy that it ends with. Over several environments
scores are normalised in each: 0 is what the base policy returned there, 1 the mean of the best method. Axes: n runs.
"""

import csv
import dataclasses
import io
import itertools
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bayes_mbrl.analysis.bootstrap import Interval, performance_profile, stratified_interval
from bayes_mbrl.analysis.charts import CYCLE, Band, Chart, Line, Points, Rule, Section, Table
from bayes_mbrl.analysis.report import Chapter, html_page
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.runs import run_task
from bayes_mbrl.sweep.task import Outcome

CHOICES = ("env", "algorithm", "posterior", "planner", "objective", "propagation")
"""What may be given several times."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One point of the cross product, without its seed."""

    chosen: Mapping[str, str]
    """Of CHOICES, those that were given."""

    @property
    def env(self) -> str:
        """Where it acts; "" for the default."""
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
    result: Mapping[str, Any] | None
    error: str = ""

    @property
    def score(self) -> float:
        """Mean return of the evaluation episodes. Raises KeyError or TypeError for a run that failed."""
        assert self.result is not None
        return statistics.fmean(self.result["returns"])

    @property
    def base_score(self) -> float:
        """What the base policy returned in the run's first episode."""
        assert self.result is not None
        return float(self.result["training_returns"][0])


@dataclasses.dataclass(frozen=True)
class Summary:
    """A method over all environments and seeds."""

    method: str
    interval: Interval
    """Of the interquartile mean of its scores, normalised if there are several environments."""
    num_runs: int


def compare(
    choices: Mapping[str, Sequence[str]],
    overrides: Sequence[str],
    root: pathlib.Path,
    *,
    seeds: Sequence[int],
    told: Callable[[Run, int, int], None] = lambda run, done, total: None,
    **engine: Any,
) -> tuple[list[Run], list[Summary]]:
    """Do all runs of the cross product, and write `runs.csv` and `compare.html` into the folder `root`.

    `choices`: values by key of CHOICES. `told` hears of each run, how many are done, and of how many. `engine` as of
    `do_all`. An arm that cannot be configured, or whose run fails, has its error in the table and stops no other.
    Raises UserError when every run failed.
    """
    arms = arms_of(choices)
    wanted = [(arm, seed) for seed in seeds for arm in arms]
    runs: dict[int, Run] = {}

    def hear(index: int, run: Run) -> None:
        runs[index] = run
        told(run, len(runs), len(wanted))

    configs: dict[int, Config] = {}
    for index, (arm, seed) in enumerate(wanted):
        try:
            configs[index] = resolve(overrides, options={**arm.chosen, "seed": seed})
        except UserError as error:
            hear(index, Run(arm, seed, None, str(error)))
    tasks = {index: run_task(config, _name(*wanted[index], config)) for index, config in configs.items()}
    index_of = {task.key: index for index, task in tasks.items()}

    def hear_outcome(outcome: Outcome) -> None:
        index = index_of[outcome.task.key]
        hear(index, Run(*wanted[index], outcome.result, outcome.error))

    do_all(list(tasks.values()), root, told=hear_outcome, **engine)
    ordered = [runs[index] for index in range(len(wanted))]
    if all(run.result is None for run in ordered):
        raise UserError("\n".join(dict.fromkeys(["every run failed:", *(run.error for run in ordered)])))
    summaries = summarise(ordered)
    with writing(root):
        write_text(root / "runs.csv", as_csv(ordered))
        write_text(root / "compare.html", html_page("Comparison", [Chapter("Comparison", [("", section(ordered))])]))
    return ordered, summaries


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """Methods from best to worst; those that failed in every run of an environment are left out."""
    scores = _normalised(runs)
    envs = {run.arm.env for run in runs}
    by_method: dict[str, dict[str, list[float]]] = {}
    for run, score in scores:
        by_method.setdefault(run.arm.method, {}).setdefault(run.arm.env, []).append(score)
    found = [
        Summary(method, stratified_interval(list(tasks.values())), sum(map(len, tasks.values())))
        for method, tasks in by_method.items()
        if set(tasks) == envs
    ]
    return sorted(found, key=lambda summary: -summary.interval.estimate)


def as_csv(runs: Sequence[Run]) -> str:
    """A row a run: choices, seed, score, spread of its episodes, environment steps, error."""
    keys = list(dict.fromkeys(key for run in runs for key in run.arm.chosen))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "seed", "return", "return_std_of_episodes", "num_steps", "error"])
    for run in runs:
        chosen = [run.arm.chosen.get(key, "") for key in keys]
        numbers: list[Any] = ["", "", ""]
        if run.result is not None:
            returns = run.result["returns"]
            numbers = [run.score, statistics.stdev(returns) if len(returns) > 1 else "", run.result["num_steps"]]
        writer.writerow([*chosen, run.seed, *numbers, run.error])
    return text.getvalue()


def section(runs: Sequence[Run]) -> Section:
    """The page: methods in order, performance profiles, and each run as a dot."""
    several = len({run.arm.env for run in runs}) > 1
    what = "score (0: base policy, 1: best method)" if several else "return"
    failed = [
        f"{run.arm.env or 'default'}, {run.arm.method}, seed {run.seed}: {run.error}" for run in runs if run.error
    ]
    text = [
        "Each run is scored by the mean return of its evaluation episodes, with the policy that it ended with. Methods "
        "are ordered by the interquartile mean of their runs, with a 95 % interval by a bootstrap of the seeds within "
        "each environment; with fewer than about ten runs of a method it is too narrow."
    ]
    if several:
        text.append(
            "Scores are normalised in each environment: 0 is the mean return of the base policy, 1 the mean return of "
            "the best method there."
        )
    return Section(
        "Comparison", text, [_profiles(runs, what), *_dots(runs)], [_table(summarise(runs), what)], tuple(failed)
    )


def _name(arm: Arm, seed: int, config: Config) -> str:
    return f"{config.env.rpartition('/')[2]}, {arm.method}, seed {seed}"


def _normalised(runs: Sequence[Run]) -> list[tuple[Run, float]]:
    """Runs that did not fail, with their scores; those of several environments made comparable."""
    done = [run for run in runs if run.result is not None]
    if len({run.arm.env for run in runs}) == 1:
        return [(run, run.score) for run in done]
    found = []
    for env in dict.fromkeys(run.arm.env for run in done):
        here = [run for run in done if run.arm.env == env]
        methods = {run.arm.method for run in here}
        best = max(statistics.fmean(run.score for run in here if run.arm.method == method) for method in methods)
        base = statistics.fmean(run.base_score for run in here)
        found += [(run, (run.score - base) / (best - base) if best != base else 1.0) for run in here]
    return found


def _table(summaries: Sequence[Summary], what: str) -> Table:
    rows = [[one.method, str(one.interval), str(one.num_runs)] for one in summaries]
    return Table(["method", f"interquartile mean of the {what}, 95 % interval", "runs"], rows)


def _profiles(runs: Sequence[Run], what: str) -> Chart:
    scores = _normalised(runs)
    values = np.array([score for _, score in scores])
    margin = 0.05 * (values.max() - values.min()) or 1.0
    levels = np.linspace(values.min() - margin, values.max() + margin, 201)
    marks: list[Band | Line] = []
    for number, method in enumerate(dict.fromkeys(run.arm.method for run, _ in scores)):
        tasks: dict[str, list[float]] = {}
        for run, score in scores:
            if run.arm.method == method:
                tasks.setdefault(run.arm.env, []).append(score)
        share, low, high = performance_profile(list(tasks.values()), levels)
        color = CYCLE[number % len(CYCLE)]
        marks += [Band(levels, low, high, color=color, opacity=0.15), Line(levels, share, method, color)]
    return Chart(
        "Performance profiles",
        what,
        "share of runs above it",
        marks,
        note="A line above another one is better at that score; bands are 95 % intervals.",
    )


def _dots(runs: Sequence[Run]) -> list[Chart]:
    """For each environment every run, beside the base policy."""
    charts = []
    for env in dict.fromkeys(run.arm.env for run in runs):
        here = [run for run in runs if run.arm.env == env and run.result is not None]
        if not here:
            continue
        methods = list(dict.fromkeys(run.arm.method for run in here))
        marks: list[Points | Rule] = []
        for number, method in enumerate(methods):
            own = [run for run in here if run.arm.method == method]
            marks.append(
                Points(
                    np.full(len(own), float(number + 1)),
                    np.array([run.score for run in own]),
                    method,
                    CYCLE[number % len(CYCLE)],
                    hover=[f"seed {run.seed}" for run in own],
                )
            )
        base = statistics.fmean(run.base_score for run in here)
        marks.append(Rule(base, label="base policy"))
        charts.append(Chart(f"Runs in {env or 'the default environment'}", "method", "return", marks))
    return charts
