"""Recalibration: a monotone map of the noise, learned from held-out outcomes, after which intervals hold their share.

Kuleshov, Fenner & Ermon (2018), algorithm 1, learn R with R(F(y)) uniform; Malik et al. (2019) plan with it. Here the
map is g = F_ε⁻¹ ∘ R⁻¹ ∘ F_ε, of the noise itself: y = mean_k + std_k · g(ε), so that whatever draws ε draws
from the recalibrated prediction. It is fitted so that the *mixture* over θ_k becomes calibrated, as whose component
each trajectory is drawn: g ← g ∘ Q, Q the quantile map of the mixture under g; with K = 1 one step is enough.
Axes: K components, N held-out data, S dimensions, each with a map of its own, J knots.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

from bayes_mbrl.analysis.mixture import Floats, Mixture, Noise, SymmetricNoise, checked

MIN_ROWS = 40
"""With fewer held-out outcomes nothing is changed."""
MIN_SLOPE = 0.05
"""Of g: noise is never narrowed by more than 20, however alike the outcomes are."""
FAR = 3.0
"""Beyond so many standard deviations of the model's noise, g never narrows: what was not seen is not unheard of."""
LARGEST_RESIDUAL = 1e8
"""In standard deviations: what is further out counts as this."""
_ROWS_A_KNOT, _NUM_FOLDS, _MAX_STEPS = 8, 5, 8


@dataclasses.dataclass(frozen=True)
class MonotoneMap:
    """g: piecewise linear through (x_j, y_j), straight on beyond the first and the last; both strictly increasing.

    Values have any shape [..., S]; of fewer than S dimensions, the first ones. Worked out in float64.
    """

    x: Floats
    """[J, S]"""
    y: Floats
    """[J, S]"""

    def __call__(self, values: Tensor) -> Tensor:
        """g(values)."""
        return _interpolate(values, self.x, self.y)[0]

    def inverse(self, values: Tensor) -> Tensor:
        """g⁻¹(values)."""
        return _interpolate(values, self.y, self.x)[0]

    def log_slope_at_inverse(self, values: Tensor) -> Tensor:
        """log g′(g⁻¹(values)): what a density of g(ε) is lower by than that of ε."""
        return -torch.log(_interpolate(values, self.y, self.x)[1])

    def moments(self, noise: SymmetricNoise) -> tuple[Floats, Floats]:
        """Mean and standard deviation of g(ε) [S], exactly: segment by segment, from the noise's partial moments."""
        centre = np.median(self.y, axis=0)
        slope = np.diff(self.y, axis=0) / np.diff(self.x, axis=0)
        offset = self.y[:-1] - centre - slope * self.x[:-1]
        ends = np.full((1, self.x.shape[1]), np.inf)
        mass, first, second = (
            np.diff(moment, axis=0) for moment in noise.partial_moments(np.concatenate([-ends, self.x[1:-1], ends]))
        )
        mean = (offset * mass + slope * first).sum(0)
        square = (offset**2 * mass + 2 * offset * slope * first + slope**2 * second).sum(0)
        return centre + mean, np.sqrt(square - mean**2)


class MappedNoise(Noise):
    """(g(ε) - mean) / std: the recalibrated noise, of mean 0 and variance 1 again."""

    def __init__(self, noise: SymmetricNoise, mapping: MonotoneMap) -> None:
        self.noise, self.mapping = noise, mapping
        self.mean, self.std = mapping.moments(noise)
        """[S]: by how much a prediction's mean shifts and its std grows, in units of its std."""

    def log_cdf(self, noise: Floats) -> Floats:
        """See `Noise.log_cdf`."""
        return self.noise.log_cdf(self._inner(noise))

    def log_survival(self, noise: Floats) -> Floats:
        """See `Noise.log_survival`."""
        return self.noise.log_survival(self._inner(noise))

    def quantile(self, log_cdf: Floats, log_survival: Floats) -> Floats:
        """See `Noise.quantile`."""
        mapped = self.mapping(torch.from_numpy(self.noise.quantile(log_cdf, log_survival))).numpy()
        return np.asarray((mapped - self.mean) / self.std, dtype=np.float64)

    def log_density(self, noise: Floats) -> Floats:
        """See `Noise.log_density`."""
        slope: Floats = self.mapping.log_slope_at_inverse(torch.from_numpy(noise * self.std + self.mean)).numpy()
        return self.noise.log_density(self._inner(noise)) - slope + np.log(self.std)

    def _inner(self, noise: Floats) -> Floats:
        inner: Floats = self.mapping.inverse(torch.from_numpy(noise * self.std + self.mean)).numpy()
        return inner


