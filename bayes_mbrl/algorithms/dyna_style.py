"""The general "Dyna-style" recipe, of which version 3.0, MBPO, MBA and MVE are instances, and model-free RL a part.

Source: lecture, "General Dyna-style model-based RL recipe", whose numbered steps are:

1. collect some data, transitions (s, a, s', r)                  learning.py, `DynaStyleLearner.after_step`
2. learn the model p̂(s' | s, a), here the posterior p(θ | D)     learning.py, every `refit_every` steps
3. repeat K times                                                `DynaStyleLearner.after_step`
4. sample s from the buffer                                      `DynaStyleLearner._imagine`
5. choose a: from the buffer, from π, or at random               `DynaStyleLearner._imagine`
6. simulate s' ~ p̂(s' | s, a) and r                              imagination.branch
7. train on (s, a, s', r) with model-free RL                     `DynaStyleLearner.after_step`
8. (optional) take N more model-based steps                      imagination.branch, `length` − 1 of them

Axes: N transitions, S state, A action.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.learner import Learner
from bayes_mbrl.algorithms.policy_agent import PolicyAgent
from bayes_mbrl.data import Transitions
from bayes_mbrl.imagination import World, branch
from bayes_mbrl.inference.base import check_settings
from bayes_mbrl.policies import Policy
from bayes_mbrl.replay import Batch, Replay, mixed

FirstAction = Literal["policy", "buffer", "random"]

Update = Callable[[Batch, World | None, torch.Generator], Mapping[str, Tensor]]
"""One gradient step of the model-free learner; returns numbers [] to be told, by name."""


class ModelFreeLearner(Protocol):
    """What the recipe needs of the model-free learner that it feeds."""

    @property
    def policy(self) -> Policy:
        """π."""

    def tensors(self) -> dict[str, Tensor]:
        """See `Learner.tensors`."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learner.load`."""

    def take_notes(self) -> list[str]:
        """See `Learner.warnings`."""


class Imagination:
    """How much is imagined, and from where. Raises ValueError for settings out of range."""

    @check_settings
    def __init__(
        self,
        *,
        every: Annotated[int, Gt(0)] = 10,
        num_rollouts: Annotated[int, Gt(0)] = 400,
        length: Annotated[int, Gt(0)] = 1,
        final_length: Annotated[int, Gt(0)] | None = None,
        lengthening_from: Annotated[int, Ge(0)] = 0,
        lengthening_until: Annotated[int, Gt(0)] = 1,
        first_action: FirstAction = "policy",
        real_ratio: Annotated[float, Ge(0), Le(1)] = 0.05,
        capacity: Annotated[int, Gt(0)] = 40_000,
    ) -> None:
        """Every `every` real steps, `num_rollouts` rollouts of `length` steps from states of the buffer; the length
        goes linearly to `final_length` between two numbers of real steps. `real_ratio` of what is trained on is real.
        """
        if lengthening_from >= lengthening_until:
            raise ValueError(f"need lengthening_from < lengthening_until, got {lengthening_from}, {lengthening_until}")
        self.every, self.num_rollouts, self.first_action = every, num_rollouts, first_action
        self.real_ratio, self.capacity = real_ratio, capacity
        self._lengths = length, length if final_length is None else final_length
        self._between = lengthening_from, lengthening_until

    def length(self, num_steps: int) -> int:
        """Of rollouts, after so many real steps (Janner et al. 2019, appendix C: linear, rounded down)."""
        (first, last), (start, end) = self._lengths, self._between
        share = min(max((num_steps - start) / (end - start), 0.0), 1.0)
        return int(first + share * (last - first) + 1e-9)


class DynaStyleLearner(Learner):
    """Feeds a model-free learner with real steps, and with imagined ones where there is a model and an imagination."""

    @check_settings
    def __init__(
        self,
        model_free: ModelFreeLearner,
        update: Update,
        *,
        updates_per_step: Annotated[int, Gt(0)],
        batch_size: Annotated[int, Gt(0)],
        capacity: Annotated[int, Gt(0)],
        imagination: Imagination | None = None,
    ) -> None:
        """`capacity` is that of real transitions."""
        self.real = Replay(capacity)
        self.imagined = Replay(imagination.capacity if imagination else 1)
        self._model_free, self._update, self._imagination = model_free, update, imagination
        self._updates_per_step, self._batch_size = updates_per_step, batch_size
        self._told: list[Mapping[str, Tensor]] = []

    def agent(self, *, explore: bool) -> Agent:
        """See `Learner.agent`."""
        return PolicyAgent(self._model_free.policy, explore)

    def remember(self, transitions: Transitions) -> None:
        """See `Learner.remember`."""
        self.real.add(Batch.of(transitions))

    def after_step(self, step: Transitions, world: World | None, *, generator: torch.Generator) -> None:
        """Steps 1 and 3 to 8 of the recipe; 2 was done before, where it was due."""
        self.real.add(Batch.of(step))  # 1. (s, a, s', r)
        imagination = self._imagination
        if world is not None and imagination is not None and self.real.num_added % imagination.every == 0:
            self.imagined.add(self._imagine(imagination, world, generator))  # 4., 5., 6., 8.
        for _ in range(self._updates_per_step):  # 3. repeat K times:
            batch = self._draw(generator)
            self._told.append(self._update(batch, world, generator))  # 7. model-free RL

    def _imagine(self, imagination: Imagination, world: World, generator: torch.Generator) -> Batch:
        buffer = self.real.sample(imagination.num_rollouts, generator=generator)  # 4. s ~ B
        policy, first = self._model_free.policy, None  # 5. a from π, from B, or at random
        if imagination.first_action == "buffer":
            first = buffer.action
        elif imagination.first_action == "random":
            first = torch.addcmul(policy.centre, policy.half_range, _uniform(buffer.action, generator))
        length = imagination.length(self.real.num_added)
        return branch(world, policy, buffer.state, length=length, first_actions=first, generator=generator)  # 6., 8.

    def _draw(self, generator: torch.Generator) -> Batch:
        if self._imagination is None:
            return self.real.sample(self._batch_size, generator=generator)
        ratio = self._imagination.real_ratio
        return mixed(self.real, self.imagined, self._batch_size, real_ratio=ratio, generator=generator)

    def report(self) -> Mapping[str, Any]:
        """Means over the updates of this episode."""
        if not self._told:
            return {}
        told: dict[str, Any] = {
            name: float(torch.stack([one[name] for one in self._told]).mean()) for name in self._told[0]
        }
        if self._imagination is not None:
            told |= {
                "num_imagined": len(self.imagined),
                "rollout_length": self._imagination.length(self.real.num_added),
            }
        return told

    def warnings(self) -> list[str]:
        """See `Learner.warnings`."""
        return self._model_free.take_notes()

    def tensors(self) -> dict[str, Tensor]:
        """Networks and optimisers, and what was imagined; real transitions are those of the run."""
        imagined = {f"imagined/{name}": value for name, value in self.imagined.tensors().items()}
        return {**self._model_free.tensors(), **imagined}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Learner.load`."""
        prefix = "imagined/"
        self.imagined.load({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self._model_free.load({k: v for k, v in tensors.items() if not k.startswith(prefix)})


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """In [−1, 1)."""
    return 2 * torch.rand(like.shape, dtype=like.dtype, generator=generator) - 1
