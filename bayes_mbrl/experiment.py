"""The main job: base policy, then fit, plan, act, append, again; checkpointed, resumable, evaluated at the end.

A run is a function of its configuration. Whatever is random in episode e comes from generators made of the seed and e
alone (seeding.py), so a killed run that is resumed from its last checkpoint gives the numbers of one never killed.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.episode import Episode, EpisodeCutShortError, run_episode
from bayes_mbrl.analysis.uncertainty import mixture_log_likelihood
from bayes_mbrl.build import Builder
from bayes_mbrl.cautions import cautions
from bayes_mbrl.checkpoint import RunState, has_checkpoint, load_checkpoint, save_checkpoint
from bayes_mbrl.config import Config
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment, EnvironmentFault
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.recorded import is_stand_in
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.base import parameter_shapes
from bayes_mbrl.learning import Learning, fitted, is_behind, lacks_posterior, nothing_learned, trained_agent
from bayes_mbrl.progress import Observer
from bayes_mbrl.registry import posterior_kinds
from bayes_mbrl.run_folder import MetricsLog, load_run, replace_config
from bayes_mbrl.seeding import generator_for, stream_seed
from bayes_mbrl.snapshots import save_snapshot

MAX_FAULTS_IN_A_ROW = 3
HELD_OUT_SAMPLES = 50
"""K for the score of the model on the episode just collected."""

_START = RunState(None, None, [], next_episode=0)


def run_experiment(config: Config, folder: pathlib.Path, *, observer: Observer) -> RunState:
    """Do the run that `config` describes, in a new run folder."""
    return _run(config, folder, _START, observer)


def resume_experiment(folder: pathlib.Path, *, num_episodes: int | None, observer: Observer) -> RunState:
    """Go on from the last checkpoint, to `num_episodes` episodes in all instead of those configured if given.

    Another number of episodes is recorded in the run's configuration, so that this may be stopped and resumed too.
    """
    config = load_run(folder)
    state = _START
    if has_checkpoint(folder):
        state = load_checkpoint(folder, posterior_kinds(config.posterior.name))
    if state.faults_in_a_row >= MAX_FAULTS_IN_A_ROW:  # it had stopped for them: the environment is mended now
        state = dataclasses.replace(state, faults_in_a_row=0)
    if num_episodes is not None:
        # A limit of steps, which would end the run before them, no longer holds.
        config = config.model_copy(update={"num_episodes": max(num_episodes, state.next_episode), "num_steps": None})
        replace_config(folder, config)
    return _run(config, folder, state, observer)


def evaluate_run(
    folder: pathlib.Path, *, num_episodes: int | None, seed: int | None, observer: Observer, env: str | None = None
) -> list[float]:
    """Returns of evaluation episodes with what the run has learned; it learns nothing more.

    `env` is another environment of the same states and actions to act in. Of one that takes the place of recorded
    data's, no reward or features are used that the posterior was not learned with.
    """
    config = load_run(folder)
    spec = find_spec(config.env if env is None else env)
    if env is not None and is_stand_in(config.env):
        spec = EnvironmentSpec(spec.id, spec.summary)
    state = load_checkpoint(folder, posterior_kinds(config.posterior.name))
    if state.posterior is None and not state.learned:
        raise UserError(f"{folder} has not learned anything yet: go on with bayes-mbrl resume {folder}")
    config = config.model_copy(
        update={
            "num_evaluation_episodes": config.num_evaluation_episodes if num_episodes is None else num_episodes,
            "seed": config.seed if seed is None else seed,
            "env": config.env if env is None else env,
        }
    )
    with Environment(spec) as environment:
        builder = Builder(config, environment)
        _check_continues(builder, state, folder)
        agent = trained_agent(builder, state)
        for text in nothing_learned(builder, state):
            observer.warning(text)
        episodes = evaluate(builder, agent, observer)
    _check_evaluated(config, episodes)
    return [episode.total_reward for episode in episodes]


def evaluate(builder: Builder, agent: Agent, observer: Observer) -> list[Episode]:
    """As many episodes of the agent as configured, from start states that training does not use.

    An episode in which the environment fails is left out, with a warning; after three in a row there are no more.
    """
    config = builder.config
    observer.phase("evaluating", config.num_evaluation_episodes)
    episodes: list[Episode] = []
    faults_in_a_row = 0
    for number in range(config.num_evaluation_episodes):
        try:
            episode = run_episode(
                builder.environment,
                agent,
                number=number,
                seed=stream_seed(config.seed, "evaluation-environment", number),
                generator=generator_for(config.seed, "evaluation-acting", number),
            )
        except EnvironmentFault as fault:
            observer.warning(f"{fault}: the evaluation episode is dropped")
            faults_in_a_row += 1
            if faults_in_a_row >= MAX_FAULTS_IN_A_ROW:
                break
        else:
            faults_in_a_row = 0
            observer.advance(**{"return": episode.total_reward})
            episodes.append(episode)
    return episodes


def _run(config: Config, folder: pathlib.Path, state: RunState, observer: Observer) -> RunState:
    observer.started(config, folder)
    for caution in cautions(config):
        observer.warning(caution)
    with Environment(config.env) as environment, MetricsLog(folder, state.metrics) as log:
        builder = Builder(config, environment)
        _check_continues(builder, state, folder)
        for metrics in state.metrics:
            observer.episode(metrics)
        if lacks_posterior(builder, state):
            state = _catch_up(builder, state, folder, observer)
        while not _is_done(config, state):
            try:
                state = _next_episode(builder, state, observer)
            except _FitFailedError as failure:
                save_checkpoint(folder, failure.state)
                raise _with_advice(failure, folder) from failure
            _save(folder, state)
            if state.faults_in_a_row >= MAX_FAULTS_IN_A_ROW:
                raise UserError(
                    f"{config.env} failed in {state.faults_in_a_row} episodes in a row; "
                    f"what was learned before is kept: mend the environment, then bayes-mbrl resume {folder}"
                )
            if state.faults_in_a_row == 0:
                log.write(state.metrics[-1])
                observer.episode(state.metrics[-1])
        if is_behind(builder, state):
            state = _catch_up(builder, state, folder, observer)
        for text in nothing_learned(builder, state):
            observer.warning(text)
        episodes = evaluate(builder, trained_agent(builder, state), observer)
        paths = artefacts.write(folder, builder, state, episodes)
    observer.finished(artefacts.summary(state, episodes), paths)
    _check_evaluated(config, episodes)
    return state


def _catch_up(builder: Builder, state: RunState, folder: pathlib.Path, observer: Observer) -> RunState:
    """The state after learning from all data there are."""
    learning = Learning(builder, state, observer)
    try:
        learning.catch_up()
    except UserError as failure:
        learning.tell_warnings()
        raise _with_advice(failure, folder) from failure
    _save(folder, learning.state)
    return learning.state


def _save(folder: pathlib.Path, state: RunState) -> None:
    if state.faults_in_a_row == 0 and state.posterior is not None:
        save_snapshot(folder, state.next_episode - 1, state.posterior)
    save_checkpoint(folder, state)


def _with_advice(failure: UserError, folder: pathlib.Path) -> UserError:
    where = f"the environment's module or in {folder}/config.yaml"
    return UserError(f"{failure}; the data are kept: change that in {where}, then bayes-mbrl resume {folder}")


def _check_continues(builder: Builder, state: RunState, folder: pathlib.Path) -> None:
    """Raise UserError when the configuration or the environment is not the one that `state` was learned with."""
    if state.transitions is None:
        return
    environment, data = builder.environment, state.transitions
    now = environment.state_dim, environment.action_dim
    if (then := (data.state.shape[1], data.action.shape[1])) != now:
        raise UserError(
            f"{folder} was learned with {then[0]} observed numbers and {then[1]} actions, {builder.config.env} has "
            f"{now[0]} and {now[1]}: undo the change of the environment, or start anew with bayes-mbrl run"
        )
    if state.posterior is None:
        return
    transitions, posterior = fitted(state)
    expected = parameter_shapes(builder.dynamics(transitions).model)
    theta = posterior.sample(1, generator=torch.Generator())
    if {name: value.shape[1:] for name, value in theta.items()} != expected:
        raise UserError(
            f"the posterior in {folder} has other parameters than the dynamics in its config.yaml: undo the change "
            "there, or start anew with bayes-mbrl run"
        )


def _check_evaluated(config: Config, episodes: Sequence[Episode]) -> None:
    if config.num_evaluation_episodes and not episodes:
        raise UserError(f"{config.env} failed in every evaluation episode: mend the environment, then evaluate")


def _is_done(config: Config, state: RunState) -> bool:
    num_steps = 0 if state.transitions is None else len(state.transitions)
    return state.next_episode >= config.num_episodes or num_steps >= (config.num_steps or math.inf)


def _next_episode(builder: Builder, state: RunState, observer: Observer) -> RunState:
    """Act for one episode and learn from it; after a fault of the environment only the fault is counted."""
    seed, number = builder.config.seed, state.next_episode
    attempt = number * MAX_FAULTS_IN_A_ROW + state.faults_in_a_row
    learning = Learning(builder, state, observer)
    observer.phase("acting", builder.environment.max_episode_steps)
    cut_short = None
    try:
        episode = run_episode(
            builder.environment,
            learning.agent(),
            number=number,
            seed=stream_seed(seed, "environment", attempt),
            generator=generator_for(seed, "acting", attempt),
            after_step=learning.after_step,
        )
    except EnvironmentFault as fault:
        observer.warning(f"{fault}: the episode is dropped, the data so far are kept")
        return dataclasses.replace(state, faults_in_a_row=state.faults_in_a_row + 1)
    except EpisodeCutShortError as failure:
        episode, cut_short = failure.episode, failure
    metrics = {
        "episode": number,
        "phase": "base policy" if learning.by_base_policy else builder.config.algorithm.name,
        **_episode_metrics(episode, "planning" if builder.plans else "acting"),
        **_held_out_metrics(builder, state, episode.transitions),
    }

    def after(learned: RunState, **outcome: Any) -> RunState:
        rows = [*state.metrics, metrics | outcome]
        return dataclasses.replace(learned, metrics=rows, next_episode=number + 1, faults_in_a_row=0)

    try:
        if cut_short is not None:
            raise cut_short
        outcome = learning.after_episode(episode.transitions)
    except UserError as error:
        learning.tell_warnings()
        transitions = learning.with_episode(episode.transitions)
        unlearned = after(dataclasses.replace(state, transitions=transitions), num_transitions=len(transitions))
        raise _FitFailedError(str(error), unlearned) from error
    return after(learning.state, **outcome)


class _FitFailedError(UserError):
    """Learning in an episode or after it failed; `state` has the episode's data, and nothing learned from them."""

    def __init__(self, message: str, state: RunState) -> None:
        super().__init__(message)
        self.state = state


