"""Recalibration as a stage of the loop: fit θ on a part of the data, map the noise by what the other part shows.

Malik et al., Calibrated Model-Based Deep Reinforcement Learning (2019), algorithm 1; the map itself, and where it
differs from theirs, in analysis/recalibration.py. All that asks a dynamics for predictions, densities or noise
(rollouts, held-out scores, analysis) gets recalibrated ones; `model` stays the one that an inference fits. A learned
termination, which has no density, is left as it is.
Axes: K parameter samples, N data, S dimensions of a prediction; see base.py.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from bayes_mbrl.analysis.mixture import NORMAL, Mixture, Noise, StudentTNoise, SymmetricNoise
from bayes_mbrl.analysis.recalibration import MIN_ROWS, MappedNoise, fit_recalibration, unchanged
from bayes_mbrl.analysis.recalibration import Recalibration as FittedMap
from bayes_mbrl.data import Transitions, evenly_spaced, split_by_block
from bayes_mbrl.dynamics.base import Dynamics, Sampler
from bayes_mbrl.dynamics.known import KnownDynamics
from bayes_mbrl.inference.base import Posterior, Theta
from bayes_mbrl.inference.likelihoods import Likelihood, NormalLikelihood, StudentTLikelihood, WithBinary
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch

NUM_THETA = 30
"""K of the mixture that is made calibrated."""
MAX_HELD_OUT = 500
"""Held-out transitions that are looked at: evenly spaced over all."""


class Recalibration(ABC):
    """A choice of `recalibration`: which transitions θ is not fitted to, and what is made of them."""

    @abstractmethod
    def split(self, transitions: Transitions) -> tuple[Transitions, Transitions]:
        """(to fit θ to, to fit the map to). A transition stays on its side when more are appended."""

    @abstractmethod
    def apply(
        self, dynamics: Dynamics, posterior: Posterior, held_out: Transitions, *, generator: torch.Generator
    ) -> Dynamics:
        """The dynamics as it is used with this posterior."""


class NoRecalibration(Recalibration):
    """All transitions for θ, and its predictions as they are."""

    def split(self, transitions: Transitions) -> tuple[Transitions, Transitions]:
        """(all, none)."""
        return transitions, transitions[:0]

    def apply(
        self, dynamics: Dynamics, posterior: Posterior, held_out: Transitions, *, generator: torch.Generator
    ) -> Dynamics:
        """The same."""
        return dynamics


@dataclasses.dataclass(frozen=True)
class QuantileRecalibration(Recalibration):
    """A monotone map through quantiles of held-out transitions: every `held_out_every`-th block of `block_length` rows.

    Blocks, since a row resembles its neighbours; episodes would be better, but at first there is only one.
    """

    held_out_every: Annotated[int, Ge(2)] = 5
    block_length: Annotated[int, Ge(1)] = 20
    num_knots: Annotated[int, Ge(2)] = 20

    def split(self, transitions: Transitions) -> tuple[Transitions, Transitions]:
        """See `Recalibration.split`."""
        return split_by_block(transitions, self.held_out_every, self.block_length)

    def apply(
        self, dynamics: Dynamics, posterior: Posterior, held_out: Transitions, *, generator: torch.Generator
    ) -> "RecalibratedDynamics":
        """The dynamics with the map; the identity in dimensions that it would not help, and with few held-out rows.

        Rows whose prediction is not finite, of which there is nothing to learn, do not count as held out.
        """
        rows = evenly_spaced(len(held_out), MAX_HELD_OUT)
        chosen = held_out[rows]
        theta = posterior.sample(NUM_THETA, generator=generator)
        with torch.no_grad():
            mean, std = _continuous(dynamics, *dynamics.predict(theta, *_inputs(theta, chosen)))
        sound = (mean.isfinite() & std.isfinite() & (std > 0)).all(-1).all(0)
        noise, count = _symmetric_noise(dynamics), int(sound.sum())
        if count < MIN_ROWS:
            return RecalibratedDynamics(dynamics, unchanged(noise, dynamics.continuous_dim, num_held_out=count))
        mixture = Mixture(mean[:, sound].cpu().numpy(), std[:, sound].cpu().numpy(), noise)
        y = outcomes(dynamics, chosen)[sound].cpu().numpy()
        return RecalibratedDynamics(dynamics, fit_recalibration(mixture, y, num_knots=self.num_knots))


class RecalibratedLikelihood(Likelihood):
    """ε′ = (g(ε) − E g(ε)) / sd g(ε), ε as `base` has it: of mean 0 and variance 1 again, in every dimension.

    The last axis of all tensors is that of the dimensions, or of the first few of them.
    """

    def __init__(self, base: Likelihood, noise: MappedNoise) -> None:
        self.base = base
        self.mapped_noise = noise
        self._mean, self._std = torch.from_numpy(noise.mean), torch.from_numpy(noise.std)

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """See `Likelihood.log_density`; by change of variables."""
        shift, scale = self._moments(mean)
        mapped = torch.addcmul(shift, scale, (y - mean) / std)
        mapping = self.mapped_noise.mapping
        base = self.base.log_density(mapping.inverse(mapped), torch.zeros_like(mean), torch.ones_like(std))
        return base - mapping.log_slope_at_inverse(mapped) + torch.log(scale) - torch.log(std)

    def noise(self, standard_normal: Tensor) -> Tensor:
        """See `Likelihood.noise`."""
        shift, scale = self._moments(standard_normal)
        return (self.mapped_noise.mapping(self.base.noise(standard_normal)) - shift) / scale

    def fisher_information(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Raises TypeError: the density jumps at the knots, and no inference is fitted to it."""
        raise TypeError("a recalibrated likelihood has no Fisher information: fit the model of the dynamics below it")

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        num_dims = like.shape[-1]
        return self._mean[:num_dims].to(like), self._std[:num_dims].to(like)


