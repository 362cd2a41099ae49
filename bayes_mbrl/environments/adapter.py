"""A Gymnasium environment as flat float32 tensors. What is not finite or not supported is said where it happens."""

import dataclasses
import os
import sys
from types import TracebackType
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.recorded import is_stand_in, make_stand_in
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.errors import UserError


class EnvironmentFault(Exception):  # noqa: N818 (a fault of the environment, not an error of ours)
    """The environment itself failed: it raised, or returned what is not finite or not of its own shape.

    The episode is lost; the environment may be reset and used again.
    """


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step brought."""

    next_state: Tensor
    """[S] float32"""
    reward: float
    terminated: bool
    """next_state is terminal."""
    truncated: bool
    """A limit outside of the dynamics, mostly of time, ended the episode."""


class Environment:
    """A Gymnasium environment with Box observations, flattened to [S], and actions [A].

    Of Discrete observations the state is their number, counted from 0: S is 1, and there are `num_states` of them.

    Actions are those of a bounded Box, flattened; or, of Discrete and MultiDiscrete spaces, one-hot vectors side by
    side, one for each choice.

    `max_episode_steps` replaces the environment's own time limit. Without either, `max_episode_steps` is None,
    no step is ever truncated, and the caller has to end the episode.

    Raises UserError when the environment is unknown, cannot be made, or has other spaces.
    """

    def __init__(
        self,
        spec: EnvironmentSpec | str,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self.spec = find_spec(spec) if isinstance(spec, str) else spec
        self._env = _make(self.spec, render_mode, max_episode_steps)
        try:
            spaces = self._env.observation_space, self._env.action_space
            observations, self._actions = checked_spaces(self.spec.name, *spaces)
        except UserError:
            self._env.close()
            raise
        self._observations = observations
        self.num_states = int(observations.n) if isinstance(observations, gymnasium.spaces.Discrete) else None
        """Where states can only be counted, how many there are."""
        self.state_dim = int(np.prod(observations.shape or 1))
        self.choices = action_choices(self._actions)
        """Between how many there is to choose, for each choice; () where actions are continuous."""
        low, high = action_bounds(self._actions)
        self.action_dim = len(low)
        self.low = low
        """[A]"""
        self.high = high
        """[A]"""
        made = self._env.spec
        self.max_episode_steps = None if made is None else made.max_episode_steps
        self._num_steps = 0

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of the S observed numbers, with units where they are known."""
        known = self.spec.state_names
        if self.num_states is not None and not known:
            return ("state",)
        return known if len(known) == self.state_dim else tuple(f"s[{i}]" for i in range(self.state_dim))

    def reset(self, *, seed: int) -> Tensor:
        """The first state [S] of an episode; equal seeds start equal episodes. Raises EnvironmentFault."""
        self._num_steps = 0
        try:
            # Some environments seed generators of 32 bits, signed ones among them.
            observation, _ = self._env.reset(seed=seed % 2**31)
        except UserError:  # of a stand-in, in which nobody can act
            raise
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {error}") from error
        return self._state(observation)

    def step(self, action: Tensor) -> Step:
        """Act once; action [A] within [low, high].

        Raises EnvironmentFault, and ValueError when the action has another shape or lies outside of the bounds.
        """
        env_action = self._env_action(action)
        self._num_steps += 1
        try:
            observation, reward, terminated, truncated, _ = self._env.step(env_action)
            reward = float(np.asarray(reward, dtype=np.float64).item())
            terminated, truncated = bool(terminated), bool(truncated)
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {error}") from error
        with np.errstate(over="ignore"):
            representable = bool(np.isfinite(np.float32(reward)))
        if not representable:
            raise self._fault(f"returned a reward that is not finite: {reward}")
        return Step(self._state(observation), reward, terminated, truncated)

    def render(self) -> NDArray[np.uint8]:
        """The picture [height, width, 3] of the present state. Raises ValueError unless render_mode is "rgb_array"."""
        if self._env.render_mode != "rgb_array":
            raise ValueError(f"need render_mode='rgb_array' to render, got {self._env.render_mode!r}")
        return np.asarray(self._env.render(), dtype=np.uint8)

    def close(self) -> None:
        """Free what the environment holds; may be called again."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _env_action(self, action: Tensor) -> Any:
        """The action in the environment's own shape and type, clipped by no more than rounding moved it."""
        if action.shape != self.low.shape:
            raise ValueError(f"need an action of shape {list(self.low.shape)}, got {list(action.shape)}")
        values = action.detach().to("cpu", torch.float32)
        margin = 1e-5 * (self.high - self.low)
        if not bool(((values >= self.low - margin) & (values <= self.high + margin)).all()):
            raise ValueError(
                f"need an action within {self.low.tolist()} and {self.high.tolist()}, got {values.tolist()}"
            )
        if not isinstance(self._actions, gymnasium.spaces.Box):
            return self._chosen(values, self._actions)
        array = values.numpy().reshape(self._actions.shape).astype(np.float64)
        if np.issubdtype(self._actions.dtype, np.integer):
            array = np.rint(array)
        return np.clip(array, self._actions.low, self._actions.high).astype(self._actions.dtype)

    def _chosen(self, values: Tensor, space: gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete) -> Any:
        """The choices that one-hot vectors stand for, as the environment counts them."""
        blocks = torch.split(values, list(self.choices))
        if not all(bool(((block == 0) | (block == 1)).all()) and float(block.sum()) == 1 for block in blocks):
            raise ValueError(
                f"need one-hot vectors of {' and '.join(map(str, self.choices))} choices, got {values.tolist()}"
            )
        chosen = np.array([int(block.argmax()) for block in blocks])
        if isinstance(space, gymnasium.spaces.Discrete):
            return space.start + chosen[0].astype(space.dtype)
        return (space.start.reshape(-1) + chosen).reshape(space.shape).astype(space.dtype)

    def _state(self, observation: Any) -> Tensor:
        try:
            state = _float32(observation)
        except (TypeError, ValueError) as error:
            raise self._fault(f"returned an observation that is no array of numbers: {error}") from error
        if len(state) != self.state_dim:
            raise self._fault(f"returned an observation of {len(state)} numbers, its space has {self.state_dim}")
        if not bool(torch.isfinite(state).all()):
            raise self._fault(f"returned an observation that is not finite: {state.tolist()}")
        if isinstance(self._observations, gymnasium.spaces.Discrete):
            state = state - float(self._observations.start)
            if not (0 <= float(state) < self._observations.n and float(state).is_integer()):
                raise self._fault(f"returned the observation {observation}, which is not in {self._observations}")
        return state

    def _fault(self, what: str) -> EnvironmentFault:
        when = f"step {self._num_steps}" if self._num_steps else "reset"
        return EnvironmentFault(f"{self.spec.name} {what} (at {when} of the episode)")


