"""What is known about an environment, by name: its reward, its termination, and settings that suit it."""

import dataclasses
import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import gymnasium
from torch import Tensor

from bayes_mbrl.environments import rewards
from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction
from bayes_mbrl.errors import UserError

FeatureFunction = Callable[[Tensor], Tensor]
"""observation [..., S] → inputs of a network [..., F]"""


def _short_name(environment_id: str) -> str:
    return environment_id.rpartition(":")[2].rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """An environment and what is known about it.

    A reward of None is learned; with a termination of None the model imagines that no episode ends.
    """

    id: str
    """What `gymnasium.make` takes; "module:EnvId" imports the module first."""
    summary: str
    """One line for a person."""
    reward: RewardFunction | None = None
    termination: TerminationFunction | None = None
    """`rewards.never` says that it is known never to terminate."""
    failure: TerminationFunction | None = None
    """Transitions that should not happen, whether they end the episode or not: for objectives that limit failures."""
    features: FeatureFunction | None = None
    """None is the identity."""
    state_names: tuple[str, ...] = ()
    """Of the S observed numbers, with units, for pictures and tables: "angle (rad)"."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of a run that suit this environment, nested as in its configuration."""

    @property
    def name(self) -> str:
        """The id without module and namespace: what a person types and what a folder can be called."""
        return _short_name(self.id)


OWN_NAMESPACE = "bayes_mbrl"
MUJOCO_PACKAGES = ("mujoco", "imageio")
"""What Gymnasium imports for any MuJoCo environment."""


def _register_own() -> None:
    """Make our own environments known to Gymnasium, once."""
    for name, entry_point, max_episode_steps in (
        ("ContinuousCartPole-v0", "bayes_mbrl.environments.continuous_cartpole:ContinuousCartPole", 200),
        ("LinearGaussian-v0", "bayes_mbrl.environments.linear_gaussian:LinearGaussian", 50),
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
        id=f"{OWN_NAMESPACE}/LinearGaussian-v0",
        summary="a linear system with Gaussian noise and quadratic cost, its truth known (S 3, A 2, 50 steps)",
        reward=rewards.linear_gaussian_reward,
        termination=rewards.never,
        defaults={"num_episodes": 6},
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
)

ENVIRONMENTS: Mapping[str, EnvironmentSpec] = MappingProxyType({spec.name: spec for spec in _KNOWN})
"""By name. Every entry is held against the real environment in the tests."""


def find_spec(name: str) -> EnvironmentSpec:
    """The environment called `name`: a known one, or any that Gymnasium knows, also as "module:EnvId".

    Raises UserError when there is none of this name, its module cannot be imported, or MuJoCo is missing.
    """
    for known in _KNOWN:
        if name in (known.name, known.id):
            _need_mujoco(known.id)
            return known
    module, separator, registered = name.rpartition(":")
    if separator:
        _import_registering_module(module, name)
    if registered not in gymnasium.registry:
        raise UserError(_unknown(name, registered))
    _need_mujoco(registered)
    return EnvironmentSpec(
        id=name, summary="a Gymnasium environment whose reward is learned and whose model never ends an episode"
    )


def _import_registering_module(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a module from elsewhere may raise anything
        raise UserError(
            f"cannot import {module!r}, which {name!r} names as the module that registers the environment: "
            f"{type(error).__name__}: {error}"
        ) from error


def _need_mujoco(registered: str) -> None:
    """Say early how to install MuJoCo, where it is needed and missing."""
    entry_point = gymnasium.registry[registered].entry_point
    needed = isinstance(entry_point, str) and entry_point.startswith("gymnasium.envs.mujoco")
    missing = [package for package in MUJOCO_PACKAGES if importlib.util.find_spec(package) is None]
    if needed and missing:
        raise UserError(
            f"{_short_name(registered)} needs MuJoCo, and {' and '.join(missing)} cannot be found: "
            "make .venv/installed-test in a checkout, or pip install '.[mujoco]'"
        )


def _unknown(name: str, registered: str) -> str:
    nearest = _nearest(registered, [*ENVIRONMENTS, *gymnasium.registry])
    did_you_mean = f"; nearest are {', '.join(nearest)}" if nearest else ""
    return (
        f"unknown environment {name!r}{did_you_mean}. Known here: {', '.join(ENVIRONMENTS)}; any other id that "
        "Gymnasium knows works too, and 'module:EnvId' imports the module first"
    )


def _nearest(name: str, candidates: Iterable[str]) -> list[str]:
    """At most three candidates that resemble `name`, the nearest first; case and namespaces do not count."""
    by_key = {_short_name(c).lower(): c for c in reversed(list(candidates)) if not c.startswith(f"{OWN_NAMESPACE}/")}
    return [by_key[key] for key in difflib.get_close_matches(_short_name(name).lower(), by_key, n=3, cutoff=0.6)]
