"""Concrete dropout: MC dropout whose rates are learned, one for each layer of hidden units.

Source: Gal, Hron & Kendall (2017), eq. 1-5. Our likelihood is a density in nats, with its ½: the regularisers are then
prior precision / (2 N) on the weights and 1 / N on the entropy. The authors' notebook lacks the ½.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from bayes_mbrl.inference.base import Model, Posterior, check_regression_data, check_settings, normal_prior
from bayes_mbrl.inference.dropout import DropoutPosterior, MaskedWeight, cross_entropy, initial_weights
from bayes_mbrl.inference.layers import Parameter
from bayes_mbrl.inference.optimise import FitInfo, finished, minibatches, minimise


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    initial_rate: Annotated[float, Gt(0), Lt(1)] = 0.05,
    temperature: Annotated[float, Gt(0)] = 0.1,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
    kl_weight: Annotated[float, Ge(0)] = 1.0,
) -> tuple[DropoutPosterior, FitInfo]:
    """argmax over weights and rates of E_q[log p(y | x, θ)] − kl_weight · KL(q ‖ p), KL as far as it depends on them.

    x [N, D], y [N, O]. While fitting, masks are relaxed to numbers between 0 and 1, the closer to these the lower the
    `temperature`, so that the rates have a gradient; the posterior draws whole units. More data, lower rates: unlike
    with a fixed rate, the epistemic variance shrinks. The info's losses are in nats of the whole data set, without the
    prior's constants.

    Raises ValueError for settings or data out of bounds, a prior that is not normal or a model without hidden units,
    DivergedFitError when the fit diverges.
    """
    check_regression_data(model, x, y)
    prior = normal_prior(model)
    weights = initial_weights(model, warm_start, generator)
    start = warm_start.rates if isinstance(warm_start, DropoutPosterior) else {}
    logits = {
        name: torch.full((), _logit(start.get(name, initial_rate)), dtype=x.dtype, device=x.device).requires_grad_()
        for name in sorted(model.hidden_weights)
    }
    rows = minibatches(len(x), batch_size, generator=generator)

    def masked(name: str) -> MaskedWeight:
        return MaskedWeight(weights[name], lambda x: relaxed_mask(x, logits[name], temperature, generator))

    def loss(step: int) -> Tensor:
        batch = next(rows)
        theta: dict[str, Parameter] = {**weights, **{name: masked(name) for name in logits}}
        log_likelihood = len(x) / len(batch) * model.log_likelihood(theta, x[batch], y[batch]).sum()
        rates = {name: torch.sigmoid(logit) for name, logit in logits.items()}
        entropy = sum_of_entropies(logits, {name: len(weights[name]) for name in logits})
        return kl_weight * (cross_entropy(weights, prior, rates) - entropy) - log_likelihood

    leaves = [*weights.values(), *logits.values()]
    info = minimise(loss, leaves, num_steps=num_steps, learning_rate=learning_rate)
    rates = {name: float(torch.sigmoid(logit.detach().double())) for name, logit in logits.items()}
    return finished(DropoutPosterior({name: value.detach() for name, value in weights.items()}, rates), info)


def relaxed_mask(x: Tensor, logit: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Factors shaped like x: almost 0 with probability rate = sigmoid(logit), else almost 1 / (1 − rate) (eq. 5)."""
    uniform = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    uniform = uniform.clamp_(torch.finfo(x.dtype).tiny, 1 - torch.finfo(x.dtype).eps)
    dropped = torch.sigmoid((logit + torch.logit(uniform)) / temperature)
    return (1 - dropped) / torch.sigmoid(-logit)


def sum_of_entropies(logits: Mapping[str, Tensor], num_units: Mapping[str, int]) -> Tensor:
    """Σ over all units of H(rate) = −rate log rate − (1 − rate) log(1 − rate), in nats (eq. 4)."""
    terms = []
    for name, logit in logits.items():
        rate = torch.sigmoid(logit)
        log_rate, log_kept = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
        terms.append(-num_units[name] * (rate * log_rate + (1 - rate) * log_kept))
    return torch.stack(terms).sum()


def _logit(rate: float) -> float:
    return math.log(rate) - math.log1p(-rate)
