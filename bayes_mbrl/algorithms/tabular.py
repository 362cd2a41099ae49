"""Dyna: Q-learning on real steps and on a learned model of them, for states and actions that can be counted.

Source: lecture, "Dyna"; Sutton, Integrated Architectures for Learning, Planning, and Reacting Based on Approximating
Dynamic Programming (1990); Dyna-Q and Dyna-Q+: Sutton & Barto (2018), sections 8.2 and 8.3. The lecture's numbered
steps stand in `DynaLearner.learn`. Axes: S states, A actions.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from bayes_mbrl.environments.mazes import Maze
from bayes_mbrl.inference.base import check_settings

Array = NDArray[np.float64]
Target = Literal["expected", "sample"]


@dataclasses.dataclass
class Outcome:
    """What followed a state and an action, as often as it did."""

    count: float
    """Not a whole number where the model forgets."""
    total_reward: float
    terminated: bool
    """This following state is terminal."""


class TabularModel:
    """p̂(s' | s, a) by relative frequency and r̂(s, a, s') by the mean, of all that was seen.

    With `memory` m below 1, what was seen counts m times as much whenever its (s, a) is seen anew: for worlds that
    change. m = 0 keeps the last outcome only, which is the textbook's model of a deterministic world.
    """

    def __init__(self, memory: float = 1.0) -> None:
        self.memory = memory
        self.outcomes: dict[tuple[int, int], dict[int, Outcome]] = {}
        """(s, a), in the order of their first visit → s' → what is known."""

    def add(self, state: int, action: int, reward: float, following: int, terminated: bool) -> None:
        """Count one transition."""
        outcomes = self.outcomes.setdefault((state, action), {})
        self._forget(outcomes)
        seen = outcomes.setdefault(following, Outcome(0.0, 0.0, terminated))
        seen.count += 1
        seen.total_reward += reward
        seen.terminated = terminated

    def _forget(self, outcomes: dict[int, Outcome]) -> None:
        if self.memory == 0.0:
            outcomes.clear()
        elif self.memory < 1.0:
            for seen in outcomes.values():
                seen.count *= self.memory
                seen.total_reward *= self.memory

    def expected_target(self, state: int, action: int, values: Array, discount: float) -> float:
        """E_{s', r}[r + γ max_a' Q(s', a')] under p̂ and r̂; values [S] are max_a' Q. 0 counts for terminal s'.

        What was never seen is taken to change nothing.
        """
        outcomes = self._outcomes(state, action)
        total = sum(
            seen.total_reward + seen.count * discount * (0.0 if seen.terminated else float(values[following]))
            for following, seen in outcomes.items()
        )
        return total / sum(seen.count for seen in outcomes.values())

    def sampled_target(
        self, state: int, action: int, values: Array, discount: float, *, generator: np.random.Generator
    ) -> float:
        """r̂ + γ max_a' Q(s', a') for one s' ~ p̂(s' | s, a)."""
        outcomes = self._outcomes(state, action)
        chosen = generator.random() * sum(seen.count for seen in outcomes.values())
        ends = itertools.accumulate(seen.count for seen in outcomes.values())
        following, seen = next(pair for pair, end in zip(outcomes.items(), ends, strict=True) if chosen < end)
        value = 0.0 if seen.terminated else float(values[following])
        return seen.total_reward / seen.count + discount * value

    def _outcomes(self, state: int, action: int) -> dict[int, Outcome]:
        return self.outcomes.get((state, action)) or {state: Outcome(1.0, 0.0, False)}


