"""Mean-field variational inference with Pyro: q(θ) = Π_i N(θ_i | μ_i, σ_i²), fitted by maximising the ELBO.

Source: Blundell et al. (2015), eq. 1-2; the gradient's identities: gaussian_weights.py. Axes: K particles, P entries
of a group of parameters.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    log_prior,
    named_parts,
    normal_prior,
    warm_start_as,
)
from bayes_mbrl.inference.gaussian_weights import FlipoutNormal, LocalNormal
from bayes_mbrl.inference.layers import Parameter
from bayes_mbrl.inference.optimise import FitInfo, finished, minibatches, minimise
from bayes_mbrl.inference.parameter_vector import ParameterVector
from bayes_mbrl.inference.pyro_elbo import Latent, negative_elbo, pyro_session

Gradient = Literal["local-reparameterisation", "flipout", "weight-sampling"]

_PER_DATUM: Mapping[Gradient, type[LocalNormal | FlipoutNormal]] = {
    "local-reparameterisation": LocalNormal,
    "flipout": FlipoutNormal,
}


@dataclasses.dataclass(frozen=True)
class MeanFieldPosterior(Posterior):
    """q(θ) = Π_i N(θ_i | loc_i, scale_i²)."""

    kind: ClassVar[str] = "mean-field"

    loc: Theta
    """Means by name, in the shape of the parameter."""
    scale: Theta
    """Standard deviations by name, in the shape of the parameter."""

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """loc + scale · ε, ε standard normal: {name: [n, ...]}."""
        return {
            name: torch.addcmul(loc, self.scale[name], loc.new_empty(n, *loc.shape).normal_(generator=generator))
            for name, loc in self.loc.items()
        }

    def log_density(self, theta: Theta) -> Tensor:
        """Σ_i log N(θ_i | loc_i, scale_i²): [K]."""
        return log_prior(
            {name: Normal(loc.double(), self.scale[name].double()) for name, loc in self.loc.items()},
            {name: theta[name].double() for name in self.loc},
        )

    def tensors(self) -> dict[str, Tensor]:
        """`loc/<name>` and `scale/<name>`."""
        return {f"{part}/{name}": t for part in ("loc", "scale") for name, t in getattr(self, part).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        return cls(*named_parts(tensors, ("loc", "scale")))


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 2e-2,
    num_particles: Annotated[int, Gt(0)] = 1,
    kl_weight: Annotated[float, Gt(0)] = 1.0,
    kl_warmup: Annotated[float, Ge(0), Le(1)] = 1 / 3,
    initial_scale: Annotated[float, Gt(0)] = 0.02,
    average_last: Annotated[float, Ge(0), Le(1)] = 0.0,
    gradient: Gradient = "local-reparameterisation",
) -> tuple[MeanFieldPosterior, FitInfo]:
    """argmax_q E_q[log p(y | x, θ)] − kl_weight · KL(q ‖ p), the ELBO at kl_weight 1.

    x [N, D], y [N, O]. The KL counts once for the whole data set, the likelihood of a minibatch of n counts N/n
    times, so the result does not depend on `batch_size`.

    gradient says how θ is drawn while fitting: "local-reparameterisation", the outputs of the affine layers datum by
    datum; "flipout", one draw of the weights a particle, whose signs differ from datum to datum (with both, parameters
    outside affine layers are drawn once a particle); "weight-sampling", one θ a particle for the whole minibatch. The
    expectation is the same, the noise is not: the first has least. `num_particles` such draws are averaged in every
    step, in one batched pass.

    `kl_warmup` is the share of the steps over which the KL's weight grows from 0, `initial_scale` is in units of the
    prior's std. `average_last` is the share of the steps whose iterates are averaged at the end: it takes out noise,
    of weight sampling above all, but networks still learn in those steps. The info's losses are −ELBO at the step's KL
    weight, in nats.

    Adam stops at a distance from an optimum along which parameters are correlated, and −ELBO, flat there, does not show
    it: where the posterior's means matter to a fraction of their std, take more steps, `num_particles` 4 and more,
    `average_last` 0.3. The defaults suit networks.

    Raises ValueError for settings or data out of bounds, DivergedFitError when the fit diverges.
    """
    check_regression_data(model, x, y)
    groups = _groups(model, warm_start, initial_scale, gradient, generator)
    rows = minibatches(len(x), batch_size, generator=generator)

    def loss(step: int) -> Tensor:
        batch = next(rows)
        return _negative_elbo(
            model,
            groups,
            x[batch],
            y[batch],
            kl_weight=warmed_up(kl_weight, step, kl_warmup * num_steps),
            likelihood_scale=len(x) / len(batch),
            num_particles=num_particles,
        )

    leaves = [leaf for group in groups.values() for leaf in (group.loc, group.log_scale)]
    with pyro_session(generator):
        info = minimise(loss, leaves, num_steps=num_steps, learning_rate=learning_rate, average_last=average_last)
    loc = {name: v for group in groups.values() for name, v in group.vector.split(group.loc.detach()).items()}
    scale = {
        name: v for group in groups.values() for name, v in group.vector.split(group.log_scale.detach().exp()).items()
    }
    order = model.prior()
    return finished(MeanFieldPosterior({n: loc[n] for n in order}, {n: scale[n] for n in order}), info)


def warmed_up(kl_weight: float, step: int, num_warmup: float) -> float:
    """The KL's weight at a step: it grows linearly over the first `num_warmup` steps."""
    return kl_weight * min(1.0, (step + 1) / max(1.0, num_warmup))


