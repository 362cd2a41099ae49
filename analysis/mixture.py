"""A posterior predictive as a mixture: y | θ_k = mean_k + std_k · ε, one component for each θ_k.

Probabilities are kept as logarithms of both tails, so that an outcome 30 standard deviations off is told from one 40
off: F itself is 1 in double precision from 8.3 on.
Axes: K components, N data, S dimensions, each by itself. Arrays in: NumPy's, or torch's on the CPU; out: float64.
"""

import dataclasses
import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayes_mbrl.analysis.arrays import as_array

Floats = NDArray[np.float64]

_CHUNK = 2**20
"""Numbers that are worked on at a time: 8 MiB."""


class Noise(ABC):
    """How ε is distributed: mean 0, variance 1. Arrays [..., S], and the last axis counts where noise differs by it."""

    @abstractmethod
    def log_cdf(self, noise: Floats) -> Floats:
        """log P(ε <= noise)."""

    @abstractmethod
    def log_survival(self, noise: Floats) -> Floats:
        """log P(ε > noise)."""

    @abstractmethod
    def quantile(self, log_cdf: Floats, log_survival: Floats) -> Floats:
        """The ε with these logarithms of P(below) and P(above): the smaller one decides, it has all the digits."""

    @abstractmethod
    def log_density(self, noise: Floats) -> Floats:
        """log p(ε)."""

    def of_scores(self, scores: Floats) -> Floats:
        """Standard normal numbers → ε: the quantiles at Φ(scores)."""
        return self.quantile(special.log_ndtr(scores), special.log_ndtr(-scores))


class SymmetricNoise(Noise):
    """Noise whose density is even, told by its lower tail; and its partial moments, for what is built upon it."""

    @abstractmethod
    def lower_quantile(self, log_cdf: Floats) -> Floats:
        """The inverse of `log_cdf`, for probabilities up to a half."""

    @abstractmethod
    def partial_moments(self, noise: Floats) -> tuple[Floats, Floats, Floats]:
        """∫_{-∞}^{noise} ε^n p(ε) dε for n = 0, 1, 2."""

    def log_survival(self, noise: Floats) -> Floats:
        """See `Noise.log_survival`."""
        return self.log_cdf(-noise)

    def quantile(self, log_cdf: Floats, log_survival: Floats) -> Floats:
        """See `Noise.quantile`."""
        lower = self.lower_quantile(np.minimum(log_cdf, log_survival))
        return np.where(log_cdf <= log_survival, lower, -lower)


class NormalNoise(SymmetricNoise):
    """ε ~ N(0, 1)."""

    def log_cdf(self, noise: Floats) -> Floats:
        """See `Noise.log_cdf`."""
        return _floats(special.log_ndtr(noise))

    def lower_quantile(self, log_cdf: Floats) -> Floats:
        """See `SymmetricNoise.lower_quantile`."""
        return _floats(special.ndtri_exp(log_cdf))

    def log_density(self, noise: Floats) -> Floats:
        """See `Noise.log_density`."""
        return -0.5 * noise**2 - 0.5 * math.log(2 * math.pi)

    def partial_moments(self, noise: Floats) -> tuple[Floats, Floats, Floats]:
        """See `SymmetricNoise.partial_moments`."""
        density, below = np.exp(self.log_density(noise)), _floats(special.ndtr(noise))
        edge = np.where(np.isinf(noise), 0.0, np.nan_to_num(noise) * density)
        return below, -density, below - edge


@dataclasses.dataclass(frozen=True)
class StudentTNoise(SymmetricNoise):
    """ε ~ t_ν scaled to variance 1. Raises ValueError unless degrees_of_freedom > 2."""

    degrees_of_freedom: float

    def __post_init__(self) -> None:
        if not self.degrees_of_freedom > 2:
            raise ValueError(f"need degrees_of_freedom > 2 for a finite variance, got {self.degrees_of_freedom}")

    @property
    def _scale(self) -> float:
        return math.sqrt((self.degrees_of_freedom - 2) / self.degrees_of_freedom)

    def log_cdf(self, noise: Floats) -> Floats:
        """See `Noise.log_cdf`; where the lower tail underflows, by its leading term, whose relative error is 1/ν."""
        nu, t = self.degrees_of_freedom, noise / self._scale
        outward = -np.abs(t)
        beyond = special.stdtr(nu, outward)
        tail = np.minimum(outward, -1.0)
        leading = self._log_t(tail) + np.log(-tail / nu - 1 / tail)
        with np.errstate(divide="ignore"):
            lower = np.where(beyond > 1e-300, np.log(beyond), leading)
        return _floats(np.where(t <= 0, lower, np.log1p(-beyond)))

    def lower_quantile(self, log_cdf: Floats) -> Floats:
        """See `SymmetricNoise.lower_quantile`; probabilities below 1e-300 count as that."""
        return _floats(special.stdtrit(self.degrees_of_freedom, np.exp(np.maximum(log_cdf, -690.0))) * self._scale)

    def log_density(self, noise: Floats) -> Floats:
        """See `Noise.log_density`."""
        return self._log_t(noise / self._scale) - math.log(self._scale)

    def partial_moments(self, noise: Floats) -> tuple[Floats, Floats, Floats]:
        """See `SymmetricNoise.partial_moments`; by parts, from t f(t) = -d/dt [(ν + t²) f(t) / (ν - 1)]."""
        nu, s = self.degrees_of_freedom, self._scale
        t = np.where(np.isinf(noise), 0.0, noise / s)
        weight = np.where(np.isinf(noise), 0.0, (nu + t**2) * np.exp(self._log_t(t)))
        below = _floats(special.stdtr(nu, noise / s))
        return below, -s * weight / (nu - 1), s**2 * (nu * below - t * weight) / (nu - 2)

    def _log_t(self, t: Floats) -> Floats:
        nu = self.degrees_of_freedom
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        return _floats(constant - (nu + 1) / 2 * np.log1p(t**2 / nu))


