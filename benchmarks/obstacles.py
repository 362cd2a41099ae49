"""Obstacles-v0 beside CS285's homework 4: random ≈ −160, one iteration −70 … −50, twelve iterations −25 … −20.

    .venv/bin/python benchmarks/obstacles.py [--seeds 5] [--first-seed 0] [--episodes 20] [--processes 1]
        [--iterations 1 12] [--base-steps 1000] [--batch 100] [--settings homework mean-field cem] [key=value ...]

An iteration is a fit and then `batch` steps of the policy by that fit; the first fit is to `base-steps` random steps,
so that n iterations have seen base-steps + (n − 1) · batch steps. What is evaluated is the policy of the last fit, on
start states that training does not use. The homework's settings, random shooting of 1000 plans of 10 steps over three
networks of 2×250, beside the default posterior, with that planner and with CEM. The homework takes 5000 and 1000 steps.
"""

import argparse
import multiprocessing
import statistics

from ladder import Job, Outcome, do

HOMEWORK = ("planner=random-shooting", "planner.num_candidates=1000", "planner.horizon=10")
SETTINGS = {
    "homework": (
        *HOMEWORK, "posterior=ensemble", "posterior.num_members=3", "rollout.num_theta=3", "dynamics.hidden=[250,250]",
        "posterior.num_steps=300",
    ),
    "mean-field": HOMEWORK,
    "cem": ("planner=cem",),
}  # fmt: skip
NUM_RANDOM_EPISODES = 10
"""Of each seed, at the least; what `base-steps` of 1000 are."""


def job(settings: str, seed: int, num_iterations: int, arguments: argparse.Namespace, overrides: list[str]) -> Job:
    """Fits at base-steps and after every `batch` steps; the episode in which the last one is due is the last."""
    base, batch = arguments.base_steps, arguments.batch
    if base % batch:
        raise SystemExit(f"need base-steps to be a multiple of batch, got {base} and {batch}")
    sizes = (
        f"num_base_steps={base}", f"num_steps={base + (num_iterations - 1) * batch}", "num_episodes=1000000",
        f"algorithm.refit_every={batch}",
    )  # fmt: skip
    return Job("Obstacles-v0", "mpc", None, seed, arguments.episodes, (*SETTINGS[settings], *sizes, *overrides))


def table(outcomes: dict[tuple[str, int], list[Outcome]]) -> str:
    """A row for each settings and number of iterations: means over seeds ± standard errors over seeds."""
    lines = ["| settings | iterations | steps | seeds | return | worst seed | CPU-minutes a run |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (settings, num_iterations), rows in outcomes.items():
        means = [statistics.mean(row.returns) for row in rows]
        steps = max(row.num_steps for row in rows)
        minutes = _spread([row.cpu_minutes for row in rows])
        cells = [settings, num_iterations, f"{steps:,}", len(rows), _spread(means), f"{min(means):.1f}", minutes]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    first = next(iter(outcomes.values()))
    random = _spread([statistics.mean(row.training_returns[:NUM_RANDOM_EPISODES]) for row in first])
    return "\n".join([*lines, "", f"random policy, {NUM_RANDOM_EPISODES} episodes a seed: {random}"])


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes a run")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--base-steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=["homework"])
    arguments, overrides = parser.parse_known_intermixed_args()
    if wrong := [word for word in overrides if "=" not in word]:
        parser.error(f"need key=value, got {' '.join(wrong)}")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    kinds = [(settings, number) for settings in arguments.settings for number in arguments.iterations]
    jobs = [job(settings, seed, number, arguments, overrides) for settings, number in kinds for seed in seeds]
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for index, outcome in enumerate(pool.imap(do, jobs)):
            settings, number = kind = kinds[index // len(seeds)]
            outcomes.setdefault(kind, []).append(outcome)
            print(
                f"{settings}, {number} iterations, seed {outcome.job.seed}: {statistics.mean(outcome.returns):.1f} "
                f"after {outcome.num_steps} steps, {outcome.cpu_minutes:.1f} CPU-minutes",
                flush=True,
            )
    print(table(outcomes))


if __name__ == "__main__":
    main()
