"""Backpropagation through the learned dynamics into a policy: version 2.0 of the lecture.

    maximise (1/K) Σ_k E[Σ_t γ^t r(s_t, a_t)],  s_{t+1} = f(s_t, a_t, θ_k, ε_t),  a_t = π(s_t, ε'_t)

All randomness is drawn before the rollout (reparameterisation), so that the return is a function of the policy's
parameters with a derivative: θ and noise are those of one rollout, drawn afresh for the next gradient step or held for
all of them ("PEGASUS", Ng & Jordan 2000). With moment matching between the steps this is Deep PILCO (Gal, McAllister &
Rasmussen 2016). The product of Jacobians over time vanishes or explodes: the norm of the gradient by each step's action
is told, the whole gradient is clipped, and the horizon can be cut short with a value at its end.

Axes: H steps, K parameter samples, B starts of each, S state, A action.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.imagination import World, imagine_policy, returns_of
from bayes_mbrl.inference.base import Theta, check_settings
from bayes_mbrl.policies import Policy


@dataclasses.dataclass(frozen=True)
class Improvement:
    """Of one gradient step."""

    imagined_return: Tensor
    """[]: the mean over θ, starts and noise, before the step"""
    gradient_norm: Tensor
    """[]: of the policy's gradient, before it was clipped"""
    action_gradient_norms: Tensor
    """[H]: root mean square over particles of ‖∂R / ∂a_t‖, the way through later actions included"""
    share_lived: Tensor
    """[]: of all imagined steps; below 1 where trajectories ended or diverged"""


@dataclasses.dataclass(frozen=True)
class Randomness:
    """All that a rollout draws."""

    theta: Theta
    """{name: [K, ...]}"""
    model_noise: Tensor
    """[H, K, B, O]"""
    policy_noise: Tensor
    """[H, K, B, A]"""
    matching_noise: Tensor | None
    """[H, K, B, S]"""


class PolicyBackpropLearner(GradientLearner):
    """A policy that follows the gradient of its imagined return."""

    @check_settings
    def __init__(
        self,
        policy: Policy,
        *,
        horizon: Annotated[int, Gt(0)] = 40,
        learning_rate: Annotated[float, Gt(0)] = 3e-3,
        discount: Annotated[float, Ge(0), Le(1)] = 0.99,
        max_gradient_norm: Annotated[float, Gt(0)] = 10.0,
        moment_matching: bool = False,
    ) -> None:
        """Raises ValueError for settings out of range."""
        super().__init__()
        self.policy = policy
        self.horizon, self.discount, self.moment_matching = horizon, discount, moment_matching
        self.modules = {"policy": policy}
        self.optimise("policy", policy.parameters(), learning_rate=learning_rate, max_norm=max_gradient_norm)

    def draw(self, world: World, starts: Tensor, *, generator: torch.Generator) -> Randomness:
        """θ and noise for a rollout from starts [K, B, S]."""
        shape = self.horizon, *starts.shape[:2]

        def normal(size: int) -> Tensor:
            return starts.new_empty(*shape, size).normal_(generator=generator)

        return Randomness(
            world.posterior.sample(len(starts), generator=generator),
            world.noise(*shape, like=starts, generator=generator),
            normal(len(self.policy.centre)),
            normal(starts.shape[-1]) if self.moment_matching else None,
        )

    def improve(
        self, world: World, starts: Tensor, randomness: Randomness, value: Callable[[Tensor], Tensor] | None = None
    ) -> Improvement:
        """One gradient step. `value` [..., S] → [...] stands for what comes after the horizon.

        Raises ExplodingGradientError at the third gradient in a row that is not finite.
        """
        nudges = torch.zeros_like(randomness.policy_noise, requires_grad=True)
        imagined = imagine_policy(
            world,
            self.policy,
            starts,
            randomness.theta,
            model_noise=randomness.model_noise,
            policy_noise=randomness.policy_noise,
            matching_noise=randomness.matching_noise,
            nudges=nudges,
        )
        imagined_return = returns_of(imagined, discount=self.discount, value=value).mean()
        norm = self.descend("policy", -imagined_return)
        assert nudges.grad is not None
        # The mean has divided by the number of particles.
        sensitivity = nudges.grad.square().sum(-1).mean((-2, -1)).sqrt() * math.prod(starts.shape[:2])
        return Improvement(imagined_return.detach(), norm, sensitivity, imagined.lived.to(norm.dtype).mean())
