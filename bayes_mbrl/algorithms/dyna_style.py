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

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.algorithms.learner import Learner, LearningAlgorithm, Task
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


@dataclasses.dataclass(frozen=True)
class DynaStyle(LearningAlgorithm):
    """Settings of the recipe without a model, and of what learns by it."""

    hidden: tuple[Annotated[int, Gt(0)], ...] = (64, 64)
    """Widths of the hidden layers of all networks; 256, 256 in the paper of SAC, 200, 200 in that of NAF."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    discount: Annotated[float, Ge(0), Le(1)] = 0.99
    target_rate: Annotated[float, Gt(0), Le(1)] = 0.005
    """τ of the slow copies."""
    max_gradient_norm: Annotated[float, Gt(0)] | None = None
    """What gradients are clipped to; None: they are not."""
    batch_size: Annotated[int, Gt(0)] = 256
    updates_per_step: Annotated[int, Gt(0)] = 1
    """Gradient steps for each environment step."""
    replay_capacity: Annotated[int, Gt(0)] = 1_000_000
    """Real transitions that are learned from again, the newest ones."""

    @abstractmethod
    def model_free(self, task: Task, *, generator: torch.Generator) -> tuple[ModelFreeLearner, Update]:
        """A new learner, and a gradient step of it. Raises ValueError for a task it cannot serve."""

    def networks(self) -> dict[str, Any]:
        """Arguments that every model-free learner takes."""
        return {
            "hidden": self.hidden,
            "learning_rate": self.learning_rate,
            "discount": self.discount,
            "target_rate": self.target_rate,
            "max_gradient_norm": self.max_gradient_norm or math.inf,
        }

    def imagination(self) -> "Imagining | None":
        """What is imagined; None where nothing is."""
        return None

    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """See `LearningAlgorithm.learner`."""
        model_free, update = self.model_free(task, generator=generator)
        return DynaStyleLearner(
            model_free,
            update,
            updates_per_step=self.updates_per_step,
            batch_size=self.batch_size,
            capacity=self.replay_capacity,
            imagination=self.imagination(),
        )


@dataclasses.dataclass(frozen=True)
class Imagining(DynaStyle):
    """Settings of the recipe with a model: how much is imagined, and from where."""

    propagations: ClassVar[tuple[str, ...]] = ("ts-infinity", "ts-1")
    updates_per_step: Annotated[int, Gt(0)] = 20
    refit_every: Annotated[int, Gt(0)] | None = 200
    """Environment steps between two fits of the posterior; None: after each episode."""
    rollout_every: Annotated[int, Gt(0)] = 10
    """Environment steps between two rounds of imagined rollouts."""
    num_rollouts: Annotated[int, Gt(0)] = 400
    """Imagined rollouts in a round, each from a state of D."""
    rollout_length: Annotated[int, Gt(0)] = 3
    final_rollout_length: Annotated[int, Gt(0)] | None = None
    """The length goes linearly to this between the two numbers of environment steps below; None: it stays."""
    lengthening_from: Annotated[int, Ge(0)] = 0
    lengthening_until: Annotated[int, Gt(0)] = 1000
    first_action: FirstAction = "policy"
    """Of a rollout: π's, that of the transition of D whose state it starts from, or a random one."""
    real_ratio: Annotated[float, Ge(0), Le(1)] = 0.05
    """Share of real transitions in a batch."""
    imagined_capacity: Annotated[int, Gt(0)] = 40_000
    """Imagined transitions that are learned from, the newest ones: those of earlier posteriors are pushed out."""

    def __post_init__(self) -> None:
        """Raise ValueError for a schedule that runs backwards."""
        if self.lengthening_from >= self.lengthening_until:
            raise ValueError(
                f"need lengthening_from < lengthening_until, got {self.lengthening_from} and {self.lengthening_until}"
            )

    def imagination(self) -> "Imagining":
        """See `DynaStyle.imagination`."""
        return self

    def length(self, num_steps: int) -> int:
        """Of rollouts, after so many real steps: linear, rounded down.

        As `_set_rollout_length` in the code of Janner et al. (2019), github.com/jannerm/mbpo, which counts in epochs.
        """
        last = self.rollout_length if self.final_rollout_length is None else self.final_rollout_length
        share = (num_steps - self.lengthening_from) / (self.lengthening_until - self.lengthening_from)
        return int(self.rollout_length + min(max(share, 0.0), 1.0) * (last - self.rollout_length) + 1e-9)


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
        imagination: Imagining | None = None,
    ) -> None:
        """`capacity` is that of real transitions."""
        self.real = Replay(capacity)
        self.imagined = Replay(imagination.imagined_capacity if imagination else 1)
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
        if world is not None and imagination is not None and self.real.num_added % imagination.rollout_every == 0:
            self.imagined.add(self._imagine(imagination, world, generator))  # 4., 5., 6., 8.
        for _ in range(self._updates_per_step):  # 3. repeat K times:
            batch = self._draw(generator)
            self._told.append(self._update(batch, world, generator))  # 7. model-free RL

    def _imagine(self, imagination: Imagining, world: World, generator: torch.Generator) -> Batch:
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