@dataclasses.dataclass(frozen=True)
class Recalibration:
    """The map, and whether it earned its place."""

    mapping: MonotoneMap
    """The identity in dimensions that it does not help."""
    gain: Floats
    """[S]: log-likelihood of the mixture in cross-validation, with the map less without, in nats a datum."""
    helps: NDArray[np.bool_]
    """[S]: the gain is above two standard errors."""
    num_held_out: int


def fit_recalibration(mixture: Mixture, y: ArrayLike, *, num_knots: int = 20) -> Recalibration:
    """The map that makes the mixture calibrated for outcomes y [N, S], dimension by dimension.

    Knots lie at the quantiles (j - ½) / J; J is at most `num_knots` and N / 8. Beyond them g goes on with the slope
    that makes the mean excess over the outermost knot right, and beyond `FAR` with no slope below 1. A map is kept
    where it raises the log-likelihood of outcomes that it was not fitted to, in five folds of neighbouring rows, by
    more than two standard errors; other dimensions stay as they are, and all do with fewer than `MIN_ROWS`. The spread
    of the components' means is not noise: no map narrows it.
    Raises ValueError when the noise was recalibrated before, or num_knots < 2.
    """
    noise = mixture.noise
    if not isinstance(noise, SymmetricNoise) or num_knots < 2:
        raise ValueError(f"need num_knots >= 2 and the noise of the model itself, got {num_knots} and {noise}")
    y = checked("y", y, "[N, S]")
    if y.shape != mixture.mean.shape[1:]:
        raise ValueError(f"need y [N, S] = {mixture.mean.shape[1:]} as in mean, got {y.shape}")
    num_data, num_dims = y.shape
    if num_data < MIN_ROWS:
        return unchanged(noise, num_dims, num_held_out=num_data)
    residual = np.clip((y - mixture.mean) / mixture.std, -LARGEST_RESIDUAL, LARGEST_RESIDUAL)
    log_std = np.log(mixture.std)
    before = _log_density(noise, _identity(noise, num_dims, 2), residual, log_std)
    after = np.empty_like(before)
    for rest, fold in _folds(num_data):
        mapping = _fit_map(noise, residual[:, rest], log_std[:, rest], num_knots)
        after[fold] = _log_density(noise, mapping, residual[:, fold], log_std[:, fold])
    gain = (after - before).mean(0)
    helps = gain > 2 * (after - before).std(0) / math.sqrt(num_data)
    fitted = _fit_map(noise, residual, log_std, num_knots)
    return Recalibration(
        MonotoneMap(fitted.x, np.where(helps, fitted.y, fitted.x)), gain=gain, helps=helps, num_held_out=num_data
    )


def unchanged(noise: SymmetricNoise, num_dims: int, *, num_held_out: int) -> Recalibration:
    """What is left where there is nothing to learn a map from: the identity."""
    return Recalibration(
        _identity(noise, num_dims, 2), gain=np.zeros(num_dims), helps=np.zeros(num_dims, dtype=bool),
        num_held_out=num_held_out,
    )  # fmt: skip


