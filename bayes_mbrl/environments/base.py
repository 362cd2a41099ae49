"""What is known about an environment: its reward, its termination, features, and settings that suit it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bayes_mbrl.environments.rewards import RewardFunction, TerminationFunction

FeatureFunction = Callable[[Tensor], Tensor]
"""observation [..., S] → inputs of a network [..., F]"""


@dataclasses.dataclass(frozen=True)
class EnvironmentSpec:
    """An environment and what is known about it, all of which may be left out.

    A reward or termination of None is learned. The functions are called with many states at once, see `rewards.py`.
    """

    id: str
    """What `gymnasium.make` takes; "module:EnvId" imports the module first."""
    summary: str = "an environment of the user's own"
    """One line for a person."""
    reward: RewardFunction | None = None
    """None: it is learned."""
    termination: TerminationFunction | None = None
    """None: it is learned, from the first episode on that ended; `rewards.never`: known never to terminate."""
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
        return short_name(self.id)


def short_name(environment_id: str) -> str:
    """The id without module and namespace."""
    return environment_id.rpartition(":")[2].rpartition("/")[2]
