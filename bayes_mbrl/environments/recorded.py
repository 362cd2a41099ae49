"""Data that were recorded elsewhere, and what stands for their environment where there is none to act in.

Such an environment is named by what is known of it, so that a run's configuration holds all that is needed:
"recorded (3 numbers, actions [-2, 2] [-1, 1.5])" or "recorded (3 numbers, choices 2 3)". Axes: S state, A action.
"""

import dataclasses
import re
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recording:
    """Transitions and what is known of where they are from."""

    transitions: Transitions
    env: str | None
    """The environment's name, as far as it was recorded."""
    low: Tensor
    """[A]"""
    high: Tensor
    """[A]"""
    choices: tuple[int, ...]
    """Where actions are one-hot vectors, between how many there was to choose; else ()."""

    @property
    def stand_in(self) -> str:
        """The name of an environment of these states and actions in which nobody can act."""
        num_states = self.transitions.state.shape[1]
        if self.choices:
            return f"recorded ({num_states} numbers, choices {' '.join(map(str, self.choices))})"
        bounds = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return f"recorded ({num_states} numbers, actions {' '.join(f'[{a:.9g}, {b:.9g}]' for a, b in bounds)})"


class Recorded(gymnasium.Env[NDArray[np.float32], Any]):
    """Has the spaces of a recording. Raises UserError when someone wants to act."""

    def __init__(self, num_states: int, low: list[float], high: list[float], choices: list[int]) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (num_states,), np.float32)
        bounds = np.array(low, np.float32), np.array(high, np.float32)
        self.action_space = (
            gymnasium.spaces.MultiDiscrete(choices) if choices else gymnasium.spaces.Box(*bounds, dtype=np.float32)
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Raises UserError."""
        raise UserError(
            "the data were recorded elsewhere and no environment is known to act in: name one of the same states and "
            "actions, as in bayes-mbrl evaluate RUN --env ID, or fit anew with bayes-mbrl fit DATA --env ID"
        )

    def step(self, action: Any) -> Any:
        """Raises UserError."""
        return self.reset()


def is_stand_in(name: str) -> bool:
    """Whether it is a name as `Recording.stand_in` makes them."""
    return name.startswith("recorded (")


def make_stand_in(name: str) -> Recorded:
    """The environment of this name. Raises UserError when it was changed by hand into one that says too little."""
    match = re.fullmatch(r"recorded \((\d+) numbers, (?:choices ([\d ]+)|actions ((?:\[[^][]+\] ?)+))\)", name)
    try:
        if match is None:
            raise ValueError("it is not of this form")
        pairs = [pair.split(",") for pair in re.findall(r"\[([^][]+)\]", match[3] or "")]
        bounds = [(float(low), float(high)) for low, high in pairs]
        choices = list(map(int, (match[2] or "").split()))
        return Recorded(int(match[1]), [low for low, _ in bounds], [high for _, high in bounds], choices)
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"cannot read the environment {name!r} ({error}): need something like 'recorded (3 numbers, actions "
            "[-2, 2] [-1, 1.5])' or 'recorded (3 numbers, choices 2 3)'"
        ) from error


def recording_of(transitions: Transitions, env: str | None) -> Recording:
    """A recording of transitions in our own form, whose actions tell their kind and bounds.

    Vectors that are all one-hot are taken for one choice; else the bounds are the least and the largest value of each
    number. Raises UserError where one of them never changes, so that nothing is known about its bounds.
    """
    action = transitions.action.to(torch.float32)
    one_hot = bool(((action == 0) | (action == 1)).all()) and bool((action.sum(1) == 1).all())
    if one_hot and action.shape[1] > 1:
        zeros = torch.zeros(action.shape[1])
        return Recording(transitions, env, zeros, zeros + 1, (action.shape[1],))
    low, high = action.amin(0), action.amax(0)
    if bool((low == high).any()):
        constant = (low == high).nonzero().flatten().tolist()
        raise UserError(
            f"the actions {constant} never change in the data, so their bounds cannot be read off: name an environment "
            "that has them with --env"
        )
    return Recording(transitions, env, low, high, ())
