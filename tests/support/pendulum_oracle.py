"""An agent that plans on the true dynamics of the pendulum."""

from typing import Any

import torch

from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.environments.rewards import pendulum_reward
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.planners.propagation import expectation


def pendulum_oracle(planner: Any, **settings: Any) -> MPCAgent:
    """Deterministic; all settings may be changed."""
    return MPCAgent(
        **{
            "posterior": Nothing(),
            "dynamics": KnownDynamics(pendulum_step, noise_std=torch.zeros(3)),
            "planner": planner,
            "objective": expected_return(),
            "propagation": expectation,
            "reward": pendulum_reward,
            "termination": None,
            "num_theta": 1,
            "num_noise": 1,
            **settings,
        }
    )
