"""The Laplace approximation: N(θ_MAP, (Σ_i Fisher information of datum i + prior precision)⁻¹).

Source: Bishop (2006), eq. 4.134 (the normal at the maximum) and 4.137 (log evidence). In place of the Hessian stands
the generalised Gauss-Newton matrix in its form as a Fisher matrix (Martens 2020), which is never indefinite and counts
a learned std; last layer: Kristiadi et al. (2020). Own code: laplace-torch brings torchvision, which breaks torch's
CPU build. Axes: N data, D inputs, O outputs, P entries of the parameters that are random.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from annotated_types import Gt
from torch import Tensor

from bayes_mbrl.inference import point
from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    log_prior,
    named_parts,
    normal_prior,
    parameter_shapes,
    require,
    warm_start_as,
)
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.optimise import FitInfo
from bayes_mbrl.inference.parameter_vector import ParameterVector, triangular_log_density
from bayes_mbrl.inference.regression import Regression

Subset = Literal["last-layer", "all"]

_CHUNK = 2**23
"""Numbers that the Jacobians of one chunk of data may take."""


@dataclasses.dataclass(frozen=True)
class LaplacePosterior(Posterior):
    """N(mean, factor factorᵀ) over some parameters, the others at one value."""

    kind: ClassVar[str] = "laplace"

    random: Theta
    """Means by name, in the shape of the parameter; P entries together."""
    fixed: Theta
    """Values of the others, by name."""
    factor: Tensor
    """[P, P], upper triangular, entries in the order of `random`: the inverse transpose of the precision's factor."""

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """mean + factor ε, ε standard normal, and n copies of what is fixed: {name: [n, ...]}."""
        noise = self.factor.new_empty(n, len(self.factor)).normal_(generator=generator)
        draws = {name: value.expand(n, *value.shape).clone() for name, value in {**self.random, **self.fixed}.items()}
        vector = ParameterVector({name: mean.shape for name, mean in self.random.items()})
        for name, deviation in vector.split(noise @ self.factor.T).items():
            draws[name] += deviation
        return draws

    def log_density(self, theta: Theta) -> Tensor:
        """log N(random part of θ | mean, factor factorᵀ): [K]."""
        parts = [(theta[name] - mean).reshape(len(theta[name]), -1) for name, mean in self.random.items()]
        deviation = torch.cat(parts, 1)
        return triangular_log_density(deviation.double(), self.factor.double())

    def tensors(self) -> dict[str, Tensor]:
        """`random/<name>`, `fixed/<name>` and `factor`."""
        parts = {f"{part}/{name}": t for part in ("random", "fixed") for name, t in getattr(self, part).items()}
        return {**parts, "factor": self.factor}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        random, fixed = named_parts(tensors, ("random", "fixed"))
        return cls(random, fixed, tensors["factor"])


