"""What the report of a large run costs: 100,000 transitions, K = 100.

    .venv/bin/python benchmarks/report.py [--episodes 500] [--samples 100] [--folder FOLDER]

Makes the folder of such a run, Pendulum under random actions with a mean-field posterior over a network of 2×50 (as it
is: a run that learned from all of them would take hours), then times `bayes-mbrl report` in a process of its own.
Prints seconds, peak memory and the size of the page. Aims: two minutes on one core, 2 GB, 8 MB.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import torch

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms.episode import Episode, run_episode
from bayes_mbrl.build import Builder
from bayes_mbrl.checkpoint import RunState
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.fit_record import fit_record
from bayes_mbrl.run_folder import MetricsLog, new_run_folder
from bayes_mbrl.seeding import generator_for, stream_seed
from bayes_mbrl.snapshots import save_snapshot

NUM_FITS = 4
"""Posteriors that are really fitted, each to a larger part of the data; the snapshots between them are copies."""


def make_run(folder: pathlib.Path, *, num_episodes: int, num_samples: int, num_fit_steps: int = 300) -> int:
    """Write the folder of a run with that many episodes of 200 steps; the number of its transitions."""
    settings = [f"num_episodes={num_episodes}", f"rollout.num_theta={num_samples}", "num_evaluation_episodes=3"]
    config = resolve([*settings, f"posterior.num_steps={num_fit_steps}"], options={"env": "Pendulum-v1"})
    new_run_folder(folder, config, command="benchmarks/report.py")
    with Environment(config.env) as environment, MetricsLog(folder) as log:
        builder = Builder(config, environment)
        episodes = [_episode(builder, number) for number in range(num_episodes + 3)]
        training, evaluation = episodes[:num_episodes], episodes[num_episodes:]
        transitions = Transitions.concatenate([episode.transitions for episode in training])
        posterior, info, metrics = None, None, []
        fitted_after = {round((i + 1) * num_episodes / NUM_FITS) - 1 for i in range(NUM_FITS)} | {0}
        num_seen = 0
        for number, episode in enumerate(training):
            num_seen += len(episode.transitions)
            if number in fitted_after:
                generator = generator_for(config.seed, "inference", num_seen)
                posterior, info = builder.fit(transitions[:num_seen], posterior, generator=generator)
            save_snapshot(folder, number, posterior)
            metrics.append(
                {"episode": number, "phase": "mpc" if number else "base policy", "return": episode.total_reward,
                 "num_steps": len(episode.transitions), "terminated": False, "planning_seconds_per_step": 0.0,
                 "held_out_log_likelihood": None, "held_out_rmse": None, "loss": float(info.final_loss),
                 "num_transitions": num_seen, "num_fitted": num_seen}
            )  # fmt: skip
            log.write(metrics[-1])
        state = RunState(
            transitions, posterior, metrics, next_episode=num_episodes, num_fitted=num_seen, fit=fit_record(info)
        )
        artefacts.write(folder, builder, state, evaluation)
    return num_seen


def _episode(builder: Builder, number: int) -> Episode:
    seed = builder.config.seed
    return run_episode(
        builder.environment,
        builder.base_policy(),
        number=number,
        seed=stream_seed(seed, "environment", number),
        generator=generator_for(seed, "acting", number),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--folder", type=pathlib.Path, help="a run of an earlier call, or where to make one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or pathlib.Path(scratch) / "run"
        if not (folder / "config.yaml").exists():
            num = make_run(folder, num_episodes=arguments.episodes, num_samples=arguments.samples)
            print(f"{num:,} transitions in {arguments.episodes} episodes, K = {arguments.samples}")
        out = pathlib.Path(scratch) / "report.html"
        command = [sys.executable, "-c", "from bayes_mbrl.cli import main; main()", "report", folder, "--out", out]
        start = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True)
        seconds = time.perf_counter() - start
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, memory = children.ru_utime + children.ru_stime, children.ru_maxrss / 2**20
        size = out.stat().st_size / 1e6
        print(f"{seconds:.0f} s ({cpu:.0f} s of one core), {memory:.2f} GiB at most, page of {size:.1f} MB")


if __name__ == "__main__":
    main()
