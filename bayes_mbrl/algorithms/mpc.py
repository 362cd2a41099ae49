"""Model-based reinforcement learning version 1.5 with p(θ | D): model predictive control under uncertainty.

Source: lecture, "model-based reinforcement learning version 1.5" and "How to plan with uncertainty"; Chua et al.
(2018), algorithm 1. The lecture's numbered steps:

1. run the base policy to collect D                       experiment.py, the first episode
2. learn the dynamics, here the posterior p(θ | D)        experiment.py, `Learner.fit`, every `refit_every` steps
3. plan through it to choose actions                      `MPCAgent.replan`, by rollout.evaluate_plans
4. execute the first planned action, observe s'           `MPCAgent.act` and episode.py
5. append (s, a, s') to D                                 episode.py
"""

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.ilqr import replan_by_ilqr
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction, check_per_state
from bayes_mbrl.finalists import check_finalists, evaluate_finalists
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.planners.base import Planner, search
from bayes_mbrl.planners.ilqr import ILQR
from bayes_mbrl.planners.objectives import FailureObjective, Objective, check_failure
from bayes_mbrl.planners.propagation import Propagation
from bayes_mbrl.rollout import DIVERGENCE_RETURN, evaluate_plans

Exploration = Literal["none", "thompson", "information-gain", "hallucinated"]
"""Names of the files with these ways to explore."""


@dataclasses.dataclass(frozen=True)
class MPCMemory:
    """What is carried from step to step of one episode."""

    planner_state: Any
    """The search as it stood when it last planned, shifted to the present step."""
    num_steps: int
    """Steps of the episode so far."""


@dataclasses.dataclass(frozen=True, eq=False)
class MPCAgent(Agent):
    """Plans at every `replan_every`-th step and executes the plan's actions until it plans again.

    Raises ValueError unless 1 <= replan_every <= horizon (there are no planned actions beyond), where reward,
    termination or failure does not return one number for each state, and where an objective that counts failures has
    no failure function, or another one has; as `check_finalists`; and where a planner by gradients has bf16 or
    finalists.
    """

    posterior: Posterior
    dynamics: Dynamics
    planner: Planner[Any] | ILQR
    objective: Objective | FailureObjective
    propagation: Propagation
    reward: RewardFunction
    termination: TerminationFunction | None
    num_theta: int
    num_noise: int
    replan_every: int = 1
    divergence_return: float = DIVERGENCE_RETURN
    failure: TerminationFunction | None = None
    """Which transitions are failures, for an objective that counts them."""
    tolerance: float = 0.0
    """Share of the actions' range; see `planners.base.search`."""
    bf16: bool = False
    """See `evaluate_plans`."""
    finalists: float = 1.0
    """See `evaluate_finalists`; 1: all candidates meet all θ."""
    max_particles: int = 2**13
    """About how many are predicted at once, a bound on memory."""

    def __post_init__(self) -> None:
        if not 1 <= self.replan_every <= self.planner.horizon:
            raise ValueError(f"need 1 <= replan_every <= horizon, got {self.replan_every} and {self.planner.horizon}")
        _check_per_state("reward", self.reward, self)
        for what in ("termination", "failure"):
            if (function := getattr(self, what)) is not None:
                _check_per_state(what, function, self)
        check_failure(self.objective, self.failure)
        check_finalists(self.finalists, self.propagation, self.planner)
        if self.planner.needs_gradient and (self.bf16 or self.finalists < 1):
            raise ValueError("a planner that follows gradients needs rollout.bf16=false and rollout.finalists=1")
        if self.bf16:
            self.dynamics.check_bf16()

    def act(
        self, observation: Tensor, memory: MPCMemory | None, *, generator: torch.Generator
    ) -> tuple[Tensor, MPCMemory]:
        """See `Agent.act`."""
        return plan_and_act(
            self.planner,
            memory,
            lambda state: self.replan(state, observation, generator=generator),
            replan_every=self.replan_every,
        )

    def replan(self, state: Any, observation: Tensor, *, generator: torch.Generator) -> Any:
        """The planner's state after a search from `state` on; its `plan` is for the observation [S]."""
        if isinstance(self.planner, ILQR):
            return replan_by_ilqr(
                self.planner,
                state,
                observation,
                posterior=self.posterior,
                dynamics=self.dynamics,
                reward=self.reward,
                termination=self.termination,
                num_theta=self.num_theta,
                divergence_return=self.divergence_return,
                generator=generator,
            )
        return self.search_by(lambda plans: self.score(plans, observation, generator), state, generator=generator)

    def search_by(self, score: Callable[[Tensor], Tensor], state: Any, *, generator: torch.Generator) -> Any:
        """The planner's state after a search from `state` on for plans [C, H, A] of high scores [C]; not of `ILQR`."""
        assert isinstance(self.planner, Planner)
        with torch.set_grad_enabled(self.planner.needs_gradient):
            return search(
                self.planner,
                state,
                score,
                generator=generator,
                tolerance=self.tolerance,
                num_executed=self.replan_every,
            )

    def score(self, plans: Tensor, observation: Tensor, generator: torch.Generator) -> Tensor:
        """The four steps of the lecture: scores [C] of the plans [C, H, A] from the observation [S]."""
        evaluate = functools.partial(evaluate_finalists, finalists=self.finalists)
        return (evaluate_plans if self.finalists == 1 else evaluate)(
            plans,
            observation,
            posterior=self.posterior,
            dynamics=self.dynamics,
            reward=self.reward,
            objective=self.objective,
            termination=self.termination,
            failure=self.failure,
            propagation=self.propagation,
            num_theta=self.num_theta,
            num_noise=self.num_noise,
            generator=generator,
            divergence_return=self.divergence_return,
            bf16=self.bf16,
            max_particles=self.max_particles,
        )