NORMAL = NormalNoise()


@dataclasses.dataclass(frozen=True)
class Mixture:
    """p(y) = (1/K) Σ_k p(y | mean_k, std_k), for each of N data and S dimensions.

    Raises ValueError, naming the field, unless both are [K, N, S] of one shape, finite, and std is above 0.
    """

    mean: Floats
    """[K, N, S]"""
    std: Floats
    """[K, N, S]: standard deviations, whatever the noise."""
    noise: Noise = NORMAL

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, checked(name, getattr(self, name), "[K, N, S]"))
        if self.mean.shape != self.std.shape or self.mean.size == 0:
            raise ValueError(
                f"need mean and std [K, N, S] of one shape, not empty, got {self.mean.shape} and {self.std.shape}"
            )
        if not bool((self.std > 0).all()):
            raise ValueError(f"need std > 0, got {int((self.std <= 0).sum())} that are not, the least {self.std.min()}")

    def log_cdf(self, y: ArrayLike) -> tuple[Floats, Floats]:
        """(log F(y), log (1 - F(y))), each [N, S]. y [N, S]."""
        y = self._outcomes(y)
        below, above = np.empty_like(y), np.empty_like(y)
        for rows in self._chunks():
            noise = (y[rows] - self.mean[:, rows]) / self.std[:, rows]
            below[rows] = np.minimum(_log_mean_exp(self.noise.log_cdf(noise)), 0.0)  # rounding goes beyond
            above[rows] = np.minimum(_log_mean_exp(self.noise.log_survival(noise)), 0.0)
        return below, above

    def normal_scores(self, y: ArrayLike) -> Floats:
        """Φ⁻¹(F(y)) [N, S]: standard normal where the prediction is right, and exact far into both tails."""
        return NORMAL.quantile(*self.log_cdf(y))

    def pit(self, y: ArrayLike) -> Floats:
        """F(y) [N, S]: uniform on (0, 1) where the prediction is right (probability integral transform)."""
        return np.exp(self.log_cdf(y)[0])

    def quantile(self, probability: float) -> Floats:
        """The y with F(y) = probability, [N, S]: by bisection between the least and the greatest of the components'.

        Raises ValueError unless 0 < probability < 1.
        """
        if not 0 < probability < 1:
            raise ValueError(f"need 0 < probability < 1, got {probability}")
        shape = (self.mean.shape[2],)
        at = self.noise.quantile(np.full(shape, math.log(probability)), np.full(shape, math.log1p(-probability)))
        low, high = ((self.mean + self.std * at).min(0), (self.mean + self.std * at).max(0))
        for _ in range(60 if len(self.mean) > 1 else 0):
            middle = 0.5 * (low + high)
            below, above = self.log_cdf(middle)
            too_low = below < math.log(probability) if probability < 0.5 else above > math.log1p(-probability)
            low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
        return _floats(0.5 * (low + high))

    def sample(self, num_draws: int, *, generator: torch.Generator) -> Floats:
        """Independent draws [num_draws, N, S]: a component of its own for each draw and datum, one for all S."""
        num_components, num_data, num_dims = self.mean.shape
        chosen = torch.randint(num_components, (num_draws, num_data), generator=generator).numpy()
        scores = torch.randn(num_draws, num_data, num_dims, generator=generator, dtype=torch.float64).numpy()
        rows = np.arange(num_data)
        return _floats(self.mean[chosen, rows] + self.std[chosen, rows] * self.noise.of_scores(scores))

    def total_std(self) -> Floats:
        """Standard deviation of y [N, S]: the components' variances and the variance of their means (divisor K)."""
        return _floats(np.sqrt((self.std**2).mean(0) + self.mean.var(0)))

    def log_density(self, y: ArrayLike) -> Floats:
        """log p(y) of each dimension by itself [N, S], in nats."""
        y = self._outcomes(y)
        result = np.empty_like(y)
        for rows in self._chunks():
            std = self.std[:, rows]
            log_density = self.noise.log_density((y[rows] - self.mean[:, rows]) / std)
            result[rows] = _log_mean_exp(log_density - np.log(std))
        return result

    def _outcomes(self, y: ArrayLike) -> Floats:
        y = checked("y", y, "[N, S]")
        if y.shape != self.mean.shape[1:]:
            raise ValueError(f"need y [N, S] = {self.mean.shape[1:]} as in mean, got {y.shape}")
        return y

    def _chunks(self) -> list[slice]:
        num_components, num_data, num_dims = self.mean.shape
        size = max(1, _CHUNK // (num_components * num_dims))
        return [slice(start, start + size) for start in range(0, num_data, size)]


def checked(name: str, values: ArrayLike, axes: str) -> Floats:
    """The values as float64, without gradients.

    Raises ValueError, naming the field, where axes are too few or numbers are not finite.
    """
    array = as_array(values)
    if array.ndim != axes.count(",") + 1:
        raise ValueError(f"need {name} {axes}, got shape {array.shape}")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(
            f"{name} has NaN or infinity in {bad} of {array.size} numbers: leave these out, and say how many they are"
        )
    return array


def _log_mean_exp(values: Floats) -> Floats:
    """log of the mean of exp over the leading axis."""
    return _floats(special.logsumexp(values, axis=0) - math.log(len(values)))


def _floats(values: ArrayLike) -> Floats:
    array: Floats = np.asarray(values, dtype=np.float64)
    return array
