"""Pyro's only home: the evidence lower bound of a model and a Gaussian guide, and the model as a Pyro program.

Every latent has real support, so that the analytic KL of `TraceMeanField_ELBO` lacks no Jacobian.
Source: Kingma & Welling (2014), eq. 3; Bingham et al. (2019). Axes: P entries of all parameters together.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, Normal, register_kl

from bayes_mbrl.inference.base import Model, seeded_global_state

with warnings.catch_warnings():
    # Of tqdm, in Jupyter without ipywidgets: of bars that Pyro would draw, which is never asked to.
    warnings.filterwarnings("ignore", "IProgress not found")
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceMeanField_ELBO


@dataclasses.dataclass(frozen=True)
class Latent:
    """One Pyro site: a vector or a batch of vectors, its distribution a priori and under the guide."""

    prior: Normal
    guide: Normal | LowRankMultivariateNormal
    kl_weight: float
    drawn: bool = True
    """False: the likelihood has draws of its own and does not look at this one, which is there for its KL."""


def negative_elbo(latents: Mapping[str, Latent], log_likelihood: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
    """−(E_q[log_likelihood] − Σ kl_weight · KL(guide ‖ prior)), the expectation by one draw of each latent.

    Pyro's cost is by the site, not by the size: few sites with many entries are fast. All entries of a latent count
    in its KL, a batch of K copies K times.
    """

    def sample(name: str, distribution: Distribution) -> Tensor:
        with pyro.poutine.scale(scale=latents[name].kl_weight):
            return pyro.sample(name, _as_pyro(distribution, latents[name].drawn))

    def program() -> None:
        values = {name: sample(name, latent.prior) for name, latent in latents.items()}
        pyro.factor("log_likelihood", log_likelihood(values))

    def guide() -> None:
        for name, latent in latents.items():
            sample(name, latent.guide)

    elbo = TraceMeanField_ELBO()  # type: ignore[no-untyped-call]
    return cast(Tensor, elbo.differentiable_loss(program, guide))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def pyro_session(generator: torch.Generator) -> Iterator[None]:
    """Pyro fast and reproducible: no validation, its random numbers from `generator`, the global state restored."""
    with seeded_global_state(generator), pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN")  # `minimise` looks, and says what to do
        yield


def as_pyro_program(model: Model) -> Callable[[Tensor, Tensor], None]:
    """The model as a Pyro program of (x, y), a site for each parameter: for Pyro's own guides and samplers.

    Its log joint is `log_prior` plus the sum of `model.log_likelihood`.
    """

    def program(x: Tensor, y: Tensor) -> None:
        theta = {name: pyro.sample(name, _as_pyro(prior)) for name, prior in model.prior().items()}
        pyro.factor("log_likelihood", model.log_likelihood(theta, x, y).sum())

    return program


class _Undrawn:
    """A normal of which only the KL is asked: its mean stands for a draw, and its density, unused, is not computed."""

    loc: Tensor

    def rsample(self, sample_shape: object = ()) -> Tensor:
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        return self.loc.new_zeros(())


class _UndrawnNormal(_Undrawn, dist.Normal):
    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> dist.TorchDistribution:
        return self


class _UndrawnLowRank(_Undrawn, dist.LowRankMultivariateNormal):
    pass


def _as_pyro(distribution: Distribution, drawn: bool = True) -> dist.TorchDistribution:
    """The same distribution as Pyro's class, all its axes one event."""
    if isinstance(distribution, LowRankMultivariateNormal):
        low_rank = dist.LowRankMultivariateNormal if drawn else _UndrawnLowRank
        return low_rank(distribution.loc, distribution.cov_factor, distribution.cov_diag)
    assert isinstance(distribution, Normal)
    normal = (dist.Normal if drawn else _UndrawnNormal)(distribution.loc, distribution.scale)
    return cast(dist.TorchDistribution, normal.to_event(distribution.loc.ndim))  # type: ignore[no-untyped-call]


@register_kl(LowRankMultivariateNormal, Independent)  # type: ignore[no-untyped-call,untyped-decorator]
@register_kl(LowRankMultivariateNormal, _UndrawnNormal)  # type: ignore[no-untyped-call,untyped-decorator]
def _kl_low_rank_to_independent_normal(q: LowRankMultivariateNormal, p: Any) -> Tensor:
    """KL(N(m, W Wᵀ + diag d) ‖ Π N(μ_i, σ_i²)), log |W Wᵀ + diag d| by its r×r capacitance matrix.

    Without it Pyro would take the difference of the log densities, which are 0 where nothing is drawn, and say nothing.
    """
    normal: Normal = p if isinstance(p, _UndrawnNormal) else p.base_dist
    variance = normal.scale**2
    triangular: Tensor = q._capacitance_tril
    log_determinant = q.cov_diag.log().sum(-1) + 2 * triangular.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    spread = (q.cov_factor**2).sum(-1) + q.cov_diag + (q.loc - normal.loc) ** 2
    divergence: Tensor = 0.5 * ((spread / variance + 2 * normal.scale.log() - 1).sum(-1) - log_determinant)
    return divergence
