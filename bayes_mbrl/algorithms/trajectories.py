"""What learners from long imagined trajectories share: where these start, and what is said where they diverge.

Axes: K parameter samples, B starts of each, E episodes, S state.
"""

from typing import Literal

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions

Starts = Literal["visited", "episode-starts", "both"]
"""Of imagined trajectories: all states of D, those alone where an episode of D begins, or by halves either."""

MIN_SHARE_SOUND = 0.9
"""Of imagined trajectories; where fewer reach their end, it is warned of."""

ADVICE = "shorten algorithm.horizon, collect more data first (num_base_steps), or look for extreme rewards"


def first_states(transitions: Transitions) -> Tensor:
    """The states [E, S] in which episodes begin."""
    begins = torch.ones(len(transitions), dtype=torch.bool)
    begins[1:] = transitions.episode[1:] != transitions.episode[:-1]
    return transitions.state[begins]


def draw_starts(
    transitions: Transitions, where: Starts, num_theta: int, num_starts: int, *, generator: torch.Generator
) -> Tensor:
    """[K, B, S]; of "both" the first half, rounded down, is of all states."""
    first = first_states(transitions) if where != "visited" else transitions.state
    starts = first[torch.randint(len(first), (num_theta, num_starts), generator=generator)]
    if where == "both":
        half = num_starts // 2
        rows = torch.randint(len(transitions), (num_theta, half), generator=generator)
        starts[:, :half] = transitions.state[rows]
    return starts


def divergence_notes(share_sound: float) -> list[str]:
    """What is worth saying of this share of trajectories that did not diverge: at most one sentence."""
    if share_sound >= MIN_SHARE_SOUND:
        return []
    return [f"{1 - share_sound:.0%} of the imagined trajectories diverged, and nothing is learned from them: {ADVICE}"]
