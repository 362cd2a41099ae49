"""The environments about which something is known here, and settings that suit them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium
import torch
from torch import Tensor

from bayes_mbrl.environments import rewards
from bayes_mbrl.environments.base import EnvironmentSpec

OWN_NAMESPACE = "bayes_mbrl"


def _register_own() -> None:
    """Make our own environments known to Gymnasium, once."""
    for name, entry_point, max_episode_steps in (
        ("ContinuousCartPole-v0", "bayes_mbrl.environments.continuous_cartpole:ContinuousCartPole", 200),
        ("CartPoleSwingUp-v0", "bayes_mbrl.environments.cartpole_swingup:CartPoleSwingUp", 40),
        ("LinearGaussian-v0", "bayes_mbrl.environments.linear_gaussian:LinearGaussian", 50),
        ("ThreeLanes-v0", "bayes_mbrl.environments.three_lanes:ThreeLanes", 12),
        ("Obstacles-v0", "bayes_mbrl.environments.obstacles:Obstacles", 100),
    ):
        if f"{OWN_NAMESPACE}/{name}" not in gymnasium.registry:
            gymnasium.register(f"{OWN_NAMESPACE}/{name}", entry_point, max_episode_steps=max_episode_steps)


_register_own()

_SHORT_FITS: Mapping[str, Any] = {"posterior": {"num_steps": 500}}
"""For episodes of few steps, after each of which the posterior is fitted anew."""
_SMALL_SEARCH: Mapping[str, Any] = {
    "planner": {"horizon": 20, "num_candidates": 50, "num_elites": 8, "num_iterations": 2},
    "rollout": {"num_theta": 5},
}
"""For tasks that forgive a mediocre plan, since the next step makes another one."""


def _with_sine_and_cosine(state: Tensor) -> Tensor:
    """(x, ẋ, θ, θ̇) → (x, ẋ, θ̇, sin θ, cos θ)."""
    angle = state[..., 2:3]
    return torch.cat([state[..., :2], state[..., 3:], angle.sin(), angle.cos()], dim=-1)


_KNOWN = (
    EnvironmentSpec(
        id="Pendulum-v1",
        summary="swing a pendulum up and hold it (S 3, A 1, 200 steps)",
        reward=rewards.pendulum_reward,
        termination=rewards.never,
        state_names=("cos(angle)", "sin(angle)", "angular velocity (rad/s)"),
        defaults={"dynamics": {"system": "pendulum"}},
    ),
    EnvironmentSpec(
        id="MountainCarContinuous-v0",
        summary="drive a weak car out of a valley: the reward is sparse (S 2, A 1, 999 steps)",
        reward=rewards.mountain_car_reward,
        termination=rewards.mountain_car_termination,
        state_names=("position", "velocity (per step)"),
        defaults={"num_episodes": 3, "num_evaluation_episodes": 2, **_SMALL_SEARCH},
    ),
    EnvironmentSpec(
        id="MountainCar-v0",
        summary="drive a weak car out of a valley by full thrust or none: sparse (S 2, 3 choices, 200 steps)",
        reward=rewards.discrete_mountain_car_reward,
        termination=rewards.discrete_mountain_car_termination,
        state_names=("position", "velocity (per step)"),
        # The goal is 100 steps away at the least, and found by pushes that last.
        defaults={
            "num_episodes": 3,
            "planner": {"name": "icem", "horizon": 150, "colour": 2.0},
            "algorithm": {"replan_every": 5},
            "rollout": {"num_theta": 5},
        },
    ),
    EnvironmentSpec(
        id="CartPole-v1",
        summary="balance a pole on a cart by pushes to the left or right (S 4, 2 choices, 500 steps)",
        reward=rewards.continuous_cartpole_reward,
        termination=rewards.continuous_cartpole_termination,
        failure=rewards.continuous_cartpole_termination,
        state_names=("position (m)", "velocity (m/s)", "angle (rad)", "angular velocity (rad/s)"),
        # A second ahead, in which a cart that nears the end of its track can still be turned round.
        defaults={
            "num_episodes": 20,
            "num_steps": 600,
            "planner": {"name": "icem", "horizon": 50, "num_candidates": 100, "num_elites": 8, "num_iterations": 2},
            "rollout": {"num_theta": 5},
            **_SHORT_FITS,
        },
    ),
    EnvironmentSpec(
        id="Acrobot-v1",
        summary="swing the tip of two links above a line by a motor between them (S 6, 3 choices, 500 steps)",
        reward=rewards.acrobot_reward,
        termination=rewards.acrobot_termination,
        state_names=(
            "cos(first angle)",
            "sin(first angle)",
            "cos(second angle)",
            "sin(second angle)",
            "first angular velocity (rad/s)",
            "second angular velocity (rad/s)",
        ),
        defaults={"num_episodes": 5},
    ),
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/ContinuousCartPole-v0",
        summary="balance a pole on a cart by a continuous force (S 4, A 1, 200 steps)",
        reward=rewards.continuous_cartpole_reward,
        termination=rewards.continuous_cartpole_termination,
        failure=rewards.continuous_cartpole_termination,
        state_names=("position (m)", "velocity (m/s)", "angle (rad)", "angular velocity (rad/s)"),
        # Episodes are short until it balances; the last one begins before step 200 and so ends before step 400.
        defaults={"num_episodes": 20, "num_steps": 200, **_SHORT_FITS, **_SMALL_SEARCH},
    ),
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/CartPoleSwingUp-v0",
        summary="swing up a pole that hangs from a cart, the task of PILCO: reward in [0, 1] (S 4, A 1, 40 steps)",
        reward=rewards.cartpole_swingup_reward,
        termination=rewards.never,
        features=_with_sine_and_cosine,
        state_names=("position (m)", "velocity (m/s)", "angle from hanging (rad)", "angular velocity (rad/s)"),
        defaults={"num_episodes": 15},
    ),
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/LinearGaussian-v0",
        summary="a linear system with Gaussian noise and quadratic cost, its truth known (S 3, A 2, 50 steps)",
        reward=rewards.linear_gaussian_reward,
        termination=rewards.never,
        defaults={"num_episodes": 6},
    ),
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/ThreeLanes-v0",
        summary="get ahead in a quiet lane, a gusty one, or one that only looks good (S 2, A 2, 12 steps)",
        reward=rewards.three_lanes_reward,
        termination=rewards.never,
        state_names=("x (m)", "y (m)"),
        defaults={"num_episodes": 20, "planner": {"horizon": 12}, **_SHORT_FITS},
    ),
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/Obstacles-v0",
        summary="move a point around rectangles to a goal: homework 4 of CS285 (S 4, A 2, 100 steps)",
        reward=rewards.obstacles_reward,
        termination=rewards.obstacles_termination,
        state_names=("x", "y", "goal x", "goal y"),
        # By random shooting as in the homework: see docs/ladder/mpc.md for what CEM was seen to do.
        defaults={
            "num_episodes": 20,
            "planner": {"name": "random-shooting", "num_candidates": 1000, "horizon": 10},
        },
    ),
    EnvironmentSpec(
        id="InvertedPendulum-v5",
        summary="MuJoCo: balance a pole on a cart (S 4, A 1, 1000 steps)",
        reward=rewards.inverted_pendulum_reward,
        termination=rewards.inverted_pendulum_termination,
        failure=rewards.inverted_pendulum_termination,
        state_names=("position (m)", "angle (rad)", "velocity (m/s)", "angular velocity (rad/s)"),
        defaults={"num_episodes": 20, "num_steps": 1000, "num_evaluation_episodes": 2, **_SHORT_FITS, **_SMALL_SEARCH},
    ),
    EnvironmentSpec(
        id="InvertedDoublePendulum-v5",
        summary="MuJoCo: balance two poles, one on the other, on a cart (S 9, A 1, 1000 steps)",
        reward=rewards.inverted_double_pendulum_reward,
        termination=rewards.inverted_double_pendulum_termination,
        failure=rewards.inverted_double_pendulum_termination,
        state_names=(
            "position (m)",
            "sin(first angle)",
            "sin(second angle)",
            "cos(first angle)",
            "cos(second angle)",
            "velocity (m/s)",
            "first angular velocity (rad/s)",
            "second angular velocity (rad/s)",
            "force of the limits (N)",
        ),
        defaults={"num_episodes": 40, "num_steps": 1000, "num_evaluation_episodes": 2, **_SHORT_FITS},
    ),
    EnvironmentSpec(
        id="Reacher-v5",
        summary="MuJoCo: bring a two-link arm to a target (S 10, A 2, 50 steps)",
        reward=rewards.reacher_reward,
        termination=rewards.never,
        state_names=(
            "cos(shoulder)",
            "cos(elbow)",
            "sin(shoulder)",
            "sin(elbow)",
            "target x (m)",
            "target y (m)",
            "shoulder velocity (rad/s)",
            "elbow velocity (rad/s)",
            "x to target (m)",
            "y to target (m)",
        ),
        defaults={"num_episodes": 20},
    ),
    EnvironmentSpec(
        id="Pusher-v5",
        summary="MuJoCo: push a cylinder to a goal with an arm of seven joints (S 23, A 7, 100 steps)",
        reward=rewards.pusher_reward,
        termination=rewards.never,
        state_names=(
            *(f"angle of joint {i} (rad)" for i in range(1, 8)),
            *(f"velocity of joint {i} (rad/s)" for i in range(1, 8)),
            *(f"{what} {axis} (m)" for what in ("fingertip", "object", "goal") for axis in "xyz"),
        ),
        defaults={"num_episodes": 10},
    ),
    EnvironmentSpec(
        id="HalfCheetah-v5",
        summary="MuJoCo: run; the reward, a speed that is not observed, is learned (S 17, A 6, 1000 steps)",
        termination=rewards.never,
        state_names=(
            "height (m)",
            "pitch (rad)",
            *(f"{leg} {joint} (rad)" for leg in ("back", "front") for joint in ("thigh", "shin", "foot")),
            "forward velocity (m/s)",
            "upward velocity (m/s)",
            "pitch velocity (rad/s)",
            *(f"{leg} {joint} velocity (rad/s)" for leg in ("back", "front") for joint in ("thigh", "shin", "foot")),
        ),
        defaults={"num_episodes": 5, "num_evaluation_episodes": 1},
    ),
)

ENVIRONMENTS: Mapping[str, EnvironmentSpec] = MappingProxyType({spec.name: spec for spec in _KNOWN})
"""By name. Every entry is held against the real environment in the tests."""
