"""Mean-field variational inference with Pyro: q(θ) = Π_i N(θ_i | μ_i, σ_i²), fitted by maximising the ELBO.

Source: Blundell et al. (2015), eq. 1-2; local reparameterisation: Kingma et al. (2015), eq. 6. This is Pyro's only
home. Every latent has real support, so the analytic KL of `TraceMeanField_ELBO` lacks no Jacobian.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, cast

import pyro
import torch
from annotated_types import Ge, Gt, Le
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    normal_prior,
    parameter_shapes,
    seeded_global_state,
    warm_start_as,
)
from bayes_mbrl.inference.layers import Parameter, RandomWeight
from bayes_mbrl.inference.optimise import FitInfo, finished, minibatches, minimise

Gradient = Literal["local-reparameterisation", "weight-sampling"]


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

    def tensors(self) -> dict[str, Tensor]:
        """`loc/<name>` and `scale/<name>`."""
        return {f"{part}/{name}": t for part in ("loc", "scale") for name, t in getattr(self, part).items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        parts: dict[str, Theta] = {"loc": {}, "scale": {}}
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        return cls(**parts)


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
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
    num_particles: Annotated[int, Gt(0)] = 1,
    kl_weight: Annotated[float, Gt(0)] = 1.0,
    kl_warmup: Annotated[float, Ge(0), Le(1)] = 1 / 3,
    initial_scale: Annotated[float, Gt(0)] = 0.02,
    average_last: Annotated[float, Ge(0), Le(1)] = 0.0,
    gradient: Gradient = "local-reparameterisation",
) -> tuple[MeanFieldPosterior, FitInfo]:
    """argmax_q E_q[log p(y | x, θ)] − kl_weight · KL(q ‖ p), the ELBO at kl_weight 1.

    x [N, D], y [N, O]. The KL counts once for the whole data set, the likelihood of a minibatch of n counts N/n
    times, so the result does not depend on `batch_size`. "local-reparameterisation" draws the outputs of the affine
    layers datum by datum (parameters outside affine layers are sampled as always); "weight-sampling" draws one θ a
    minibatch. `num_particles` such draws are averaged in every step, in one batched pass. `kl_warmup` is the share of
    the steps over which the KL's weight grows from 0, `initial_scale` is in units of the prior's std. `average_last`
    is the share of the steps whose iterates are averaged at the end: it takes out noise, of weight sampling above
    all, but networks still learn in those steps. The info's losses are −ELBO at the step's KL weight, in nats.

    Raises ValueError for settings or data out of bounds, DivergedFitError when the fit diverges.
    """
    check_regression_data(model, x, y)
    local = model.affine_parameters if gradient == "local-reparameterisation" else frozenset[str]()
    layout = _Layout.of(model, local)
    prior = layout.join(normal_prior(model))
    loc, log_scale = layout.initial(model, warm_start, initial_scale, generator)
    rows = minibatches(len(x), batch_size, generator=generator)

    def loss(step: int) -> Tensor:
        batch = next(rows)
        return _negative_elbo(
            model,
            layout,
            prior,
            Normal(loc, log_scale.exp(), validate_args=False),
            x[batch],
            y[batch],
            kl_weight=kl_weight * min(1.0, (step + 1) / max(1.0, kl_warmup * num_steps)),
            likelihood_scale=len(x) / len(batch),
            num_particles=num_particles,
        )

    with seeded_global_state(generator), pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN")  # `minimise` raises, and says what to do
        info = minimise(
            loss, [loc, log_scale], num_steps=num_steps, learning_rate=learning_rate, average_last=average_last
        )
    return finished(MeanFieldPosterior(layout.split(loc.detach()), layout.split(log_scale.detach().exp())), info)


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


class LocalNormal(RandomWeight):
    """A weight N(loc, scale²) drawn anew for every datum, by drawing the layer's output (Kingma et al. 2015, eq. 6)."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.variance = scale**2

    def affine(self, x: Tensor, bias: Parameter) -> Tensor:
        """N(x loc + b, x² variance + variance of b), independent over data: x [..., D] → [..., O]."""
        assert isinstance(bias, LocalNormal), "weight and bias of a layer are random together"
        rows = x.flatten(0, -2)
        mean = torch.addmm(bias.loc, rows, self.loc)
        std = torch.addmm(bias.variance, rows * rows, self.variance).sqrt()
        return torch.addcmul(mean, std, torch.randn_like(mean)).view(*x.shape[:-1], -1)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """All parameters in one vector [P], those drawn datum by datum first: Pyro's cost is by the site, not the size."""

    shapes: dict[str, torch.Size]
    local: frozenset[str]

    @classmethod
    def of(cls, model: Model, local: frozenset[str]) -> Self:
        shapes = parameter_shapes(model)
        return cls({name: shapes[name] for name in sorted(shapes, key=lambda name: name not in local)}, local)

    @property
    def num_local(self) -> int:
        """Number of entries that are drawn datum by datum."""
        return sum(self.shapes[name].numel() for name in self.local)

    def join(self, normals: Mapping[str, Normal]) -> Normal:
        """Normals by name as one over [P]."""
        loc, scale = ([getattr(normals[name], part).flatten() for name in self.shapes] for part in ("loc", "scale"))
        return Normal(torch.cat(loc), torch.cat(scale), validate_args=False)

    def split(self, vector: Tensor) -> Theta:
        """[..., P] → {name: [..., *shape]}."""
        parts = torch.split(vector, [shape.numel() for shape in self.shapes.values()], -1)
        leading = vector.shape[:-1]
        return {
            name: part.reshape(leading + shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def initial(
        self, model: Model, warm_start: Posterior | None, initial_scale: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(loc, log scale) [P] to start from: the last fit's, or the model's initial values with a small spread."""
        if warm_start is None:
            theta = model.initial(1, generator=generator)
            prior = normal_prior(model)
            start = {name: Normal(theta[name][0], initial_scale * prior[name].scale) for name in self.shapes}
        else:
            last = warm_start_as(MeanFieldPosterior, warm_start, model)
            start = {name: Normal(last.loc[name], last.scale[name]) for name in self.shapes}
        joined = self.join(start)
        return joined.loc.requires_grad_(), joined.scale.log().requires_grad_()


def _negative_elbo(
    model: Model,
    layout: _Layout,
    prior: Normal,
    guide: Normal,
    x: Tensor,
    y: Tensor,
    *,
    kl_weight: float,
    likelihood_scale: float,
    num_particles: int,
) -> Tensor:
    """−(likelihood_scale · log p(y | x, θ) − kl_weight · KL), by Pyro; prior and guide over all parameters [P].

    All particles go through the model in one batch: Pyro's own would take them one by one.
    """
    first = layout.num_local

    def sample(normal: Normal) -> Tensor:
        """[K, P]; the local entries, which nothing looks at, are there for their KL and drawn once."""
        with pyro.poutine.scale(scale=kl_weight):
            local = _sample("local", normal.loc[:first], normal.scale[:first])
        particles = (num_particles, len(normal.loc) - first)
        with pyro.poutine.scale(scale=kl_weight / num_particles):
            others = _sample("others", normal.loc[first:].expand(particles), normal.scale[first:].expand(particles))
        return torch.cat([local.expand(num_particles, first), others], -1)

    def pyro_model() -> None:
        theta: dict[str, Parameter] = {**layout.split(sample(prior))}
        loc, scale = layout.split(guide.loc), layout.split(guide.scale)
        theta |= {name: LocalNormal(loc[name], scale[name]) for name in layout.local}
        with pyro.poutine.scale(scale=likelihood_scale / num_particles):
            log_likelihood = model.log_likelihood(theta, x.expand(num_particles, *x.shape), y)
            pyro.factor("log_likelihood", log_likelihood.sum())

    elbo = TraceMeanField_ELBO()  # type: ignore[no-untyped-call]
    return cast(Tensor, elbo.differentiable_loss(pyro_model, lambda: sample(guide)))  # type: ignore[no-untyped-call]


def _sample(name: str, loc: Tensor, scale: Tensor) -> Tensor:
    """One Pyro site for all entries."""
    distribution = pyro.distributions.Normal(loc, scale).to_event(loc.ndim)  # type: ignore[no-untyped-call]
    return pyro.sample(name, distribution)
