"""Propagations: what happens to the states [K, M, C, S] between two steps of a rollout.

Five pure functions of the states and of standard normal noise [K, M, 1, S], which is the same for all candidates
(common random numbers), so that a candidate's states do not depend on its neighbours.

`ts_1` moves particles between parameter samples; `carry` moves with them what is theirs (the return so far, whether
they are alive). Then k no longer stands for one θ held for a trajectory, and objectives that set K apart from M lose
that meaning; with `moment_matching` and `expectation` likewise. The three that draw or average anew cut the link
between a particle's return so far and its state, so that spread of whole returns is only approximate there.

Source: Chua, Calandra, McAllister & Levine (2018), "Planning and control with learned dynamics". We differ by the full
covariance where the authors' code takes its diagonal.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bayes_mbrl.planners.base import require

Propagation = Callable[[Tensor, Tensor], Tensor]
"""(states [K, M, C, S], standard normal noise [K, M, 1, S]) → states [K, M, C, S]."""


def ts_infinity(states: Tensor, noise: Tensor) -> Tensor:
    """TS∞, nothing: a particle keeps its θ for the whole trajectory. The lecture's procedure."""
    return states


def ts_1(states: Tensor, noise: Tensor) -> Tensor:
    """TS1: every particle meets another θ at every step.

    For each m a uniformly random permutation over K, the same for all candidates: the order of the noise's first
    component. As in the authors' code, θ is drawn without replacement; there particles move back after the step.
    """
    permutation = noise[:, :, 0, 0].argsort(dim=0)
    return states.take_along_dim(permutation[:, :, None, None], dim=0)


def expectation(states: Tensor, noise: Tensor) -> Tensor:
    """E: every particle becomes the mean over K and M. The result is a view without memory of its own."""
    return states.mean(dim=(0, 1), keepdim=True).expand_as(states)


def distribution_sampling(states: Tensor, noise: Tensor) -> Tensor:
    """DS: for each θ a Gaussian with the mean and full covariance over M, from which M new particles are drawn.

    Raises ValueError when M < 2.
    """
    num_noise = states.shape[1]
    require(
        (
            num_noise >= 2,
            f"distribution sampling needs M >= 2 noise draws, got {num_noise}: raise M",
        )
    )
    return _resample(states, noise)


def moment_matching(states: Tensor, noise: Tensor) -> Tensor:
    """MM: one Gaussian with the mean and full covariance over K and M together, from which K·M particles are drawn.

    Raises ValueError when K·M < 2.
    """
    count = states.shape[0] * states.shape[1]
    require(
        (
            count >= 2,
            f"moment matching needs K·M >= 2 particles, got {count}: raise K (parameter samples) or M",
        )
    )
    return _resample(states.flatten(0, 1)[None], noise.flatten(0, 1)[None]).reshape(states.shape)


def carry(propagation: Propagation, values: Tensor, noise: Tensor) -> Tensor:
    """What belongs to particles, values [K, M, C], after they moved: only `ts_1` gives a particle another index."""
    return ts_1(values.unsqueeze(-1), noise).squeeze(-1) if propagation is ts_1 else values


def _resample(particles: Tensor, noise: Tensor) -> Tensor:
    """mean + L·noise with L·Lᵀ the unbiased covariance over P: [B, P, C, S], noise [B, P, 1, S] → [B, P, C, S].

    Every dimension is first brought to the scale of its largest deviation, so that neither its unit nor float32's
    range matters, and constant dimensions stay constant. Correlations (not variances) shrink by a few rounding errors
    for the factor to exist when the covariance is singular: constant or collinear dimensions, or fewer particles than
    dimensions. Where it does not exist all the same (a particle is NaN or inf), the result is NaN.
    """
    num_particles, num_states = particles.shape[1], particles.shape[3]
    mean = particles.mean(dim=1, keepdim=True)
    deviation = particles - mean
    scale = deviation.detach().abs().amax(dim=1, keepdim=True)  # cancels, hence carries no gradient
    constant = scale == 0
    unit = deviation / torch.where(constant, 1, scale)
    covariance = torch.einsum("bpci,bpcj->bcij", unit, unit) / (num_particles - 1)
    shrinkage = 16 * num_states * torch.finfo(particles.dtype).eps
    identity = torch.eye(num_states, dtype=particles.dtype, device=particles.device)
    regular = covariance * (1 - shrinkage + shrinkage * identity) + torch.diag_embed(constant[:, 0].to(particles.dtype))
    factor, failed = torch.linalg.cholesky_ex(regular)
    factor = torch.where((failed == 0)[..., None, None], factor, torch.nan)
    return mean + scale * torch.einsum("bcij,bpj->bpci", factor, noise.squeeze(2))
