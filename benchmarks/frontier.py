"""What a plan's budget buys: return against CPU-seconds, for fixed and adaptive budgets of CEM and iCEM.

    .venv/bin/python benchmarks/frontier.py [--env Pendulum-v1 ContinuousCartPole-v0] [--seeds 3] [--starts 4]

For every seed the default run collects data and fits a posterior once (`--data-episodes` episodes). Every budget then
plans with this posterior from the same start states of the evaluation, so that budgets differ by their plans alone.
Returns are compared with those of the largest budget, start by start. CPU time is that of whole episodes, all budgets
of a start in turn. Lines are added to `--results` as they are measured; those that are there are not measured again.
The table is printed, and the figures are drawn beside `--figure`: NAME.png of the first environment, NAME_<env>.png.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable

import numpy as np
import torch

from bayes_mbrl import experiment
from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.analysis.charts import BLACK, BLUE, VERMILLION, Chart, Line, Points
from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.progress import Silent
from bayes_mbrl.seeding import generator_for, stream_seed


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much a plan may cost; horizon and all else as by default."""

    planner: str
    num_candidates: int
    num_iterations: int
    num_theta: int
    tolerance: float = 0.0
    finalists: float = 1.0

    @property
    def name(self) -> str:
        """What is printed; also what a line of results is found by."""
        adaptive = f", tolerance {self.tolerance:g}" if self.tolerance else ""
        adaptive += f", finalists {self.finalists:g}" if self.finalists < 1 else ""
        return f"{self.planner} C {self.num_candidates}, {self.num_iterations} it., K {self.num_theta}{adaptive}"

    @property
    def overrides(self) -> list[str]:
        """As for bayes-mbrl run."""
        return [
            f"planner={self.planner}",
            f"planner.num_candidates={self.num_candidates}",
            f"planner.num_elites={max(4, self.num_candidates // 10)}",
            f"planner.num_iterations={self.num_iterations}",
            f"rollout.num_theta={self.num_theta}",
            f"rollout.finalists={self.finalists}",
            f"algorithm.tolerance={self.tolerance}",
        ]


FIXED = ((25, 2, 5), (50, 2, 5), (50, 3, 5), (100, 3, 5), (100, 3, 10))
"""(C, iterations, K), from small to large."""
REFERENCE = Budget("cem", 200, 4, 10)
BUDGETS = [Budget(planner, *size) for size in FIXED for planner in ("cem", "icem")]
BUDGETS += [
    Budget(planner, 100, 3, 10, tolerance=tolerance) for tolerance in (0.05, 0.1) for planner in ("cem", "icem")
]
BUDGETS += [Budget("cem", 100, 3, 10, finalists=0.3), REFERENCE]


def measure(
    env: str, seed: int, args: argparse.Namespace, known: set[tuple[str, int, int, str]]
) -> Iterable[dict[str, object]]:
    """A line for each start and budget that is not known yet."""
    wanted = [(s, b) for s in range(args.starts) for b in BUDGETS if (env, seed, s, b.name) not in known]
    if not wanted:
        return
    with Environment(env) as environment, tempfile.TemporaryDirectory() as folder:
        short = [f"num_episodes={args.data_episodes}"] if env == "Pendulum-v1" else []
        config = resolve([*short, "num_evaluation_episodes=0"], options={"env": env, "seed": seed})
        learned = experiment.fitted(experiment.run_experiment(config, pathlib.Path(folder), observer=Silent()))
        for start, budget in wanted:
            agent = Builder(resolve(budget.overrides, options={"env": env, "seed": seed}), environment).agent(*learned)
            started = time.process_time()
            episode = run_episode(
                environment,
                agent,
                number=start,
                seed=stream_seed(seed, "evaluation-environment", start),
                generator=generator_for(seed, "evaluation-acting", start),
            )
            seconds = time.process_time() - started
            yield {
                "env": env,
                "seed": seed,
                "start": start,
                "budget": budget.name,
                "return": episode.total_reward,
                "cpu_seconds": seconds,
                "steps": len(episode.transitions),
            }


@dataclasses.dataclass(frozen=True)
class Point:
    """A budget, over all starts and seeds."""

    budget: Budget
    milliseconds: float
    """CPU time a step, the median over episodes."""
    mean_return: float
    difference: float
    """To the largest budget of CEM, from the same starts."""
    standard_error: float
    """Of the difference, over seeds; NaN of one."""


