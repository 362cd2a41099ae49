"""Model-based reinforcement learning that knows what it does not know.

Light on purpose: importing the package loads neither torch nor any other framework.
"""

from bayes_mbrl._version import __version__

__all__ = ["__version__"]
