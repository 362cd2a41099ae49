"""Model-based acceleration: Q-learning with normalised advantages, on real and on imagined transitions.

Source: Gu et al., Continuous Deep Q-Learning with Model-based Acceleration (2016), algorithm 2, here with rollouts of π
under p(θ | D) in place of iLQG under local linear models. The steps:

1. run the base policy to collect D                           learning.py, `num_base_steps`
2. learn the dynamics, here the posterior p(θ | D)            learning.py, every `refit_every` steps
3. imagine rollouts from states of D by the noisy policy      dyna_style.py, imagination.branch, naf.py
4. Q-learning on imagined and real transitions                dyna_style.py, `real_ratio`; naf.py
5. run π with noise, appending the visited (s, a, s') to D    learning.py
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from bayes_mbrl.algorithms.dyna_style import Imagining, ModelFreeLearner, Update
from bayes_mbrl.algorithms.learner import Task, check_continuous
from bayes_mbrl.algorithms.naf import NAFLearner
from bayes_mbrl.imagination import World
from bayes_mbrl.replay import Batch


@dataclasses.dataclass(frozen=True)
class MBA(Imagining):
    """Settings of the algorithm: those of NAF, and what is imagined."""

    exploration_std: Annotated[float, Ge(0)] = 0.3
    """Of the noise on actions while data are collected or imagined, in units of half their range."""
    max_gradient_norm: Annotated[float, Gt(0)] | None = 10.0
    real_ratio: Annotated[float, Ge(0), Le(1)] = 0.5

    def model_free(self, task: Task, *, generator: torch.Generator) -> tuple[ModelFreeLearner, Update]:
        """See `DynaStyle.model_free`."""
        check_continuous(task, "a quadratic advantage")
        naf = NAFLearner(
            task.state_dim,
            task.low,
            task.high,
            generator=generator,
            exploration_std=self.exploration_std,
            **self.networks(),
        )

        def update(batch: Batch, world: World | None, generator: torch.Generator) -> Mapping[str, Tensor]:
            return {"critic_loss": naf.update(batch)}

        return naf, update
