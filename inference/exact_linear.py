"""The exact posterior of Bayesian linear regression with known noise: the known answer to compare the others with.

Source: Bishop (2006), eq. 3.50-3.51 (posterior) and 3.86 (log evidence), for a prior whose std may differ between
parameters. Axes: N data, D inputs, O outputs, P = D + 1 coefficients of an output, its weights and its bias.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    normal_prior,
)
from bayes_mbrl.inference.likelihoods import NORMAL
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.parameter_vector import triangular_log_density


@dataclasses.dataclass(frozen=True)
class ExactLinearPosterior(Posterior):
    """Π_o N(θ_o | mean_o, factor factorᵀ), θ_o = (weights, bias) of output o; prior and noise are alike for all o."""

    kind: ClassVar[str] = "exact-linear"

    mean: Tensor
    """[P, O], the bias last."""
    factor: Tensor
    """[P, P], upper triangular: the inverse of the Cholesky factor of the precision, transposed."""

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """mean + factor ε, ε standard normal: {weight_0: [n, D, O], bias_0: [n, O]}."""
        noise = self.mean.new_empty(n, *self.mean.shape).normal_(generator=generator)
        theta = self.mean + self.factor @ noise
        return {"weight_0": theta[:, :-1], "bias_0": theta[:, -1]}

    def log_density(self, theta: Theta) -> Tensor:
        """Σ_o log N(θ_o | mean_o, factor factorᵀ): [K]."""
        values = torch.cat([theta["weight_0"], theta["bias_0"].unsqueeze(-2)], -2)
        deviation = (values - self.mean).transpose(-1, -2).double()
        return triangular_log_density(deviation, self.factor.double()).sum(-1)

    def tensors(self) -> dict[str, Tensor]:
        """`mean` and `factor`."""
        return {"mean": self.mean, "factor": self.factor}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(**tensors)


@dataclasses.dataclass(frozen=True)
class EvidenceInfo:
    """What a person wants to see of an exact posterior."""

    log_evidence: float
    """log p(y | x), the parameters integrated out, in nats."""

    @property
    def final_loss(self) -> float:
        """−log p(y | x): what the loss of a variational fit of this model cannot fall below."""
        return -self.log_evidence


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
) -> tuple[ExactLinearPosterior, EvidenceInfo]:
    """N(θ_o | m_o, S), S⁻¹ = S₀⁻¹ + ΦᵀΦ / noise_std², m_o = S (S₀⁻¹ m₀ + Φᵀ y_o / noise_std²), Φ = (x, 1).

    x [N, D], y [N, O]. The triangular factor of S⁻¹ comes from a QR decomposition of Φ / noise_std stacked on the
    prior's S₀^(-1/2), in float64: S⁻¹ itself, whose condition number is the square, is never formed, so N < D, equal
    rows and badly scaled inputs are safe. Nothing is random: `generator` and `warm_start` are not used.

    Raises ValueError unless the model is a `BayesianNetwork` with hidden=() and noise="fixed", without a binary output,
    of which no posterior is known exactly, and for bad data.
    """
    if not (
        isinstance(model, BayesianNetwork)
        and model.num_layers == 1
        and model.noise == "fixed"
        and model.likelihood is NORMAL
        and not model.prior_scale_log_std
    ):
        raise ValueError(
            'the exact posterior needs a linear model with known normal noise and prior: hidden=(), noise="fixed", '
            'likelihood="normal", prior_scale_log_std=0, num_binary=0 (a learned termination is a binary output)'
        )
    check_regression_data(model, x, y)
    model.check_widths(x, y)
    prior = normal_prior(model)
    prior_mean = torch.cat([prior["weight_0"].loc, prior["bias_0"].loc[None]]).double()
    prior_std = torch.cat([prior["weight_0"].scale[:, 0], prior["bias_0"].scale[:1]]).double()
    features = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()

    design = torch.cat([features / model.noise_std, torch.diag(1 / prior_std)])
    target = torch.cat([y.double() / model.noise_std, prior_mean / prior_std[:, None]])
    orthonormal, triangular = torch.linalg.qr(design)
    mean = torch.linalg.solve_triangular(triangular, orthonormal.T @ target, upper=True)
    factor = torch.linalg.solve_triangular(triangular, torch.eye(len(triangular)).to(triangular), upper=True)

    log_determinant = triangular.diagonal().abs().log().sum() + prior_std.log().sum()  # half of log |S₀| / |S|
    num_data, num_outputs = y.shape
    log_evidence = -0.5 * ((target - design @ mean) ** 2).sum() - num_outputs * (
        log_determinant + num_data * math.log(model.noise_std * math.sqrt(2 * math.pi))
    )
    # Contiguous, as one read from a file is: products with draws of another layout would be rounded otherwise.
    mean, factor = mean.to(y.dtype).contiguous(), factor.to(y.dtype).contiguous()
    return ExactLinearPosterior(mean, factor), EvidenceInfo(float(log_evidence))
