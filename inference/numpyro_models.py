"""The models of this package declared once more, for NumPyro: the same log joint in another framework.

Each kind of regression is a frozen function (θ, x) → (mean, std) in jax.numpy. As a key it tells which compiled sampler
serves a model; the prior and the data are arguments, so new data do not compile anew.
Axes: N data, D inputs, O outputs, P entries of all parameters together; θ is one sample, without an axis K.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro import distributions

from bayes_mbrl.inference.base import Model, parameter_shapes
from bayes_mbrl.inference.likelihoods import Likelihood, NormalLikelihood, StudentTLikelihood, WithBinary
from bayes_mbrl.inference.network import BINARY_STD, BayesianNetwork
from bayes_mbrl.inference.parametric import MeanFunction, ParametricRegression

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"silu": jax.nn.silu, "tanh": jnp.tanh, "relu": jax.nn.relu}


@dataclasses.dataclass(frozen=True)
class NumpyroModel:
    """A regression as NumPyro wants it: `numpyro.sample` for each parameter and for y. Equal ones sample equally."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """(name, shape) of the parameters, in the order in which they make a vector [P]."""
    observe: Callable[[Mapping[str, Array], Array, Array], None]
    """(θ, x [N, D], y [N, O]): the statement of NumPyro that y was observed."""

    def __call__(self, prior_loc: Array, prior_scale: Array, x: Array, y: Array) -> None:
        """p(θ) Π_i p(y_i | x_i, θ): mean and std of the normal priors [P], x [N, D], y [N, O]."""
        loc, scale = self.split(prior_loc), self.split(prior_scale)
        theta = {name: numpyro.sample(name, distributions.Normal(loc[name], scale[name]).to_event()) for name in loc}
        self.observe(theta, x, y)

    def split(self, vector: Array) -> dict[str, Array]:
        """[P] → {name: shape}."""
        ends = list(itertools.accumulate(math.prod(shape) for _, shape in self.shapes))
        parts = jnp.split(vector, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes, parts, strict=True)}


def numpyro_model(model: Model) -> NumpyroModel:
    """The NumPyro declaration of a model. Raises ValueError for a kind of model that has none."""
    shapes = tuple((name, tuple(shape)) for name, shape in parameter_shapes(model).items())
    if model.jax_log_likelihood is not None:
        return NumpyroModel(shapes, _Own(model.jax_log_likelihood))
    predict: Callable[[Mapping[str, Array], Array], tuple[Array, Array]]
    if isinstance(model, BayesianNetwork):
        predict = _Network(
            num_layers=model.num_layers,
            output_dim=model.output_dim,
            activation=model.activation,
            noise=model.noise,
            noise_std=model.noise_std,
            min_std=model.min_std,
            max_std=model.max_std,
            is_hierarchical=model.prior_scale_log_std > 0,
            num_binary=model.num_binary,
        )
    elif isinstance(model, ParametricRegression):
        latents = tuple((name, model.latent_name(name)) for name in model.priors)
        predict = _Parametric(model.function, latents, model.min_std)
    else:
        raise ValueError(
            f"NUTS knows BayesianNetwork and ParametricRegression, got a {type(model).__name__}: give it a "
            "jax_log_likelihood, its log_likelihood for one θ in jax.numpy"
        )
    likelihood = model.likelihood.base if isinstance(model.likelihood, WithBinary) else model.likelihood
    return NumpyroModel(shapes, _Regression(predict, _degrees_of_freedom(likelihood), model.num_binary))


@dataclasses.dataclass(frozen=True)
class _Regression:
    """y about a mean, with a std, both [N, O] or broadcast to it."""

    predict: Callable[[Mapping[str, Array], Array], tuple[Array, Array]]
    degrees_of_freedom: float | None
    """Of a Student-t likelihood; None is a normal one."""
    num_binary: int = 0
    """The last ones: probits, see `WithBinary`."""

    def __call__(self, theta: Mapping[str, Array], x: Array, y: Array) -> None:
        mean, std = self.predict(theta, x)
        if self.num_binary:
            first = y.shape[-1] - self.num_binary
            latent = (2 * y[:, first:] - 1) * mean[:, first:] / std[:, first:]
            numpyro.factor("binary y given x", _log_normal_cdf(latent).sum())
            y, mean, std = y[:, :first], mean[:, :first], std[:, :first]
        noise: Any = distributions.Normal(mean, std)
        if (nu := self.degrees_of_freedom) is not None:
            noise = distributions.StudentT(nu, mean, std * math.sqrt((nu - 2) / nu))
        numpyro.sample("y given x", noise.to_event(), obs=y)


@dataclasses.dataclass(frozen=True)
class _Own:
    """A user's `jax_log_likelihood`."""

    log_likelihood: Callable[[Mapping[str, Array], Array, Array], Array]

    def __call__(self, theta: Mapping[str, Array], x: Array, y: Array) -> None:
        numpyro.factor("y given x", self.log_likelihood(theta, x, y).sum())


