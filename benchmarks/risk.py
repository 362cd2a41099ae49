"""Which way do plans take that fear noise, ignorance, or nothing? ThreeLanes-v0, learned from data of two lanes.

    .venv/bin/python benchmarks/risk.py [--seeds 5] [--data 3000] [--objectives mean ...]

The data are transitions from uniform states north of y = −0.1 m and uniform actions: the quiet lane and the gusty one,
nothing of the south, where a swamp begins at −0.25 m. For every seed the model is fitted once; then each objective
plans episodes of its own in the real environment, with the learned model and with the truth. Prints in Markdown how
many episodes went which way (by the mean of y after 4 steps: north above 0.3 m, south below −0.25 m), the real return
and what the plan at the start promised.
"""

import argparse
import dataclasses
import statistics

import torch
from torch import Tensor

from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import three_lanes_noise_std, three_lanes_step
from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.objectives import Objective, expected_return
from bayes_mbrl.seeding import generator_for, stream_seed
from bayes_mbrl.studies.objectives import offline_data

ENV = "ThreeLanes-v0"
SETTINGS = (
    "posterior=ensemble", "posterior.num_members=8", "posterior.resample=false", "posterior.num_steps=1500",
    "dynamics.hidden=[32,32]", "rollout.num_theta=8", "rollout.num_noise=10",
    "planner=icem", "planner.colour=2", "planner.num_candidates=100", "planner.num_iterations=4",
)  # fmt: skip
OBJECTIVES = {
    "mean": ("objective=mean",),
    "mean-minus-epistemic-std": ("objective=mean-minus-epistemic-std", "objective.risk_aversion=3"),
    "worst-theta": ("objective=worst-theta",),
    "mean-minus-total-std": ("objective=mean-minus-total-std", "objective.risk_aversion=2"),
    "lower-tail-mean": ("objective=lower-tail-mean", "objective.tail_mass=0.1"),
}
WAYS = ("north", "middle", "south")


def truth(agent: MPCAgent) -> MPCAgent:
    """The agent with the true dynamics, which has no θ to be ignorant of, and as many particles."""
    known = KnownDynamics(three_lanes_step, noise_std=torch.ones(2), noise_std_at=three_lanes_noise_std)
    particles = agent.num_theta * agent.num_noise
    return dataclasses.replace(agent, dynamics=known, posterior=Nothing(), num_theta=1, num_noise=particles)


def way(states: Tensor) -> str:
    """Which of `WAYS` an episode's states [12, 2] took."""
    y = float(states[4:, 1].mean())
    return "north" if y > 0.3 else "south" if y < -0.25 else "middle"


def promise(agent: MPCAgent, state: Tensor, generator: torch.Generator) -> float:
    """The model's expected return of the plan that the agent finds at the start."""
    with torch.no_grad():
        planned = search(
            agent.planner, agent.planner.init(), lambda plans: agent.score(plans, state, generator), generator=generator
        )
        neutral: Objective = expected_return()
        hopeful = dataclasses.replace(agent, objective=neutral, num_noise=50)
        return float(hopeful.score(planned.plan[None], state, generator))


@dataclasses.dataclass
class Tally:
    """Of one objective and one model, a number an episode."""

    ways: list[str] = dataclasses.field(default_factory=list)
    returns: list[list[float]] = dataclasses.field(default_factory=list)
    """[seed][episode]"""
    promises: list[float] = dataclasses.field(default_factory=list)

    def cells(self) -> list[str]:
        """Counts, and means ± standard errors over seeds."""
        counts = [f"{self.ways.count(name)}" for name in WAYS]
        return [*counts, spread([statistics.mean(r) for r in self.returns]), spread(self.promises)]


def spread(values: list[float]) -> str:
    """Mean ± standard error."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def tally(objectives: list[str], num_seeds: int, num_data: int, num_episodes: int) -> dict[tuple[str, str], Tally]:
    """Fit for every seed, then plan with each objective by the model and by the truth."""
    tallies = {(model, name): Tally() for model in ("learned", "truth") for name in objectives}
    with Environment(ENV) as environment:
        for seed in range(num_seeds):
            data = offline_data(num_data, generator=generator_for(seed, "environment"))
            posterior = None
            for name in objectives:
                config = resolve([*SETTINGS, *OBJECTIVES[name]], options={"env": ENV, "seed": seed})
                builder = Builder(config, environment)
                if posterior is None:
                    posterior, _ = builder.fit(data, None, generator=generator_for(seed, "inference"))
                learned = builder.agent(data, posterior)
                for model, agent in (("learned", learned), ("truth", truth(learned))):
                    kept = tallies[model, name]
                    kept.returns.append([])
                    for number in range(num_episodes):
                        episode = run_episode(
                            environment,
                            agent,
                            number=number,
                            seed=stream_seed(seed, "evaluation-environment", number),
                            generator=generator_for(seed, "evaluation-acting", number),
                        )
                        kept.ways.append(way(episode.transitions.state))
                        kept.returns[-1].append(episode.total_reward)
                    start = torch.tensor([0.0, 0.6])
                    kept.promises.append(promise(agent, start, generator_for(seed, "report")))
                    print(seed, model, name, kept.ways[-num_episodes:], kept.returns[-1], kept.promises[-1], flush=True)
    return tallies


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=int, default=3000, help="transitions to learn from")
    parser.add_argument("--episodes", type=int, default=4, help="real episodes a seed, objective and model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tallies = tally(given.objectives, given.seeds, given.data, given.episodes)
    print("\n| model | objective | north | middle | south | real return (m) | promised (m) |")
    print("|---|---|---|---|---|---|---|")
    for (model, name), kept in tallies.items():
        print("| " + " | ".join([model, name, *kept.cells()]) + " |")


if __name__ == "__main__":
    main()
