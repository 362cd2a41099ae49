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
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import KNOWN_STEPS
from bayes_mbrl.progress import Silent

ORACLE = "oracle"


@dataclasses.dataclass(frozen=True)
class Job:
    """One run; with the posterior ORACLE no run, but the same planner on the true dynamics."""

    env: str
    posterior: str
    seed: int
    num_evaluation_episodes: int
    overrides: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was reached."""

    job: Job
    returns: list[float]
    milliseconds_per_plan: float
    num_steps: int = 0
    training_returns: tuple[float, ...] = ()
    learning_cpu_seconds: float = 0.0


def do(job: Job) -> Outcome:
    """Train if there is anything to learn, and evaluate."""
    torch.set_num_threads(1)
    posterior = None if job.posterior == ORACLE else job.posterior
    config = resolve(job.overrides, options={"env": job.env, "posterior": posterior, "seed": job.seed})
    evaluation = config.model_copy(update={"num_evaluation_episodes": job.num_evaluation_episodes})
    with Environment(config.env) as environment:
        if posterior is None:
            return Outcome(job, *_evaluated(evaluation, environment, _oracle(evaluation, environment)))
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            no_evaluation = config.model_copy(update={"num_evaluation_episodes": 0})
            state = experiment.run_experiment(no_evaluation, pathlib.Path(folder), observer=Silent())
        seconds = time.process_time() - started
        agent = Builder(evaluation, environment).agent(*experiment.fitted(state))
        returns, milliseconds = _evaluated(evaluation, environment, agent)
        training = tuple(metrics["return"] for metrics in state.metrics)
        return Outcome(job, returns, milliseconds, len(experiment.fitted(state)[0]), training, seconds)


def _oracle(config: Config, environment: Environment) -> MPCAgent:
    """The configured planner on the true dynamics."""
    dynamics = KnownDynamics(KNOWN_STEPS[environment.spec.name], noise_std=torch.zeros(environment.state_dim))
    assert environment.spec.reward is not None
    return MPCAgent(
        posterior=Nothing(),
        dynamics=dynamics,
        planner=Builder(config, environment).planner(),
        objective=config.objective.build(),
        propagation=config.propagation.row.load(),
        reward=environment.spec.reward,
        termination=environment.spec.termination,
        num_theta=1,
        num_noise=1,
    )


def _evaluated(config: Config, environment: Environment, agent: MPCAgent) -> tuple[list[float], float]:
    """(returns, milliseconds a plan)."""
    episodes = experiment.evaluate(Builder(config, environment), agent, Silent())
    seconds = sum(episode.acting_seconds for episode in episodes)
    return [e.total_reward for e in episodes], 1e3 * seconds / sum(len(e.transitions) for e in episodes)


def table(outcomes: list[Outcome]) -> str:
    """A row a posterior: means over seeds ± standard errors over seeds."""
    oracle = {(o.job.env, o.job.seed): statistics.mean(o.returns) for o in outcomes if o.job.posterior == ORACLE}
    lines = [
        "| environment | posterior | steps | return | return − oracle | CPU-seconds to learn | ms a plan |",
        "|---|---|---|---|---|---|---|",
    ]
    for env, posterior in dict.fromkeys((o.job.env, o.job.posterior) for o in outcomes):
        rows = [o for o in outcomes if (o.job.env, o.job.posterior) == (env, posterior)]
        cells = [
            env,
            posterior,
            f"{max(o.num_steps for o in rows)}",
            _spread([statistics.mean(o.returns) for o in rows]),
            _spread([statistics.mean(o.returns) - oracle[env, o.job.seed] for o in rows]),
            _spread([o.learning_cpu_seconds for o in rows]),
            _spread([o.milliseconds_per_plan for o in rows]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def _details(outcome: Outcome) -> str:
    job, training = outcome.job, ", ".join(f"{value:.0f}" for value in outcome.training_returns)
    learned = f" after {outcome.num_steps} steps; training: {training}" if training else ""
    return f"{job.env}, {job.posterior}, seed {job.seed}: return {statistics.mean(outcome.returns):.1f}{learned}"


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
        for posterior in (ORACLE, *given.posterior)
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
