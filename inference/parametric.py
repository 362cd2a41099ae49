"""A regression with a handful of parameters that have names, units and priors: what system identification fits.

Source: lecture, "works well in classical robotics" (fit just a few parameters of a dynamics written from physics).
Axes: K parameter samples, N data, D inputs, O outputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.distributions import Distribution, LogNormal, Normal

from bayes_mbrl.inference.base import Theta, require, sample_prior
from bayes_mbrl.inference.layers import Parameter
from bayes_mbrl.inference.likelihoods import LikelihoodName, likelihood_by_name
from bayes_mbrl.inference.regression import Regression
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch

MeanFunction = Callable[[Mapping[str, Tensor], Tensor, ModuleType], Tensor]
"""(parameters by name, in their units; x [..., N, D]; the array library) → mean of y [..., N, O].

Each parameter broadcasts against a column `x[..., d]`. The library is torch, or jax.numpy under NUTS: use what both
have, as in `lib.stack([lib.sin(p["frequency"] * x[..., 0]) + p["offset"]], -1)`.
"""

DerivedFunction = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""parameters by name, in their units {name: [...]} → further quantities by name {name: [...]}"""


class ParametricRegression(Regression):
    """y = function(parameters, x) + noise_std · ε, with priors in physical units and learned noise.

    A prior is a `Normal`, or a `LogNormal` for a positive parameter. θ holds positive parameters by their logarithm,
    `log_<name>`, so that every latent is real and normal a priori, and no inference has to know about a Jacobian;
    `physical` turns θ back into units. `log_noise_std` [O] has the prior N(log noise_std, noise_log_std²), with
    `min_std` as a floor for the noise: data without any would else drive it to 0.

    `derived` maps the parameters in their units to more quantities of the same shape, by other names, that are to be
    reported but are no parameters: where the data tell of a product only, let the product be a parameter, which they
    identify, and report its factors. A posterior over the factors would lie along a ridge, which independent normals
    cannot follow.
    """

    def __init__(
        self,
        function: MeanFunction,
        priors: Mapping[str, Normal | LogNormal],
        *,
        derived: DerivedFunction | None = None,
        input_dim: int,
        output_dim: int,
        noise_std: float | Sequence[float] = 0.1,
        noise_log_std: float = 1.0,
        min_std: float = 1e-3,
        likelihood: LikelihoodName = "normal",
        degrees_of_freedom: float = 4.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        typical = torch.as_tensor(noise_std, dtype=dtype, device=device).expand(output_dim).clone()
        others = [name for name, prior in priors.items() if not isinstance(prior, Normal | LogNormal)]
        shaped = [name for name, prior in priors.items() if prior.batch_shape != torch.Size()]
        require(
            (input_dim >= 1 and output_dim >= 1, f"need input_dim, output_dim >= 1, got {input_dim}, {output_dim}"),
            (len(priors) > 0, "need at least one parameter in priors"),
            ("noise_std" not in priors, "noise_std is learned as it is: give that parameter another name"),
            (not others, f"need Normal or LogNormal (for positive parameters) priors, not so: {', '.join(others)}"),
            (not shaped, f"need scalar parameters, not so: {', '.join(shaped)}"),
            (bool((typical > 0).all()), f"need noise_std > 0, got {noise_std}"),
            (noise_log_std > 0 and min_std > 0, f"need noise_log_std, min_std > 0, got {noise_log_std}, {min_std}"),
        )
        self.function = function
        self.priors = dict(priors)
        self.derived = derived
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.min_std = min_std
        self.likelihood = likelihood_by_name(likelihood, degrees_of_freedom)
        self._noise_prior = Normal(typical.log(), torch.full_like(typical, noise_log_std), validate_args=False)
        self._check_names()

    def prior(self) -> dict[str, Distribution]:
        """Independent normals: over a parameter, over the logarithm of a positive one, over `log_noise_std`."""
        like = self._noise_prior.loc
        priors: dict[str, Distribution] = {
            self.latent_name(name): Normal(prior.loc.to(like), prior.scale.to(like), validate_args=False)
            for name, prior in self.priors.items()
        }
        return {**priors, "log_noise_std": self._noise_prior}

    def latent_name(self, name: str) -> str:
        """The name in θ of a parameter: `log_<name>` of a positive one, else its own."""
        return f"log_{name}" if isinstance(self.priors[name], LogNormal) else name

    def _check_names(self) -> None:
        """Two quantities under one name would be one, in silence."""
        latents = [*map(self.latent_name, self.priors), "log_noise_std"]
        twice = sorted({name for name in latents if latents.count(name) > 1})
        require((not twice, f"need other names in priors: a positive x is latent as log_x, so two would be {twice}"))
        if self.derived is not None:
            median = {name: prior.loc[None] for name, prior in self.prior().items() if isinstance(prior, Normal)}
            taken = sorted(self.derived(self._parameters(median)).keys() & {*self.priors, "noise_std"})
            require((not taken, f"need names of their own for derived quantities, {taken} are parameters"))

    def physical(self, theta: Mapping[str, Tensor]) -> Theta:
        """θ {name: [K, ...]} → parameters and derived quantities in their units, and `noise_std`: {name: [K, ...]}."""
        values = self._parameters(theta)
        derived = {} if self.derived is None else self.derived(values)
        return {**values, **derived, "noise_std": self._noise_std(theta)}

    def initial(self, n: int, *, generator: torch.Generator) -> Theta:
        """The prior's median, a tenth of its std beside it, and much noise, 3 std above its median: {name: [n, ...]}.

        Parameters that are still wrong leave large residuals. Under a small noise their gradients would be so huge
        that Adam, which remembers them for a thousand steps, would hardly move after.
        """
        start = sample_prior(self, n, generator=generator, spread=0.1)
        return {**start, "log_noise_std": start["log_noise_std"] + 3 * self._noise_prior.scale}

    def predict(
        self, theta: Mapping[str, Parameter], x: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        """See `Regression.predict`."""
        values = {name: value for name, value in theta.items() if isinstance(value, Tensor)}
        noise_std = self._noise_std(values).unsqueeze(-2)
        parameters = {name: value.unsqueeze(-1) for name, value in self._parameters(values).items()}
        mean = self.function(parameters, x, torch)
        num_data = x.shape[-2]
        leading = noise_std.shape[:-2]
        expected = (*leading, num_data, self.output_dim)
        if mean.shape[-2:] != expected[-2:]:
            raise ValueError(f"need the function's mean as [..., {num_data}, {self.output_dim}], got {[*mean.shape]}")
        return mean.expand(expected), noise_std.expand(expected)

    def _parameters(self, theta: Mapping[str, Tensor]) -> Theta:
        return {
            name: theta[self.latent_name(name)].exp() if isinstance(prior, LogNormal) else theta[name]
            for name, prior in self.priors.items()
        }

    def _noise_std(self, theta: Mapping[str, Tensor]) -> Tensor:
        return self.min_std + theta["log_noise_std"].exp()


def lognormal_prior(median: float, factor: float) -> LogNormal:
    """A prior for a positive parameter: its median, and the factor within which 68 % of the mass lie on either side.

    `lognormal_prior(1.0, 2.0)` says "about 1, give or take a factor of 2". Raises ValueError unless median > 0 and
    factor > 1.
    """
    require((median > 0, f"need median > 0, got {median}"), (factor > 1, f"need factor > 1, got {factor}"))
    loc, scale = (torch.tensor(math.log(value), dtype=torch.float64) for value in (median, factor))
    return LogNormal(loc, scale)
