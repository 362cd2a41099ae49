"""What a run learns from one episode: p(θ | D), refitted within it and after it, and what the algorithm learns beside.

The state of a run before an episode decides everything after it, since posterior and learner are made of it alone.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.learner import Learner
from bayes_mbrl.build import Builder
from bayes_mbrl.checkpoint import RunState
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.known_functions import compare_with_data
from bayes_mbrl.errors import UserError
from bayes_mbrl.fit_record import fit_record
from bayes_mbrl.imagination import World
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.progress import Observer
from bayes_mbrl.seeding import generator_for


def fitted(state: RunState) -> tuple[Transitions, Posterior]:
    """The transitions that the posterior has learned from, and the posterior."""
    assert state.transitions is not None
    assert state.posterior is not None
    return state.transitions[: state.num_fitted], state.posterior


def is_base_policys(builder: Builder, state: RunState) -> bool:
    """Whether the next episode is one of the base policy: planning needs data, whatever is configured."""
    num_steps = 0 if state.transitions is None else len(state.transitions)
    needed = max(builder.config.num_base_steps, int(builder.plans))
    return builder.algorithm.base_data_only or num_steps < needed


def is_behind(builder: Builder, state: RunState) -> bool:
    """Whether a run that ends here has a fit to do: its data are the base policy's, and not all were learned from."""
    if not builder.learns_model or state.transitions is None:
        return False
    unfitted = state.posterior is None or state.num_fitted < len(state.transitions)
    return unfitted and is_base_policys(builder, state)


def lacks_posterior(builder: Builder, state: RunState) -> bool:
    """Whether there are data to act by a posterior, and none was learned from them: its fit had failed."""
    there = state.transitions is not None and state.posterior is None and builder.learns_model
    return there and not is_base_policys(builder, state)


def nothing_learned(builder: Builder, state: RunState) -> list[str]:
    """What to say where the algorithm learns in steps of its own alone, and there were none; else nothing."""
    config, learner = builder.config, builder.learner()
    if learner is None or learner.num_steps_after_fit or state.transitions is None:
        return []
    if any(row.get("phase") == config.algorithm.name for row in state.metrics):
        return []
    return [
        f"algorithm {config.algorithm.name} acts as it was initialised: it learns in its own steps, and none of the "
        f"{len(state.transitions)} were, num_base_steps being {config.num_base_steps}; take fewer of these, or more "
        "num_episodes"
    ]


def restored_learner(builder: Builder, state: RunState) -> Learner | None:
    """What the algorithm has learned beside p(θ | D) so far; None for one that plans.

    Raises UserError when it was learned with other settings.
    """
    learner = builder.learner()
    if learner is None:
        return None
    if state.learned:
        try:
            learner.load(state.learned)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"what algorithm {builder.config.algorithm.name} had learned is not of its settings in config.yaml: "
                f"undo the change there, or start anew with bayes-mbrl run ({reason[:200]})"
            ) from error
    if state.transitions is not None:
        learner.remember(state.transitions)
    return learner


def trained_agent(builder: Builder, state: RunState) -> Agent:
    """Who acts by all that was learned, and explores no more."""
    learner = restored_learner(builder, state)
    return builder.acting_agent(*fitted(state)) if learner is None else learner.agent(explore=False)


class Learning:
    """Learns within an episode and after it, as often as the algorithm asks; `state` is what came of it."""

    def __init__(self, builder: Builder, state: RunState, observer: Observer) -> None:
        self.state = state
        self.by_base_policy = is_base_policys(builder, state)
        self._builder = builder
        self._observer = observer
        self._before = [] if state.transitions is None else [state.transitions]
        self._learner = restored_learner(builder, state)
        self.loss: float | None = None
        """Of the last fit."""

    def agent(self) -> Agent:
        """Who collects the next data."""
        if self.by_base_policy:
            return self._builder.base_policy()
        if self._learner is not None:
            return self._learner.agent(explore=True)
        return self._builder.exploring_agent(*fitted(self.state))

    def after_step(self, steps: Sequence[Transitions]) -> Agent | None:
        """Learn from a step of the episode so far; the agent that goes on, when another one does."""
        self._observer.advance()
        if self.by_base_policy:
            return None
        number, another = sum(map(len, self._before)) + len(steps), None
        refit_every = self._builder.refit_every
        if self.state.posterior is not None and refit_every is not None and number % refit_every == 0:
            self._fit(Transitions.concatenate([*self._before, *steps]))
            self._observer.phase("acting", self._builder.environment.max_episode_steps)
            if self._learner is None:
                another = self._builder.exploring_agent(*fitted(self.state))
        if self._learner is not None:
            generator = generator_for(self._builder.config.seed, "learning", number)
            self._learner.after_step(steps[-1], self._world, generator=generator)
        return another

    def after_episode(self, episode: Transitions) -> dict[str, Any]:
        """Append the episode to D, refit where no interval says otherwise, and tell how it went."""
        transitions = self.with_episode(episode)
        if not self._before:  # the first data: what is said about the environment can be held against them
            for text in compare_with_data(self._builder.environment.spec, transitions):
                self._observer.warning(text)
        enough = not is_base_policys(self._builder, dataclasses.replace(self.state, transitions=transitions))
        if enough and (self.state.posterior is None or self._builder.refit_every is None):
            self._fit(transitions)
        self.state = dataclasses.replace(self.state, transitions=transitions)
        self._keep()
        told = {} if self._learner is None else self._learner.report()
        return {"loss": self.loss, "num_transitions": len(transitions), "num_fitted": self.state.num_fitted, **told}

    def catch_up(self) -> Mapping[str, Any]:
        """Learn from all data there are; returns what the algorithm tells of what it learned."""
        assert self.state.transitions is not None
        self._fit(self.state.transitions)
        self._keep()
        return {} if self._learner is None else self._learner.report()

    def with_episode(self, episode: Transitions) -> Transitions:
        """D and the episode."""
        return Transitions.concatenate([*self._before, episode])

    def tell_warnings(self) -> None:
        """Pass on what the learner warns of, which has a reason too where learning failed."""
        for text in [] if self._learner is None else self._learner.warnings():
            self._observer.warning(text)

    @functools.cached_property
    def _world(self) -> World | None:
        return None if self.state.posterior is None else self._builder.world(*fitted(self.state))

    def _fit(self, transitions: Transitions) -> None:
        """p(θ | D), where the algorithm learns it, and then what follows from it."""
        seed, learner = self._builder.config.seed, self._learner
        if not self._builder.learns_model:
            return
        self._observer.phase("fitting", None)
        generator = generator_for(seed, "inference", len(transitions))
        # An earlier end of the run, with fewer data of the base policy, leaves no trace in the fit to all of them.
        previous = None if self.by_base_policy else self.state.posterior
        posterior, info = self._builder.fit(transitions, previous, generator=generator)
        self.loss = info.final_loss
        self.state = dataclasses.replace(
            self.state,
            transitions=transitions,
            posterior=posterior,
            num_fitted=len(transitions),
            fit=fit_record(info),
        )
        if learner is None:
            return
        self._world = self._builder.world(transitions, posterior)
        if learner.num_steps_after_fit:
            self._observer.phase("learning in the model", learner.num_steps_after_fit)
        generator = generator_for(seed, "improving", len(transitions))
        learner.after_fit(self._world, transitions, generator=generator, advance=self._observer.advance)

    def _keep(self) -> None:
        """Bring the learner into the state."""
        self.tell_warnings()
        if self._learner is not None:
            self.state = dataclasses.replace(self.state, learned=self._learner.tensors())
