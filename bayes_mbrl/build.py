"""From a configuration to the objects it names: the only place where both are known."""

import dataclasses
import inspect
from typing import Any

import torch

from bayes_mbrl.algorithms.base import Agent, RandomAgent
from bayes_mbrl.algorithms.hallucinated import hallucinating
from bayes_mbrl.algorithms.ilqr import check_slope
from bayes_mbrl.algorithms.information_gain import InformationSeekingAgent
from bayes_mbrl.algorithms.learner import Learner, LearningAlgorithm, Task
from bayes_mbrl.algorithms.mpc import MPC, MPCAgent, PlanningAlgorithm
from bayes_mbrl.algorithms.thompson import ThompsonAgent
from bayes_mbrl.config import Config
from bayes_mbrl.data import Transitions
from bayes_mbrl.devices import OnDevice, find_device, generator_on
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.network import identity, learned_termination
from bayes_mbrl.dynamics.recalibrated import Recalibration
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_functions import check_shapes
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction, never
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import World
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.planners.base import Planner
from bayes_mbrl.planners.ilqr import ILQR
from bayes_mbrl.planners.objectives import FailureObjective, Objective
from bayes_mbrl.registry import PLANNERS, load_attribute
from bayes_mbrl.rollout import DIVERGENCE_RETURN
from bayes_mbrl.seeding import generator_for, stream_seed