@dataclasses.dataclass(frozen=True)
class LaplaceInfo(FitInfo):
    """What a person wants to see: the losses of the search for the maximum, and the evidence."""

    log_evidence: float = math.nan
    """≈ log p(y | x, the fixed parameters), in nats: for choosing between models, priors and noise levels."""


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    subset: Subset = "last-layer",
    max_parameters: Annotated[int, Gt(0)] = 5000,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
) -> tuple[LaplacePosterior, LaplaceInfo]:
    """N(θ_MAP, Λ⁻¹), Λ = Σ_i J_meanᵀ a J_mean + J_stdᵀ b J_std + prior precision.

    x [N, D], y [N, O]. J are the derivatives of datum i's mean and std by θ at the maximum, (a, b) the likelihood's
    information about them, so a learned std is as uncertain as the data leave it. Exact where the mean is linear in θ
    and the std known. Prior and noise are the model's: nothing is tuned after the fit.

    "last-layer" is random in `Model.last_layer` alone. It is the default since a network's mean is linear in its last
    layer: a sampled θ then does what the approximation had in mind. With "all" that was the *linearised* network, and
    the network itself at sampled weights underfits grossly unless data determine every weight (Immer et al. 2021):
    2x50 units on 1,000 data lost 340 nats a datum. "all" is for models of a handful of parameters. It takes some
    matrices [P, P] in float64; more than `max_parameters` are refused. With hidden layers at one value, "last-layer"
    cannot see that other features would fit as well: between two clusters of data it is hardly less certain.

    The settings after that are of the search for the maximum, a `point.fit` with the prior counted once; its losses,
    −log joint in nats, are in the info.

    Raises ValueError for settings, data or models out of bounds or a precision that is not positive definite,
    DivergedFitError when the search diverges.
    """
    check_regression_data(model, x, y)
    if not isinstance(model, Regression):
        raise ValueError(f"need a Regression, whose mean and std have known information, got a {type(model).__name__}")
    model.check_widths(x, y)
    names = _random_parameters(model, subset, max_parameters)
    start = warm_start if isinstance(warm_start, DrawsPosterior) else None  # a point: of a search that diverged, say
    if warm_start is not None and start is None:
        last = warm_start_as(LaplacePosterior, warm_start, model)
        start = DrawsPosterior({name: value[None] for name, value in {**last.random, **last.fixed}.items()})
    maximum, info = point.fit(
        model,
        x,
        y,
        generator=generator,
        warm_start=start,
        prior_weight=1.0,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    theta = {name: draws[0] for name, draws in maximum.draws.items()}
    random = {name: theta[name] for name in names}
    fixed = {name: value for name, value in theta.items() if name not in random}
    precision, log_joint = _precision(model, random, fixed, x, y)
    triangular = _cholesky(precision)
    identity = torch.eye(len(triangular), dtype=triangular.dtype, device=triangular.device)
    factor = torch.linalg.solve_triangular(triangular, identity, upper=False).T
    log_volume = 0.5 * len(triangular) * math.log(2 * math.pi) - float(triangular.diagonal().log().sum())
    posterior = LaplacePosterior(random, fixed, factor.to(x.dtype).contiguous())
    return posterior, LaplaceInfo(info.losses, info.divergence, log_evidence=log_joint + log_volume)


def _random_parameters(model: Model, subset: Subset, max_parameters: int) -> list[str]:
    """Their names, in the model's order. Raises ValueError when they have too many entries."""
    shapes = parameter_shapes(model)
    names = [name for name in shapes if subset == "all" or name in model.last_layer]
    size = sum(shapes[name].numel() for name in names)
    advice = 'take subset="last-layer"' if subset == "all" else "take a narrower last layer"
    gigabytes = 8 * size**2 / 1e9
    require(
        (
            size <= max_parameters,
            f"a Laplace approximation of {size} parameters needs matrices of {size} x {size} ({gigabytes:.1f} GB "
            f"each), allowed are max_parameters = {max_parameters}: {advice}, or raise max_parameters",
        )
    )
    return names


def _precision(model: Regression, random: Theta, fixed: Theta, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """(Λ [P, P] in float64, log p(y | x, θ) + log p(random)) at θ = (random, fixed)."""
    order = ParameterVector.of(model, random)
    vector = order.join(random)

    def outputs(vector: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std [2 O] of one datum, twice: to be derived, and as they are."""
        mean, std = model.predict({**order.split(vector), **fixed}, row[None])
        both = torch.cat([mean[0], std[0]])
        return both, both

    jacobians = torch.func.vmap(torch.func.jacrev(outputs, has_aux=True), (None, 0))
    prior = normal_prior(model)
    precision = torch.diag(order.join_normal(prior).scale.double() ** -2)
    log_joint = log_prior({name: prior[name] for name in random}, {name: value[None] for name, value in random.items()})
    log_joint = log_joint.double()
    theta = {**random, **fixed}
    chunk = max(1, _CHUNK // (2 * model.output_dim * len(vector)))
    for rows, targets in zip(torch.split(x, chunk), torch.split(y, chunk), strict=True):
        jacobian, both = jacobians(vector, rows)  # [n, 2 O, P], [n, 2 O]
        mean, std = both.double().chunk(2, -1)
        information = torch.cat(model.likelihood.fisher_information(mean, std), -1)
        root = (jacobian * information.sqrt().unsqueeze(-1)).flatten(0, 1)
        precision.addmm_(root.T, root)
        log_joint = log_joint + model.log_likelihood(theta, rows, targets).double().sum()
    return precision, float(log_joint)


def _cholesky(precision: Tensor) -> Tensor:
    """Its lower factor. Raises ValueError when it is not positive definite, which rounding alone can bring about."""
    triangular: Tensor
    triangular, failure = torch.linalg.cholesky_ex(precision)
    diagonal = precision.diagonal()
    require(
        (
            int(failure) == 0 and bool(triangular.isfinite().all()),
            f"the posterior precision at the maximum is not positive definite to machine precision (its diagonal spans "
            f"{float(diagonal.min()):.1e} to {float(diagonal.max()):.1e}): standardise the inputs, raise the model's "
            "noise floor, or give a narrower prior",
        )
    )
    return triangular
