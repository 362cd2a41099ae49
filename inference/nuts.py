"""Draws from p(θ | D) by the no-U-turn sampler of NumPyro: the reference that approximations are judged against.

Source: Hoffman & Gelman (2014), algorithm 6; multinomial trajectories and divergences: Betancourt (2017), appendix A
and section 6.2. The model is declared for NumPyro in numpyro_models.py; the compiled loop is in numpyro_sampler.py.
All latents are real, so no Jacobian is involved.
Axes: N data, D inputs, O outputs, P entries of all parameters together.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from bayes_mbrl.inference import svi
from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    log_prior,
    normal_prior,
    require,
    warm_start_as,
)
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.optimise import DivergedFitError
from bayes_mbrl.inference.parameter_vector import ParameterVector


@contextlib.contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """JAX draws from NumPy's global random state when it is imported (its _src/clusters/k8s_cluster.py)."""
    state = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


with _numpy_state_kept():
    from bayes_mbrl.inference.numpyro_models import numpyro_model
    from bayes_mbrl.inference.numpyro_sampler import Settings, sample_chains


@dataclasses.dataclass(frozen=True)
class NutsInfo:
    """What a person wants to see of chains; warm-up is left out everywhere."""

    draws: Theta
    """{name: [chain, draw, ...]}. The posterior's draws are the same memory."""
    log_joint: Tensor
    """log p(θ, y | x) [chain, draw], in nats."""
    energy: Tensor
    """−log joint + kinetic energy, with which the trajectory met the draw [chain, draw], in nats: for BFMI."""
    acceptance: Tensor
    """Mean acceptance probability along the trajectory [chain, draw]."""
    num_leapfrog_steps: Tensor
    """Gradients that the trajectory took [chain, draw]."""
    diverging: Tensor
    """Whether the trajectory left the energy's contour by more than 1,000 nats [chain, draw]."""
    step_size: Tensor
    """[chain], as adapted in the warm-up."""

    @property
    def num_divergences(self) -> int:
        """Draws whose trajectory diverged, over all chains."""
        return int(self.diverging.sum())

    @property
    def acceptance_rate(self) -> float:
        """Mean acceptance probability; the warm-up aims at `target_acceptance`."""
        return float(self.acceptance.mean())

    @property
    def tree_depth(self) -> Tensor:
        """Doublings of the trajectory [chain, draw]; many at `max_tree_depth` mean short trajectories, slow mixing."""
        return self.num_leapfrog_steps.clamp(min=1).log2().floor().long() + 1

    @property
    def final_loss(self) -> float:
        """−mean log joint over all draws, in nats."""
        return -float(self.log_joint.mean())


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    num_chains: Annotated[int, Gt(0)] = 4,
    num_warmup: Annotated[int, Ge(0)] = 500,
    num_draws: Annotated[int, Gt(0)] = 500,
    target_acceptance: Annotated[float, Gt(0), Lt(1)] = 0.8,
    max_tree_depth: Annotated[int, Gt(0), Le(15)] = 10,
    dense_mass: bool = False,
    num_variational_steps: Annotated[int, Ge(0)] = 500,
) -> tuple[DrawsPosterior, NutsInfo]:
    """num_chains · num_draws draws from p(θ | D), correlated along each chain; x [N, D], y [N, O].

    All chains run as one batch. Each starts from its own draw: of `warm_start`, which may be any posterior over the
    same parameters; else of a mean field fitted for `num_variational_steps`; with 0 of these, of `model.initial`.
    Chains that start together agree early: a small R-hat is then no proof that no mode was missed. The warm-up adapts
    the step size to `target_acceptance`, and the mass matrix, a diagonal one that begins with the variances of what
    the chains start from, or with `dense_mass` a full one, for a few correlated parameters. A trajectory takes at most
    2^max_tree_depth − 1 gradients.

    Compiling takes ten seconds, once for each kind of model, shape of data and setting. With a terminal as stderr a bar
    shows the progress. Warns of divergences, and keeps the draws.

    Raises ValueError for settings or data out of bounds, for a model without normal priors or without a NumPyro
    declaration (or one that disagrees with the model), and when the log joint is not finite where a chain starts.
    """
    check_regression_data(model, x, y)
    declared, vector = numpyro_model(model), ParameterVector.of(model)
    prior = vector.join_normal(normal_prior(model))
    start, variance = _start(model, x, y, warm_start, num_chains, num_variational_steps, generator)
    log_joint = log_prior({"theta": prior}, {"theta": start})
    log_joint = log_joint + model.log_likelihood(vector.split(start), x, y).sum(-1)
    require(
        (
            bool(log_joint.isfinite().all()),
            f"need a finite log joint where the chains start, got {log_joint.tolist()}: raise num_variational_steps "
            "or give another warm_start",
        )
    )
    chains, step_size = sample_chains(
        declared,
        (prior.loc, prior.scale, x, y),
        start,
        variance,
        log_joint=log_joint,
        num_draws=num_draws,
        settings=Settings(num_warmup, target_acceptance, max_tree_depth, dense_mass),
        generator=generator,
    )
    theta = chains.theta.to(x.device)
    info = NutsInfo(
        vector.split(theta),
        -chains.potential,
        chains.energy,
        chains.acceptance,
        chains.num_leapfrog_steps,
        chains.diverging,
        step_size,
    )
    _warn_of_divergences(info, target_acceptance)
    return DrawsPosterior(vector.split(theta.flatten(0, 1))), info


def _start(
    model: Model,
    x: Tensor,
    y: Tensor,
    warm_start: Posterior | None,
    num_chains: int,
    num_variational_steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Where each chain starts [chain, P], and the variances that the mass matrix is first made of [P]."""
    prior = ParameterVector.of(model).join_normal(normal_prior(model))
    if warm_start is None and num_variational_steps == 0:
        return _vectors(model, model.initial(num_chains, generator=generator)), prior.variance
    if warm_start is None:
        posterior = _mean_field(model, x, y, num_variational_steps, generator)
    else:
        posterior = warm_start_as(Posterior, warm_start, model)  # type: ignore[type-abstract]
    start, others = (_vectors(model, posterior.sample(n, generator=generator)) for n in (num_chains, 100))
    variance = others.var(0)
    is_point = variance < 1e-12 * prior.variance
    return start, torch.where(is_point, prior.variance, torch.minimum(variance, prior.variance))


def _mean_field(model: Model, x: Tensor, y: Tensor, num_steps: int, generator: torch.Generator) -> Posterior:
    try:
        return svi.fit(model, x, y, generator=generator, num_steps=num_steps)[0]
    except DivergedFitError as error:  # its last finite state serves as well: the chains themselves are exact
        return error.posterior


def _vectors(model: Model, theta: Theta) -> Tensor:
    """{name: [n, ...]} → [n, P]."""
    return torch.cat(
        [theta[name].flatten().view(len(theta[name]), -1) for name in ParameterVector.of(model).shapes], -1
    )


def _warn_of_divergences(info: NutsInfo, target_acceptance: float) -> None:
    if info.num_divergences:
        warnings.warn(
            f"{info.num_divergences} of {info.diverging.numel()} draws diverged ({info.diverging.sum(1).tolist()} by "
            "chain): the posterior is too steep somewhere for the step size, and draws from there are missing. Raise "
            f"target_acceptance (got {target_acceptance}), lengthen num_warmup, or reparametrise the model; all draws "
            "are kept",
            stacklevel=4,
        )
