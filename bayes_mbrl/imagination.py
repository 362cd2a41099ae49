"""The learned environment: a policy acts in p(s' | s, a, θ), θ ~ p(θ | D), as it would in the real one.

What v2.0, v2.5, v3.0, MBA, MVE and MBPO share. Axes: H steps, K parameter samples, B starts of each, S state, A action.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.inference.base import Posterior, Theta, require
from bayes_mbrl.planners.propagation import Propagation, ts_1, ts_infinity
from bayes_mbrl.policies import Policy
from bayes_mbrl.replay import Batch
from bayes_mbrl.rollout import LARGEST_RETURN


class Randomness(NamedTuple):
    """All that a trajectory under a policy draws."""

    theta: Theta
    """{name: [K, ...]}"""
    model_noise: Tensor
    """[H, K, B, O] of `World.noise`"""
    policy_noise: Tensor
    """[H, K, B, A], standard normal"""
    propagation_noise: Tensor | None
    """[H, K, B, S], standard normal; None under TS∞"""


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """What is believed about an environment: enough to imagine in it."""

    posterior: Posterior
    dynamics: Dynamics
    reward: RewardFunction
    termination: TerminationFunction | None
    num_theta: int = 10
    """K of imagined trajectories."""
    propagation: Propagation = ts_infinity
    """What happens to particles between two steps; B is its axis M."""

    def step(self, theta: Theta, states: Tensor, actions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(s' [K, B, S], r [K, B], terminated [K, B]) of states [K, B, S] and actions [K, B, A].

        `noise` [K, B, O] is ε of the dynamics: see `noise_like`. A pure function, which gradients flow through.
        """
        following = self.dynamics.sample(theta, states, actions, noise)
        reward = self.reward(states, actions, following)
        if self.termination is None:
            terminated = torch.zeros(reward.shape, dtype=torch.bool, device=reward.device)
        else:
            terminated = self.termination(states, actions, following)
        return following[..., : self.dynamics.state_dim], reward, terminated

    def draw(self, horizon: int, starts: Tensor, action_dim: int, *, generator: torch.Generator) -> Randomness:
        """θ ~ p(θ | D) and noise for trajectories from starts [K, B, S]."""
        shape = horizon, *starts.shape[:2]

        def normal(size: int) -> Tensor:
            return starts.new_empty(*shape, size).normal_(generator=generator)

        return Randomness(
            self.posterior.sample(len(starts), generator=generator),
            self.noise(*shape, like=starts, generator=generator),
            normal(action_dim),
            None if self.propagation is ts_infinity else normal(starts.shape[-1]),
        )

    def noise(self, *shape: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """ε of the dynamics [*shape, O], in the dtype of `like`."""
        standard_normal = like.new_empty(*shape, self.dynamics.output_dim).normal_(generator=generator)
        return self.dynamics.likelihood.noise(standard_normal)


class Imagined(NamedTuple):
    """Trajectories under a policy."""

    states: Tensor
    """[H + 1, K, B, S]; after an end, whatever follows."""
    actions: Tensor
    """[H, K, B, A]"""
    rewards: Tensor
    """[H, K, B], 0 where the step was not lived"""
    lived: Tensor
    """[H, K, B] bool: no episode had ended, and nothing had diverged, before this step or in it"""
    terminated: Tensor
    """[H, K, B] bool: this step was lived and ended the episode"""

    @property
    def is_sound(self) -> Tensor:
        """[K, B] bool: the trajectory went on to the horizon or to a termination, and did not diverge."""
        return self.lived[-1] | self.terminated.any(0)


def imagine_policy(
    world: World,
    policy: Policy,
    starts: Tensor,
    theta: Theta,
    *,
    model_noise: Tensor,
    policy_noise: Tensor,
    propagation_noise: Tensor | None = None,
    nudges: Tensor | None = None,
    first_actions: Tensor | None = None,
    shape_gradient: Callable[[Tensor], Tensor] | None = None,
) -> Imagined:
    """Act by the policy from the starts [K, B, S]: pure, since all randomness comes in as arguments.

    model_noise [H, K, B, O] of `World.noise` and policy_noise [H, K, B, A] standard normal: the same ones again give
    the same trajectories, and gradients flow from them to the policy's parameters and to θ (reparameterisation). A
    step whose state or reward is not finite, or beyond all reason, was not lived, nor was what follows it.

    `propagation_noise` [H, K, B, S], standard normal, is for the world's propagation; TS∞ needs none. Under TS1 each
    particle meets another θ in each step; moment matching draws all of them anew between two steps from one normal with
    their mean and covariance, as in Deep PILCO. `nudges` [H, K, B, A] are added to the actions:
    the derivative by them, at 0, is the sensitivity of a return to what is done at each time. `first_actions` [K, B, A]
    are taken at the starts in place of the policy's. `shape_gradient` makes of the derivative by the states of a time,
    [K, B, S] and with all that comes after them, what goes on to what came before.
    """
    states, alive = [starts], torch.ones(starts.shape[:-1], dtype=torch.bool, device=starts.device)
    actions, rewards, lived, ended = [], [], [], []
    for t, (noise, chance) in enumerate(zip(model_noise, policy_noise, strict=True)):
        action = policy.sample(states[-1], chance) if t or first_actions is None else first_actions
        if nudges is not None:
            action = action + nudges[t]
        mixing = None if propagation_noise is None else propagation_noise[t]
        following, reward, terminated = _step(world, theta, states[-1], action, noise, mixing)
        alive = alive & _is_sound(following, reward)
        # Of what is not finite even 0 times the gradient is NaN: it is cut off before anything is made of it.
        following = torch.where(alive.unsqueeze(-1), following, states[-1].detach())
        if world.propagation not in (ts_infinity, ts_1):
            assert mixing is not None, "this propagation needs noise"
            following = world.propagation(following.unsqueeze(2), mixing.unsqueeze(2)).squeeze(2)
        if shape_gradient is not None and following.requires_grad:
            following.register_hook(shape_gradient)  # type: ignore[no-untyped-call]
        states.append(following)
        actions.append(action)
        rewards.append(torch.where(alive, reward, 0))
        lived.append(alive)
        ended.append(alive & terminated)
        alive = alive & ~terminated
    return Imagined(*map(torch.stack, (states, actions, rewards, lived, ended)))


def _step(
    world: World, theta: Theta, states: Tensor, actions: Tensor, noise: Tensor, mixing: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """`World.step`; under TS1 particles visit another θ for the step and come back to their places."""
    if world.propagation is not ts_1:
        return world.step(theta, states, actions, noise)
    assert mixing is not None, "TS1 needs noise"
    order = mixing[..., 0].argsort(dim=0)
    following, reward, terminated = world.step(
        theta, states.take_along_dim(order.unsqueeze(-1), 0), actions.take_along_dim(order.unsqueeze(-1), 0), noise
    )
    back = order.argsort(dim=0)
    return (
        following.take_along_dim(back.unsqueeze(-1), 0),
        reward.take_along_dim(back, 0),
        terminated.take_along_dim(back, 0),
    )


def returns_of(imagined: Imagined, *, discount: float, value: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Σ_t γ^t r_t [K, B], and with `value` [..., S] → [...] also γ^H V(s_H) of those that have not ended."""
    horizon = len(imagined.rewards)
    powers = torch.tensor([discount**t for t in range(horizon)], dtype=imagined.rewards.dtype)
    total: Tensor = torch.tensordot(powers.to(imagined.rewards.device), imagined.rewards, dims=1)
    if value is None:
        return total
    going_on = imagined.lived[-1] & ~imagined.terminated[-1]
    last = torch.where(going_on.unsqueeze(-1), imagined.states[-1], 0)
    return torch.add(total, torch.where(going_on, value(last), 0), alpha=discount**horizon)


@torch.no_grad()
def branch(
    world: World,
    policy: Policy,
    starts: Tensor,
    *,
    length: int,
    generator: torch.Generator,
    first_actions: Tensor | None = None,
) -> Batch:
    """Transitions of short imagined rollouts by the policy from the starts [N, S], at most N · length rows.

    `first_actions` [N, A] are taken at the starts, where they are given, in place of the policy's.

    A rollout goes on to `length` steps, unless it terminates before; rows that diverge are left
    out. Raises ValueError unless length >= 1. Source: Janner et al., When to Trust Your Model (2019), algorithm 2.
    """
    require((length >= 1, f"need length >= 1, got {length}"))
    dealt = spread_over_theta(starts, world.num_theta)
    randomness = world.draw(length, dealt, len(policy.centre), generator=generator)
    first = None if first_actions is None else spread_over_theta(first_actions, world.num_theta)
    imagined = imagine_policy(world, policy, dealt, **randomness._asdict(), first_actions=first)
    parts = (imagined.states[:-1], imagined.actions, imagined.rewards, imagined.states[1:], imagined.terminated)
    lived = gathered(imagined.lived, len(starts))
    return Batch(*(gathered(part, len(starts))[lived] for part in parts))


def spread_over_theta(rows: Tensor, num_theta: int) -> Tensor:
    """Rows [N, ...] dealt out to K samples of θ: [K, ⌈N / K⌉, ...]; the first rows fill up the last places again."""
    each = -(-len(rows) // num_theta)
    places = torch.arange(num_theta * each, device=rows.device) % len(rows)
    return rows[places].view(num_theta, each, *rows.shape[1:])


def gathered(dealt: Tensor, num_rows: int) -> Tensor:
    """What came of rows that were dealt out, in their order: [T, K, ⌈N / K⌉, ...] → [T, N, ...]."""
    return dealt.flatten(1, 2)[:, :num_rows]


def _is_sound(states: Tensor, reward: Tensor) -> Tensor:
    """[...] bool: finite, and of a size whose sums and squares are finite too. NaN is not <=."""
    return (states.detach().abs() <= LARGEST_RETURN).all(-1) & (reward.detach().abs() <= LARGEST_RETURN)