def _make(spec: EnvironmentSpec, render_mode: str | None, max_episode_steps: int | None) -> gymnasium.Env[Any, Any]:
    if is_stand_in(spec.id):
        return make_stand_in(spec.id)
    if render_mode == "rgb_array":
        _render_without_display()
    arguments = {} if render_mode is None else {"render_mode": render_mode}  # not every environment knows it
    try:
        return gymnasium.make(spec.id, max_episode_steps=max_episode_steps, disable_env_checker=True, **arguments)
    except Exception as error:  # an environment from elsewhere may raise anything
        raise UserError(f"cannot make the environment {spec.id}: {type(error).__name__}: {error}") from error


def _render_without_display() -> None:
    """Let SDL and MuJoCo draw into memory where no display is; MuJoCo reads this when it is first imported."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


ActionSpace = gymnasium.spaces.Box | gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete
ObservationSpace = gymnasium.spaces.Box | gymnasium.spaces.Discrete


def checked_spaces(name: str, observations: Any, actions: Any) -> tuple[ObservationSpace, ActionSpace]:
    """(observation space, action space). Raises UserError unless they are of the kinds that are supported."""
    supported = (
        "supported are Box or Discrete observations, and Box actions with finite bounds, Discrete or MultiDiscrete ones"
    )
    if not isinstance(observations, ObservationSpace):
        raise UserError(
            f"{name} has observations {observations}; {supported}: register it wrapped in "
            "gymnasium.wrappers.FlattenObservation"
        )
    if not isinstance(actions, ActionSpace):
        raise UserError(
            f"{name} has actions {actions}; {supported}: register it wrapped in gymnasium.wrappers.TransformAction"
        )
    low, high = action_bounds(actions)
    width = high - low
    if not bool((torch.isfinite(width) & (width > 0)).all()):
        raise UserError(
            f"{name} has actions {actions} without finite bounds, low below high; {supported}: register it wrapped in "
            "gymnasium.wrappers.TransformAction, giving the bounds to plan within"
        )
    return observations, actions


def action_choices(space: ActionSpace) -> tuple[int, ...]:
    """Between how many there is to choose, for each choice; () where actions are continuous."""
    if isinstance(space, gymnasium.spaces.Box):
        return ()
    return (int(space.n),) if isinstance(space, gymnasium.spaces.Discrete) else tuple(map(int, space.nvec.reshape(-1)))


def action_bounds(space: ActionSpace) -> tuple[Tensor, Tensor]:
    """Lowest and highest action, two [A]."""
    if isinstance(space, gymnasium.spaces.Box):
        return _float32(space.low), _float32(space.high)
    return torch.zeros(sum(action_choices(space))), torch.ones(sum(action_choices(space)))


def _float32(values: Any) -> Tensor:
    """Any array of real numbers as a flat float32 tensor that shares no memory with it; too large a number is inf."""
    # A copy, since torch warns of arrays that are read-only.
    return torch.from_numpy(np.array(values, dtype=np.float64)).to(torch.float32).reshape(-1)
