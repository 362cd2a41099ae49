"""Low-rank Gaussian variational inference with Pyro: q(θ) = N(θ | loc, F Fᵀ + diag scale²), F [P, rank].

What a mean field cannot say, that parameters are known together and not alone, r directions of it can be said here.
Source: Ong, Nott & Smith (2018), eq. 3-4. Axes: K particles, P entries of all parameters together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    named_parts,
    normal_prior,
    require,
    warm_start_as,
)
from bayes_mbrl.inference.gaussian_weights import LocalNormal
from bayes_mbrl.inference.layers import Parameter
from bayes_mbrl.inference.optimise import FitInfo, finished, minibatches, minimise
from bayes_mbrl.inference.parameter_vector import ParameterVector
from bayes_mbrl.inference.pyro_elbo import Latent, negative_elbo, pyro_session
from bayes_mbrl.inference.svi import warmed_up


@dataclasses.dataclass(frozen=True)
class LowRankPosterior(Posterior):
    """θ = loc + scale · η + Σ_r factor_r ε_r, η and ε standard normal."""

    kind: ClassVar[str] = "low-rank"

    loc: Theta
    """Means by name, in the shape of the parameter."""
    scale: Theta
    """Standard deviations of the independent part by name, in the shape of the parameter."""
    factor: Theta
    """Directions by name: {name: [rank, ...]}."""

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(next(iter(self.factor.values())))

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """{name: [n, ...]}; the ε of a draw are common to all its parameters."""
        like = next(iter(self.loc.values()))
        common = like.new_empty(n, self.rank).normal_(generator=generator)
        return {
            name: torch.addcmul(loc, self.scale[name], loc.new_empty(n, *loc.shape).normal_(generator=generator))
            + torch.tensordot(common, self.factor[name], 1)
            for name, loc in self.loc.items()
        }

    def log_density(self, theta: Theta) -> Tensor:
        """log N(θ | loc, F Fᵀ + diag scale²): [K]."""
        loc, scale = (
            torch.cat([part[name].flatten() for name in self.loc]).double() for part in (self.loc, self.scale)
        )
        factor, values = (
            torch.cat([part[name].reshape(len(part[name]), -1) for name in self.loc], 1).double()
            for part in (self.factor, theta)
        )
        density: Tensor = LowRankMultivariateNormal(loc, factor.T, scale**2).log_prob(values)  # type: ignore[no-untyped-call]
        return density

    def tensors(self) -> dict[str, Tensor]:
        """`loc/<name>`, `scale/<name>` and `factor/<name>`."""
        parts = ("loc", "scale", "factor")
        return {f"{part}/{name}": tensor for part in parts for name, tensor in getattr(self, part).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(*named_parts(tensors, ("loc", "scale", "factor")))


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    rank: Annotated[int, Gt(0)] = 10,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 2e-2,
    num_particles: Annotated[int, Gt(0)] = 1,
    kl_weight: Annotated[float, Gt(0)] = 1.0,
    kl_warmup: Annotated[float, Ge(0), Le(1)] = 1 / 3,
    initial_scale: Annotated[float, Gt(0)] = 0.02,
) -> tuple[LowRankPosterior, FitInfo]:
    """argmax_q E_q[log p(y | x, θ)] − kl_weight · KL(q ‖ p) over Gaussians of this rank, the ELBO at kl_weight 1.

    x [N, D], y [N, O]. With as many directions as there are parameters (a `rank` above is lowered to that) the
    covariance is free: exact for a linear model with known noise. The common part of θ is drawn once a particle, the
    independent part datum by datum as in svi.py, whose `fit` explains the other settings. Iterates are not averaged: F
    may turn without changing q, and the mean of turned factors is too small. A covariance takes its time: for a handful
    of parameters take 4000 steps at learning rate 0.03 and 16 or more particles; the defaults suit networks.

    Raises ValueError for settings or data out of bounds or a warm start of another rank, DivergedFitError when the fit
    diverges.
    """
    check_regression_data(model, x, y)
    vector = ParameterVector.of(model)
    prior = vector.join_normal(normal_prior(model))
    guide = _initial(model, vector, warm_start, min(rank, vector.size), initial_scale, generator)
    rows = minibatches(len(x), batch_size, generator=generator)

    def loss(step: int) -> Tensor:
        batch = next(rows)
        scale, factor = guide.scale_and_factor()
        q = LowRankMultivariateNormal(guide.loc, factor.T, scale**2, validate_args=False)

        def log_likelihood(values: Mapping[str, Tensor]) -> Tensor:
            theta = _draw(model, vector, guide.loc, scale, factor, num_particles)
            log_likelihoods = model.log_likelihood(theta, x[batch].expand(num_particles, -1, -1), y[batch])
            return len(x) / len(batch) / num_particles * log_likelihoods.sum()

        latent = Latent(prior, q, warmed_up(kl_weight, step, kl_warmup * num_steps), drawn=False)
        return negative_elbo({"theta": latent}, log_likelihood)

    leaves = [guide.loc, guide.log_scale, guide.relative_factor]
    with pyro_session(generator):
        info = minimise(loss, leaves, num_steps=num_steps, learning_rate=learning_rate)
    with torch.no_grad():
        parts = [vector.split(part) for part in (guide.loc.detach(), *guide.scale_and_factor())]
    return finished(LowRankPosterior(*parts), info)


@dataclasses.dataclass(frozen=True)
class _Guide:
    """What is optimised. The directions are in units of the independent part's scale: Adam's steps have one length for
    all parameters, and a weight's posterior may be a thousand times narrower than another's.
    """

    loc: Tensor
    """[P]"""
    log_scale: Tensor
    """[P]"""
    relative_factor: Tensor
    """[rank, P]"""

    def scale_and_factor(self) -> tuple[Tensor, Tensor]:
        """(scale [P], factor [rank, P])."""
        scale = self.log_scale.exp()
        return scale, scale * self.relative_factor


def _initial(
    model: Model,
    vector: ParameterVector,
    warm_start: Posterior | None,
    rank: int,
    initial_scale: float,
    generator: torch.Generator,
) -> _Guide:
    """The last fit, or the model's initial values with a small spread and smaller random directions."""
    if warm_start is None:
        theta = {name: value[0] for name, value in model.initial(1, generator=generator).items()}
        loc = vector.join(theta).clone()
        scale = initial_scale * vector.join_normal(normal_prior(model)).scale
        relative = 0.1 * loc.new_empty(rank, vector.size).normal_(generator=generator)
    else:
        last = warm_start_as(LowRankPosterior, warm_start, model)
        require((last.rank == rank, f"need a warm_start of the same rank, got {last.rank} and {rank}"))
        loc, scale = vector.join(last.loc).clone(), vector.join(last.scale)
        factor = torch.stack([vector.join({n: f[r] for n, f in last.factor.items()}) for r in range(rank)])
        relative = factor / scale
    return _Guide(loc.requires_grad_(), scale.log().requires_grad_(), relative.requires_grad_())


def _draw(
    model: Model, vector: ParameterVector, loc: Tensor, scale: Tensor, factor: Tensor, num_particles: int
) -> dict[str, Parameter]:
    """K draws of the common part [K, ...], and about them the weights of affine layers datum by datum."""
    common = loc + torch.randn(num_particles, len(factor), dtype=loc.dtype, device=loc.device) @ factor
    means, scales = vector.split(common), vector.split(scale)
    local = model.affine_parameters
    return {
        name: LocalNormal(mean, scales[name])
        if name in local
        else torch.addcmul(mean, scales[name], torch.randn_like(mean))
        for name, mean in means.items()
    }