def plan_and_act(
    planner: Planner[Any] | ILQR,
    memory: MPCMemory | None,
    replan: Callable[[Any], Any],
    *,
    replan_every: int,
) -> tuple[Tensor, MPCMemory]:
    """(the plan's action [A] for this step, memory): a search from the warm start where one is due.

    `replan` maps the planner's state to the one after a search for the present observation.
    """
    state = planner.init() if memory is None else memory.planner_state
    num_steps = 0 if memory is None else memory.num_steps
    if num_steps % replan_every == 0:
        state = replan(state)
    return state.plan[0], MPCMemory(planner.shift(state), num_steps + 1)


def _check_per_state(what: str, function: RewardFunction | TerminationFunction, agent: MPCAgent) -> None:
    """Try it on zeros with the axes [K, M, C] of a rollout, before any planning."""
    low = agent.planner.low
    states, action = low.new_zeros(2, 3, 4, agent.dynamics.output_dim), low.new_zeros(4, len(low))
    check_per_state(what, function(states[..., : agent.dynamics.state_dim], action, states), (2, 3, 4))


@dataclasses.dataclass(frozen=True)
class PlanningAlgorithm(ABC):
    """Settings of an algorithm that acts by planning."""

    base_data_only: ClassVar[bool] = False
    """Whether the base policy collects all data."""

    @abstractmethod
    def as_mpc(self, horizon: int) -> "MPC":
        """Its planning with plans of so many steps, as model predictive control."""


@dataclasses.dataclass(frozen=True)
class MPC(PlanningAlgorithm):
    """Settings of the algorithm."""

    refit_every: Annotated[int, Gt(0)] | None = None
    """Environment steps between two fits of the posterior; None: after each episode."""
    replan_every: Annotated[int, Gt(0)] = 1
    """Environment steps between two plans; 1 is MPC proper, the horizon is open loop."""
    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.0
    """A search ends once an iteration moves what will be executed by no more than this share of the actions' range; 0:
    never before its last iteration."""
    exploration: Exploration = "none"
    """How training episodes are planned; evaluation is always greedy: by the objective alone, averaged over θ."""
    information_weight: Annotated[float, Ge(0)] = 1.0
    """Of exploration=information-gain: what a nat about θ is worth, in units of the return."""
    optimism: Annotated[float, Ge(0)] = 1.0
    """Of exploration=hallucinated: how many epistemic standard deviations luck may reach (β)."""

    def as_mpc(self, horizon: int) -> "MPC":
        """See `PlanningAlgorithm.as_mpc`."""
        return self
