"""How much of the uncertainty is ignorance and how much is noise, in nats: the entropy form of `uncertainty.py`.

H[y | D] = E_θ H[y | θ] + I[y; θ]: total entropy = expected entropy given θ + mutual information (Depeweg et al. 2018,
Decomposition of Uncertainty in Bayesian Deep Learning). Unlike a variance it sees several modes.

Estimator. p(y | D) is the mixture (1/K) Σ_k p(y | θ_k). M values y_km are drawn from every component, and
    I ≈ mean over k, m of log p(y_km | θ_k) − log (1/K) Σ_j p(y_km | θ_j),
whose two terms rise and fall together, so that little noise is left. Its standard error is that of the draws of y, for
the K samples as they are. What K samples cannot show is bracketed: a component is part of the mixture that it is
compared with, so that in the mean over samples of θ this I is too low, and it is never above log K; with the component
left out of the mixture I is too high in the mean. Both meet as K grows. Source of the bracket: Poole et al., On
Variational Bounds of Mutual Information (2019), "structured bounds with tractable encoders".
Axes: K parameter samples, M draws of y for each, S dimensions of y, N data. Arrays in: NumPy's or torch's; out:
tensors.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayes_mbrl.analysis.arrays import as_floats

LARGEST_BLOCK = 2**21
"""Densities held at once: 16 MiB."""


class LocationScale(Protocol):
    """y = mean + std · ε, independent over dimensions: what `dynamics.likelihood` is.

    Tensors are [..., S], and ε may be distributed differently in each dimension.
    """

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """log p(y | mean, std) elementwise, in nats."""

    def noise(self, standard_normal: Tensor) -> Tensor:
        """ε, made elementwise of standard normal numbers."""


class Gaussian:
    """ε ~ N(0, 1)."""

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """log N(y | mean, std²) elementwise."""
        return -0.5 * ((y - mean) / std).square() - torch.log(std) - 0.5 * math.log(2 * math.pi)

    def noise(self, standard_normal: Tensor) -> Tensor:
        """The numbers themselves."""
        return standard_normal


@dataclass(frozen=True)
class EntropySplit:
    """A predictive entropy in its two parts, in nats; all tensors have one shape [...].

    Differential entropies depend on the units of y (and may be negative), the mutual information does not.
    """

    conditional: Tensor
    """E_θ H[y | θ]: the aleatoric part."""
    mutual_information: Tensor
    """I[y; θ] under the K samples: the epistemic part. 0 for K = 1, at most log K, in the mean below that of p(θ | D).
    An estimate: where nothing is left to learn it may lie a few standard errors below 0."""
    upper: Tensor
    """The estimate that is in the mean above the mutual information under p(θ | D); infinite for K = 1."""
    conditional_error: Tensor
    """Standard error of `conditional`: 0 where it is known exactly."""
    mutual_information_error: Tensor
    """Standard error of `mutual_information`, of the draws of y."""
    total_error: Tensor
    """Standard error of `total`."""

    @property
    def total(self) -> Tensor:
        """H[y | D]: the sum of the parts."""
        return self.conditional + self.mutual_information


@dataclass(frozen=True)
class PredictiveEntropy:
    """Of a prediction with S dimensions."""

    per_dimension: EntropySplit
    """[..., S]"""
    joint: EntropySplit
    """[...] of all dimensions together: what one sees of θ in one may be seen in another too, so the mutual
    information is not the sum."""


def split_predictive_entropy(
    mean: ArrayLike,
    std: ArrayLike,
    *,
    likelihood: LocationScale | None = None,
    num_draws: int = 10,
    generator: torch.Generator,
) -> PredictiveEntropy:
    """The split for y = mean_k + std_k · ε, from `num_draws` values of y for each θ_k.

    mean, std [K, ..., S]; `likelihood` says how ε is distributed, by default N(0, 1). The conditional entropy is
    exact: Σ log std + that of ε, by quadrature (to about 0.001 nats a dimension where the density of ε has jumps).
    Takes K² · num_draws densities for each number predicted, in blocks of bounded memory, in double precision.
    Raises ValueError when shapes differ, nothing is given, num_draws < 2, a number is not finite or
    a std not above 0.
    """
    likelihood = Gaussian() if likelihood is None else likelihood
    mean, std = as_floats(mean), as_floats(std)
    _check(mean, std, num_draws)
    num_theta, *shape, num_dims = mean.shape
    means, stds = (values.reshape(num_theta, math.prod(shape), num_dims).double() for values in (mean, std))
    block = max(1, LARGEST_BLOCK // (num_theta**2 * num_draws * num_dims))
    parts = [
        _information(m, s, likelihood, num_draws, generator)
        for m, s in zip(torch.split(means, block, 1), torch.split(stds, block, 1), strict=True)
    ]
    each, joint = (torch.cat([part[i] for part in parts], dim=1) for i in (0, 1))  # [3, N, S], [3, N]
    conditional = torch.log(stds).mean(0) + _entropy_of_noise(likelihood, stds[0, :1])
    return PredictiveEntropy(
        _exact(conditional.reshape(*shape, num_dims), each.reshape(3, *shape, num_dims), mean.dtype),
        _exact(conditional.sum(-1).reshape(shape), joint.reshape(3, *shape), mean.dtype),
    )


def split_entropy(log_density: ArrayLike) -> EntropySplit:
    """The split for any conditional density, several modes included: what is needed is that it can be drawn from.

    log_density [K, K, M, ...]: entry (j, k, m) is log p(y_km | θ_j), where y_km was drawn from p(y | θ_k) → [...].
    The conditional entropy is estimated from the same draws.
    Raises ValueError when the shape is not such, M < 2, or a number is NaN or +inf.
    """
    log_density = as_floats(log_density)
    if log_density.ndim < 3 or log_density.shape[0] != log_density.shape[1] or log_density.numel() == 0:
        raise ValueError(f"need log_density [K, K, M, ...], no axis 0, got shape {[*log_density.shape]}")
    _check_draws(log_density.shape[2])
    if bad := int((log_density.isnan() | (log_density == math.inf)).sum()):
        raise ValueError(f"log_density has NaN or +inf in {bad} of {log_density.numel()} entries")
    own = log_density.diagonal(dim1=0, dim2=1).movedim(-1, 0)  # [K, M, ...]
    log_ratio, upper = _log_ratios(log_density, own)
    conditional, conditional_error = _mean_and_error(-own)
    information, information_error = _mean_and_error(log_ratio)
    total_error = _mean_and_error(log_ratio - own)[1]
    return EntropySplit(conditional, information, upper.mean((0, 1)), conditional_error, information_error, total_error)


def _information(
    mean: Tensor, std: Tensor, likelihood: LocationScale, num_draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(mutual information, upper, standard error) of each dimension [3, n, S] and of all [3, n]; mean [K, n, S]."""
    num_theta, num_rows, num_dims = mean.shape
    noise = mean.new_empty(num_theta, num_draws, num_rows, num_dims).normal_(generator=generator)
    y = mean[:, None] + std[:, None] * likelihood.noise(noise)
    each: list[Tensor] = []
    joint: list[Tensor] = []
    size = max(1, LARGEST_BLOCK // (num_theta * num_draws * num_rows * num_dims))
    for first in range(0, num_theta, size):
        drawn = y[first : first + size]
        density = likelihood.log_density(drawn, mean[:, None, None], std[:, None, None])  # [K, k, M, n, S]
        for kept, log_density in ((each, density), (joint, density.sum(-1))):
            own = log_density[first : first + size].diagonal(dim1=0, dim2=1).movedim(-1, 0)
            kept.append(torch.stack(_log_ratios(log_density, own, first)))
    return _summary(torch.cat(each, 1)), _summary(torch.cat(joint, 1))


def _log_ratios(log_density: Tensor, own: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
    """log p(y_km | θ_k) − log of the mixture, and of the mixture without k, [k, M, ...]; log_density [K, k, M, ...].

    The components k that were drawn from are `first`, `first` + 1, ... of all K.
    """
    num_theta, num_drawn = log_density.shape[:2]
    mixture = torch.logsumexp(log_density, 0) - math.log(num_theta)
    if num_theta == 1:
        return torch.zeros_like(own), torch.full_like(own, math.inf)
    others = log_density.clone()
    drawn = torch.arange(num_drawn)
    others[first + drawn, drawn] = -math.inf
    return own - mixture, own - (torch.logsumexp(others, 0) - math.log(num_theta - 1))


def _summary(log_ratios: Tensor) -> Tensor:
    """[2, K, M, ...] → (mutual information, upper, standard error) [3, ...]."""
    information, error = _mean_and_error(log_ratios[0])
    return torch.stack([information, log_ratios[1].mean((0, 1)), error])


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over [K, M] and its standard error: M draws from each of K components, so only scatter within one counts."""
    num_theta, num_draws = values.shape[:2]
    return values.mean((0, 1)), (values.var(1).mean(0) / (num_theta * num_draws)).sqrt()


def _exact(conditional: Tensor, parts: Tensor, dtype: torch.dtype) -> EntropySplit:
    """The split where the conditional entropy has no error."""
    information, upper, error = parts.to(dtype)
    return EntropySplit(conditional.to(dtype), information, upper, torch.zeros_like(error), error, error)


def _entropy_of_noise(likelihood: LocationScale, like: Tensor) -> Tensor:
    """−∫ φ(z) log p(ε(z)) dz of each dimension [S], by the trapezoidal rule; like [1, S].

    Its error falls exponentially for a smooth density, and with the step where the density jumps.
    """
    z = torch.linspace(-9.0, 9.0, 12_001, dtype=like.dtype, device=like.device)[:, None]
    weight, each = torch.exp(-0.5 * z.square()), z * torch.ones_like(like)  # [Z, S]
    surprise = -likelihood.log_density(likelihood.noise(each), torch.zeros_like(each), torch.ones_like(each))
    return (weight * surprise).sum(0) / weight.sum()


def _check(mean: Tensor, std: Tensor, num_draws: int) -> None:
    if mean.shape != std.shape or mean.ndim < 2 or mean.numel() == 0:
        raise ValueError(
            f"need mean and std of one shape [K, ..., S], none of them 0, got {[*mean.shape]} and {[*std.shape]}"
        )
    _check_draws(num_draws)
    for name, values in (("mean", mean), ("std", std)):
        if bad := int((~torch.isfinite(values)).sum()):
            raise ValueError(f"{name} has NaN or inf in {bad} of {values.numel()} entries")
    if bad := int((std <= 0).sum()):
        raise ValueError(f"need std > 0, got {bad} of {std.numel()} at or below: without noise an entropy is -inf")


def _check_draws(num_draws: int) -> None:
    if num_draws < 2:
        raise ValueError(f"need at least 2 draws for each parameter sample, got {num_draws}: one has no standard error")
