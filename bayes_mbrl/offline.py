"""Learn from data that were recorded elsewhere: p(θ | D), and a policy where that needs no more than p(θ | D), in the
folder of a run that nobody has acted in."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from bayes_mbrl import artefacts
from bayes_mbrl.build import Builder
from bayes_mbrl.checkpoint import RunState, save_checkpoint
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_functions import compare_with_data
from bayes_mbrl.environments.minari_data import read_minari
from bayes_mbrl.environments.recorded import Recording, recording_of
from bayes_mbrl.errors import UserError
from bayes_mbrl.learning import Learning
from bayes_mbrl.progress import Observer
from bayes_mbrl.run_folder import MetricsLog
from bayes_mbrl.snapshots import save_snapshot
from bayes_mbrl.yaml_subset import read_mapping

PHASE = "offline data"
"""Of an episode, in the metrics."""


def read_data(data: str) -> Recording:
    """What DATA of `bayes-mbrl fit DATA` names: a folder with `transitions.npz` (of a run, say), such a file, or a
    Minari dataset that is on this machine.

    Episodes are numbered from 0, and the rows of each stand together, see `_episode_by_episode`. Raises UserError when
    there is nothing of the kind or it cannot be used.
    """
    path = pathlib.Path(data)
    if not path.exists() and path.suffix != ".npz":
        recording = read_minari(data)
    else:
        recording = _read_npz(path / "transitions.npz" if path.is_dir() else path)
    return dataclasses.replace(recording, transitions=_episode_by_episode(recording.transitions, data))


def configure(
    recording: Recording, overrides: Sequence[str], *, options: dict[str, Any], warn: Any = lambda text: None
) -> Config:
    """The configuration of a fit to `recording`; `options` by key as for `resolve`, None where not given.

    The environment is the one that is named, or the recorded one if it is there and has the same states and actions, or
    else a stand-in, so that the reward is learned; `warn` is told so. Raises UserError.
    """
    env = options.get("env")
    if env is None and recording.env is not None:
        try:
            with Environment(recording.env) as environment:
                _check_fits(recording, environment)
            env = recording.env
        except UserError as error:
            warn(f"the recorded environment is not used: {error}")
    env = env or recording.stand_in
    config = resolve(overrides, options={**options, "env": env})
    number = int(recording.transitions.episode[-1]) + 1
    return config.model_copy(update={"num_episodes": number, "num_steps": None})


def check(config: Config, recording: Recording, hold_out: int) -> None:
    """Raise UserError when the environment is not one of these data, no episode is left to learn from, or the algorithm
    learns by acting only.
    """
    with Environment(config.env) as environment:
        _check_fits(recording, environment)
        learner = Builder(config, environment).learner()
        if learner is not None and not learner.num_steps_after_fit:
            raise UserError(
                f"algorithm {config.algorithm.name} learns from steps of its own, and recorded data bring none: take "
                "algorithm=mpc, which plans by the posterior, or policy-backprop, which learns a policy from it alone"
            )
    if not 0 <= hold_out < config.num_episodes:
        raise UserError(
            f"need 0 <= --hold-out < {config.num_episodes}, the number of episodes in the data, got {hold_out}"
        )


def fit_offline(
    config: Config, recording: Recording, folder: pathlib.Path, *, hold_out: int = 0, observer: Observer
) -> RunState:
    """Fit the posterior to all episodes but the last `hold_out`, learn a policy from it where the algorithm does, and
    leave what a run leaves in its new folder.

    The episodes that are held out are kept there too: the report judges the model by them. Raises UserError.
    """
    observer.started(config, folder)
    data = recording.transitions
    num_fitted = int((data.episode < config.num_episodes - hold_out).sum())
    with Environment(config.env) as environment:
        builder = Builder(config, environment)
        for text in compare_with_data(environment.spec, data):
            observer.warning(text)
        learning = Learning(builder, RunState(data[:num_fitted], None, [], next_episode=config.num_episodes), observer)
        told = learning.catch_up()
        metrics = _metrics(data, num_fitted, learning.loss)
        metrics[-1] |= told
        state = dataclasses.replace(learning.state, transitions=data, metrics=metrics)
        assert state.posterior is not None
        save_snapshot(folder, config.num_episodes - 1, state.posterior)
        save_checkpoint(folder, state)
        with MetricsLog(folder, state.metrics):
            pass
        paths = artefacts.write(folder, builder, state, [])
    observer.finished(artefacts.summary(state, []), paths)
    return state


def _read_npz(path: pathlib.Path) -> Recording:
    if not path.exists():
        raise UserError(f"{path} does not exist: name a Minari dataset, the folder of a run, or a file of transitions")
    try:
        transitions = Transitions.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{error}. Needed are state, action, reward, next_state, terminated and episode") from error
    if not len(transitions):
        raise UserError(f"{path} holds no transitions")
    recorded = read_mapping(path.with_name("config.yaml"))[0] if path.with_name("config.yaml").exists() else {}
    env = recorded.get("env")
    return recording_of(transitions, env if isinstance(env, str) else None)


def _episode_by_episode(transitions: Transitions, data: str) -> Transitions:
    """The same rows with the episodes one after the other, numbered from 0 by where they begin.

    Ids may come back: rows of parallel environments, or of runs that were put together. A row goes on with the earlier
    rows of its id where it stands right behind them or its state is their last next_state; else an episode begins.
    Raises UserError where that leaves episodes of one step.
    """
    order = transitions.episode.argsort(stable=True)
    earlier, later = transitions[order[:-1]], transitions[order[1:]]
    same, adjacent = later.episode == earlier.episode, order.diff() == 1
    joined = torch.isclose(later.state, earlier.next_state, rtol=1e-4, atol=1e-6).all(1) & ~earlier.terminated
    goes_on = same & (adjacent | joined)
    begins = torch.cat([torch.ones(1, dtype=torch.bool), ~goes_on])
    rank = order[begins].argsort().argsort()  # of an episode's first row among those of all
    number = torch.empty_like(order)
    number[order] = rank[begins.cumsum(0) - 1]
    lengths = number.bincount()
    unfinished = (lengths == 1)[number] & ~transitions.terminated
    if bool((same & ~adjacent).any()) and 2 * int(unfinished.sum()) > len(lengths):
        raise UserError(
            f"{data}: ids of episodes come back after others, as of parallel environments, and the state of such a row "
            "is not the next_state of the row before it of that episode, so the rows cannot be put together: sort them "
            "by episode, each in the order of time"
        )
    rows = number.argsort(stable=True)
    return dataclasses.replace(transitions[rows], episode=number[rows])


def _check_fits(recording: Recording, environment: Environment) -> None:
    data = recording.transitions
    now = environment.state_dim, environment.action_dim
    if (then := (data.state.shape[1], data.action.shape[1])) != now:
        raise UserError(
            f"the data have {then[0]} observed numbers and {then[1]} numbers in an action, {environment.spec.name} has "
            f"{now[0]} and {now[1]}: name the environment that they are from with --env"
        )


def _metrics(data: Transitions, num_fitted: int, loss: float | None) -> list[dict[str, Any]]:
    """A mapping for each episode, as those of a run: see experiment.py."""
    rows = []
    for number in range(int(data.episode[-1]) + 1):
        episode = data[data.episode == number]
        rows.append(
            {
                "episode": number,
                "phase": PHASE,
                "return": float(episode.reward.sum(dtype=torch.float64)),
                "num_steps": len(episode),
                "terminated": bool(episode.terminated[-1]),
                "planning_seconds_per_step": None,
                "held_out_log_likelihood": None,
                "held_out_rmse": None,
                "loss": loss,
                "num_transitions": int((data.episode <= number).sum()),
                "num_fitted": num_fitted,
            }
        )
    return rows
