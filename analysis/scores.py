"""Proper scores of predictions, the lower the better: the home of `scoringrules`.

Source: Gneiting & Raftery, Strictly Proper Scoring Rules (2007); fair versions: Ferro (2014), unbiased in the number
of draws, so that 20 draws are not judged worse than 200 of the same prediction.
Axes: R draws, K components, N data, S dimensions. Arrays in: NumPy's, or torch's on the CPU; out: float64.
"""

import numpy as np
import scoringrules
import torch
from numpy.typing import ArrayLike
from scipy import special

from bayes_mbrl.analysis.mixture import Floats, Mixture, NormalNoise, checked

_CHUNK = 2**22
"""Numbers in the largest intermediate result: 32 MiB."""


def crps_of_draws(draws: ArrayLike, y: ArrayLike) -> Floats:
    """E|x - y| - ½ E|x - x'| of each dimension [N, S], in the unit of y: the fair version.

    draws [R, N, S], independent for each datum; y [N, S]. Raises ValueError when R < 2 or a number is not finite.
    """
    draws, y = _pair(draws, y)
    scores = scoringrules.crps_ensemble(y, draws, m_axis=0, estimator="pwm", backend="numpy")
    return np.asarray(scores, dtype=np.float64)


def crps_of_mixture(mixture: Mixture, y: ArrayLike) -> Floats:
    """The CRPS of a mixture of normals in closed form [N, S], in the unit of y. Source: Grimit et al. (2006).

    Raises ValueError for other noise, of which there is no closed form: score draws of it.
    """
    if not isinstance(mixture.noise, NormalNoise):
        raise ValueError(f"need normal noise, got {mixture.noise}: take crps_of_draws(mixture.sample(...), y)")
    y = checked("y", y, "[N, S]")
    if y.shape != mixture.mean.shape[1:]:
        raise ValueError(f"need y [N, S] = {mixture.mean.shape[1:]} as in mean, got {y.shape}")
    result = np.empty_like(y)
    for rows in _chunks(len(y), mixture.mean.shape[0] ** 2 * y.shape[1]):
        mean, std = mixture.mean[:, rows], mixture.std[:, rows]
        result[rows] = scoringrules.crps_mixnorm(y[rows], mean, std, m_axis=0, backend="numpy")
    return result


def energy_score(draws: ArrayLike, y: ArrayLike) -> Floats:
    """E‖x - y‖ - ½ E‖x - x'‖ over all dimensions together [N]: the fair version. It sees what dimensions share.

    draws [R, N, S], y [N, S], in units in which the dimensions may be added: divide by a scale of each first.
    Raises ValueError when R < 2 or a number is not finite.
    """
    draws, y = _pair(draws, y)
    result = np.empty(len(y))
    for rows in _chunks(len(y), len(draws) ** 2 * y.shape[1]):
        result[rows] = scoringrules.es_ensemble(
            y[rows], draws[:, rows], m_axis=0, v_axis=-1, estimator="fair", backend="numpy"
        )
    return result


def interval_score(low: ArrayLike, high: ArrayLike, y: ArrayLike, *, level: float) -> Floats:
    """(high - low) + 2/(1 - level) · how far y lies outside [N, S], in the unit of y.

    Of a central interval that claims to hold `level`. Source: Gneiting & Raftery (2007), eq. 43.
    Raises ValueError unless 0 < level < 1 and low <= high.
    """
    low, high, y = (checked(name, values, "[N, S]") for name, values in (("low", low), ("high", high), ("y", y)))
    if not 0 < level < 1 or not low.shape == high.shape == y.shape or bool((low > high).any()):
        raise ValueError(
            f"need 0 < level < 1 and low <= high of y's shape, got {level}, {low.shape}, {high.shape}, {y.shape} and "
            f"{int((low > high).sum()) if low.shape == high.shape else '?'} intervals with low > high"
        )
    scores = scoringrules.interval_score(y, low, high, 1 - level, backend="numpy")  # it drops axes of one
    return np.asarray(scores, dtype=np.float64).reshape(y.shape)


def joint_log_loss(
    log_likelihood: ArrayLike, *, batch_size: int, num_batches: int, generator: torch.Generator
) -> Floats:
    """-log (1/K) Σ_k Π_{i in batch} p(y_i | x_i, θ_k) of random batches [num_batches], in nats a batch.

    log_likelihood [K, N]. Batches of `batch_size` rows without repetition; size 1 is the usual log loss of the mixture.
    A large batch is foreseen only if the θ_k agree on how its rows go together: that tells epistemic from aleatoric
    uncertainty, which single rows cannot. With K finite it is too high on average (Jensen), the more so the larger
    the batch: compare at equal K. Source: Osband et al., The Neural Testbed (2021), eq. 1.
    Raises ValueError unless 1 <= batch_size <= N.
    """
    log_likelihood = checked("log_likelihood", log_likelihood, "[K, N]")
    num_theta, num_data = log_likelihood.shape
    if num_theta < 1 or not 1 <= batch_size <= num_data or num_batches < 1:
        raise ValueError(
            f"need K >= 1, 1 <= batch_size <= N = {num_data} and num_batches >= 1, "
            f"got {num_theta}, {batch_size} and {num_batches}"
        )
    losses = np.empty(num_batches)
    for batch in range(num_batches):
        rows = torch.randperm(num_data, generator=generator)[:batch_size].numpy()
        losses[batch] = np.log(num_theta) - special.logsumexp(log_likelihood[:, rows].sum(1))
    return losses


def _pair(draws: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    draws, y = checked("draws", draws, "[R, N, S]"), checked("y", y, "[N, S]")
    if draws.shape[1:] != y.shape or len(draws) < 2:
        raise ValueError(f"need draws [R, N, S] with R >= 2 and y [N, S], got {draws.shape} and {y.shape}")
    return draws, y


def _chunks(num_data: int, numbers_a_datum: int) -> list[slice]:
    size = max(1, _CHUNK // max(1, numbers_a_datum))
    return [slice(start, start + size) for start in range(0, num_data, size)]