class RecalibratedDynamics(Dynamics):
    """s′ = mean + std · g(ε): the dynamics `base`, its noise mapped."""

    def __init__(self, base: Dynamics, fitted: FittedMap) -> None:
        self.base = base
        self.fitted = fitted
        if not isinstance(base, KnownDynamics):  # it has none
            self.model = base.model
        self.state_dim, self.output_dim = base.state_dim, base.output_dim
        self.learns_reward, self.learns_termination = base.learns_reward, base.learns_termination
        self.reward, self.termination = base.reward, base.termination
        noise = MappedNoise(_symmetric_noise(base), fitted.mapping)
        below = base.likelihood
        if isinstance(below, WithBinary):
            mapped = RecalibratedLikelihood(below.base, noise)
            self.likelihood = WithBinary(mapped, below.num_continuous)
        else:
            self.likelihood = RecalibratedLikelihood(below, noise)
        self._shift, self._scale = torch.from_numpy(noise.mean), torch.from_numpy(noise.std)
        if self.learns_termination:
            self._shift = torch.cat([self._shift, self._shift.new_zeros(1)])
            self._scale = torch.cat([self._scale, self._scale.new_ones(1)])

    def regression_data(self, transitions: Transitions) -> tuple[Tensor, Tensor]:
        """See `Dynamics.regression_data`."""
        return self.base.regression_data(transitions)

    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Dynamics.predict`: the base's mean and std, shifted and scaled by the moments of the mapped noise."""
        return self._adjusted(*self.base.predict(theta, states, actions, scratch=scratch), scratch)

    def sampler(self, theta: Mapping[str, Tensor], noise: Tensor, *, scratch: Scratch, bf16: bool = False) -> Sampler:
        """See `Dynamics.sampler`: the base's, with its noise shifted and scaled instead of mean and std."""
        return self.base.sampler(theta, torch.addcmul(*self._moments(noise), noise), scratch=scratch, bf16=bf16)

    def check_bf16(self) -> None:
        """See `Dynamics.check_bf16`."""
        self.base.check_bf16()

    def predict_targets(self, theta: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Dynamics.predict_targets`."""
        return self._adjusted(*self.base.predict_targets(theta, x), NO_SCRATCH)

    def log_likelihood(self, theta: Mapping[str, Tensor], transitions: Transitions) -> Tensor:
        """See `Dynamics.log_likelihood`."""
        mean, std = self.predict(theta, *_inputs(theta, transitions))
        y = outcomes(self, transitions)
        if self.learns_termination:
            y = torch.cat([y, transitions.terminated.to(y).unsqueeze(-1)], -1)
        return self.likelihood.log_density(y, mean, std).sum(-1)

    def parameters(self, theta: Mapping[str, Tensor]) -> Theta:
        """See `Dynamics.parameters`."""
        return self.base.parameters(theta)

    def _adjusted(self, mean: Tensor, std: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
        """The same in whatever unit mean and std are."""
        shift, scale = self._moments(mean)
        shifted = torch.addcmul(mean, std, shift, out=scratch.take("recalibrated_mean", mean.shape, mean))
        return shifted, torch.mul(std, scale, out=scratch.take("recalibrated_std", std.shape, std))

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._shift.dtype != like.dtype or self._shift.device != like.device:
            self._shift, self._scale = self._shift.to(like), self._scale.to(like)
        return self._shift, self._scale


def noise_of(likelihood: Likelihood) -> Noise:
    """The noise of a likelihood, of its continuous dimensions, as the analysis knows it.

    Raises TypeError for a likelihood of your own.
    """
    if isinstance(likelihood, WithBinary):
        return noise_of(likelihood.base)
    if isinstance(likelihood, RecalibratedLikelihood):
        return likelihood.mapped_noise
    if isinstance(likelihood, StudentTLikelihood):
        return StudentTNoise(likelihood.degrees_of_freedom)
    if isinstance(likelihood, NormalLikelihood):
        return NORMAL
    raise TypeError(f"need a normal or Student-t likelihood, or one recalibrated, got {type(likelihood).__name__}")


def predictive_mixture(dynamics: Dynamics, theta: Theta, transitions: Transitions) -> Mixture:
    """One-step predictions [K, N, O] of these transitions, in the environment's units; for `outcomes` of them.

    Without a learned termination, which is none of a mixture's continuous dimensions.
    """
    with torch.no_grad():
        mean, std = _continuous(dynamics, *dynamics.predict(theta, *_inputs(theta, transitions)))
    return Mixture(mean.cpu().numpy(), std.cpu().numpy(), noise_of(dynamics.likelihood))


def outcomes(dynamics: Dynamics, transitions: Transitions) -> Tensor:
    """What a prediction's continuous dimensions are of [N, O]: s′, and the reward where the dynamics learns it."""
    if not dynamics.learns_reward:
        return transitions.next_state
    return torch.cat([transitions.next_state, transitions.reward.unsqueeze(-1)], -1)


def _symmetric_noise(dynamics: Dynamics) -> SymmetricNoise:
    noise = noise_of(dynamics.likelihood)
    if not isinstance(noise, SymmetricNoise):
        raise ValueError("this dynamics is recalibrated already: give the one below it")
    return noise


def _continuous(dynamics: Dynamics, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    return mean[..., : dynamics.continuous_dim], std[..., : dynamics.continuous_dim]


def _inputs(theta: Mapping[str, Tensor], transitions: Transitions) -> tuple[Tensor, Tensor]:
    """States [K, N, S] and actions [N, A]; K = 1 where θ is empty."""
    num_theta = next((len(value) for value in theta.values()), 1)
    return transitions.state.expand(num_theta, -1, -1), transitions.action