class DynaLearner:
    """Q [S, A], the model, and what each real step changes in them."""

    @check_settings
    def __init__(
        self,
        num_states: int,
        num_actions: int,
        *,
        planning_steps: Annotated[int, Ge(0)] = 50,
        step_size: Annotated[float, Gt(0), Le(1)] = 0.1,
        discount: Annotated[float, Ge(0), Le(1)] = 0.95,
        exploration: Annotated[float, Ge(0), Le(1)] = 0.1,
        target: Target = "expected",
        memory: Annotated[float, Ge(0), Le(1)] = 1.0,
        bonus: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        """`planning_steps` is K of the lecture, `step_size` α, `exploration` ε. target: the lecture's expectation over
        (s', r), or one sample as in Dyna-Q; with 0 planning steps and "sample" this is Q-learning. memory: see
        `TabularModel`. bonus: κ of Dyna-Q+, which imagines κ √τ more reward where (s, a) was not tried for τ steps, and
        imagines what was never tried too.
        """
        self.q: Array = np.zeros((num_states, num_actions))
        self.values: Array = np.zeros(num_states)
        """max_a Q(s, a), kept up to date."""
        self.model = TabularModel(memory)
        self.buffer: list[tuple[int, int]] = []
        """B, the (s, a) that are imagined: those that were visited; with a bonus all actions of visited states."""
        self.last_tried = np.zeros((num_states, num_actions))
        """The number of the real step at which it was, from 1 on; 0: never."""
        self.num_steps = 0
        """Real steps so far."""
        self.bonus = bonus
        self.planning_steps = planning_steps
        self.step_size = step_size
        self.discount = discount
        self.exploration = exploration
        self.target = target

    def act(self, state: int, *, generator: np.random.Generator, explore: bool = True) -> int:
        """ε-greedy, ties broken at random."""
        if explore and generator.random() < self.exploration:
            return int(generator.integers(self.q.shape[1]))
        best = np.flatnonzero(self.q[state] == self.values[state])
        return int(best[generator.integers(len(best))])

    def learn(
        self,
        state: int,
        action: int,
        reward: float,
        following: int,
        terminated: bool,
        *,
        generator: np.random.Generator,
    ) -> None:
        """Steps 3 to 7 of the lecture, after 1. acting in s and 2. observing s' and r."""
        self.observe(state, action, reward, following, terminated)  # 3. update p̂(s' | s, a) and r̂(s, a)
        if self.target == "sample":  # the real s' is the sample
            value = 0.0 if terminated else self.values[following]
            self._move(state, action, reward + self.discount * value)
        else:
            self._move(state, action, self._imagined_target(state, action, generator))  # 4. Q-update
        for index in generator.integers(len(self.buffer), size=self.planning_steps):  # 5. repeat K times:
            s, a = self.buffer[index]  # 6. (s, a) ~ B
            unusual = self.bonus * math.sqrt(self.num_steps - self.last_tried[s, a]) if self.bonus else 0.0
            self._move(s, a, self._imagined_target(s, a, generator) + unusual)  # 7. Q-update

    def observe(self, state: int, action: int, reward: float, following: int, terminated: bool) -> None:
        """Take a real step into the model alone."""
        if self.bonus and not self.last_tried[state].any():
            self.buffer += [(state, each) for each in range(self.q.shape[1])]
        elif not self.bonus and (state, action) not in self.model.outcomes:
            self.buffer.append((state, action))
        self.num_steps += 1
        self.last_tried[state, action] = self.num_steps
        self.model.add(state, action, reward, following, terminated)

    def _imagined_target(self, state: int, action: int, generator: np.random.Generator) -> float:
        if self.target == "expected":
            return self.model.expected_target(state, action, self.values, self.discount)
        return self.model.sampled_target(state, action, self.values, self.discount, generator=generator)

    def _move(self, state: int, action: int, target: float) -> None:
        """Q(s, a) ← Q(s, a) + α (target − Q(s, a))."""
        row = self.q[state]
        row[action] += self.step_size * (target - row[action])
        self.values[state] = row.max()

    def tensors(self) -> Mapping[str, Array]:
        """Q, the counts, and when what was tried last, as arrays by name: for checkpoints."""
        rows = [
            (*pair, following, seen.count, seen.total_reward, seen.terminated)
            for pair, outcomes in self.model.outcomes.items()
            for following, seen in outcomes.items()
        ]
        return {
            "q": self.q.copy(),
            "outcomes": np.array(rows, dtype=np.float64).reshape(-1, 6),
            "last_tried": self.last_tried.copy(),
            "num_steps": np.array(float(self.num_steps)),
        }

    def load(self, tensors: Mapping[str, Array]) -> None:
        """The inverse of `tensors`. Raises ValueError for a table of another size."""
        if (got := tensors["q"].shape) != self.q.shape:
            raise ValueError(f"need Q of {self.q.shape[0]} states and {self.q.shape[1]} actions, got {got}")
        self.q = np.array(tensors["q"], dtype=np.float64)
        self.values = self.q.max(1)
        self.last_tried = np.array(tensors["last_tried"], dtype=np.float64)
        self.num_steps = int(tensors["num_steps"])
        self.model = TabularModel(self.model.memory)
        for state, action, following, count, total_reward, terminated in tensors["outcomes"].tolist():
            outcomes = self.model.outcomes.setdefault((int(state), int(action)), {})
            outcomes[int(following)] = Outcome(count, total_reward, bool(terminated))
        visited = list(self.model.outcomes)
        every = [(state, a) for state in dict.fromkeys(s for s, _ in visited) for a in range(self.q.shape[1])]
        self.buffer = every if self.bonus else visited


def walk(
    learner: DynaLearner, maze: Maze, *, generator: np.random.Generator, num_steps: int | None = None
) -> list[float]:
    """Rewards of an episode in which it acts and learns, of so many steps where nothing else ends it."""
    state, _ = maze.reset()
    rewards: list[float] = []
    ended = False
    while not ended:
        action = learner.act(int(state), generator=generator)
        following, reward, terminated, truncated, _ = maze.step(np.int64(action))
        learner.learn(int(state), action, reward, int(following), terminated, generator=generator)
        rewards.append(reward)
        state, ended = following, terminated or truncated or len(rewards) == num_steps
    return rewards
