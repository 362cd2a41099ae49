"""Environments whose states and actions can only be counted: for tables (algorithm dyna), not for networks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium

from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.mazes import BLOCKING_MAZE, DYNA_MAZE
from bayes_mbrl.environments.specs import OWN_NAMESPACE


def _register_mazes() -> None:
    """Make our own known to Gymnasium, once."""
    mazes: tuple[tuple[str, int, dict[str, Any]], ...] = (
        ("DynaMaze-v0", 2000, {"mazes": (DYNA_MAZE,)}),
        ("BlockingMaze-v0", 3000, {"mazes": BLOCKING_MAZE, "change_after": 1000, "continuing": True}),
    )
    for name, max_episode_steps, arguments in mazes:
        if f"{OWN_NAMESPACE}/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"{OWN_NAMESPACE}/{name}",
                "bayes_mbrl.environments.mazes:Maze",
                max_episode_steps=max_episode_steps,
                kwargs=arguments,
            )


_register_mazes()


def _dyna(num_episodes: int, num_evaluation_episodes: int = 20, **settings: Any) -> Mapping[str, Any]:
    return {
        "algorithm": {"name": "dyna", **settings},
        "num_episodes": num_episodes,
        "num_evaluation_episodes": num_evaluation_episodes,
    }


_TAXI: Mapping[str, Any] = {
    "summary": "fetch a passenger and bring them where they want to go (500 states, 6 choices, 200 steps)",
    "defaults": _dyna(1000, step_size=1.0, discount=0.99),
}

_KNOWN = (
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/DynaMaze-v0",
        summary="find the goal of a maze: Sutton & Barto, example 8.1 (54 states, 4 choices, 2000 steps)",
        defaults=_dyna(50, num_evaluation_episodes=5),
    ),
    EnvironmentSpec(
        id=f"{OWN_NAMESPACE}/BlockingMaze-v0",
        summary="again and again to the goal, until the way is blocked: example 8.2 (54 states, 4 choices, 3000 steps)",
        defaults=_dyna(1, num_evaluation_episodes=0, step_size=0.5, memory=0.0, bonus=0.001),
    ),
    EnvironmentSpec(
        id="FrozenLake-v1",
        summary="cross a frozen lake on which steps slip, and fall into no hole (16 states, 4 choices, 100 steps)",
        defaults=_dyna(500, discount=0.99, step_size=0.5, exploration=0.3),
    ),
    EnvironmentSpec(
        id="CliffWalking-v1",
        summary="walk along a cliff, each step at a cost of 1 and a fall at 100 (48 states, 4 choices, no time limit)",
        defaults=_dyna(100),
    ),
    EnvironmentSpec(id="Taxi-v4", **_TAXI),
    EnvironmentSpec(id="Taxi-v3", **_TAXI),
)

COUNTED: Mapping[str, EnvironmentSpec] = MappingProxyType(
    {spec.name: spec for spec in _KNOWN if spec.id in gymnasium.registry}
)
"""By name, as far as the installed Gymnasium has them. Reward and termination are learned with the table."""