@dataclasses.dataclass(frozen=True)
class _Network:
    """See `BayesianNetwork.predict`."""

    num_layers: int
    output_dim: int
    activation: str
    noise: str
    noise_std: float
    min_std: float
    max_std: float
    is_hierarchical: bool
    num_binary: int = 0

    def __call__(self, theta: Mapping[str, Array], x: Array) -> tuple[Array, Array]:
        for layer in range(self.num_layers):
            x = x * jnp.exp(theta[f"log_scale_{layer}"]) if self.is_hierarchical else x
            x = x @ theta[f"weight_{layer}"] + theta[f"bias_{layer}"]
            x = _ACTIVATIONS[self.activation](x) if layer < self.num_layers - 1 else x
        if self.noise == "heteroscedastic":
            return x[:, : self.output_dim], self._with_binary(self._bounded_std(x[:, self.output_dim :]))
        if self.noise == "homoscedastic":
            return x, jnp.broadcast_to(self._with_binary(self._bounded_std(theta["log_noise_std"])), x.shape)
        continuous = jnp.full_like(x, self.noise_std)[:, : self.output_dim - self.num_binary]
        return x, self._with_binary(continuous)

    def _with_binary(self, std: Array) -> Array:
        known = jnp.full((*std.shape[:-1], self.num_binary), BINARY_STD, std.dtype)
        return jnp.concatenate([std, known], -1)

    def _bounded_std(self, raw: Array) -> Array:
        return self.min_std + self.max_std * jax.nn.sigmoid(raw - math.log(self.max_std))


@dataclasses.dataclass(frozen=True)
class _Parametric:
    """See `ParametricRegression.predict`; functions are equal when they are the same object."""

    function: MeanFunction
    latents: tuple[tuple[str, str], ...]
    """(name in units, name in θ)."""
    min_std: float

    def __call__(self, theta: Mapping[str, Array], x: Array) -> tuple[Array, Array]:
        physical = {name: theta[latent] if name == latent else jnp.exp(theta[latent]) for name, latent in self.latents}
        columns: Any = {name: value[..., None] for name, value in physical.items()}
        mean: Any = self.function(columns, x, jnp)  # type: ignore[arg-type]
        return mean, self.min_std + jnp.exp(theta["log_noise_std"])


def _log_normal_cdf(z: Array) -> Array:
    """As JAX has it; below −20, where its gradient goes wrong in float32, by a series right to 3e-9.

    Source of the series: Abramowitz & Stegun (1964), 26.2.12.
    """
    far = jnp.minimum(z, -20.0)
    tail = jnp.log1p((3 / far**2 - 1) / far**2) - 0.5 * far**2 - jnp.log(-far) - 0.5 * math.log(2 * math.pi)
    return jnp.where(z < -20.0, tail, jax.scipy.special.log_ndtr(jnp.maximum(z, -20.0)))


def _degrees_of_freedom(likelihood: Likelihood) -> float | None:
    if isinstance(likelihood, StudentTLikelihood):
        return likelihood.degrees_of_freedom
    if isinstance(likelihood, NormalLikelihood):
        return None
    raise ValueError(
        f"NUTS knows normal and Student-t likelihoods, got a {type(likelihood).__name__}: "
        "declare it in inference/numpyro_models.py"
    )
