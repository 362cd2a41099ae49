"""Model-free reinforcement learning by soft actor-critic: the baseline that every model has to beat.

Source: Haarnoja et al., Soft Actor-Critic Algorithms and Applications (2018); the lecture's "model-free training".
1. take some action, observe (s, a, s', r), add it to B      learning.py, dyna_style.py
2. sample a batch from B                                     dyna_style.py
3. update critics, policy and temperature by it              actor_critic.py
"""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_mbrl.algorithms.actor_critic import Expansion, SoftActorCritic
from bayes_mbrl.algorithms.dyna_style import DynaStyle, ModelFreeLearner, Update
from bayes_mbrl.algorithms.learner import Task, check_continuous
from bayes_mbrl.imagination import World
from bayes_mbrl.replay import Batch


@dataclasses.dataclass(frozen=True)
class SAC(DynaStyle):
    """Settings of the algorithm."""

    target_entropy: float | None = None
    """In nats, of actions in units of half their range; None: −A."""

    def model_free(self, task: Task, *, generator: torch.Generator) -> tuple[ModelFreeLearner, Update]:
        """See `DynaStyle.model_free`."""
        actor_critic = self.actor_critic(task, generator=generator)

        def update(batch: Batch, world: World | None, generator: torch.Generator) -> Mapping[str, Tensor]:
            return vars(actor_critic.update(batch, generator=generator, expand=self.expansion(world)))

        return actor_critic, update

    def expansion(self, world: World | None) -> Expansion | None:
        """What the critics learn from a batch; None: the plain targets."""
        return None

    def actor_critic(self, task: Task, *, generator: torch.Generator) -> SoftActorCritic:
        """A new one for the task. Raises ValueError for one without continuous actions."""
        check_continuous(task, "soft actor-critic")
        return SoftActorCritic(
            task.state_dim,
            task.low,
            task.high,
            generator=generator,
            target_entropy=self.target_entropy,
            **self.networks(),
        )
