"""(1/E) Σ_e δ(θ_e): a bootstrap ensemble, E networks that differ by their data, their start and their order of data.

Source: Lakshminarayanan et al. (2017), algorithm 1 (without adversarial examples; they resample nothing); resampled
data: Chua et al. (2018), section 4; randomised priors: Osband, Aslanides & Cassirer (2018), lemma 3, in the weights as
Pearce et al. (2020), eq. 10, have them. All members are trained in one batched pass.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.distributions import Distribution, Normal

from bayes_mbrl.inference.base import (
    Model,
    Posterior,
    Theta,
    check_regression_data,
    check_settings,
    log_prior,
    normal_prior,
    require,
    sample_prior,
    warm_start_as,
)
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.optimise import FitInfo, finished, minibatches, minimise


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    num_members: Annotated[int, Gt(0)] = 5,
    resample: bool = True,
    prior_weight: Annotated[float, Ge(0)] = 1.0,
    randomised_prior: bool = False,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
) -> tuple[DrawsPosterior, FitInfo]:
    """θ_e = argmax log p(y_e | x_e, θ) + prior_weight · log p(θ), with (x_e, y_e) drawn from the data for each member.

    x [N, D], y [N, O]. With `resample`, a member's data are N rows drawn with replacement; without, all data, and the
    members differ by their start and the order of their minibatches alone. `prior_weight` 0 is maximum likelihood, 1
    maximum a posteriori; the prior counts once for the whole data set. The members do not depend on their number: E
    successive fits of one member with the same generator give the same ensemble. The info's losses are [steps, E].

    With `randomised_prior`, each member's prior is centred on a draw of the prior instead of the prior's mean: where
    the data say nothing, members differ as much as the prior does. On a linear model with known noise, posterior
    covariance Σ and prior precision Λ, they scatter by Σ Λ Σ; resampling adds about the rest of Σ.

    Raises ValueError for settings or data out of bounds, a warm start of another size or a prior that is not normal
    with `randomised_prior`; DivergedFitError when the fit diverges.
    """
    check_regression_data(model, x, y)
    generators = [_spawn(generator) for _ in range(num_members)]
    theta = _initial_members(model, warm_start, generators)
    data = torch.stack([_data_of_member(len(x), resample, member) for member in generators])
    orders = [minibatches(len(x), batch_size, generator=member) for member in generators]
    prior = _randomised_prior(model, generators) if randomised_prior else model.prior()

    def loss(step: int) -> Tensor:
        rows = data.gather(1, torch.stack([next(order) for order in orders]))
        log_likelihood = len(x) / rows.shape[1] * model.log_likelihood(theta, x[rows], y[rows]).sum(1)
        return -log_likelihood - prior_weight * log_prior(prior, theta) if prior_weight else -log_likelihood

    info = minimise(loss, list(theta.values()), num_steps=num_steps, learning_rate=learning_rate)
    return finished(DrawsPosterior({name: value.detach() for name, value in theta.items()}), info)


def _spawn(generator: torch.Generator) -> torch.Generator:
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(generator.device).manual_seed(seed)


def _initial_members(model: Model, warm_start: Posterior | None, generators: list[torch.Generator]) -> Theta:
    """{name: [E, ...]}, leaf tensors: the members of the last fit, or a start of its own for each member."""
    start: Mapping[str, Tensor]
    if warm_start is None:
        members = [model.initial(1, generator=member) for member in generators]
        start = {name: torch.cat([member[name] for member in members]) for name in members[0]}
    else:
        last = warm_start_as(DrawsPosterior, warm_start, model)
        require(
            (
                last.num_draws == len(generators),
                f"need a warm_start with as many members as num_members, got {last.num_draws} and {len(generators)}",
            )
        )
        start = last.draws
    return {name: value.clone().requires_grad_() for name, value in start.items()}


def _randomised_prior(model: Model, generators: list[torch.Generator]) -> dict[str, Distribution]:
    """The prior about a draw of itself for each member: normals with loc [E, ...]."""
    draws = [sample_prior(model, 1, generator=member) for member in generators]
    return {
        name: Normal(torch.cat([draw[name] for draw in draws]), prior.scale)
        for name, prior in normal_prior(model).items()
    }


def _data_of_member(num_data: int, resample: bool, generator: torch.Generator) -> Tensor:
    """Row indices [N] of one member's data."""
    if resample:
        return torch.randint(num_data, (num_data,), generator=generator, device=generator.device)
    return torch.arange(num_data, device=generator.device)
