"""Policies π(a | s) with parameters that a gradient can follow: actions are tanh-squashed into their bounds.

A policy is a pure function of states and standard-normal noise: all randomness comes in as an argument, so a rollout
through a model can hold it fixed (reparameterisation) and a gradient can flow from a return to the parameters.
Axes: S state, A action; "..." are any axes of states. Source: Haarnoja et al., Soft Actor-Critic Algorithms and
Applications (2018), appendix C (squashing); RBF: Deisenroth & Rasmussen, PILCO (2011), section 2.3.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bayes_mbrl.inference.base import seeded_global_state

PolicyKind = Literal["tanh-gaussian", "deterministic", "linear", "rbf"]

_LOG_STD_RANGE = (-20.0, 2.0)
"""As in the authors' code: below, an action has no noise in float32; above, tanh makes it bang-bang."""


class Policy(nn.Module):
    """π(a | s) over actions between low and high [A]."""

    centre: Tensor
    half_range: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre", 0.5 * low + 0.5 * high, persistent=False)
        self.register_buffer("half_range", 0.5 * high - 0.5 * low, persistent=False)

    @abstractmethod
    def unsquashed(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log std of u, where a = centre + half_range · tanh(u): two [..., A]; None for no noise."""

    def sample(self, states: Tensor, noise: Tensor) -> Tensor:
        """a = centre + half_range · tanh(mean + std · noise): states [..., S], noise [..., A] → [..., A].

        A policy without noise of its own ignores `noise`.
        """
        mean, log_std = self.unsquashed(states)
        return self._squashed(mean if log_std is None else torch.addcmul(mean, log_std.exp(), noise))

    def mode(self, states: Tensor) -> Tensor:
        """The action without noise: states [..., S] → [..., A]. Of the squashed density it is the median."""
        return self._squashed(self.unsquashed(states)[0])

    def _squashed(self, unsquashed: Tensor) -> Tensor:
        return torch.addcmul(self.centre, self.half_range, torch.tanh(unsquashed))


class TanhGaussianPolicy(Policy):
    """u ~ N(mean(s), std(s)²), both by one fully connected network with ReLU."""

    def __init__(self, state_dim: int, low: Tensor, high: Tensor, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(low, high)
        self.network = fully_connected([state_dim, *hidden, 2 * len(low)])

    def unsquashed(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy.unsquashed`."""
        mean, log_std = self.network(states).chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD_RANGE)

    def sample_with_log_density(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(a, log π(a | s)) with a as of `sample`: [..., A] and [...], in nats and in units of the action.

        Haarnoja et al. (2018), eq. 21: log π(a | s) = log N(u | mean, std²) − Σ log(half_range (1 − tanh² u)).
        """
        mean, log_std = self.unsquashed(states)
        u = torch.addcmul(mean, log_std.exp(), noise)
        log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        return self._squashed(u), (log_normal - self._log_slope(u)).sum(-1)

    def log_density(self, states: Tensor, actions: Tensor) -> Tensor:
        """log π(a | s) of given actions strictly within bounds: states [..., S], actions [..., A] → [...], in nats.

        An action at a bound, where the density has no finite value, counts as one a rounding error inside.
        """
        mean, log_std = self.unsquashed(states)
        share = (actions - self.centre) / self.half_range
        limit = 1 - torch.finfo(share.dtype).eps
        u = torch.atanh(share.clamp(-limit, limit))
        log_normal = -0.5 * ((u - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        return (log_normal - self._log_slope(u)).sum(-1)

    def _log_slope(self, u: Tensor) -> Tensor:
        """log da/du; 1 − tanh² u = 4 e^(−2u) / (1 + e^(−2u))² keeps its digits where tanh u rounds to 1."""
        return torch.log(self.half_range) + 2 * (math.log(2) - u - functional.softplus(-2 * u))


class DeterministicPolicy(Policy):
    """u = network(s), fully connected with ReLU; without hidden layers linear in s."""

    def __init__(self, state_dim: int, low: Tensor, high: Tensor, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__(low, high)
        self.network = fully_connected([state_dim, *hidden, len(low)])

    def unsquashed(self, states: Tensor) -> tuple[Tensor, None]:
        """See `Policy.unsquashed`."""
        return self.network(states), None


class RBFPolicy(Policy):
    """u = Σ_i w_i exp(−½ Σ_d (s_d − c_id)² / l_d²) with learned weights w, centres c and length scales l."""

    def __init__(self, state_dim: int, low: Tensor, high: Tensor, num_units: int = 50) -> None:
        super().__init__(low, high)
        self.centres = nn.Parameter(torch.randn(num_units, state_dim))
        # Of two points of a standard normal the squared distance is about twice their number of coordinates.
        self.log_scales = nn.Parameter(torch.full((state_dim,), 0.5 * math.log(state_dim)))
        self.weights = nn.Parameter(0.1 * torch.randn(num_units, len(low)))

    def unsquashed(self, states: Tensor) -> tuple[Tensor, None]:
        """See `Policy.unsquashed`."""
        scaled = (states.unsqueeze(-2) - self.centres) / self.log_scales.exp()
        return torch.exp(-0.5 * scaled.square().sum(-1)) @ self.weights, None


class StandardisedPolicy(Policy):
    """A policy of a state's features φ(s) and, once `standardise` was called, of these standardised.

    Otherwise a position in thousands would saturate tanh, and radial functions would lie where no state is.
    """

    mean: Tensor
    std: Tensor
    num_seen: Tensor

    def __init__(self, inner: Policy, num_features: int, features: Callable[[Tensor], Tensor] | None = None) -> None:
        """`inner` acts by inputs [..., F]; features [..., S] → [..., F], None: the state itself."""
        super().__init__(inner.centre, inner.centre)
        self.centre, self.half_range = inner.centre, inner.half_range
        self.inner = inner
        self._features = features or _identity
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        self.register_buffer("num_seen", torch.tensor(0))

    def inputs(self, states: Tensor) -> Tensor:
        """(φ(s) − mean) / std: [..., S] → [..., F]."""
        standardised: Tensor = (self._features(states) - self.mean) / self.std
        return standardised

    def unsquashed(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Policy.unsquashed`."""
        return self.inner.unsquashed(self.inputs(states))

    @torch.no_grad()
    def standardise(self, states: Tensor) -> None:
        """From now on by mean and std over states [N, S]; a feature that does not vary among them keeps its unit."""
        seen = self._features(states)
        std = seen.std(0, correction=0)
        self.mean.copy_(seen.mean(0))
        self.std.copy_(torch.where(std > 1e-6 * seen.abs().amax(0), std, 1.0))
        self.num_seen.fill_(len(states))


def _identity(states: Tensor) -> Tensor:
    return states


def make_policy(
    kind: PolicyKind,
    state_dim: int,
    low: Tensor,
    high: Tensor,
    *,
    hidden: Sequence[int] = (64, 64),
    generator: torch.Generator,
) -> Policy:
    """A new policy of this kind; an RBF one has as many units as the first of `hidden`.

    low and high [A]. Equal generator states make equal policies. Raises ValueError for an unknown kind.
    """
    with seeded_global_state(generator):  # torch.nn draws initial weights from the global state
        match kind:
            case "tanh-gaussian":
                return TanhGaussianPolicy(state_dim, low, high, hidden)
            case "deterministic":
                return DeterministicPolicy(state_dim, low, high, hidden)
            case "linear":
                return DeterministicPolicy(state_dim, low, high, ())
            case "rbf":
                return RBFPolicy(state_dim, low, high, *hidden[:1])
    raise ValueError(f"policy is one of tanh-gaussian, deterministic, linear, rbf, got {kind!r}")


def fully_connected(sizes: Sequence[int]) -> nn.Sequential:
    """Affine layers of these sizes [D, ..., O] with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, width in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
