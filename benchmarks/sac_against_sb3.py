"""Our soft actor-critic against Stable-Baselines3's: the same settings, start states and evaluation, over seeds.

    .venv/bin/python -m pip install -c constraints.txt -e '.[sb3]'
    .venv/bin/python benchmarks/sac_against_sb3.py [--env Pendulum-v1] [--steps 20000] [--seeds 5] [--hidden 64 64]
        [--episodes 20] [--library ours sb3] [--results FILE]

Both learn from the same number of random steps, then make one update a step. The deterministic policy that a run ends
with (never the best so far) acts from the same start states for all runs, so that the spread over seeds is that of
learning. Prints a line a run, a table in Markdown, and whether ours lies within the spread of SB3's. With `--results`,
runs that the file has already are not done again.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl import experiment
from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.learning import trained_agent
from bayes_mbrl.progress import Silent

NUM_RANDOM_STEPS = 200
EVALUATION_SEED = 1000
"""No seed of training."""
LIBRARIES = {"ours": "ours", "sb3": "Stable-Baselines3"}


@dataclasses.dataclass(frozen=True)
class Job:
    """One run."""

    library: str
    env: str
    seed: int
    num_steps: int
    hidden: tuple[int, ...]
    num_evaluation_episodes: int

    @property
    def config(self) -> Config:
        """What ours runs with, and SB3 too."""
        settings = {
            "num_episodes": self.num_steps,
            "num_steps": self.num_steps,
            "num_base_steps": min(NUM_RANDOM_STEPS, self.num_steps),
            "num_evaluation_episodes": 0,
            "algorithm.hidden": list(self.hidden),
            "algorithm.learning_rate": 1e-3,
        }
        written = [f"{key}={value}" for key, value in settings.items()]
        return resolve(written, options={"env": self.env, "algorithm": "sac", "seed": self.seed})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was reached."""

    job: Job
    returns: list[float]
    num_steps: int
    cpu_minutes: float


class Baseline(Agent):
    """Acts by a model of Stable-Baselines3, without noise."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def act(self, observation: Tensor, memory: None, *, generator: torch.Generator) -> tuple[Tensor, None]:
        """See `Agent.act`."""
        action, _ = self._model.predict(observation.numpy(), deterministic=True)
        return torch.from_numpy(action), None


def do(job: Job) -> Outcome:
    """Learn and evaluate, on one thread."""
    torch.set_num_threads(1)
    config = job.config
    started = time.process_time()
    agent, num_steps = {"ours": _ours, "sb3": _sb3}[job.library](config)
    minutes = (time.process_time() - started) / 60
    changes = {"num_evaluation_episodes": job.num_evaluation_episodes, "seed": EVALUATION_SEED}
    with Environment(config.env) as environment:
        episodes = experiment.evaluate(Builder(config.model_copy(update=changes), environment), agent, Silent())
    return Outcome(job, [episode.total_reward for episode in episodes], num_steps, minutes)


def _ours(config: Config) -> tuple[Agent, int]:
    with Environment(config.env) as environment, tempfile.TemporaryDirectory() as folder:
        state = experiment.run_experiment(config, pathlib.Path(folder), observer=Silent())
        assert state.transitions is not None
        return trained_agent(Builder(config, environment), state), len(state.transitions)


def _sb3(config: Config) -> tuple[Agent, int]:
    import gymnasium
    import stable_baselines3

    from bayes_mbrl.environments.registration import find_spec

    settings = config.algorithm.settings
    assert config.num_steps is not None
    model = stable_baselines3.SAC(
        "MlpPolicy",
        gymnasium.make(find_spec(config.env).id),
        learning_rate=settings["learning_rate"],
        buffer_size=config.num_steps,
        learning_starts=config.num_base_steps,
        batch_size=settings["batch_size"],
        tau=settings["target_rate"],
        gamma=settings["discount"],
        train_freq=1,
        gradient_steps=settings["updates_per_step"],
        policy_kwargs={"net_arch": list(settings["hidden"])},
        seed=config.seed,
        device="cpu",
    )
    model.learn(config.num_steps)
    return Baseline(model), model.num_timesteps


def table(outcomes: list[Outcome]) -> str:
    """A row a library: means over seeds ± standard errors, the spread over seeds, and each seed's mean."""
    lines = [
        "| SAC of | seeds | steps | return | standard deviation over seeds | each seed | CPU-minutes a run |",
        "|---|---|---|---|---|---|---|",
    ]
    for library, title in LIBRARIES.items():
        rows = [outcome for outcome in outcomes if outcome.job.library == library]
        if not rows:
            continue
        means = _means(rows)
        cells = [
            title,
            f"{len(rows)}",
            f"{max(row.num_steps for row in rows):,}",
            _spread(means),
            f"{statistics.stdev(means):.1f}" if len(means) > 1 else "",
            ", ".join(f"{mean:.1f}" for mean in means),
            _spread([row.cpu_minutes for row in rows]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(outcomes: list[Outcome]) -> str:
    """Whether the difference of the means is within SB3's standard deviation over seeds."""
    ours, theirs = (_means([o for o in outcomes if o.job.library == library]) for library in LIBRARIES)
    if min(len(ours), len(theirs)) < 2:
        return "no verdict: it takes two seeds of both"
    difference = statistics.mean(ours) - statistics.mean(theirs)
    error = (statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs)) ** 0.5
    spread = statistics.stdev(theirs)
    where = "within" if abs(difference) <= spread else "above" if difference > 0 else "below"
    return (
        f"ours − Stable-Baselines3: {difference:.1f} ± {error:.1f} (standard error); {where} the spread over seeds "
        f"of Stable-Baselines3, {spread:.1f} (standard deviation)"
    )


def _means(outcomes: list[Outcome]) -> list[float]:
    return [statistics.mean(outcome.returns) for outcome in outcomes]


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


def _done(path: pathlib.Path | None) -> dict[Job, Outcome]:
    """What a file of results has; a last line that was cut off does not count."""
    done: dict[Job, Outcome] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path and path.exists() else []
    for line in lines:
        if line.endswith("\n"):
            row = json.loads(line)
            job = Job(**{**row.pop("job"), "hidden": tuple(row.pop("hidden"))})
            done[job] = Outcome(job, **row)
    return done


def _line(outcome: Outcome) -> str:
    row = dataclasses.asdict(outcome)
    return json.dumps({**row, "hidden": row["job"].pop("hidden")}) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--episodes", type=int, default=20, help="evaluation episodes a run")
    parser.add_argument("--library", nargs="+", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--results", type=pathlib.Path, help="JSON lines, a run each")
    given = parser.parse_args(arguments)
    done, outcomes = _done(given.results), []
    for seed in range(given.seeds):
        for library in given.library:
            job = Job(library, given.env, seed, given.steps, tuple(given.hidden), given.episodes)
            outcome = done[job] = done[job] if job in done else do(job)
            if given.results:
                given.results.parent.mkdir(parents=True, exist_ok=True)
                given.results.write_text("".join(map(_line, done.values())), encoding="utf-8")
            outcomes.append(outcome)
            mean, minutes = statistics.mean(outcome.returns), outcome.cpu_minutes
            print(f"{job.env}, {library}, seed {seed}: return {mean:.1f}, {minutes:.1f} CPU-minutes", flush=True)
    print(f"\n{table(outcomes)}\n\n{verdict(outcomes)}")


if __name__ == "__main__":
    main()
