"""Environments of a few steps, most of them with a flaw; registered with Gymnasium when this module is imported."""

import time
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

FAULTS: dict[int, str] = {}
"""What is wrong with the episodes of Faulty-v0, by the number of resets since `expect_faults`."""

_num_resets = 0

Array = NDArray[np.float32]


def expect_faults(faults: dict[int, str]) -> None:
    """From the next reset on: "nan" or "inf" observed, an infinite "reward", or something "raised"."""
    global _num_resets
    _num_resets = 0
    FAULTS.clear()
    FAULTS.update(faults)


class Drift(gymnasium.Env[Array, Array]):
    """s' = 0.9 s + (0.3, −0.1) a + noise, r = −‖s‖²: nothing of it is known to the program."""

    observation_space: gymnasium.Space[Array] = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: gymnasium.Space[Array] = gymnasium.spaces.Box(-1.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.state, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        reward = -float(np.sum(self.state**2))
        noise = self.np_random.normal(0.0, 0.05, 2)
        self.state = (0.9 * self.state + np.array([0.3, -0.1]) * action + noise).astype(np.float32)
        return self.state, reward, False, False, {}


class Slow(Drift):
    """Sleeps, so that a test can stop it in the middle."""

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        time.sleep(0.05)
        return super().step(action)


class Short(Drift):
    """Terminates after one to three steps; the second number that is observed never changes."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        state, info = super().reset(seed=seed)
        state[1] = 7.0
        self.steps_left = int(self.np_random.integers(1, 4))
        return state, info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        _, reward, _, _, info = super().step(action)
        self.state[1] = 7.0
        self.steps_left -= 1
        return self.state, reward, self.steps_left == 0, False, info


class Single(Short):
    """Terminates after one step, always from the same state, without noise: one transition, again and again."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = np.array([0.5, 7.0], np.float32)
        return self.state, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        return self.state, 1.0, True, False, {}


class Faulty(Drift):
    """Goes wrong at the third step of the episodes in FAULTS."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        global _num_resets
        self.fault = FAULTS.get(_num_resets)
        self.num_steps = 0
        _num_resets += 1
        return super().reset(seed=seed)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        state, reward, *rest = super().step(action)
        self.num_steps += 1
        if self.num_steps == 3 and self.fault is not None:
            if self.fault == "raise":
                raise RuntimeError("the simulator is unstable")
            if self.fault == "reward":
                return state, float("inf"), *rest
            return np.array([0.0, float(self.fault)], np.float32), reward, *rest
        return state, reward, *rest


class NotANumber(Drift):
    """Observes NaN after every step."""

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        state, *rest = super().step(action)
        return state * np.nan, *rest


class Exploding(Drift):
    """s' = 4 s + a, whose states grow to 10⁷ within an episode of 12 steps, a limit that Gymnasium is not told of: what
    is imagined from there, for longer, overflows."""

    sign = -1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        self.num_steps = 0
        return super().reset(seed=seed)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.num_steps += 1
        reward = self.sign * float(np.sum(self.state.astype(np.float64) ** 2))
        self.state = (4.0 * self.state + action).astype(np.float32)
        return self.state, reward, False, self.num_steps == 12, {}


class ExplodingUpwards(Exploding):
    """The same with rewards that grow."""

    sign = 1.0


class Choices(Drift):
    """Drift pushed by one of five forces, counted from 3; the reward is learned, as in Drift."""

    action_space = gymnasium.spaces.Discrete(5, start=3)  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return super().step(np.array([0.5 * (float(action) - 5)], np.float32))


class ManyChoices(Drift):
    """The same force out of two choices."""

    action_space = gymnasium.spaces.MultiDiscrete([3, 2])  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return super().step(np.array([float(action[0] - 1) * (0.5 + 0.5 * action[1])], np.float32))


class Whole(Drift):
    """Whole numbers throughout: a 2×3 table that is observed, and a 1×2 one of actions that are added to its rows."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2, 3), np.int64)  # type: ignore[assignment]
    action_space = gymnasium.spaces.Box(np.array([[-2, 0]]), np.array([[2, 3]]), dtype=np.int64)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.table = self.np_random.integers(-3, 4, (2, 3))
        return self.table.copy(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.table = (self.table // 2) + action.T
        return self.table.copy(), -float(np.abs(self.table).sum()), False, False, {}


class Counted(gymnasium.Env[np.int64, np.int64]):
    """A chain of five cells, numbered from 2: action 4 leads on, 3 stays, 5 leads back, and one in four steps slips to
    the cell before. The last cell terminates with reward 3; each step before costs 0.25."""

    observation_space = gymnasium.spaces.Discrete(5, start=2)
    action_space = gymnasium.spaces.Discrete(3, start=3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.cell = 0
        return np.int64(2), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        move = -1 if self.np_random.random() < 0.25 else (0, 1, -1)[int(action) - 3]
        self.cell = max(self.cell + move, 0)
        terminated = self.cell == 4
        return np.int64(2 + self.cell), 3.0 if terminated else -0.25, terminated, False, {}


class FaultyCounted(Counted):
    """Raises at the third step of the episodes in FAULTS."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        global _num_resets
        self.fault = FAULTS.get(_num_resets)
        self.num_steps = 0
        _num_resets += 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.num_steps += 1
        if self.num_steps == 3 and self.fault is not None:
            raise RuntimeError("the simulator is unstable")
        return super().step(action)


class CountedManyChoices(Counted):
    """Countable states and two choices at once."""

    action_space = gymnasium.spaces.MultiDiscrete([3, 2])  # type: ignore[assignment]


class CountedForces(Counted):
    """Countable states and a force."""

    action_space = gymnasium.spaces.Box(-1.0, 2.0, (1,), np.float32)  # type: ignore[assignment]


class BinaryActions(Drift):
    """Not supported."""

    action_space = gymnasium.spaces.MultiBinary(2)  # type: ignore[assignment]


class DictObservations(Drift):
    """Not supported."""

    observation_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1.0, 1.0)})  # type: ignore[assignment]


class UnboundedActions(Drift):
    """Not supported."""

    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)


for _kind, _max_steps in (
    (Drift, 6), (Slow, 400), (Short, 6), (Single, 6), (Faulty, 6), (NotANumber, 6), (Exploding, None),
    (ExplodingUpwards, None), (Choices, 6), (ManyChoices, 6), (Whole, 6), (BinaryActions, 6), (DictObservations, 6),
    (UnboundedActions, 6), (Counted, 12), (FaultyCounted, 12), (CountedManyChoices, 12), (CountedForces, 12),
):  # fmt: skip
    gymnasium.register(f"{_kind.__name__}-v0", f"{__name__}:{_kind.__name__}", max_episode_steps=_max_steps)
