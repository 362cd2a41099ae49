"""Does exploring find a sparse reward that greedy planning does not? The same planner, model and budget for all.

    .venv/bin/python benchmarks/exploration.py [--seeds 3] [--episodes 3] [--ways greedy information-gain ...]

MountainCarContinuous-v0 as a stranger meets it: 100 at the goal, minus 0.1 a² a step, 999 steps, and neither reward nor
termination is told (with --known both are, which makes it easy for all: the model extrapolates to the goal). The first
episode is random and does not meet the goal. Each way to explore plans the episodes after it; the policy that a run
ends with is evaluated greedily, by the expected return. Prints a table in Markdown.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.seeding import generator_for, stream_seed

ENV = "MountainCarContinuous-v0"
WAYS = {
    "greedy": (),
    "mean-plus-epistemic-std": ("objective=mean-plus-epistemic-std", "rollout.num_noise=1"),
    "thompson": ("algorithm.exploration=thompson",),
    "information-gain": ("algorithm.exploration=information-gain",),
    "hallucinated": ("algorithm.exploration=hallucinated",),
}
SETTINGS = (
    "planner=icem", "planner.horizon=100", "planner.colour=2", "planner.num_candidates=60", "planner.num_elites=8",
    "planner.num_iterations=3", "planner.initial_std_fraction=0.5", "algorithm.replan_every=20",
    "posterior=ensemble", "posterior.resample=false", "posterior.num_steps=1500", "dynamics.hidden=[32,32]",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run met, and what the policy it ended with is worth."""

    training: list[float]
    """Returns of its episodes, the random one first."""
    evaluation: float
    """Mean return."""
    farthest: float
    """The greatest position in training; the goal is at 0.45."""
    seconds: float
    """Of CPU time, evaluation included."""


def run(
    way: str, seed: int, num_episodes: int, num_evaluation_episodes: int, known: bool, more: tuple[str, ...]
) -> Outcome:
    """Collect, fit, plan, again and again; then evaluate."""
    started = time.process_time()
    config = resolve([*SETTINGS, *WAYS[way], *more], options={"env": ENV, "seed": seed})
    greedy = config.model_copy(update={"objective": resolve([], options={"env": ENV}).objective})
    spec = find_spec(ENV) if known else dataclasses.replace(find_spec(ENV), reward=None, termination=None)
    with Environment(spec) as environment:
        builder = Builder(config, environment)
        agent, posterior, episodes = builder.base_policy(), None, []
        for number in range(num_episodes):
            episodes.append(
                run_episode(
                    environment,
                    agent,
                    number=number,
                    seed=stream_seed(seed, "environment", number),
                    generator=generator_for(seed, "acting", number),
                )
            )
            data = Transitions.concatenate([episode.transitions for episode in episodes])
            posterior, _ = builder.fit(data, posterior, generator=generator_for(seed, "inference", number))
            agent = builder.exploring_agent(data, posterior)
        policy = Builder(greedy, environment).agent(data, posterior)
        returns = [
            run_episode(
                environment,
                policy,
                number=number,
                seed=stream_seed(seed, "evaluation-environment", number),
                generator=generator_for(seed, "evaluation-acting", number),
            ).total_reward
            for number in range(num_evaluation_episodes)
        ]
    return Outcome(
        [episode.total_reward for episode in episodes],
        statistics.mean(returns),
        float(data.next_state[:, 0].max()),
        time.process_time() - started,
    )


def spread(values: list[float], digits: int = 1) -> str:
    """Mean ± standard error."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=3, help="training episodes, the random one included")
    parser.add_argument("--evaluations", type=int, default=2, help="evaluation episodes of the policy a run ends with")
    parser.add_argument("--known", action="store_true", help="reward and termination are told")
    parser.add_argument("overrides", nargs="*", help="key=value, as for bayes-mbrl run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for way in given.ways:
        outcomes = []
        for seed in range(given.seeds):
            outcome = run(way, seed, given.episodes, given.evaluations, given.known, tuple(given.overrides))
            outcomes.append(outcome)
            print(way, seed, outcome, flush=True)
        found = sum(outcome.farthest >= 0.45 for outcome in outcomes)
        cells = [
            way,
            f"{found} of {len(outcomes)}",
            spread([outcome.farthest for outcome in outcomes], digits=2),
            spread([outcome.evaluation for outcome in outcomes]),
            spread([outcome.seconds for outcome in outcomes]),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    print("\n| training episodes planned by | found the goal | farthest | evaluation return | CPU-seconds a run |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
