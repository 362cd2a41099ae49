"""What the model expected, from many states that were really visited, under the actions that were really taken there.

Axes: W windows of real trajectory, K parameter samples, M noise draws, H horizon, S state, A action.
"""

import dataclasses

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.inference.base import Posterior


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """Imagined and real trajectories side by side, in the environment's units."""

    imagined: Tensor
    """[K, M, W, H + 1, S]: each with one θ over the whole horizon (TS∞) and noise of its own; from the real state on.
    Where a trajectory diverges, it has numbers that are not finite."""
    real: Tensor
    """[W, H + 1, S]"""
    actions: Tensor
    """[W, H, A]"""
    rewards: Tensor
    """[W, H] that were really received."""
    first_rows: Tensor
    """[W] of the transitions, where each window begins."""


def lookahead(
    posterior: Posterior,
    dynamics: Dynamics,
    transitions: Transitions,
    *,
    horizon: int,
    max_windows: int,
    num_theta: int,
    num_noise: int = 1,
    generator: torch.Generator,
) -> Lookahead:
    """Trajectories of `horizon` steps from up to `max_windows` states, evenly spaced over all that have as many real
    steps before them in their episode.

    Raises ValueError where no episode has `horizon` steps.
    """
    starts = windows(transitions, horizon)
    if len(starts) == 0:
        raise ValueError(f"need an episode of at least {horizon} steps, the longest has {longest_episode(transitions)}")
    starts = starts[evenly_spaced(len(starts), max_windows)]
    rows = starts[:, None] + torch.arange(horizon)
    actions = transitions.action[rows]
    theta = posterior.sample(num_theta, generator=generator)
    state = transitions.state[starts]
    states = [state.expand(num_theta, num_noise, -1, -1)]
    for t in range(horizon):
        shape = (num_theta, num_noise, len(starts), dynamics.output_dim)
        noise = dynamics.likelihood.noise(state.new_empty(shape).normal_(generator=generator))
        states.append(dynamics.sample(theta, states[-1], actions[:, t], noise)[..., : dynamics.state_dim])
    real = torch.cat([state[:, None], transitions.next_state[rows]], dim=1)
    return Lookahead(torch.stack(states, dim=3), real, actions, transitions.reward[rows], starts)


def windows(transitions: Transitions, horizon: int) -> Tensor:
    """Rows at which `horizon` steps of one episode begin [W]."""
    num_starts = len(transitions) - horizon + 1
    if num_starts < 1:
        return torch.empty(0, dtype=torch.long)
    episode = transitions.episode
    return (episode[:num_starts] == episode[horizon - 1 :]).nonzero().flatten()


def longest_episode(transitions: Transitions) -> int:
    """Steps of the longest episode."""
    return int(torch.unique_consecutive(transitions.episode, return_counts=True)[1].max()) if len(transitions) else 0
