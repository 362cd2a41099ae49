"""Model-based policy optimisation: version 3.0 of the lecture with soft actor-critic.

Source: Janner et al., When to Trust Your Model: Model-Based Policy Optimization (2019), algorithm 2. The steps:

1. run the base policy to collect D                           learning.py, `num_base_steps`
2. learn the dynamics, here the posterior p(θ | D)            learning.py, every `refit_every` steps
3. pick states from D, make *short* rollouts from them        dyna_style.py, imagination.branch
4. use *both* real and model data to improve π                dyna_style.py, `real_ratio`; actor_critic.py
5. run π, appending the visited (s, a, s') to D               learning.py
"""

import dataclasses

from bayes_mbrl.algorithms.dyna_style import Imagining
from bayes_mbrl.algorithms.sac import SAC


@dataclasses.dataclass(frozen=True)
class MBPO(Imagining, SAC):
    """Settings of the algorithm: those of SAC, and what is imagined."""
