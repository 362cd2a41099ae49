"""Environments by name: the known ones, those that a user registers, and any other that Gymnasium knows."""

import dataclasses
import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import gymnasium

from bayes_mbrl.environments.base import EnvironmentSpec, short_name
from bayes_mbrl.environments.counted import COUNTED
from bayes_mbrl.environments.recorded import is_stand_in, make_stand_in
from bayes_mbrl.environments.specs import ENVIRONMENTS, OWN_NAMESPACE
from bayes_mbrl.errors import UserError

MUJOCO_PACKAGES = ("mujoco", "imageio")
"""What Gymnasium imports for any MuJoCo environment."""
DEFAULT_HORIZON = 20
"""Of most planners: where episodes are shorter, they are planned to their end."""

_KNOWN = {**ENVIRONMENTS, **COUNTED}

_registered: dict[str, EnvironmentSpec] = {}
"""By the id that Gymnasium has."""


def register_environment(spec: EnvironmentSpec, *, replace: bool = False) -> None:
    """Say what is known about an environment of one's own, which `gymnasium.register` has made known before.

    Whoever names the environment from then on, `bayes-mbrl run --env module:EnvId` too if the module calls this when
    it is imported, gets its reward, termination, features, names and defaults. To say the same again changes nothing.

    Raises UserError when Gymnasium does not know the id, when it is one that is known here already, when other things
    were said about it before and not `replace`, and when what should be a function is none.
    """
    module, _, known_id = spec.id.rpartition(":")
    if module:
        _import_registering_module(module, spec.id)
    if known_id not in gymnasium.registry:
        nearest = _nearest(known_id, gymnasium.registry)
        did_you_mean = f" (nearest are {', '.join(nearest)})" if nearest else ""
        raise UserError(
            f"Gymnasium does not know {known_id!r}{did_you_mean}: call gymnasium.register before register_environment"
        )
    if known_id in {known.id for known in _KNOWN.values()}:
        raise UserError(
            f"{known_id} is known already: for another reward or other features, register the environment under an id "
            "of your own with gymnasium.register"
        )
    for field in ("reward", "termination", "failure", "features"):
        if (function := getattr(spec, field)) is not None and not callable(function):
            raise UserError(f"{known_id}: {field} should be a function or None, got {function!r}")
    before = _registered.get(known_id)
    if before is not None and not replace and (different := _differences(before, spec)):
        raise UserError(
            f"{known_id} was registered before with another {' and another '.join(different)}: register it once, or "
            "say replace=True"
        )
    _registered[known_id] = spec


def find_spec(name: str) -> EnvironmentSpec:
    """The environment called `name`: a known one, or any that Gymnasium knows, also as "module:EnvId".

    Raises UserError when there is none of this name, its module cannot be imported, or MuJoCo is missing.
    """
    for known in _KNOWN.values():
        if name in (known.name, known.id):
            _need_mujoco(known.id)
            return known
    if is_stand_in(name):
        make_stand_in(name)
        return EnvironmentSpec(name, "what stands for the environment of recorded data")
    module, separator, registered = name.rpartition(":")
    if separator:
        _import_registering_module(module, name)
    if registered not in gymnasium.registry:
        raise UserError(_unknown(name, registered))
    _need_mujoco(registered)
    spec = _registered.get(registered, EnvironmentSpec(name, "a Gymnasium environment of which nothing is known"))
    spec = _with_a_horizon(spec, gymnasium.registry[registered].max_episode_steps)
    return spec if spec.reward is not None else _with_noise_for_rewards(spec)


def _with_a_horizon(spec: EnvironmentSpec, max_episode_steps: int | None) -> EnvironmentSpec:
    """With episodes shorter than the usual horizon, the default is to plan to their end."""
    planner = spec.defaults.get("planner", {})
    planner = {"name": planner} if isinstance(planner, str) else planner
    if max_episode_steps is None or max_episode_steps >= DEFAULT_HORIZON or "horizon" in planner:
        return spec
    planner = {**planner, "horizon": max_episode_steps}
    return dataclasses.replace(spec, defaults={**spec.defaults, "planner": planner})


def _with_noise_for_rewards(spec: EnvironmentSpec) -> EnvironmentSpec:
    """With one std for all of a dimension by default: a network with a std for each input explains a reward that is
    seldom other than 0 as noise, and never learns where it is (docs/decisions/0012)."""
    dynamics = spec.defaults.get("dynamics", {})
    dynamics = {"name": dynamics} if isinstance(dynamics, str) else dynamics
    return dataclasses.replace(spec, defaults={**spec.defaults, "dynamics": {"noise": "homoscedastic", **dynamics}})


def _differences(one: EnvironmentSpec, other: EnvironmentSpec) -> list[str]:
    """The fields in which they differ. A module that is imported anew makes functions anew, which are the same."""
    names = [field.name for field in dataclasses.fields(EnvironmentSpec) if field.name not in ("id", "summary")]
    return [name for name in names if not _same(getattr(one, name), getattr(other, name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        plain = all(f.__closure__ is None and not f.__defaults__ and not f.__kwdefaults__ for f in (one, other))
        return one is other or (plain and one.__code__ == other.__code__)
    return bool(one == other)


def _import_registering_module(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except UserError as error:  # of `register_environment`
        raise UserError(f"{module}: {error}") from error
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
            f"{short_name(registered)} needs MuJoCo, and {' and '.join(missing)} cannot be found: "
            "make .venv/installed-test in a checkout, or pip install '.[mujoco]'"
        )


def _unknown(name: str, registered: str) -> str:
    nearest = _nearest(registered, [*_KNOWN, *gymnasium.registry])
    did_you_mean = f"; nearest are {', '.join(nearest)}" if nearest else ""
    return (
        f"unknown environment {name!r}{did_you_mean}. Known here: {', '.join(_KNOWN)}; any other id that "
        "Gymnasium knows works too, and 'module:EnvId' imports the module first"
    )


def _nearest(name: str, candidates: Iterable[str]) -> list[str]:
    """At most three candidates that resemble `name`, the nearest first; case and namespaces do not count."""
    by_key = {short_name(c).lower(): c for c in reversed(list(candidates)) if not c.startswith(f"{OWN_NAMESPACE}/")}
    return [by_key[key] for key in difflib.get_close_matches(short_name(name).lower(), by_key, n=3, cutoff=0.6)]