def summarise(lines: list[dict[str, object]], env: str) -> list[Point]:
    """Points of all budgets that have been measured from the same starts as the reference."""
    by_budget: dict[str, dict[tuple[int, int], tuple[float, float]]] = {}
    for line in lines:
        if line["env"] == env:
            values = float(line["return"]), 1e3 * float(line["cpu_seconds"]) / int(line["steps"])  # type: ignore[arg-type, call-overload]
            by_budget.setdefault(str(line["budget"]), {})[int(line["seed"]), int(line["start"])] = values  # type: ignore[call-overload]
    reference = by_budget.get(REFERENCE.name, {})
    points = []
    for budget in BUDGETS:
        got = by_budget.get(budget.name, {})
        common = sorted(got.keys() & reference.keys())
        if common:
            seeds = sorted({seed for seed, _ in common})
            gaps = [statistics.mean(got[k][0] - reference[k][0] for k in common if k[0] == seed) for seed in seeds]
            error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
            milliseconds = statistics.median(got[key][1] for key in common)
            mean_return = statistics.mean(got[key][0] for key in common)
            points.append(Point(budget, milliseconds, mean_return, statistics.mean(gaps), error))
    return points


def table(points: list[Point], env: str) -> str:
    """Markdown, cheapest first; a star where no cheaper budget has a higher return."""
    rows = [f"| {env} | CPU-ms a step | return | − largest CEM | frontier |", "|---|---|---|---|---|"]
    best = -math.inf
    for point in sorted(points, key=lambda p: p.milliseconds):
        star = "*" if point.mean_return > best else ""
        best = max(best, point.mean_return)
        gap = f"{point.difference:.1f} ± {point.standard_error:.1f}"
        rows.append(f"| {point.budget.name} | {point.milliseconds:.1f} | {point.mean_return:.1f} | {gap} | {star} |")
    return "\n".join(rows)


def chart(points: list[Point], env: str, default: Budget) -> Chart:
    """Lines for fixed budgets, dots for adaptive ones, a black one for the default."""
    marks: list[Line | Points] = []
    for planner, color in (("cem", BLUE), ("icem", VERMILLION)):
        own = sorted((p for p in points if p.budget.planner == planner), key=lambda p: p.milliseconds)
        fixed = [p for p in own if not p.budget.tolerance and p.budget.finalists == 1]
        adaptive = [p for p in own if p not in fixed]
        marks.append(Line(*_xy(fixed), label=f"{planner}, fixed budgets", color=color))
        marks.append(Points(*_xy(fixed), color=color, size=4.0))
        marks.append(Points(*_xy(adaptive), label=f"{planner}, adaptive", color=color, size=9.0, opacity=0.5))
    marks.append(Points(*_xy([p for p in points if p.budget == default]), label="default", color=BLACK, size=7.0))
    return Chart(f"{env}: what a plan's budget buys", "CPU time a step (ms)", "return", marks)


def _xy(points: list[Point]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p.milliseconds for p in points]), np.array([p.mean_return for p in points])


def default_budget(env: str) -> Budget:
    """What a run without settings takes."""
    config = resolve(options={"env": env})
    settings, name = config.planner.settings, config.planner.name
    size = settings["num_candidates"], settings["num_iterations"], config.rollout.num_theta
    return Budget(name, *size, tolerance=config.algorithm.settings["tolerance"], finalists=config.rollout.finalists)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["Pendulum-v1", "ContinuousCartPole-v0"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=2, help="start states a seed")
    parser.add_argument("--data-episodes", type=int, default=3, help="of Pendulum-v1, the random one included")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("frontier.jsonl"))
    parser.add_argument("--figure", type=pathlib.Path, default=pathlib.Path("docs/frontier.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    written = args.results.read_text().splitlines() if args.results.exists() else []
    lines = [json.loads(line) for line in written]
    known = {(line["env"], line["seed"], line["start"], line["budget"]) for line in lines}
    with args.results.open("a") as results:
        for seed in range(args.seeds):
            for env in args.env:
                for line in measure(env, seed, args, known):
                    results.write(json.dumps(line) + "\n")
                    results.flush()
                    lines.append(line)
    for number, env in enumerate(args.env):
        points = summarise(lines, env)
        print(table(points, env) + "\n")
        path = args.figure if number == 0 else args.figure.with_name(f"{args.figure.stem}_{env}.png")
        save_chart(chart(points, env, default_budget(env)), path)


if __name__ == "__main__":
    main()
