"""Plan once and execute the whole plan without looking: versions 0.5 and 1.0 of the lecture, whose steps are:

1. run the base policy to collect D                                     experiment.py
2. learn the dynamics, here the posterior p(θ | D)                      learning.py
3. plan through it to choose actions                                    `MPCAgent.replan`, by rollout.evaluate_plans
4. execute those actions                                                `MPCAgent.act`, H of them before it plans again
5. add the resulting transitions to D, and go on from 2 (1.0 alone)     learning.py

Executing a plan to its end is model predictive control that replans when the plan is used up, so that the agent is that
of mpc.py. Version 0.5 does step 2 once, with data of the base policy alone: its plans lead where it has no data.
"""

import dataclasses
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt

from bayes_mbrl.algorithms.mpc import MPC, PlanningAlgorithm


@dataclasses.dataclass(frozen=True)
class OpenLoop(PlanningAlgorithm):
    """Settings of version 1.0: execute the plan, append what came of it, refit after each episode, repeat."""

    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.0
    """See `MPC.tolerance`."""

    def as_mpc(self, horizon: int) -> MPC:
        """See `PlanningAlgorithm.as_mpc`."""
        return MPC(replan_every=horizon, tolerance=self.tolerance)


@dataclasses.dataclass(frozen=True)
class OpenLoopOnce(PlanningAlgorithm):
    """Settings of version 0.5: all training episodes are the base policy's, one fit, and then only plans."""

    base_data_only: ClassVar[bool] = True
    tolerance: Annotated[float, Ge(0), Lt(1)] = 0.0
    """See `MPC.tolerance`."""

    def as_mpc(self, horizon: int) -> MPC:
        """See `PlanningAlgorithm.as_mpc`."""
        return MPC(replan_every=horizon, tolerance=self.tolerance)
