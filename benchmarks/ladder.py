"""Rungs of the ladder side by side: whole runs over seeds, the policy that each ends with evaluated.

    .venv/bin/python benchmarks/ladder.py --algorithm v2.0 mbpo sac [--env Pendulum-v1] [--config FILE] [--seeds 5]
        [--first-seed 0] [--episodes 20] [--processes 1] [--out FILE] [key=value ...]

Each run is `bayes-mbrl run` with the configuration of the command line; it is evaluated (never the best so far) on
start states that training does not use. Prints a line a run and a table in Markdown: means over seeds ± standard
errors, the worst seed, environment steps, CPU-minutes of a run with its evaluation, on one thread.
"""

import argparse
import dataclasses
import json
import multiprocessing
import pathlib
import statistics
import tempfile
import time

import torch

from bayes_mbrl import experiment
from bayes_mbrl.config import resolve
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder


@dataclasses.dataclass(frozen=True)
class Job:
    """One run."""

    env: str | None
    algorithm: str | None
    config: pathlib.Path | None
    seed: int
    num_evaluation_episodes: int
    overrides: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was reached."""

    job: Job
    env: str
    algorithm: str
    returns: list[float]
    training_returns: list[float]
    num_steps: int
    cpu_minutes: float


def do(job: Job) -> Outcome:
    """Run it."""
    torch.set_num_threads(1)
    options = {"env": job.env, "algorithm": job.algorithm, "seed": job.seed}
    overrides = [*job.overrides, f"num_evaluation_episodes={job.num_evaluation_episodes}"]
    config = resolve(overrides, options=options, file=job.config)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as root:
        folder = new_run_folder(pathlib.Path(root) / "run", config)
        state = experiment.run_experiment(config, folder, observer=Silent())
        returns = json.loads((folder / "evaluation.json").read_text())["returns"]
    minutes = (time.process_time() - started) / 60
    assert state.transitions is not None
    training = [metrics["return"] for metrics in state.metrics]
    return Outcome(job, config.env, config.algorithm.name, returns, training, len(state.transitions), minutes)


def table(outcomes: list[Outcome]) -> str:
    """A row an algorithm: means over seeds ± standard errors over seeds."""
    lines = [
        "| environment | algorithm | seeds | steps | return | worst seed | CPU-minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for env, algorithm in dict.fromkeys((o.env, o.algorithm) for o in outcomes):
        rows = [o for o in outcomes if (o.env, o.algorithm) == (env, algorithm)]
        means = [statistics.mean(o.returns) for o in rows]
        cells = [
            env,
            algorithm,
            f"{len(rows)}",
            f"{max(o.num_steps for o in rows):,}",
            _spread(means),
            _number(min(means)),
            _spread([o.cpu_minutes for o in rows]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return _number(values[0])
    return f"{_number(statistics.mean(values))} ± {_number(statistics.stdev(values) / len(values) ** 0.5)}"


def _number(value: float) -> str:
    """One digit behind the point, or as many as three that count need: 0.744."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _details(outcome: Outcome) -> str:
    curve = ", ".join(f"{value:.0f}" for value in outcome.training_returns)
    mean = _number(statistics.mean(outcome.returns))
    return (
        f"{outcome.env}, {outcome.algorithm}, seed {outcome.job.seed}: return {mean} "
        f"after {outcome.num_steps} steps, {outcome.cpu_minutes:.1f} CPU-minutes; training: {curve}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", nargs="+", default=[None])
    parser.add_argument("--env")
    parser.add_argument("--config", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes a run")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    arguments, overrides = parser.parse_known_intermixed_args()
    if wrong := [word for word in overrides if "=" not in word]:
        parser.error(f"need key=value, got {' '.join(wrong)}")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    jobs = [
        Job(arguments.env, algorithm, arguments.config, seed, arguments.episodes, tuple(overrides))
        for algorithm in arguments.algorithm
        for seed in seeds
    ]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for outcome in pool.imap(do, jobs):
            print(_details(outcome), flush=True)
            outcomes.append(outcome)
    print(table(outcomes))
    if arguments.out:
        arguments.out.write_text(table(outcomes) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
