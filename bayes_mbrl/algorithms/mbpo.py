"""Model-based policy optimisation: version 3.0 of the lecture with soft actor-critic.

Source: Janner et al., When to Trust Your Model: Model-Based Policy Optimization (2019), algorithm 2. The steps:

1. run the base policy to collect D                           learning.py, `num_base_steps`
2. learn the dynamics, here the posterior p(θ | D)            learning.py, every `refit_every` steps
3. pick states from D, make *short* rollouts from them        dyna_style.py, imagination.branch
4. use *both* real and model data to improve π                dyna_style.py, `real_ratio`; actor_critic.py
5. run π, appending the visited (s, a, s') to D               learning.py
"""

import dataclasses
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le

from bayes_mbrl.algorithms.dyna_style import DynaStyleLearner, FirstAction, Imagination
from bayes_mbrl.algorithms.learner import Learner, Task
from bayes_mbrl.algorithms.sac import SAC


@dataclasses.dataclass(frozen=True)
class MBPO(SAC):
    """Settings of the algorithm: those of SAC, and what is imagined."""

    propagations: ClassVar[tuple[str, ...]] = ("ts-infinity", "ts-1")
    updates_per_step: Annotated[int, Gt(0)] = 5
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
    """Imagined transitions that are learned from, the newest ones."""

    def learner(self, task: Task, *, generator: torch.Generator) -> Learner:
        """See `LearningAlgorithm.learner`."""
        actor_critic = self.actor_critic(task, generator=generator)
        return DynaStyleLearner(
            actor_critic,
            lambda batch, world, g: vars(actor_critic.update(batch, generator=g)),
            updates_per_step=self.updates_per_step,
            batch_size=self.batch_size,
            capacity=self.replay_capacity,
            imagination=Imagination(
                every=self.rollout_every,
                num_rollouts=self.num_rollouts,
                length=self.rollout_length,
                final_length=self.final_rollout_length,
                lengthening_from=self.lengthening_from,
                lengthening_until=self.lengthening_until,
                first_action=self.first_action,
                real_ratio=self.real_ratio,
                capacity=self.imagined_capacity,
            ),
        )