@dataclasses.dataclass(frozen=True)
class Builder:
    """Makes agents and fits posteriors as the configuration says, for one environment.

    Raises UserError when the configured dynamics is not one of such states and actions.
    """

    config: Config
    environment: Environment

    def __post_init__(self) -> None:
        """Find out before any episode what cannot be."""
        self._check_device()
        self._check_algorithm()
        check_shapes(self.environment.spec, self.environment.state_dim, self.environment.action_dim)
        if self.learns_model:
            self._check_dynamics()

    def _check_algorithm(self) -> None:
        """Raise UserError where the algorithm cannot serve the environment, or the propagation its trajectories."""
        algorithm, name, propagation = self.algorithm, self.config.algorithm.name, self.config.propagation.name
        if self.plans:
            if (num_states := self.environment.num_states) is not None:
                raise UserError(
                    f"algorithm {name} needs states that are numbers, and {self.environment.spec.name} only counts its "
                    f"{num_states}: take algorithm=dyna"
                )
            self._check_horizon(self.planner().horizon)
            return
        assert isinstance(algorithm, LearningAlgorithm)
        self.learner()
        if propagation not in algorithm.propagations and self.learns_model:
            raise UserError(
                f"algorithm {name} imagines with propagation {' or '.join(algorithm.propagations)}, got {propagation}"
            )
        self._check_particles(getattr(algorithm, "num_starts", 0))

    def _check_particles(self, num_starts: int) -> None:
        """Raise UserError where particles are drawn from a covariance of fewer than two of them."""
        num_theta, propagation = self.config.rollout.num_theta, self.config.propagation.name
        if propagation == "distribution-sampling" and num_starts < 2:
            raise UserError(f"propagation {propagation} needs algorithm.num_starts >= 2, got {num_starts}")
        if propagation == "moment-matching" and num_theta * num_starts < 2:
            raise UserError(
                f"propagation {propagation} needs rollout.num_theta times algorithm.num_starts >= 2, got {num_theta} "
                f"times {num_starts}"
            )

    def _check_dynamics(self) -> None:
        """Raise UserError where it cannot be learned: two transitions of zeros have the right widths."""
        states, actions = torch.zeros(2, self.environment.state_dim), torch.zeros(2, self.environment.action_dim)
        nothing = torch.zeros(2)
        rows = Transitions(states, actions, nothing, states, nothing.bool(), nothing.long())
        try:
            dynamics = self._build_dynamics(rows)
            dynamics.regression_data(rows)
        except ValueError as error:
            raise UserError(f"dynamics {self.config.dynamics.name}: {error}") from error
        if self.plans:
            self.failure(self._termination(dynamics))
            self._check_exploration()
            self._check_ilqr()

    def _check_horizon(self, horizon: int) -> None:
        """Raise UserError where plans would go on after every episode has ended."""
        longest = self.environment.max_episode_steps
        if longest is not None and horizon > longest:
            raise UserError(
                f"planner.horizon is {horizon}, and an episode of {self.environment.spec.name} has at most {longest} "
                f"steps: need planner.horizon <= {longest}"
            )

    @property
    def recalibration(self) -> Recalibration:
        """Which transitions θ is not fitted to, and what is made of them."""
        return self.config.recalibration.build()  # type: ignore[no-any-return]

    @property
    def algorithm(self) -> PlanningAlgorithm | LearningAlgorithm:
        """Settings of the algorithm."""
        return self.config.algorithm.build()  # type: ignore[no-any-return]

    @property
    def refit_every(self) -> int | None:
        """Environment steps between two fits of the posterior; None: after each episode."""
        interval: int | None = getattr(self.algorithm, "refit_every", None)  # what learns no model has none
        return interval

    @property
    def plans(self) -> bool:
        """Whether it acts by planning; else by what a learner has learned."""
        return self.config.algorithm.row.plans

    @property
    def learns_model(self) -> bool:
        """Whether p(θ | D) is fitted at all."""
        return self.config.algorithm.row.learns_model

    @property
    def replan_every(self) -> int:
        """Environment steps between two plans, where it plans."""
        return self._planning.replan_every

    @property
    def _planning(self) -> MPC:
        """Settings of planning; of a learner's run those of a planner that would act by the same posterior."""
        algorithm = self.algorithm
        return algorithm.as_mpc(self.planner().horizon) if isinstance(algorithm, PlanningAlgorithm) else MPC()

    def learner(self) -> Learner | None:
        """What the algorithm learns beside p(θ | D), at its start; None where it plans.

        Raises UserError where it cannot serve the environment.
        """
        algorithm, environment = self.algorithm, self.environment
        if isinstance(algorithm, PlanningAlgorithm):
            return None
        task = Task(
            environment.spec.name,
            environment.state_dim,
            environment.low,
            environment.high,
            environment.choices,
            environment.num_states,
            environment.spec.features,
        )
        try:
            return algorithm.learner(task, generator=generator_for(self.config.seed, "initial"))
        except ValueError as error:
            raise UserError(f"algorithm {self.config.algorithm.name}: {error}") from error

    @property
    def objective(self) -> Objective | FailureObjective:
        """What a plan is scored by."""
        return self.config.objective.build()  # type: ignore[no-any-return]

    def _check_exploration(self) -> None:
        """Raise UserError where the way to explore suits neither the actions nor the number of samples."""
        exploration, num_theta = self._planning.exploration, self.config.rollout.num_theta
        if exploration == "hallucinated" and self.environment.choices:
            raise UserError(
                f"algorithm.exploration hallucinated plans numbers beside the actions, and those of "
                f"{self.environment.spec.name} are choices: take information-gain, thompson or none"
            )
        if exploration in ("hallucinated", "information-gain") and num_theta < 2:
            raise UserError(
                f"algorithm.exploration {exploration} needs rollout.num_theta >= 2 to see samples of θ disagree, got "
                f"{num_theta}"
            )

    def _check_ilqr(self) -> None:
        """Raise UserError where iLQR has nothing to go by."""
        spec = self.environment.spec
        if not isinstance(self.planner(), ILQR):
            return
        if self._planning.exploration == "information-gain":
            raise UserError(
                "algorithm.exploration information-gain needs a planner of scores, which ilqr is not: take cem"
            )
        try:
            if spec.reward is not None:
                check_slope(spec.reward, self.environment.state_dim, self.environment.action_dim)
        except ValueError as error:
            raise UserError(f"planner ilqr in {spec.name}: {error}") from error

    def failure(self, termination: TerminationFunction | None) -> TerminationFunction | None:
        """The transitions that the objective counts as failures, if it does; `termination` is what ends an episode.

        Raises UserError where there are none.
        """
        objective, spec = self.objective, self.environment.spec
        if not isinstance(objective, FailureObjective):
            return None
        known = spec.failure if objective.failing == "state" else termination
        if known is None or known is never:
            what = "failing states are" if objective.failing == "state" else "termination is"
            raise UserError(
                f"objective {self.config.objective.name} counts failures, and of {spec.name} no {what} known: give its "
                "EnvironmentSpec a failure function, or take objective.failure=return or termination"
            )
        return known

    def _termination(self, dynamics: Dynamics) -> TerminationFunction | None:
        """What ends an episode, as far as it is known or learned, whether or not one has ended yet."""
        learned = learned_termination if dynamics.learns_termination else None
        return self.environment.spec.termination or dynamics.termination or learned

    @property
    def device(self) -> torch.device:
        """Where plans are evaluated."""
        return find_device(self.config.device)

    def _check_device(self) -> None:
        """Raise UserError where the device does not exist, or what has to be there cannot be."""
        if self.device.type == "cpu":
            return
        config, name = self.config, self.config.device
        if not self.plans:
            raise UserError(f"device {name} is for planning, and algorithm {config.algorithm.name} does not: take cpu")
        if self.environment.choices or config.planner.name == "ilqr":
            raise UserError(f"device {name} is for planners of continuous actions by scores: take device=cpu")
        if config.dynamics.name not in ("network", "linear"):
            raise UserError(f"device {name} is for dynamics network and linear, got {config.dynamics.name}")
        if config.dynamics.settings.get("likelihood", "normal") != "normal":
            raise UserError(f"device {name} is for dynamics.likelihood=normal: student-t is drawn by SciPy on the CPU")
        if config.recalibration.name != "none":
            raise UserError(f"device {name} is for recalibration none, got {config.recalibration.name}")

    def base_policy(self) -> RandomAgent:
        """π_0, which collects the first episode."""
        return RandomAgent(self.environment.low, self.environment.high, self.environment.choices)

    def planner(self) -> Planner[Any] | ILQR:
        """The configured planner, in its form for the environment's kind of actions. Raises UserError without one."""
        environment, component = self.environment, self.config.planner
        row = component.row
        try:
            if not environment.choices and row.target != row.discrete:
                low, high = environment.low.to(self.device), environment.high.to(self.device)
                return component.build(low=low, high=high)  # type: ignore[no-any-return]
            if environment.choices and row.discrete:
                build = load_attribute(row.discrete)
                settings = {k: v for k, v in component.settings.items() if k in inspect.signature(build).parameters}
                return build(choices=environment.choices, **settings)  # type: ignore[no-any-return]
        except ValueError as error:
            raise UserError(f"planner {component.name}: {error}") from error
        suitable = [
            name for name, other in PLANNERS.rows.items()
            if (other.discrete if environment.choices else other.target != other.discrete)
        ]  # fmt: skip
        kind = (
            "choices out of " + " and out of ".join(map(str, environment.choices))
            if environment.choices
            else "continuous"
        )
        raise UserError(
            f"planner {component.name} cannot plan the actions of {environment.spec.name}, which are {kind}: "
            f"planner is one of {', '.join(suitable)}"
        )

    def dynamics(self, transitions: Transitions) -> Dynamics:
        """The dynamics without its parameters, standardised on these transitions."""
        return self._build_dynamics(transitions)

    def learned_dynamics(self, transitions: Transitions, posterior: Posterior) -> Dynamics:
        """The dynamics as this posterior, which was fitted to these transitions, is used with: recalibrated, if so
        configured. The same each time, since its random numbers are those of the data's number."""
        recalibration = self.recalibration
        generator = generator_for(self.config.seed, "recalibration", len(transitions))
        _, held_out = recalibration.split(transitions)
        return recalibration.apply(self.dynamics(transitions), posterior, held_out, generator=generator)

    def _build_dynamics(self, transitions: Transitions) -> Dynamics:
        spec = self.environment.spec
        return self.config.dynamics.build(  # type: ignore[no-any-return]
            transitions,
            features=spec.features or identity,
            learns_reward=spec.reward is None,
            learns_termination=spec.termination is None,
        )

    def fit(
        self, transitions: Transitions, previous: Posterior | None, *, generator: torch.Generator
    ) -> tuple[Posterior, Any]:
        """(p(θ | D), info) for the dynamics of these transitions, less those that a recalibration holds out.

        Raises UserError when the fit diverges or its settings do not suit the dynamics.
        """
        dynamics, posterior = self.dynamics(transitions), self.config.posterior
        x, y = dynamics.regression_data(self.recalibration.split(transitions)[0])
        try:
            return posterior.build(  # type: ignore[no-any-return]
                dynamics.model, x, y, generator=generator, warm_start=previous
            )
        except (ValueError, FloatingPointError) as error:
            raise UserError(f"posterior {posterior.name}: {error}") from error

    def acting_agent(self, transitions: Transitions, posterior: Posterior) -> Agent:
        """`agent`, for an environment on the CPU."""
        return self._at_border(self.agent(transitions, posterior))

    def _at_border(self, agent: Agent) -> Agent:
        return agent if self.device.type == "cpu" else OnDevice(agent, self.device)

    def exploring_agent(self, transitions: Transitions, posterior: Posterior) -> Agent:
        """Who acts while data are collected: `agent`, or as the algorithm has it one that explores."""
        return self._at_border(self._exploring(transitions, posterior))

    def _exploring(self, transitions: Transitions, posterior: Posterior) -> Agent:
        agent, settings = self.agent(transitions, posterior), self._planning
        match settings.exploration:
            case "thompson":
                return ThompsonAgent(agent)
            case "information-gain":
                return InformationSeekingAgent(agent, settings.information_weight)
            case "hallucinated":
                generator = generator_on(self.device)
                generator.manual_seed(stream_seed(self.config.seed, "exploration", len(transitions)))
                return hallucinating(agent, beta=settings.optimism, generator=generator)
        return agent

    def agent(self, transitions: Transitions, posterior: Posterior) -> MPCAgent:
        """Plans with the posterior, which was fitted to these transitions.

        Raises UserError where reward or termination is not one of these states.
        """
        spec, config, algorithm = self.environment.spec, self.config, self._planning
        planner = self.planner()
        dynamics = self.learned_dynamics(transitions, posterior)
        if self.device.type != "cpu":
            dynamics, posterior = dynamics.to(self.device), _on(self.device, posterior)
        reward, termination = self._reward(dynamics), self._imagined_termination(dynamics)
        try:
            return MPCAgent(
                posterior=posterior,
                dynamics=dynamics,
                planner=planner,
                objective=self.objective,
                propagation=config.propagation.row.load(),
                reward=reward,
                termination=termination,
                failure=_of_observation(self.failure(self._termination(dynamics)), dynamics),
                num_theta=config.rollout.num_theta,
                num_noise=config.rollout.num_noise,
                replan_every=algorithm.replan_every,
                tolerance=algorithm.tolerance,
                bf16=config.rollout.bf16,
                finalists=config.rollout.finalists,
                divergence_return=_divergence_return(transitions, planner.horizon),
            )
        except ValueError as error:
            raise UserError(f"{spec.name}: {error}") from error

    def world(self, transitions: Transitions, posterior: Posterior) -> World:
        """What is imagined in with the posterior, which was fitted to these transitions.

        Raises UserError where reward or termination is not one of these states.
        """
        dynamics = self.learned_dynamics(transitions, posterior)
        return World(
            posterior,
            dynamics,
            self._reward(dynamics),
            self._imagined_termination(dynamics),
            num_theta=self.config.rollout.num_theta,
            propagation=self.config.propagation.row.load(),
        )

    def _reward(self, dynamics: Dynamics) -> RewardFunction:
        reward = _of_observation(self.environment.spec.reward, dynamics) or dynamics.reward
        assert reward is not None, "a dynamics that knows no reward learns it, or refuses to"
        return reward

    def _imagined_termination(self, dynamics: Dynamics) -> TerminationFunction | None:
        """What ends a trajectory; None where nothing does, or nothing has yet."""
        termination = self._termination(dynamics)
        ends = termination is not never and (self.environment.spec.termination or dynamics.termination) is not None
        return _of_observation(termination, dynamics) if ends else None


def _on(device: torch.device, posterior: Posterior) -> Posterior:
    return type(posterior).from_tensors({name: tensor.to(device) for name, tensor in posterior.tensors().items()})


def _of_observation(function: TerminationFunction | None, dynamics: Dynamics) -> TerminationFunction | None:
    """The function without what the dynamics predicts behind the S observed numbers, which it was not written for."""
    if function is None or dynamics.output_dim == dynamics.state_dim or function in (never, learned_termination):
        return function
    size, written = dynamics.state_dim, function
    return lambda state, action, next_state: written(state[..., :size], action, next_state[..., :size])


def _divergence_return(transitions: Transitions, horizon: int) -> float:
    """Worse, by far, than any return that rewards like those seen could add up to."""
    return min(DIVERGENCE_RETURN, -1e3 * horizon * float(transitions.reward.abs().max()))
