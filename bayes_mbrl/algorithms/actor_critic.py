"""Soft actor-critic: the off-policy learner that model-free runs, MBPO and MVE share.

Source: Haarnoja et al., Soft Actor-Critic Algorithms and Applications (2018), algorithm 1, equations by number below.
Axes: N transitions of a batch, S state, A action; 2 critics.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.inference.base import check_settings, seeded_global_state
from bayes_mbrl.inference.layers import affine
from bayes_mbrl.policies import TanhGaussianPolicy
from bayes_mbrl.replay import Batch


class Regression(NamedTuple):
    """What the critics are to learn: Q(state, action) = target. N may differ from that of the batch."""

    state: Tensor
    """[N, S]"""
    action: Tensor
    """[N, A]"""
    target: Tensor
    """[N], without a gradient"""


Expansion = Callable[["SoftActorCritic", Batch, torch.Generator], Regression]
"""From a batch to the critics' regression problem: `one_step`, or what imagines more steps (mve.py)."""


class TwinCritics(nn.Module):
    """Q_1 and Q_2 of (s, a), fully connected with ReLU, both in one batched product a layer.

    They see actions from the middle of their bounds in units of half their range.
    """

    centre: Tensor
    half_range: Tensor

    def __init__(self, state_dim: int, low: Tensor, high: Tensor, hidden: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("centre", 0.5 * low + 0.5 * high, persistent=False)
        self.register_buffer("half_range", 0.5 * high - 0.5 * low, persistent=False)
        sizes = [state_dim + len(low), *hidden, 1]
        self.weights = nn.ParameterList(torch.empty(2, a, b) for a, b in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.empty(2, b) for b in sizes[1:])
        for weight, bias in zip(self.weights, self.biases, strict=True):
            limit = 1 / math.sqrt(weight.shape[1])  # as nn.Linear
            nn.init.uniform_(weight, -limit, limit)
            nn.init.uniform_(bias, -limit, limit)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """states [N, S], actions [N, A] → values [2, N]."""
        x = torch.cat([states, (actions - self.centre) / self.half_range], dim=-1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = affine(torch.relu(x) if layer else x, weight, bias)
        return x.squeeze(-1)


@dataclasses.dataclass(frozen=True)
class Losses:
    """Of one update, each a tensor [], so that nobody waits for numbers that nobody asks for."""

    critic_loss: Tensor
    policy_loss: Tensor
    temperature: Tensor
    """α, in units of the return per nat."""


class Temperature(nn.Module):
    """α > 0, what a nat of entropy is worth in units of the return."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """α, without a gradient."""
        return self.log.detach().exp()


class SoftActorCritic(GradientLearner):
    """A policy, two critics, their slow copies and the temperature α."""

    @check_settings
    def __init__(
        self,
        state_dim: int,
        low: Tensor,
        high: Tensor,
        *,
        generator: torch.Generator,
        hidden: Sequence[int] = (256, 256),
        learning_rate: Annotated[float, Gt(0)] = 3e-4,
        discount: Annotated[float, Ge(0), Le(1)] = 0.99,
        target_rate: Annotated[float, Gt(0), Le(1)] = 0.005,
        target_entropy: float | None = None,
        initial_temperature: Annotated[float, Gt(0)] = 1.0,
        max_gradient_norm: Annotated[float, Gt(0)] = math.inf,
    ) -> None:
        """low and high [A] bound the actions. target_entropy, in nats and of actions in units of half their range, so
        that it can be attained whatever the bounds, is −A if None. The rest as in the paper's table 1: `target_rate` is
        τ of the slow copies, `discount` is γ.
        """
        super().__init__()
        with seeded_global_state(generator):  # torch.nn draws initial weights from the global state
            self.policy = TanhGaussianPolicy(state_dim, low, high, hidden)
            self.critics = TwinCritics(state_dim, low, high, hidden)
            self.slow_critics = TwinCritics(state_dim, low, high, hidden)
        self.slow_critics.load_state_dict(self.critics.state_dict())
        self.slow_critics.requires_grad_(False)
        self.temperature = Temperature(initial_temperature).to(low)
        self.discount = discount
        self.target_rate = target_rate
        self.target_entropy = -float(len(low)) if target_entropy is None else target_entropy
        self._log_volume = self.policy.half_range.log().sum()
        self.modules = {
            "policy": self.policy,
            "critics": self.critics,
            "slow_critics": self.slow_critics,
            "temperature": self.temperature,
        }
        for name in ("policy", "critics", "temperature"):
            parameters = self.modules[name].parameters()
            self.optimise(name, parameters, learning_rate=learning_rate, max_norm=max_gradient_norm)

    def update(self, batch: Batch, *, generator: torch.Generator, expand: "Expansion | None" = None) -> Losses:
        """One gradient step for critics, policy and temperature, then the slow copies follow (algorithm 1)."""
        problem = (expand or one_step)(self, batch, generator)
        values = self.critics(problem.state, problem.action)
        critic_loss = 0.5 * (values - problem.target).square().mean(1).sum()  # eq. 5
        self.descend("critics", critic_loss)

        actions, log_density = self.act(batch.state, self._noise(batch, generator))
        temperature = self.temperature()
        self.critics.requires_grad_(False)  # the policy's gradient passes through them and stops at the policy
        worth = self.critics(batch.state, actions).amin(0)
        self.critics.requires_grad_(True)
        actor_loss = (temperature * log_density - worth).mean()  # eq. 7
        self.descend("policy", actor_loss)

        surplus = log_density.detach().mean() + self.target_entropy
        self.descend("temperature", -self.temperature.log * surplus)  # eq. 18, by log α as in the authors' code
        self.follow("slow_critics", "critics", self.target_rate)
        return Losses(critic_loss.detach(), actor_loss.detach(), temperature)

    def act(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(a, log π(a | s)) as of the policy, but with the density in units of half the actions' range.

        Else the worth of a step's entropy, and with it what an episode's end costs, would depend on those units.
        """
        actions, log_density = self.policy.sample_with_log_density(states, noise)
        return actions, log_density + self._log_volume

    @torch.no_grad()
    def value(self, states: Tensor, *, generator: torch.Generator) -> Tensor:
        """V(s) ≈ min Q(s, a) − α log π(a | s) by one action a ~ π, from the slow critics: [N, S] → [N] (eq. 3)."""
        noise = torch.empty(len(states), len(self.policy.centre), dtype=states.dtype).normal_(generator=generator)
        actions, log_density = self.act(states, noise)
        values: Tensor = self.slow_critics(states, actions).amin(0)
        return torch.sub(values, self.temperature() * log_density)

    def _noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return torch.empty_like(batch.action).normal_(generator=generator)


def one_step(learner: SoftActorCritic, batch: Batch, generator: torch.Generator) -> Regression:
    """The plain targets r + γ V(s'), and r alone where s' is terminal."""
    following = learner.value(batch.next_state, generator=generator)
    target = torch.where(batch.terminated, batch.reward, torch.add(batch.reward, following, alpha=learner.discount))
    return Regression(batch.state, batch.action, target)