def _fit_map(noise: SymmetricNoise, residual: Floats, log_std: Floats, num_knots: int) -> MonotoneMap:
    """g ← g ∘ Q until the mixture's quantiles are right; of all steps the most likely one, for each dimension.

    Where the means alone spread too much, further steps would make of the mixture a comb.
    """
    num_components, num_data, num_dims = residual.shape
    count = max(2, min(num_knots, num_data // _ROWS_A_KNOT))
    mapping = best = _identity(noise, num_dims, count)
    most = np.full(num_dims, -np.inf)
    for step in range(2 if num_components == 1 else 1 + _MAX_STEPS):
        if step:
            scores = _noise_scores(noise, mapping, residual)
            got = np.quantile(scores, _probabilities(count), axis=0, method="hazen")
            ends = (_tail(noise, scores, mapping.x, got, side) for side in (-1, 1))
            moved = mapping(torch.from_numpy(np.insert(np.stack([*ends]), [1], got, axis=0))).numpy()
            mapping = MonotoneMap(mapping.x, _with_ends(mapping.x, moved))
        likely = _log_density(noise, mapping, residual, log_std).mean(0)
        best = MonotoneMap(mapping.x, np.where(likely > most, mapping.y, best.y))
        most = np.maximum(likely, most)
    return best


def _noise_scores(noise: SymmetricNoise, mapping: MonotoneMap, residual: Floats) -> Floats:
    """F_ε⁻¹ of the mixture's PIT [N, S]: distributed as ε where the mixture is calibrated."""
    inner = mapping.inverse(torch.from_numpy(residual)).numpy()
    below, above = (_log_mean_exp(log) for log in (noise.log_cdf(inner), noise.log_survival(inner)))
    return noise.quantile(np.minimum(below, 0.0), np.minimum(above, 0.0))


def _log_density(noise: SymmetricNoise, mapping: MonotoneMap, residual: Floats, log_std: Floats) -> Floats:
    """Of the mixture, each dimension by itself [N, S]."""
    values = torch.from_numpy(residual)
    inner, log_slope = mapping.inverse(values).numpy(), mapping.log_slope_at_inverse(values).numpy()
    return _log_mean_exp(noise.log_density(inner) - log_slope - log_std)


def _identity(noise: SymmetricNoise, num_dims: int, count: int) -> MonotoneMap:
    probability = _probabilities(count)
    knots = noise.quantile(np.log(probability), np.log1p(-probability))
    far = np.maximum(FAR, knots[-1:] + 0.5)
    column = np.concatenate([-far - 1, -far, knots, far, far + 1])[:, None].repeat(num_dims, axis=1)
    return MonotoneMap(column, column)


def _tail(noise: SymmetricNoise, scores: Floats, x: Floats, quantiles: Floats, side: int) -> Floats:
    """Where Q sends the far knot of a side [S]: its slope from the last quantile on is that of the mean excesses."""
    far, knot, quantile = (x[-2], x[-3], quantiles[-1]) if side > 0 else (x[1], x[2], quantiles[0])
    excess = np.maximum(side * (scores - quantile), 0.0)
    got = excess.sum(0) / np.maximum((excess > 0).sum(0), 1)
    below, first, _ = noise.partial_moments(-np.abs(knot))
    return np.asarray(quantile + (far - knot) * got / (-first / below - np.abs(knot)), dtype=np.float64)


def _with_ends(x: Floats, y: Floats) -> Floats:
    """y of all knots [J + 4, S] from that of all but the first and the last; steeper where g would be too flat."""
    step = np.maximum(np.diff(y, axis=0), MIN_SLOPE * np.diff(x[1:-1], axis=0))
    steeper = np.concatenate([np.zeros_like(y[:1]), step.cumsum(0)])
    steeper += np.median(y, axis=0) - np.median(steeper, axis=0)
    slopes = step / np.diff(x[1:-1], axis=0)
    first, last = (np.maximum(1.0, slopes[end]) for end in (slice(None, 1), slice(-1, None)))
    return np.concatenate([steeper[:1] - first, steeper, steeper[-1:] + last])


def _probabilities(count: int) -> Floats:
    return (np.arange(count) + 0.5) / count


def _folds(num_data: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(rows to fit, rows to judge), neighbours together."""
    rows: NDArray[np.intp] = np.arange(num_data)
    for fold in np.array_split(rows, _NUM_FOLDS):
        yield np.setdiff1d(rows, fold), fold


def _log_mean_exp(values: Floats) -> Floats:
    return np.asarray(special.logsumexp(values, axis=0) - math.log(len(values)), dtype=np.float64)


def _interpolate(values: Tensor, start: Floats, end: Floats) -> tuple[Tensor, Tensor]:
    """(values, slopes) of the line through knots start → end [J, S], in the dtype of `values` [..., S]."""
    num_dims = values.shape[-1]
    knots, images = (torch.from_numpy(np.ascontiguousarray(k[:, :num_dims].T)).to(values.device) for k in (start, end))
    columns = values.to(torch.float64).movedim(-1, 0).reshape(num_dims, -1).contiguous()
    right = torch.searchsorted(knots, columns.detach()).clamp(1, knots.shape[1] - 1)
    x_0, x_1 = knots.gather(1, right - 1), knots.gather(1, right)
    y_0, y_1 = images.gather(1, right - 1), images.gather(1, right)
    slope = (y_1 - y_0) / (x_1 - x_0)
    shape = (num_dims, *values.shape[:-1])
    result = y_0 + (columns - x_0) * slope
    return tuple(t.reshape(shape).movedim(0, -1).to(values.dtype) for t in (result, slope))  # type: ignore[return-value]
