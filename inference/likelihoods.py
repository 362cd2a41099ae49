"""How y scatters about its mean: location-scale densities of unit variance, so that `std` is a standard deviation.

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

    @property
    @abstractmethod
    def fisher_information(self) -> tuple[float, float]:
        """Expected information about (mean, std), both at std = 1; it falls as 1 / std², and the two are orthogonal."""


class NormalLikelihood(Likelihood):
    """ε ~ N(0, 1)."""

    def log_density(self, y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """See `Likelihood.log_density`."""
        return gaussian_log_density(y, mean, std)

    def noise(self, standard_normal: Tensor) -> Tensor:
        """The numbers themselves."""
        return standard_normal

    @property
    def fisher_information(self) -> tuple[float, float]:
        """(1, 2)."""
        return 1.0, 2.0


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

    @property
    def fisher_information(self) -> tuple[float, float]:
        """((ν + 1) ν / ((ν + 3) (ν − 2)), 2 ν / (ν + 3))."""
        nu = self.degrees_of_freedom
        return (nu + 1) * nu / ((nu + 3) * (nu - 2)), 2 * nu / (nu + 3)


NORMAL = NormalLikelihood()


def likelihood_by_name(name: LikelihoodName, degrees_of_freedom: float) -> Likelihood:
    """The likelihood of this name; a normal one has no degrees of freedom. Raises ValueError for another name."""
    require((name in ("normal", "student-t"), f"likelihood is one of normal, student-t, got {name!r}"))
    return NORMAL if name == "normal" else StudentTLikelihood(degrees_of_freedom)


def gaussian_log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(y | mean, std²) elementwise, in nats."""
    return -0.5 * ((y - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)