def elbo(
    model: Model, posterior: MeanFieldPosterior, x: Tensor, y: Tensor, *, num_samples: int, generator: torch.Generator
) -> tuple[float, float]:
    """(E_q[log p(y | x, θ)] − KL(q ‖ p), its Monte Carlo standard error), in nats of the whole data set.

    At the mean-field optimum of a linear-Gaussian model this is log evidence − KL(q ‖ p(θ | D)).
    """
    log_likelihood = model.log_likelihood(posterior.sample(num_samples, generator=generator), x, y).sum(-1)
    prior = normal_prior(model)
    divergence = sum(
        kl_divergence(Normal(posterior.loc[name], posterior.scale[name]), prior[name]).sum() for name in prior
    )
    error = float(log_likelihood.std()) / math.sqrt(num_samples)
    return float(log_likelihood.mean() - divergence), error


@dataclasses.dataclass(frozen=True)
class _Group:
    """Parameters that are drawn alike, as one latent [P]: Pyro's cost is by the site, not by the size."""

    vector: ParameterVector
    prior: Normal
    loc: Tensor
    log_scale: Tensor
    per_datum: type[LocalNormal | FlipoutNormal] | None
    """How they are drawn for each datum; None: once a particle."""

    def latent(self, num_particles: int, kl_weight: float) -> Latent:
        """Its site: [P], or [K, P], where each of the K copies counts a K-th of the KL."""
        guide = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        if self.per_datum is not None:
            return Latent(self.prior, guide, kl_weight, drawn=False)
        shape = (num_particles, self.vector.size)
        return Latent(_expand(self.prior, shape), _expand(guide, shape), kl_weight / num_particles)

    def theta(self, latent: Latent, value: Tensor) -> dict[str, Parameter]:
        """What the model computes with: the value by name, or weights that are drawn anew for every datum."""
        if self.per_datum is None:
            return {**self.vector.split(value)}
        assert isinstance(latent.guide, Normal)
        loc, scale = self.vector.split(latent.guide.loc), self.vector.split(latent.guide.scale)
        return {name: self.per_datum(loc[name], scale[name]) for name in loc}


def _groups(
    model: Model,
    warm_start: Posterior | None,
    initial_scale: float,
    gradient: Gradient,
    generator: torch.Generator,
) -> dict[str, _Group]:
    """The parameters that are drawn datum by datum and the others, with where they start from: the last fit's loc and
    scale, or the model's initial values with a small spread.
    """
    prior = normal_prior(model)
    if warm_start is None:
        theta = {name: value[0] for name, value in model.initial(1, generator=generator).items()}
        scale = {name: initial_scale * distribution.scale for name, distribution in prior.items()}
    else:
        last = warm_start_as(MeanFieldPosterior, warm_start, model)
        theta, scale = last.loc, last.scale

    def group(names: Collection[str], per_datum: type[LocalNormal | FlipoutNormal] | None) -> _Group:
        vector = ParameterVector.of(model, names)
        loc, log_scale = vector.join(theta).clone(), vector.join(scale).log()
        return _Group(vector, vector.join_normal(prior), loc.requires_grad_(), log_scale.requires_grad_(), per_datum)

    local = frozenset[str]() if gradient == "weight-sampling" else model.affine_parameters
    groups = {}
    if local:
        groups["per_datum"] = group(local, _PER_DATUM[gradient])
    if others := prior.keys() - local:
        groups["others"] = group(others, None)
    return groups


def _negative_elbo(
    model: Model,
    groups: Mapping[str, _Group],
    x: Tensor,
    y: Tensor,
    *,
    kl_weight: float,
    likelihood_scale: float,
    num_particles: int,
) -> Tensor:
    """−(likelihood_scale · log p(y | x, θ) − kl_weight · KL).

    All particles go through the model in one batch: Pyro's own would take them one by one.
    """
    latents = {name: group.latent(num_particles, kl_weight) for name, group in groups.items()}

    def log_likelihood(values: Mapping[str, Tensor]) -> Tensor:
        theta: dict[str, Parameter] = {}
        for name, group in groups.items():
            theta |= group.theta(latents[name], values[name])
        log_likelihoods = model.log_likelihood(theta, x.expand(num_particles, *x.shape), y)
        return likelihood_scale / num_particles * log_likelihoods.sum()

    return negative_elbo(latents, log_likelihood)


def _expand(normal: Normal, shape: tuple[int, ...]) -> Normal:
    return Normal(normal.loc.expand(shape), normal.scale.expand(shape), validate_args=False)
