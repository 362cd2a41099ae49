"""A dynamics that is known: the oracle against which learned ones are measured."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.inference.base import Posterior, Theta
from bayes_mbrl.inference.likelihoods import gaussian_log_density
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch


class KnownDynamics(Dynamics):
    """s' = step(s, a) + noise_std · noise, without any parameter: its posterior is `Nothing`."""

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], Tensor],
        *,
        noise_std: Tensor,
        noise_std_at: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`step` maps state [..., S], action [..., A] to next state [..., S]; noise_std [S] may be 0.

        Where the noise depends on the state, `noise_std_at` maps state [..., S] to its std [..., S], and noise_std is
        a scale of it.
        """
        self.step = step
        self.noise_std = noise_std
        self.noise_std_at = noise_std_at
        self.state_dim = self.output_dim = len(noise_std)

    def regression_data(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """Raises TypeError: there is nothing to be learned."""
        raise TypeError("a known dynamics has no parameters to be fitted")

    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Dynamics.predict`; θ is ignored."""
        mean = self.step(states, actions.expand(*states.shape[:-1], -1))
        if self.noise_std_at is None:
            return mean, self.noise_std.expand_as(mean)
        return mean, self.noise_std * self.noise_std_at(states)

    def log_likelihood(self, theta: Mapping[str, Tensor], transitions: Transitions) -> Tensor:
        """See `Dynamics.log_likelihood`; [1, N], since θ has no samples. noise_std must be above 0."""
        mean, std = self.predict(theta, transitions.state, transitions.action)
        return gaussian_log_density(transitions.next_state, mean, std).sum(-1).unsqueeze(0)


class Nothing(Posterior):
    """The posterior over no parameters: every draw is empty."""

    kind: ClassVar[str] = "nothing"

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """n draws of nothing."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls()
