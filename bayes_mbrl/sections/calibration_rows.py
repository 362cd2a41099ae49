"""What predictions are judged by: transitions that nothing was learned from, where the policy goes and elsewhere.

Axes: K parameter samples, N transitions, S dimensions of a prediction.
"""

import dataclasses

import torch

from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.analysis.mixture import Floats, Mixture
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.recalibrated import outcomes, predictive_mixture
from bayes_mbrl.dynamics.standardise import Standardiser, negligible_std
from bayes_mbrl.environments.adapter import EnvironmentFault
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.loaded_run import Knowledge, LoadedRun
from bayes_mbrl.seeding import stream_seed

NUM_THETA = 50
MAX_ROWS = 2000
"""One-step predictions that are judged; of more transitions, so many evenly spaced."""
NUM_RANDOM_EPISODES, MAX_RANDOM_STEPS = 2, 2000


@dataclasses.dataclass(frozen=True)
class Rows:
    """Transitions that nothing was learned from."""

    name: str
    all: Transitions
    judged: Transitions
    """Thinned, without those whose prediction is not finite."""
    num_diverged: int
    mixture: Mixture
    y: Floats
    """[N, S]"""
    pit: Floats
    """[N, S]"""


def random_episodes(run: LoadedRun, missing: list[str]) -> Transitions | None:
    """Random actions in the real environment, from start states of their own: the same each time."""
    assert run.builder is not None
    environment, episodes = run.builder.environment, list[Transitions]()
    for number in range(NUM_RANDOM_EPISODES):
        try:
            episode = run_episode(
                environment, run.builder.base_policy(), number=number,
                seed=stream_seed(run.config.seed, "report", 2**35 + number),
                generator=run.generator(f"calibration: random actions {number}"),
            )  # fmt: skip
        except EnvironmentFault as fault:
            missing.append(f"{fault}: this episode of random actions is left out.")
            continue
        except UserError as error:  # recorded data, without an environment
            missing.append(f"No random actions are judged: {error}.")
            break
        episodes.append(episode.transitions[:MAX_RANDOM_STEPS])
    return Transitions.concatenate(episodes) if episodes else None


def rows_of(
    name: str, transitions: Transitions, theta: Theta, dynamics: Dynamics, missing: list[str]
) -> Rows | None:  # fmt: skip
    """One-step predictions of up to `MAX_ROWS` rows; None where none is finite."""
    chosen = transitions[evenly_spaced(len(transitions), MAX_ROWS)]
    with torch.no_grad():
        mean, std = dynamics.predict(theta, chosen.state.expand(NUM_THETA, -1, -1), chosen.action)
    sound = (mean.isfinite() & std.isfinite() & (std > 0)).all(-1).all(0)
    if diverged := int((~sound).sum()):
        missing.append(
            f"{name}: the prediction is not finite in {diverged} of {len(chosen)} rows, which are not judged."
        )
    if not bool(sound.any()):
        return None
    judged = chosen[sound]
    mixture, y = predictive_mixture(dynamics, theta, judged), outcomes(dynamics, judged).double().numpy()
    return Rows(name, transitions, judged, diverged, mixture, y, mixture.pit(y))


def scale_of(run: LoadedRun, knowledge: Knowledge) -> Floats:
    """Std of states, and of the reward where it is learned, in the data that were learned from [S]."""
    assert run.transitions is not None
    known = outcomes(knowledge.dynamics, run.transitions[: knowledge.num_fitted])
    scale: Floats = Standardiser.fitted(known, constant_std=negligible_std(known)).std.double().numpy()
    return scale
