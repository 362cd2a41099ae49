"""Dyna in the main job: acts by a table of values, which real steps and a counted model of them improve.

Source: see tabular.py, where the lecture's steps stand in `DynaLearner.learn`. The model is a table of what followed
each state and action, no posterior. Axes: S states, A actions; a state is its number [1], an action one-hot [A].
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.learner import Learner, LearningAlgorithm, Task
from bayes_mbrl.algorithms.tabular import DynaLearner, Target
from bayes_mbrl.data import Transitions
from bayes_mbrl.imagination import World

MAX_STATES = 2**24
"""Whole numbers that float32, in which states are kept, can tell apart."""


@dataclasses.dataclass(frozen=True)
class Dyna(LearningAlgorithm):
    """Settings of the algorithm."""

    planning_steps: Annotated[int, Ge(0)] = 50
    """K of the lecture: updates in the model after each real step; 0: none, Q-learning."""
    step_size: Annotated[float, Gt(0), Le(1)] = 0.1
    """α"""
    discount: Annotated[float, Ge(0), Le(1)] = 0.95
    """γ"""
    exploration: Annotated[float, Ge(0), Le(1)] = 0.1
    """ε: share of actions at random while learning; evaluation is greedy."""
    target: Target = "expected"
    """The lecture's expectation over (s', r), or one sample, as in Dyna-Q."""
    memory: Annotated[float, Ge(0), Le(1)] = 1.0
    """What an outcome still counts for whenever its (s, a) is seen anew; 0: the last one alone counts."""
    bonus: Annotated[float, Ge(0)] = 0.0
    """κ of Dyna-Q+: imagined reward κ √τ more where (s, a) was not tried for τ steps."""

    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """See `LearningAlgorithm.learner`."""
        if task.num_states is None:
            raise ValueError(
                f"it needs states that can be counted, and those of {task.name} are numbers: take another algorithm, "
                "or register it wrapped in a gymnasium.ObservationWrapper whose observation_space is Discrete"
            )
        if len(task.choices) != 1:
            kinds = " and out of ".join(map(str, task.choices))
            raise ValueError(
                f"it needs actions that can be counted, and those of {task.name} are "
                f"{f'several choices, out of {kinds}' if task.choices else 'numbers'}: register it wrapped in a "
                "gymnasium.ActionWrapper whose action_space is Discrete"
            )
        if task.num_states > MAX_STATES:
            raise ValueError(f"need at most {MAX_STATES} states, got {task.num_states} in {task.name}")
        return TabularLearner(DynaLearner(task.num_states, task.choices[0], **dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class TabularAgent(Agent):
    """Acts by the table of values as it is at the time: greedily, or ε-greedily with `explore`."""

    dyna: DynaLearner
    explore: bool

    def act(self, observation: Tensor, memory: None, *, generator: torch.Generator) -> tuple[Tensor, None]:
        """See `Agent.act`."""
        action = torch.zeros(self.dyna.q.shape[1])
        action[self.dyna.act(int(observation), generator=_numpy_generator(generator), explore=self.explore)] = 1.0
        return action, None


class TabularLearner(Learner):
    """The values and the counts."""

    def __init__(self, dyna: DynaLearner) -> None:
        self.dyna = dyna

    def agent(self, *, explore: bool) -> Agent:
        """See `Learner.agent`."""
        return TabularAgent(self.dyna, explore)

    def remember(self, transitions: Transitions) -> None:
        """Take what is not in the model yet, the base policy's steps, into it."""
        for row in range(self.dyna.num_steps, len(transitions)):
            self.dyna.observe(*_counted(transitions, row))

    def after_step(self, step: Transitions, world: World | None, *, generator: torch.Generator) -> None:
        """See `Learner.after_step`."""
        self.dyna.learn(*_counted(step, 0), generator=_numpy_generator(generator))

    def report(self) -> Mapping[str, Any]:
        """How many (s, a) were seen."""
        return {"num_visited_pairs": len(self.dyna.model.outcomes)}

    def tensors(self) -> dict[str, Tensor]:
        """Q [S, A], outcomes [n, (s, a, s', count, total reward, terminated)], when what was last tried [S, A]."""
        return {name: torch.from_numpy(array) for name, array in self.dyna.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learner.load`."""
        self.dyna.load({name: tensor.numpy() for name, tensor in tensors.items()})


def _counted(transitions: Transitions, row: int) -> tuple[int, int, float, int, bool]:
    """(s, a, r, s', terminated) of a row."""
    return (
        int(transitions.state[row]),
        int(transitions.action[row].argmax()),
        float(transitions.reward[row]),
        int(transitions.next_state[row]),
        bool(transitions.terminated[row]),
    )


def _numpy_generator(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
