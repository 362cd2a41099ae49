"""Models that a policy is not trained on say whether it still improves, and when to stop.

A policy that is optimised in a learned model ends by exploiting its errors. Returns in a few held-out samples of θ,
from the same starts and with the same noise at each check, rise as long as what is learned holds beyond the models it
is learned in. Source: Kurutach et al., Model-Ensemble TRPO (2018), section 4.3, whose check is done in the models of
the training; here no θ is in both, unless the posterior has a single one. Axes: V held-out samples of θ, B starts each.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_mbrl.imagination import Randomness, World, imagine_policy, returns_of
from bayes_mbrl.inference.base import Posterior, Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.propagation import ts_infinity
from bayes_mbrl.policies import Policy


class Check(NamedTuple):
    """What the held-out models say."""

    share_improved: float
    """Of them, in how many the return is higher than at the last check that passed."""
    passed: bool


@dataclasses.dataclass
class ModelValidation:
    """The check, and the returns [V] that the next one is held against: those of the last that passed."""

    world: World
    starts: Tensor
    """[V, B, S]"""
    randomness: Randomness
    min_share: float
    returns: Tensor

    @classmethod
    def begin(
        cls,
        world: World,
        theta: Theta,
        policy: Policy,
        starts: Tensor,
        *,
        horizon: int,
        min_share: float,
        generator: torch.Generator,
    ) -> "ModelValidation":
        """Hold θ [V], starts [V, B, S] and noise fixed; the first check is against the policy as it is.

        A trajectory keeps its θ whatever the world's propagation is: else there were no models to ask, but one mixture.
        """
        world = dataclasses.replace(world, propagation=ts_infinity)
        drawn = world.draw(horizon, starts, len(policy.centre), generator=generator)
        # An action without noise is the policy's mode: what acts when it is evaluated.
        randomness = drawn._replace(theta=theta, policy_noise=torch.zeros_like(drawn.policy_noise))
        returns = mean_returns(world, policy, starts, randomness)
        return cls(world, starts, randomness, min_share, returns)

    def check(self, policy: Policy) -> Check:
        """Whether the policy is better in at least `min_share` of the models than at the last check that passed."""
        returns = mean_returns(self.world, policy, self.starts, self.randomness)
        share = float((returns > self.returns).double().mean())
        passed = share >= self.min_share
        if passed:
            self.returns = returns
        return Check(share, passed)


@torch.no_grad()
def mean_returns(world: World, policy: Policy, starts: Tensor, randomness: Randomness) -> Tensor:
    """Σ_t r_t, the mean over starts [V, B, S] in each model: [V]; −∞ where a trajectory diverged."""
    imagined = imagine_policy(world, policy, starts, **randomness._asdict())
    returns = returns_of(imagined, discount=1.0)
    return torch.where(imagined.is_sound, returns, -torch.inf).mean(1)


def held_out_models(posterior: Posterior, num: int, *, generator: torch.Generator) -> tuple[Posterior, Theta]:
    """(the posterior to train in, `num` samples of θ that are not of it): {name: [V, ...]}.

    Of stored draws, like the members of an ensemble, at most half are held out. One draw alone is in both.
    """
    if not isinstance(posterior, DrawsPosterior):
        return posterior, posterior.sample(num, generator=generator)  # two samples of a density are never equal
    if posterior.num_draws == 1:
        return posterior, posterior.draws
    order = torch.randperm(posterior.num_draws, generator=generator)
    held_out, rest = order[: min(num, len(order) // 2)], order[min(num, len(order) // 2) :]
    kept = DrawsPosterior({name: draws[rest] for name, draws in posterior.draws.items()})
    return kept, {name: draws[held_out] for name, draws in posterior.draws.items()}
