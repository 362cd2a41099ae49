"""How much of the uncertainty is ignorance (epistemic) and how much is noise (aleatoric).

Source: Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning (2018), eq. 10: the law of total
variance, Var[y] = Var_θ(E[y | θ]) + E_θ(Var[y | θ]). Where we differ: both parts are estimated without the bias that a
finite number of samples brings. NaN among the samples makes the parts NaN: nothing is dropped. In nats: entropy.py.
Axes: K parameter samples, M noise draws, C candidate plans, S state, N data. Arrays in: NumPy's or torch's, whose
gradients flow through; out: tensors.
"""

import math
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayes_mbrl.analysis.arrays import as_floats


@dataclass(frozen=True)
class VarianceSplit:
    """A predictive variance in its two parts, in squared units of what is predicted; both tensors have one shape."""

    epistemic: Tensor
    """Var_θ(E[y | θ]) [...]: falls as data come in."""
    aleatoric: Tensor
    """E_θ(Var[y | θ]) [...]: stays however much is known about θ."""

    @property
    def total(self) -> Tensor:
        """The predictive variance [...]: the sum of the parts."""
        return self.epistemic + self.aleatoric

    @property
    def epistemic_share(self) -> Tensor:
        """epistemic / total [...], within [0, 1]; 0 where nothing is uncertain at all."""
        return torch.where(self.total == 0, torch.zeros_like(self.total), self.epistemic / self.total)


@dataclass(frozen=True)
class CovarianceSplit:
    """A predictive covariance in its two parts; both tensors are [..., S, S], in products of the units of y."""

    epistemic: Tensor
    """Cov_θ(E[y | θ]) [..., S, S]: falls as data come in."""
    aleatoric: Tensor
    """E_θ(Cov[y | θ]) [..., S, S]: stays however much is known about θ."""

    @property
    def total(self) -> Tensor:
        """The predictive covariance [..., S, S]: the sum of the parts."""
        return self.epistemic + self.aleatoric


def split_predictive_variance(mean: ArrayLike, std: ArrayLike) -> VarianceSplit:
    """Law of total variance for y | θ_k ~ (mean_k, std_k²).

    mean, std [K, ..., S] → two variances [..., S]: aleatoric the mean over K of std², epistemic the variance of the
    means over K with divisor K - 1, so that its expectation does not depend on K. (The variance of the K-component
    mixture itself has divisor K; they agree as K grows.) One sample says nothing about ignorance: K = 1, a point
    estimate, has an epistemic part of 0. Of all dimensions together: `split_predictive_covariance`.
    Raises ValueError when the shapes differ or there is no sample.
    """
    mean, std = as_floats(mean), as_floats(std)
    if mean.shape != std.shape or mean.ndim == 0 or len(mean) == 0:
        raise ValueError(f"need mean and std of one shape [K, ..., S], K >= 1, got {[*mean.shape]} and {[*std.shape]}")
    return VarianceSplit(epistemic=_variance_over_samples(mean), aleatoric=std.square().mean(dim=0))


def split_predictive_covariance(mean: ArrayLike, std: ArrayLike) -> CovarianceSplit:
    """Law of total covariance, the joint form of `split_predictive_variance`: what dimensions share counts.

    mean, std [K, ..., S] → two covariances [..., S, S], whose diagonals are the variances of that split: epistemic that
    of the means over K with divisor K - 1 (0 for K = 1), aleatoric diagonal, since given θ the dimensions are
    independent. Raises ValueError when the shapes differ or there is no sample.
    """
    mean, std = as_floats(mean), as_floats(std)
    if mean.shape != std.shape or mean.ndim < 2 or len(mean) == 0:
        raise ValueError(f"need mean and std of one shape [K, ..., S], K >= 1, got {[*mean.shape]} and {[*std.shape]}")
    deviation = mean - mean.mean(dim=0)
    epistemic = torch.einsum("k...i,k...j->...ij", deviation, deviation) / max(1, len(mean) - 1)
    return CovarianceSplit(epistemic=epistemic, aleatoric=torch.diag_embed(std.square().mean(dim=0)))


def split_return_variance(returns: ArrayLike, *, clamp: bool = True) -> VarianceSplit:
    """Law of total variance for the return of a plan: one-way analysis of variance over [K, M].

    returns [..., K, M, C] → two variances [..., C], in squared units of the return; with the returns so far at each
    step, [H, K, M, C], the split along the horizon. The K means over M draws also scatter because of the noise, by
    aleatoric / M; epistemic has that subtracted, and is 0 where the difference is negative. That pulls it up a little
    where the truth is near 0: for a mean over many plans or states take `clamp=False`, which has no bias and may be
    negative. K = 1 has an epistemic part of 0.
    Row k must be the whole trajectories of one θ_k (TS∞), and the noise must be drawn anew for each pair (k, m):
    noise that is shared by the K rows cancels between them, and the subtraction would take too much.
    Raises ValueError when M = 1.
    Source: Searle, Casella & McCulloch, Variance Components (1992), section 3.6: the balanced one-way estimators.
    """
    returns = as_floats(returns)
    if returns.ndim < 3 or returns.shape[-3] == 0:
        raise ValueError(f"need returns [..., K, M, C] with K >= 1, got shape {[*returns.shape]}")
    num_theta, num_noise = returns.shape[-3:-1]
    if num_noise < 2:
        raise ValueError(
            f"need M >= 2 noise draws a parameter sample, got {num_noise}: from one draw ignorance and noise cannot be "
            "told apart; raise rollout.num_noise"
        )
    aleatoric = returns.var(dim=-2).mean(dim=-2)
    if num_theta == 1:
        return VarianceSplit(epistemic=torch.zeros_like(aleatoric), aleatoric=aleatoric)
    epistemic = returns.mean(dim=-2).var(dim=-2) - aleatoric / num_noise
    return VarianceSplit(epistemic=epistemic.clamp(min=0.0) if clamp else epistemic, aleatoric=aleatoric)


def mixture_log_likelihood(log_likelihood: ArrayLike) -> Tensor:
    """log p(y_i | D) ≈ log (1/K) Σ_k p(y_i | θ_k): the score of the posterior predictive, one number a datum, in nats.

    log_likelihood [K, N] → [N]. Not the mean of the logs, which never exceeds it (Jensen).
    Raises ValueError when there is no sample.
    """
    log_likelihood = as_floats(log_likelihood)
    if log_likelihood.ndim != 2 or len(log_likelihood) == 0:
        raise ValueError(f"need log_likelihood [K, N] with K >= 1, got shape {[*log_likelihood.shape]}")
    return torch.logsumexp(log_likelihood, dim=0) - math.log(len(log_likelihood))


def _variance_over_samples(values: Tensor) -> Tensor:
    """Unbiased variance over the leading axis [K, ...] → [...]; 0 when K = 1."""
    return values.var(dim=0) if len(values) > 1 else torch.zeros_like(values[0])
