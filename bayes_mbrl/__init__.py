"""Model-based reinforcement learning that knows what it does not know.

Light on purpose: importing the package loads neither torch nor any other framework. What is named here is loaded when
it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bayes_mbrl._version import __version__

if TYPE_CHECKING:
    from bayes_mbrl.environments.base import EnvironmentSpec
    from bayes_mbrl.environments.registration import register_environment

__all__ = ["EnvironmentSpec", "__version__", "register_environment"]

_HOMES = {
    "EnvironmentSpec": "bayes_mbrl.environments.base",
    "register_environment": "bayes_mbrl.environments.registration",
}


def __getattr__(name: str) -> Any:
    """What stands in `_HOMES`, loaded now. Source: PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
