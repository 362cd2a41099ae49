"""A Bayesian network for regression: mean and std of y_i from a fully connected network, weights with normal priors.

Axes: K parameter samples, N data, D inputs, O outputs.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from bayes_mbrl.inference.base import Theta, require
from bayes_mbrl.inference.layers import Parameter, affine
from bayes_mbrl.inference.likelihoods import Likelihood, LikelihoodName, WithBinary, likelihood_by_name
from bayes_mbrl.inference.regression import Regression
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch

Activation = Literal["silu", "tanh", "relu"]
Noise = Literal["heteroscedastic", "homoscedastic", "fixed"]

_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # name: (a new tensor, in place)
    "silu": (torch.ops.aten.silu, torch.ops.aten.silu_),
    "tanh": (torch.tanh, torch.tanh_),
    "relu": (torch.relu, torch.relu_),
}

BINARY_STD = 0.2
"""Standard deviation of the latent number of which a binary output is the sign: the prior expects clear boundaries."""

_LARGE, _SMALL = 30.0, 0.01
"""Root mean square above which a column is doubted, and standard deviation below which one that varies is."""


class BayesianNetwork(Regression):
    """p(y | x, θ) with mean and std by a fully connected network; no hidden layer makes it a linear regression.

    Parameters are `weight_0` [D, width], `bias_0` [width], … and, with homoscedastic noise, `log_noise_std` [O].
    Priors: weights N(0, prior_scale² / fan_in), biases and `log_noise_std` N(0, prior_scale²). With
    `prior_scale_log_std` above 0 the scale of each layer's weights is unknown too, a hierarchical prior:
    exp(`log_scale_<layer>`) multiplies the layer's weights, `log_scale_<layer>` ~ N(0, prior_scale_log_std²). Scale
    and weights are separate parameters ("non-centred"): all stay independent a priori.

    noise says where the std comes from: "heteroscedastic", an output of the network; "homoscedastic", one learned
    number an output; "fixed", `noise_std` (then maximum likelihood is least squares). A learned std is bounded
    softly, to (min_std, min_std + max_std) in units of y, as in PETS (Chua et al. 2018, appendix A.1). likelihood
    says how y scatters: "normal", or "student-t" with `degrees_of_freedom`, whose std is a standard deviation too.

    The last `num_binary` outputs are binary, 0 or 1: the network predicts a latent number for each and
    P(y = 1) = Φ(latent / `BINARY_STD`), whatever `noise` and `likelihood` say of the others (see `WithBinary`).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        hidden: Sequence[int] = (50, 50),
        activation: Activation = "silu",
        noise: Noise = "heteroscedastic",
        noise_std: float = 0.05,
        min_std: float = 1e-3,
        max_std: float = 2.0,
        prior_scale: float = 1.0,
        prior_scale_log_std: float = 0.0,
        likelihood: LikelihoodName = "normal",
        degrees_of_freedom: float = 4.0,
        num_binary: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require(
            (input_dim >= 1 and output_dim >= 1, f"need input_dim, output_dim >= 1, got {input_dim}, {output_dim}"),
            (0 <= num_binary <= output_dim, f"need 0 <= num_binary <= output_dim, got {num_binary} and {output_dim}"),
            (all(width >= 1 for width in hidden), f"need every hidden width >= 1, got {list(hidden)}"),
            (activation in _ACTIVATIONS, f"activation is one of {', '.join(_ACTIVATIONS)}, got {activation!r}"),
            (noise in ("heteroscedastic", "homoscedastic", "fixed"), f"unknown noise {noise!r}"),
            (noise_std > 0, f"need noise_std > 0, got {noise_std}"),
            (0 < min_std < max_std, f"need 0 < min_std < max_std, got {min_std} and {max_std}"),
            (prior_scale > 0, f"need prior_scale > 0, got {prior_scale}"),
            (prior_scale_log_std >= 0, f"need prior_scale_log_std >= 0, got {prior_scale_log_std}"),
        )
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.activation = activation
        self.num_binary = num_binary
        num_continuous = output_dim - num_binary
        self.likelihood: Likelihood = likelihood_by_name(likelihood, degrees_of_freedom)
        if num_binary:
            self.likelihood = WithBinary(self.likelihood, num_continuous)
        self.prior_scale_log_std = prior_scale_log_std
        self.noise = noise
        self.noise_std = noise_std
        self.prior_scale = prior_scale
        self.dtype = dtype
        self.device = torch.device(device)
        self._fixed_std = torch.full((), noise_std, dtype=dtype, device=device)
        self._activate, self.activate_in_place = _ACTIVATIONS[activation]
        self.min_std = min_std
        self.max_std = max_std
        self._binary_std = torch.full((num_binary,), BINARY_STD, dtype=dtype, device=device)
        last = output_dim + num_continuous if noise == "heteroscedastic" else output_dim
        self.layer_sizes = [input_dim, *hidden, last]

    def to(self, device: torch.device) -> "BayesianNetwork":
        """The same network for parameters on this device."""
        moved = copy.copy(self)
        moved.device = device
        moved._fixed_std, moved._binary_std = self._fixed_std.to(device), self._binary_std.to(device)
        return moved

    @property
    def affine_parameters(self) -> frozenset[str]:
        """All weights and biases."""
        return frozenset(name for name in self.prior() if not name.startswith("log_"))

    @property
    def hidden_weights(self) -> frozenset[str]:
        """The weights of all layers but the first."""
        return frozenset(f"weight_{layer}" for layer in range(1, self.num_layers))

    @property
    def last_layer(self) -> frozenset[str]:
        """Weight, bias and scale of the last layer, and a learned noise."""
        last = f"_{self.num_layers - 1}"
        return frozenset(name for name in self.prior() if name.endswith(last) or name == "log_noise_std")

    @property
    def num_layers(self) -> int:
        """Number of affine layers."""
        return len(self.layer_sizes) - 1

    def prior(self) -> dict[str, Distribution]:
        """Independent normals; see the class."""
        priors: dict[str, Distribution] = {}
        for layer, (fan_in, width) in enumerate(zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True)):
            priors[f"weight_{layer}"] = self._normal(self.prior_scale / math.sqrt(fan_in), fan_in, width)
            priors[f"bias_{layer}"] = self._normal(self.prior_scale, width)
            if self.prior_scale_log_std:
                priors[f"log_scale_{layer}"] = self._normal(self.prior_scale_log_std)
        if self.noise == "homoscedastic":
            priors["log_noise_std"] = self._normal(self.prior_scale, self.output_dim - self.num_binary)
        return priors

    def doubts(self, x: Tensor, y: Tensor) -> list[str]:
        """Columns far from unit scale: the priors and the bounds of the noise expect standardised data."""
        return [
            f"column {column} of {name} has mean {float(mean):.3g} and standard deviation {float(std):.3g}, the prior "
            "expects about 0 and 1: standardise the data, as bayes_mbrl.dynamics.standardise.Standardiser does"
            for name, values in (("x", x), ("y", y[:, : self.output_dim - self.num_binary]))
            for column, (mean, std) in enumerate((v.mean(), v.std(correction=0)) for v in values.unbind(1))
            if math.hypot(mean, std) > _LARGE or 1e-6 * abs(mean) < std < _SMALL
        ]

    def initial(self, n: int, *, generator: torch.Generator) -> Theta:
        """Weights ~ N(0, 1 / fan_in), everything else 0: {name: [n, ...]}."""
        theta = {}
        for name, prior in self.prior().items():
            value = torch.zeros(n, *prior.batch_shape, dtype=self.dtype, device=self.device)
            if name.startswith("weight"):
                value = value.normal_(0.0, 1 / math.sqrt(prior.batch_shape[0]), generator=generator)
            theta[name] = value
        return theta

    def predict(
        self, theta: Mapping[str, Parameter], x: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Regression.predict`."""
        for layer in range(self.num_layers):
            name = f"layer_{layer}"
            if self.prior_scale_log_std:
                scale = _value(theta[f"log_scale_{layer}"]).exp()[..., None, None]
                shape = (*scale.shape[:-2], *x.shape[-2:])
                x = torch.mul(x, scale, out=scratch.take(f"scaled_{layer}", shape, x))
            x = affine(x, theta[f"weight_{layer}"], theta[f"bias_{layer}"], scratch=scratch, name=name)
            if layer < self.num_layers - 1:
                x = self.activate_in_place(x) if scratch.reuses else self._activate(x)
        if self.noise == "heteroscedastic":
            mean, raw = x[..., : self.output_dim], x[..., self.output_dim :]
            return mean, self._with_binary(self._bounded_std(raw, scratch), scratch)
        if self.noise == "homoscedastic":
            std = self._bounded_std(_value(theta["log_noise_std"]).unsqueeze(-2), scratch)
            return x, self._with_binary(std, scratch).expand_as(x)
        continuous = self._fixed_std.expand(self.output_dim - self.num_binary)
        return x, self._with_binary(continuous, scratch).expand_as(x)

    def _with_binary(self, std: Tensor, scratch: Scratch) -> Tensor:
        """std [..., O'] of the continuous outputs → [..., O]."""
        if not self.num_binary:
            return std
        leading = std.shape[:-1]
        out = scratch.take("std_with_binary", (*leading, self.output_dim), std)
        return torch.cat([std, self._binary_std.expand(*leading, -1)], -1, out=out)

    def _normal(self, std: float, *shape: int) -> Normal:
        zeros = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return Normal(zeros, torch.full_like(zeros, std), validate_args=False)

    def _bounded_std(self, raw: Tensor, scratch: Scratch) -> Tensor:
        """min_std + max_std · sigmoid(raw − log max_std): exp(raw) inside bounds, PETS' two softplus in closed form."""
        out = scratch.take("std", raw.shape, raw)
        share = torch.sigmoid(torch.sub(raw, math.log(self.max_std), out=out), out=out)
        return torch.add(torch.mul(share, self.max_std, out=out), self.min_std, out=out)


def _value(parameter: Parameter) -> Tensor:
    assert isinstance(parameter, Tensor), "only the parameters of affine layers may be random weights"
    return parameter
