"""Dyna: Q-learning on real steps and on a learned model of them, for states and actions that can be counted.

Source: lecture, "Dyna"; Sutton, Integrated Architectures for Learning, Planning, and Reacting Based on Approximating
Dynamic Programming (1990); Dyna-Q: Sutton & Barto (2018), section 8.2. The lecture's numbered steps stand in
`DynaLearner.learn`. Axes: S states, A actions.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

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
        """(s, a) → s' → what is known."""
        self.visited: list[tuple[int, int]] = []
        """The (s, a) that were seen, in the order of their first visit."""

    def add(self, state: int, action: int, reward: float, following: int, terminated: bool) -> None:
        """Count one transition."""
        if (pair := (state, action)) not in self.outcomes:
            self.outcomes[pair] = {}
            self.visited.append(pair)
        self._forget(pair)
        seen = self.outcomes[pair].setdefault(following, Outcome(0.0, 0.0, terminated))
        seen.count += 1
        seen.total_reward += reward
        seen.terminated = terminated

    def _forget(self, pair: tuple[int, int]) -> None:
        if self.memory == 0.0:
            self.outcomes[pair].clear()
        elif self.memory < 1.0:
            for seen in self.outcomes[pair].values():
                seen.count *= self.memory
                seen.total_reward *= self.memory

    def expected_target(self, state: int, action: int, values: Array, discount: float) -> float:
        """E_{s', r}[r + γ max_a' Q(s', a')] under p̂ and r̂; values [S] are max_a' Q. 0 counts for terminal s'."""
        outcomes = self.outcomes[state, action]
        total = sum(
            seen.total_reward + seen.count * discount * (0.0 if seen.terminated else float(values[following]))
            for following, seen in outcomes.items()
        )
        return total / sum(seen.count for seen in outcomes.values())

    def sampled_target(
        self, state: int, action: int, values: Array, discount: float, *, generator: np.random.Generator
    ) -> float:
        """r̂ + γ max_a' Q(s', a') for one s' ~ p̂(s' | s, a)."""
        outcomes = self.outcomes[state, action]
        chosen = generator.random() * sum(seen.count for seen in outcomes.values())
        ends = itertools.accumulate(seen.count for seen in outcomes.values())
        following, seen = next(pair for pair, end in zip(outcomes.items(), ends, strict=True) if chosen < end)
        value = 0.0 if seen.terminated else float(values[following])
        return seen.total_reward / seen.count + discount * value


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
    ) -> None:
        """`planning_steps` is K of the lecture, `step_size` α, `exploration` ε. target: the lecture's expectation over
        (s', r), or one sample as in Dyna-Q; with 0 planning steps and "sample" this is Q-learning. memory: see
        `TabularModel`.
        """
        self.q: Array = np.zeros((num_states, num_actions))
        self.values: Array = np.zeros(num_states)
        """max_a Q(s, a), kept up to date."""
        self.model = TabularModel(memory)
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
        self.model.add(state, action, reward, following, terminated)  # 3. update p̂(s' | s, a) and r̂(s, a)
        if self.target == "sample":  # the real s' is the sample
            value = 0.0 if terminated else self.values[following]
            self._move(state, action, reward + self.discount * value)
        else:
            self._move(state, action, self._imagined_target(state, action, generator))  # 4. Q-update
        visited = self.model.visited
        for index in generator.integers(len(visited), size=self.planning_steps):  # 5. repeat K times:
            s, a = visited[index]  # 6. (s, a) ~ B
            self._move(s, a, self._imagined_target(s, a, generator))  # 7. Q-update

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
        """Q and the counts, as arrays by name: for checkpoints."""
        rows = [
            (*pair, following, seen.count, seen.total_reward, seen.terminated)
            for pair in self.model.visited
            for following, seen in self.model.outcomes[pair].items()
        ]
        return {"q": self.q.copy(), "outcomes": np.array(rows, dtype=np.float64).reshape(-1, 6)}

    def load(self, tensors: Mapping[str, Array]) -> None:
        """The inverse of `tensors`. Raises ValueError for a table of another size."""
        if (got := tensors["q"].shape) != self.q.shape:
            raise ValueError(f"need Q of {self.q.shape[0]} states and {self.q.shape[1]} actions, got {got}")
        self.q = np.array(tensors["q"], dtype=np.float64)
        self.values = self.q.max(1)
        self.model = TabularModel(self.model.memory)
        for state, action, following, count, total_reward, terminated in tensors["outcomes"].tolist():
            pair = (int(state), int(action))
            if pair not in self.model.outcomes:
                self.model.outcomes[pair] = {}
                self.model.visited.append(pair)
            self.model.outcomes[pair][int(following)] = Outcome(count, total_reward, bool(terminated))
