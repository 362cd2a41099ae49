"""The main job against an oracle: the same planner on the true dynamics, from the same start states.

    .venv/bin/python benchmarks/control.py [--env Pendulum-v1] [--posterior mean-field ...] [--seeds 5] [--episodes 20]

Runs `bayes-mbrl run` with its defaults for every posterior and seed, evaluates the policy that each run ends with
(never the best so far) on start states that training does not use, and prints a table in Markdown; `--out FILE` writes
it too.
"""

import argparse
import dataclasses
import multiprocessing
import pathlib
import statistics
import tempfile
import time

import torch

from bayes_mbrl import experiment
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.progress import Silent

AIM = 10.0


@dataclasses.dataclass(frozen=True)
class Job:
    """One run."""

    env: str
    posterior: str
    seed: int
    num_evaluation_episodes: int
    overrides: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run reached."""

    job: Job
    num_steps: int
    returns: list[float]
    oracle_returns: list[float]
    training_returns: list[float]
    training_cpu_seconds: float
    planning_milliseconds: float


def do(job: Job) -> Outcome:
    """Train, evaluate, and evaluate the oracle on the same start states."""
    torch.set_num_threads(1)
    options = {"env": job.env, "posterior": job.posterior, "seed": job.seed}
    config = resolve([*job.overrides, f"num_evaluation_episodes={job.num_evaluation_episodes}"], options=options)
    with tempfile.TemporaryDirectory() as folder, Environment(config.env) as environment:
        started = time.process_time()
        no_evaluation = config.model_copy(update={"num_evaluation_episodes": 0})
        state = experiment.run_experiment(no_evaluation, pathlib.Path(folder), observer=Silent())
        seconds = time.process_time() - started
        builder = Builder(config, environment)
        agent = builder.agent(*experiment.fitted(state))
        step = KNOWN_STEPS[environment.spec.name]
        dynamics = KnownDynamics(step, noise_std=torch.zeros(environment.state_dim))
        oracle = dataclasses.replace(agent, dynamics=dynamics, posterior=Nothing(), num_theta=1, num_noise=1)
        episodes, oracle_episodes = (experiment.evaluate(builder, a, Silent()) for a in (agent, oracle))
    return Outcome(
        job,
        len(experiment.fitted(state)[0]),
        [episode.total_reward for episode in episodes],
        [episode.total_reward for episode in oracle_episodes],
        [metrics["return"] for metrics in state.metrics],
        seconds,
        1e3 * statistics.mean(episode.acting_seconds / len(episode.transitions) for episode in episodes),
    )


def table(outcomes: list[Outcome]) -> str:
    """A row a posterior: means over seeds ± standard errors over seeds."""
    lines = [
        "| environment | posterior | steps | return | oracle | return − oracle | CPU-seconds to learn | ms a plan |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env, posterior in dict.fromkeys((o.job.env, o.job.posterior) for o in outcomes):
        rows = [o for o in outcomes if (o.job.env, o.job.posterior) == (env, posterior)]
        gaps = [statistics.mean(o.returns) - statistics.mean(o.oracle_returns) for o in rows]
        cells = [
            env,
            posterior,
            f"{max(o.num_steps for o in rows)}",
            _spread([statistics.mean(o.returns) for o in rows]),
            _spread([statistics.mean(o.oracle_returns) for o in rows]),
            _spread(gaps),
            _spread([o.training_cpu_seconds for o in rows]),
            _spread([o.planning_milliseconds for o in rows]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def _details(outcome: Outcome) -> str:
    training = ", ".join(f"{value:.0f}" for value in outcome.training_returns)
    reached, best = statistics.mean(outcome.returns), statistics.mean(outcome.oracle_returns)
    return (
        f"{outcome.job.env} {outcome.job.posterior} seed {outcome.job.seed}: return {reached:.1f}, oracle {best:.1f}, "
        f"{outcome.num_steps} steps; training {training}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["Pendulum-v1"], choices=sorted(KNOWN_STEPS))
    parser.add_argument("--posterior", nargs="+", default=["mean-field", "ensemble", "mc-dropout"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes a run")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("overrides", nargs="*", help="key=value, as for bayes-mbrl run")
    given = parser.parse_args()
    jobs = [
        Job(env, posterior, seed, given.episodes, tuple(given.overrides))
        for env in given.env
        for posterior in given.posterior
        for seed in range(given.seeds)
    ]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for outcome in pool.imap(do, jobs):
            outcomes.append(outcome)
            print(_details(outcome), flush=True)
    print("\n" + table(outcomes))
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        details = "\n".join(f"- {_details(outcome)}" for outcome in outcomes)
        given.out.write_text(
            f"Written by `benchmarks/control.py`: {given.seeds} seeds, {given.episodes} evaluation episodes a run, "
            f"± is the standard error over seeds.\n\n{table(outcomes)}\n\n{details}\n"
        )


if __name__ == "__main__":
    main()
