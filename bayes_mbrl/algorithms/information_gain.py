"""Exploration by information: plans are scored by their return and by what they would tell about θ.

    score = objective(returns) + weight · Σ_t I(θ; s_{t+1} | s_t, a_t)

What two θ predict differs for two reasons: they stand in different states, or they disagree about what follows from
one. Only the second teaches. So here all K samples of θ predict from the *same* states. These are M trajectories, each
with one of the θ for its whole length: the distribution of the states that the plan will really meet, as far as is
known, p(s_1..s_H) = ∫ p(s_1..s_H | θ) p(θ | D) dθ. A mean trajectory would meet states that no θ believes in.

The information in nats is the Gaussian bound ½ Σ_d log(1 + Var_θ(mean_d) / E_θ(std_d²)), of each dimension by itself;
it counts what θ disagree about in the mean, not in the noise. Summed over time it bounds the information about θ in the
whole trajectory from above, since what the earlier steps tell is told again by later ones. In each bound scores keep
their order where plans go different ways, which is what exploring needs.

Source: Sukhija et al., Optimistic active exploration of dynamical systems (2023), eq. 6 and lemma 2; the decomposition
of Depeweg et al. (2018); Shyam et al., Model-based active exploration (2019), have it for ensembles.
Axes: K parameter samples, M shared trajectories, C candidate plans, H horizon, S state, A action.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.mpc import MPCAgent, MPCMemory, plan_and_act
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import TerminationFunction
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers
from bayes_mbrl.planners.base import Planner, require
from bayes_mbrl.rollout import chunk_size


@dataclasses.dataclass(frozen=True, eq=False)
class InformationSeekingAgent(Agent):
    """Acts as `planning` would if nats were worth `weight` units of return each.

    Raises ValueError unless weight is finite and >= 0 and `planning` draws at least two samples of θ.
    """

    planning: MPCAgent
    weight: float

    def __post_init__(self) -> None:
        require(
            (0 <= self.weight < float("inf"), f"need weight finite and >= 0, got {self.weight}"),
            (self.planning.num_theta >= 2, f"need num_theta >= 2 to see θ disagree, got {self.planning.num_theta}"),
            (
                isinstance(self.planning.planner, Planner),
                f"need a planner that goes by scores, which {type(self.planning.planner).__name__} does not: take cem",
            ),
        )

    def act(
        self, observation: Tensor, memory: MPCMemory | None, *, generator: torch.Generator
    ) -> tuple[Tensor, MPCMemory]:
        """See `Agent.act`."""
        planning = self.planning

        def replan(state: Any) -> Any:
            return planning.search_by(
                lambda plans: self.score(plans, observation, generator), state, generator=generator
            )

        return plan_and_act(planning.planner, memory, replan, replan_every=planning.replan_every)

    def score(self, plans: Tensor, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Scores [C] of the plans [C, H, A] from the observation [S], in units of the return."""
        planning = self.planning
        gain = information_gain(
            plans,
            observation,
            posterior=planning.posterior,
            dynamics=planning.dynamics,
            termination=planning.termination,
            num_theta=planning.num_theta,
            num_noise=planning.num_noise,
            generator=generator,
            max_particles=planning.max_particles,
        )
        return planning.score(plans, observation, generator) + self.weight * gain


def information_gain(
    plans: Tensor,
    state: Tensor,
    *,
    posterior: Posterior,
    dynamics: Dynamics,
    termination: TerminationFunction | None = None,
    num_theta: int,
    num_noise: int = 1,
    generator: torch.Generator,
    max_particles: int = 2**13,
) -> Tensor:
    """What is told about θ by following the plans [C, H, A] from the state [S]: [C] nats >= 0, the bound above.

    num_theta is K, num_noise M. All candidates meet the same θ and noise. A learned reward is one more dimension that
    tells; a learned termination, of whose latent number only the sign is seen, is left out. After a termination
    nothing is told, nor from a state on that is not finite. The variance over θ is unbiased.
    Raises ValueError unless num_theta >= 2.
    """
    require((num_theta >= 2, f"need num_theta >= 2 to see θ disagree, got {num_theta}"))
    theta = posterior.sample(num_theta, generator=generator)
    shape = (plans.shape[1], num_noise, 1, dynamics.output_dim)
    noise = dynamics.likelihood.noise(state.new_empty(shape).normal_(generator=generator))
    led_by = torch.arange(num_noise, device=state.device)  # by which θ each shared trajectory goes on
    scratch = NO_SCRATCH if torch.is_grad_enabled() else Buffers()
    gains = []
    for chunk in torch.split(plans, chunk_size(len(plans), max_particles // (num_theta * num_noise))):
        states = state.expand(num_noise, len(chunk), -1)
        total, alive = state.new_zeros(states.shape[:-1]), state.new_ones(states.shape[:-1], dtype=torch.bool)
        for t, action in enumerate(chunk.unbind(1)):
            mean, std = dynamics.predict(theta, states.expand(num_theta, *states.shape), action, scratch=scratch)
            known = dynamics.continuous_dim
            gain = _nats(mean[..., :known], std[..., :known])
            alive = alive & gain.isfinite()
            total = total + torch.where(alive, gain, 0)
            lead = led_by % num_theta, led_by
            following = torch.addcmul(mean[lead], std[lead], noise[t])
            if termination is not None:
                alive = alive & ~termination(states, action, following)
            states = following
        gains.append(total.mean(dim=0))
    return torch.cat(gains)


def _nats(mean: Tensor, std: Tensor) -> Tensor:
    """½ Σ_d log(1 + Var_k(mean) / E_k(std²)) of predictions [K, M, C, S]: [M, C]."""
    limits = torch.finfo(mean.dtype)
    noise = std.square().mean(dim=0).clamp(min=limits.tiny)
    ratio = (mean.var(dim=0) / noise).clamp(max=limits.max)
    return 0.5 * ratio.log1p().sum(dim=-1)
