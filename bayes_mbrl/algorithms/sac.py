"""Model-free reinforcement learning by soft actor-critic: the baseline that every model has to beat.

Source: Haarnoja et al., Soft Actor-Critic Algorithms and Applications (2018); the lecture's "model-free training".
1. take some action, observe (s, a, s', r), add it to B      learning.py, dyna_style.py
2. sample a batch from B                                     dyna_style.py
3. update critics, policy and temperature by it              actor_critic.py
"""

import dataclasses
import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le

from bayes_mbrl.algorithms.actor_critic import SoftActorCritic
from bayes_mbrl.algorithms.dyna_style import DynaStyleLearner
from bayes_mbrl.algorithms.learner import Learner, LearningAlgorithm, Task, check_continuous


@dataclasses.dataclass(frozen=True)
class SAC(LearningAlgorithm):
    """Settings of the algorithm."""

    hidden: tuple[Annotated[int, Gt(0)], ...] = (64, 64)
    """Widths of the hidden layers of policy and critics; 256, 256 in the paper."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    discount: Annotated[float, Ge(0), Le(1)] = 0.99
    target_rate: Annotated[float, Gt(0), Le(1)] = 0.005
    """τ of the slow critics."""
    target_entropy: float | None = None
    """In nats; None: −A."""
    batch_size: Annotated[int, Gt(0)] = 256
    updates_per_step: Annotated[int, Gt(0)] = 1
    """Gradient steps for each environment step."""
    replay_capacity: Annotated[int, Gt(0)] = 1_000_000
    """Real transitions that are learned from again, the newest ones."""
    max_gradient_norm: Annotated[float, Gt(0)] | None = None
    """What gradients are clipped to; None: they are not."""

    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """See `LearningAlgorithm.learner`."""
        actor_critic = self.actor_critic(task, generator=generator)
        return DynaStyleLearner(
            actor_critic,
            lambda batch, world, g: vars(actor_critic.update(batch, generator=g)),
            updates_per_step=self.updates_per_step,
            batch_size=self.batch_size,
            capacity=self.replay_capacity,
        )

    def actor_critic(self, task: Task, *, generator: torch.Generator) -> SoftActorCritic:
        """A new one for the task. Raises ValueError for one without continuous actions."""
        check_continuous(task, "soft actor-critic")
        return SoftActorCritic(
            task.state_dim,
            task.low,
            task.high,
            generator=generator,
            hidden=self.hidden,
            learning_rate=self.learning_rate,
            discount=self.discount,
            target_rate=self.target_rate,
            target_entropy=self.target_entropy,
            max_gradient_norm=self.max_gradient_norm or math.inf,
        )
