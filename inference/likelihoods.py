"""How y scatters about its mean: location-scale densities of unit variance, so that `std` is a standard deviation.

Some outputs may be binary: y is 1 where mean + std · ε, which nobody sees, is above 0 (probit regression).
Axes: K parameter samples, N data, O outputs.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from scipy import special
from torch import Tensor

from bayes_mbrl.inference.base import require

LikelihoodName = Literal["normal", "student-t"]


class Likelihood(ABC):
    """y = mean + std · ε with independent ε of mean 0 and variance 1."""

    @abstractmethod
    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """log p(y | mean, std) elementwise, in nats."""

    @abstractmethod
    def noise(self, standard_normal: Tensor) -> Tensor:
        """ε, made of standard normal numbers of the same shape: strictly increasing, so one draw stays one draw."""

    @abstractmethod
    def fisher_information(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Expected information of one y about its mean and about its std, elementwise; the two are orthogonal."""

    def observed(self, latent: Tensor) -> Tensor:
        """y, of latent = mean + std · ε: the same, but where a dimension is binary."""
        return latent


class NormalLikelihood(Likelihood):
    """ε ~ N(0, 1)."""

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """See `Likelihood.log_density`."""
        return gaussian_log_density(y, mean, std)

    def noise(self, standard_normal: Tensor) -> Tensor:
        """The numbers themselves."""
        return standard_normal

    def fisher_information(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 2) / std²."""
        return std**-2, 2 * std**-2


class StudentTLikelihood(Likelihood):
    """ε ~ t_ν scaled to variance 1: outliers pull less than under a normal.

    Raises ValueError unless degrees_of_freedom > 2, below which there is no variance.
    Source: Bishop (2006), eq. 2.159; information: Lange, Little & Taylor (1989), appendix B.
    """

    def __init__(self, degrees_of_freedom: float) -> None:
        require(
            (degrees_of_freedom > 2, f"need degrees_of_freedom > 2 for a finite variance, got {degrees_of_freedom}")
        )
        self.degrees_of_freedom = float(degrees_of_freedom)
        self._scale = math.sqrt((self.degrees_of_freedom - 2) / self.degrees_of_freedom)

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """See `Likelihood.log_density`."""
        nu = self.degrees_of_freedom
        scale = std * self._scale
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        return constant - torch.log(scale) - (nu + 1) / 2 * torch.log1p(((y - mean) / scale) ** 2 / nu)

    def noise(self, standard_normal: Tensor) -> Tensor:
        """F_t⁻¹(Φ(z)), from the lower tail, where Φ(z) has all its digits."""
        lower = special.stdtrit(self.degrees_of_freedom, special.ndtr(-standard_normal.abs().double().cpu().numpy()))
        return torch.copysign(torch.from_numpy(lower * self._scale).to(standard_normal), standard_normal)

    def fisher_information(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """((ν + 1) ν / ((ν + 3) (ν − 2)), 2 ν / (ν + 3)) / std²."""
        nu = self.degrees_of_freedom
        return (nu + 1) * nu / ((nu + 3) * (nu - 2)) * std**-2, 2 * nu / (nu + 3) * std**-2


class WithBinary(Likelihood):
    """The dimensions from `num_continuous` on are binary: P(y = 1) = Φ(mean / std), a probit; those before as `base`.

    The last axis of all tensors is that of the dimensions, or of the first few of them. Of a binary dimension the std
    is known, and the density is a probability: both values together have 1. Source: Bishop (2006), section 4.3.5.
    """

    def __init__(self, base: Likelihood, num_continuous: int) -> None:
        self.base = base
        self.num_continuous = num_continuous

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """See `Likelihood.log_density`; of a binary dimension log Φ((2 y − 1) mean / std), y 0 or 1."""
        (y, binary), (mean, latent), (std, scale) = (self._split(values) for values in (y, mean, std))
        log_probability = log_normal_cdf((2 * binary - 1) * latent / scale)
        return torch.cat([self.base.log_density(y, mean, std), log_probability], -1)

    def noise(self, standard_normal: Tensor) -> Tensor:
        """See `Likelihood.noise`; of a binary dimension the numbers themselves."""
        continuous, binary = self._split(standard_normal)
        return torch.cat([self.base.noise(continuous), binary], -1)

    def observed(self, latent: Tensor) -> Tensor:
        """1 where a binary dimension's latent is above 0, else 0; the others as they are."""
        continuous, binary = self._split(latent)
        return torch.cat([continuous, (binary > 0).to(latent)], -1)

    def fisher_information(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Of a binary dimension (φ² / (Φ (1 − Φ)) / std², 0), both densities at mean / std."""
        (mean, latent), (std, scale) = self._split(mean), self._split(std)
        about_mean, about_std = self.base.fisher_information(mean, std)
        z = latent / scale
        both = log_normal_cdf(z) + log_normal_cdf(-z)
        about_latent = torch.exp(-z.square() - math.log(2 * math.pi) - both) / scale.square()
        return torch.cat([about_mean, about_latent], -1), torch.cat([about_std, torch.zeros_like(scale)], -1)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values[..., : self.num_continuous], values[..., self.num_continuous :]


NORMAL = NormalLikelihood()


def likelihood_by_name(name: LikelihoodName, degrees_of_freedom: float) -> Likelihood:
    """The likelihood of this name; a normal one has no degrees of freedom. Raises ValueError for another name."""
    require((name in ("normal", "student-t"), f"likelihood is one of normal, student-t, got {name!r}"))
    return NORMAL if name == "normal" else StudentTLikelihood(degrees_of_freedom)


def log_normal_cdf(z: Tensor) -> Tensor:
    """log Φ(z) elementwise, exact however far in the tail, its gradient too.

    That of `torch.special.log_ndtr` overflows in float32, and it has no batching rule.
    """
    below, above = z.clamp(max=0), z.clamp(min=0)
    tail = torch.log(0.5 * torch.special.erfcx(-math.sqrt(0.5) * below)) - 0.5 * below.square()
    return torch.where(z < 0, tail, torch.log1p(-0.5 * torch.special.erfc(math.sqrt(0.5) * above)))


def gaussian_log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(y | mean, std²) elementwise, in nats."""
    return -0.5 * ((y - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)
