"""Policy gradient on imagined trajectories: the likelihood ratio needs no derivative of the model.

    ∇J = E[Σ_t ∇ log π(a_t | s_t) A_t],    A_t = Σ_{t' >= t} γ^(t' − t) r_t' − V(s_t)

with a learned baseline V, normalised advantages, and, if wanted, PPO's clipped surrogate, which allows several steps on
the same trajectories. Whether the policy still improves is asked of models of its own, the validation set.

Source: lecture, "version 2.5"; Williams (1992); Schulman et al., PPO (2017), eq. 7; validation by models: Kurutach et
al., Model-Ensemble TRPO (2018), section 4.3. Axes: H steps, K parameter samples, B starts of each, S state, A action.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional

from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.imagination import Imagined, World, imagine_policy, returns_of
from bayes_mbrl.inference.base import Theta, check_settings, seeded_global_state
from bayes_mbrl.policies import TanhGaussianPolicy, fully_connected


@dataclasses.dataclass(frozen=True)
class Samples:
    """What one gradient step needs of lived steps, as rows [N]."""

    states: Tensor
    """[N, S]"""
    unsquashed: Tensor
    """[N, A]: u, where the action is a squashed u; π of a given action depends on the policy through u alone"""
    log_density: Tensor
    """[N] log N(u | mean, std²) under the policy that acted"""
    advantages: Tensor
    """[N]"""
    to_go: Tensor
    """[N]: Σ_{t' >= t} γ^(t' − t) r_t'"""


class PolicyGradientLearner(GradientLearner):
    """A squashed normal policy and its baseline."""

    @check_settings
    def __init__(
        self,
        state_dim: int,
        low: Tensor,
        high: Tensor,
        *,
        generator: torch.Generator,
        hidden: Sequence[int] = (64, 64),
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        baseline_learning_rate: Annotated[float, Gt(0)] = 3e-3,
        discount: Annotated[float, Ge(0), Le(1)] = 0.99,
        clip: Annotated[float, Gt(0)] | None = 0.2,
        num_epochs: Annotated[int, Gt(0)] = 5,
        normalise: bool = True,
        max_gradient_norm: Annotated[float, Gt(0)] = 10.0,
    ) -> None:
        """low and high [A] bound the actions. `clip` is ε of PPO; None is the plain gradient, which is right for one
        epoch only, so that more are refused. `normalise` gives the advantages mean 0 and variance 1.

        Raises ValueError for settings out of range.
        """
        super().__init__()
        if clip is None and num_epochs > 1:
            raise ValueError(f"need num_epochs = 1 without clip, got {num_epochs}: the trajectories are used up")
        with seeded_global_state(generator):  # torch.nn draws initial weights from the global state
            self.policy = TanhGaussianPolicy(state_dim, low, high, hidden)
            self.baseline = fully_connected([state_dim, *hidden, 1])
        self.discount, self.clip, self.num_epochs, self.normalise = discount, clip, num_epochs, normalise
        self.modules = {"policy": self.policy, "baseline": self.baseline}
        self.optimise("policy", self.policy.parameters(), learning_rate=learning_rate, max_norm=max_gradient_norm)
        self.optimise("baseline", self.baseline.parameters(), learning_rate=baseline_learning_rate)

    def improve(
        self, world: World, starts: Tensor, theta: Theta, *, horizon: int, generator: torch.Generator
    ) -> dict[str, float]:
        """One round: imagine H steps from starts [K, B, S], then `num_epochs` steps of policy and baseline."""
        samples = self.sample(world, starts, theta, horizon=horizon, generator=generator)
        norms = []
        for _ in range(self.num_epochs):
            norms.append(self.descend("policy", -self.surrogate(samples)))
            values = self.baseline(samples.states).squeeze(-1)
            # Returns may be of any size: the loss is measured in their own variance.
            scale = samples.to_go.var(correction=0).clamp(min=1e-8)
            self.descend("baseline", functional.mse_loss(values, samples.to_go) / scale)
        return {"gradient_norm": float(torch.stack(norms).mean())}

    @torch.no_grad()
    def sample(
        self, world: World, starts: Tensor, theta: Theta, *, horizon: int, generator: torch.Generator
    ) -> Samples:
        """Lived steps of imagined trajectories, with their advantages."""
        randomness = world.draw(horizon, starts, len(self.policy.centre), generator=generator)._replace(theta=theta)
        imagined = imagine_policy(world, self.policy, starts, **randomness._asdict())
        lived, states = imagined.lived, imagined.states[:-1]
        mean, log_std = self.policy.unsquashed(states)
        unsquashed = torch.addcmul(mean, log_std.exp(), randomness.policy_noise)
        to_go = rewards_to_go(imagined, self.discount)
        advantages = (to_go - self.baseline(states).squeeze(-1))[lived]
        if self.normalise:
            advantages = (advantages - advantages.mean()) / advantages.std(correction=0).clamp(min=1e-8)
        return Samples(
            states[lived],
            unsquashed[lived],
            _log_normal(unsquashed, mean, log_std)[lived],
            advantages,
            to_go[lived],
        )

    def surrogate(self, samples: Samples) -> Tensor:
        """What the policy ascends []: its gradient at the policy that acted is the policy gradient a step."""
        mean, log_std = self.policy.unsquashed(samples.states)
        ratio = (_log_normal(samples.unsquashed, mean, log_std) - samples.log_density).exp()
        plain = ratio * samples.advantages
        if self.clip is None:
            return plain.mean()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip) * samples.advantages
        return torch.minimum(plain, clipped).mean()

    @torch.no_grad()
    def returns(
        self, world: World, starts: Tensor, theta: Theta, *, horizon: int, generator: torch.Generator
    ) -> Tensor:
        """Mean return of the policy's mode in each model [K]: what a validation set of models says of it."""
        randomness = world.draw(horizon, starts, len(self.policy.centre), generator=generator)
        still = torch.zeros_like(randomness.policy_noise)  # its action without noise is the mode
        randomness = randomness._replace(theta=theta, policy_noise=still)
        imagined = imagine_policy(world, self.policy, starts, **randomness._asdict())
        return returns_of(imagined, discount=1.0).mean(1)


def rewards_to_go(imagined: Imagined, discount: float) -> Tensor:
    """Σ_{t' >= t} γ^(t' − t) r_t' [H, K, B]; steps that were not lived have reward 0."""
    total = torch.zeros_like(imagined.rewards[0])
    totals = []
    for reward in reversed(imagined.rewards.unbind(0)):
        total = reward + discount * total
        totals.append(total)
    return torch.stack(totals[::-1])


def _log_normal(u: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(u | mean, std²) summed over actions: [..., A] → [...], in nats."""
    standard = (u - mean) / log_std.exp()
    return (-0.5 * standard.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