def _episode_metrics(episode: Episode, doing: str) -> dict[str, float | int]:
    num_steps = len(episode.transitions)
    return {
        "return": episode.total_reward,
        "num_steps": num_steps,
        "terminated": bool(episode.transitions.terminated[-1]),
        f"{doing}_seconds_per_step": episode.acting_seconds / num_steps,
    }


def _held_out_metrics(builder: Builder, state: RunState, episode: Transitions) -> dict[str, float | None]:
    """How well the model foresaw an episode that it has not learned from yet.

    Log-likelihood of the mixture over θ, in nats a transition; RMSE of the mean prediction in standard deviations of
    the targets (Δs, and the reward where it is learned). A learned termination counts in the former alone.
    """
    if state.posterior is None:
        return {"held_out_log_likelihood": None, "held_out_rmse": None}
    transitions, posterior = fitted(state)
    dynamics = builder.learned_dynamics(transitions, posterior)
    generator = generator_for(builder.config.seed, "report", state.next_episode)
    theta = posterior.sample(HELD_OUT_SAMPLES, generator=generator)
    x, y = dynamics.regression_data(episode)
    error = (dynamics.predict_targets(theta, x)[0].mean(0) - y)[:, : dynamics.continuous_dim]
    log_likelihood = mixture_log_likelihood(dynamics.log_likelihood(theta, episode)).mean()
    return {"held_out_log_likelihood": float(log_likelihood), "held_out_rmse": float(error.square().mean().sqrt())}
