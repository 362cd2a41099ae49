"""Linear dynamics s' = s + W (s, a) + b + noise: a network without a hidden layer, for which the posterior is exact.

Source: Bishop (2006), section 3.3; noise of known size keeps the posterior conjugate.
"""

from typing import Any

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import Features, NetworkDynamics, identity


class LinearDynamics:
    """Δs is linear in standardised state and action; the noise is known: `noise_std`, in units of standardised Δs."""

    @staticmethod
    def from_data(
        transitions: Transitions,
        *,
        features: Features = identity,
        learns_reward: bool = False,
        learns_termination: bool = False,
        noise_std: float = 0.1,
        prior_scale: float = 1.0,
    ) -> NetworkDynamics:
        """The untrained dynamics; weights have the prior N(0, prior_scale² / fan_in), as in `BayesianNetwork`.

        A termination is not learned, `learns_termination` or not, since no posterior of a binary output is exact:
        without a known one this model ends no episode.
        """
        settings: dict[str, Any] = {"hidden": (), "noise": "fixed", "noise_std": noise_std, "prior_scale": prior_scale}
        return NetworkDynamics.from_data(transitions, features=features, learns_reward=learns_reward, **settings)
