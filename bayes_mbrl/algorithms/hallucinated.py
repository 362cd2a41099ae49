"""Optimism by hallucinated inputs (H-UCRL): the plan also chooses, within what is credible, what the world will do.

    s' = mean(s, a) + beta · std_θ(s, a) ⊙ η + noise,  −1 <= η <= 1 chosen like an action

mean and std_θ are those of the K samples' means (epistemic), the noise is theirs on average (aleatoric). The planner
searches over actions extended by η; only the action is executed, and the reward sees it alone. A promising plan is
tried as soon as one of the credible worlds bears it out: unlike a bonus, no weight sets ignorance against return.

Source: Curi, Berkenkamp & Krause, Efficient model-based reinforcement learning through optimistic policy search and
planning (2020), eq. 7 and 8, where a policy chooses η; here it is planned with the actions. Where the reward is
learned, optimism is about it too.
Axes: K parameter samples, M noise draws, C candidate plans, H horizon, S state (O with a learned reward), A action.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.mpc import MPCAgent, MPCMemory
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.known import Nothing
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch
from bayes_mbrl.planners.base import require
from bayes_mbrl.planners.propagation import ts_infinity


class HallucinatedDynamics(Dynamics):
    """The dynamics above, without parameters of its own: its posterior is `Nothing`, its action [a, η].

    Raises ValueError unless there are at least two samples and beta is finite and >= 0.
    """

    def __init__(self, dynamics: Dynamics, theta: Theta, *, action_dim: int, beta: float) -> None:
        """theta {name: [K, ...]} are the samples that stand for p(θ | D); action_dim is A."""
        num_theta = len(next(iter(theta.values()))) if theta else 0
        require(
            (num_theta >= 2, f"need num_theta >= 2 to see θ disagree, got {num_theta}"),
            (0 <= beta < float("inf"), f"need beta finite and >= 0, got {beta}"),
        )
        self.dynamics, self.theta, self.action_dim, self.beta = dynamics, theta, action_dim, beta
        self.state_dim, self.output_dim = dynamics.state_dim, dynamics.output_dim
        self.likelihood = dynamics.likelihood
        self.num_theta = num_theta

    def regression_data(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """Raises TypeError: what can be learned is learned by the dynamics within."""
        raise TypeError("a hallucinated dynamics has no parameters to be fitted")

    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Dynamics.predict`; theta is ignored, actions [..., A + O] broadcast against the states [..., S]."""
        action, luck = actions[..., : self.action_dim], actions[..., self.action_dim :]
        flat = states.reshape(1, -1, *states.shape[-2:])  # all K samples predict from every state
        mean, std = self.dynamics.predict(
            self.theta, flat.expand(self.num_theta, *flat.shape[1:]), action, scratch=scratch
        )
        centre, spread = mean.mean(dim=0), mean.std(dim=0)
        noise = std.square().mean(dim=0).sqrt()
        shape = (*states.shape[:-1], self.output_dim)
        return torch.addcmul(centre, self.beta * spread, luck).view(shape), noise.view(shape)

    def log_likelihood(self, theta: Mapping[str, Tensor], transitions: Transitions) -> Tensor:
        """Raises TypeError: nothing real is distributed like this."""
        raise TypeError("a hallucinated dynamics is no model of data")


@dataclasses.dataclass(frozen=True, eq=False)
class HallucinatingAgent(Agent):
    """Plans actions and luck by `planning`, and executes the actions."""

    planning: MPCAgent
    """With the extended actions [a, η]."""
    action_dim: int
    """A."""

    def act(
        self, observation: Tensor, memory: MPCMemory | None, *, generator: torch.Generator
    ) -> tuple[Tensor, MPCMemory]:
        """See `Agent.act`."""
        extended, memory = self.planning.act(observation, memory, generator=generator)
        return extended[: self.action_dim], memory


def hallucinating(planning: MPCAgent, *, beta: float, generator: torch.Generator) -> HallucinatingAgent:
    """The agent that plans like `planning`, with luck; K = planning.num_theta samples of θ are drawn here, once.

    Raises ValueError where actions are choices (a planner of choices has no room for numbers), and as
    `HallucinatedDynamics`.
    """
    planner: Any = planning.planner
    require((not hasattr(planner, "choices"), "need continuous actions to plan numbers beside them, got choices"))
    action_dim, output_dim = len(planner.low), planning.dynamics.output_dim
    bound = planner.low.new_ones(output_dim)
    dynamics = HallucinatedDynamics(
        planning.dynamics,
        planning.posterior.sample(planning.num_theta, generator=generator),
        action_dim=action_dim,
        beta=beta,
    )
    extended = dataclasses.replace(
        planning,
        posterior=Nothing(),
        dynamics=dynamics,
        planner=dataclasses.replace(
            planner, low=torch.cat([planner.low, -bound]), high=torch.cat([planner.high, bound])
        ),
        reward=_of_actions(planning.reward, action_dim),
        propagation=ts_infinity,  # there is one θ
        termination=None if planning.termination is None else _of_actions(planning.termination, action_dim),
        failure=None if planning.failure is None else _of_actions(planning.failure, action_dim),
        num_theta=1,
        max_particles=planning.max_particles // planning.num_theta,  # each is predicted by all θ
        bf16=False,  # not for its predictions of all θ from every state
    )
    return HallucinatingAgent(extended, action_dim)


def _of_actions(function: RewardFunction | TerminationFunction, action_dim: int) -> RewardFunction:
    """The function of (s, a, s'), called with extended actions."""
    return lambda state, action, next_state: function(state, action[..., :action_dim], next_state)
