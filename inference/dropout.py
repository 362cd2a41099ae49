"""MC dropout: q(θ) are the weights of one network times random masks over its hidden units; one mask is one θ.

Source: Gal & Ghahramani (2016), eq. 1 and appendix, eq. 27-28. Ours differs in that a kept unit counts 1 / (1 − rate)
times ("inverted" dropout), so that E_q[θ] are the weights, and that inputs are not dropped.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Self

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.distributions import Normal

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
from bayes_mbrl.inference.layers import Parameter, RandomWeight
from bayes_mbrl.inference.optimise import FitInfo, finished, minibatches, minimise


@dataclasses.dataclass(frozen=True)
class DropoutPosterior(Posterior):
    """θ = weights · mask / (1 − rate): a hidden unit is dropped with a probability, with all weights it feeds."""

    kind: ClassVar[str] = "mc-dropout"

    weights: Theta
    """Means by name, in the shape of the parameter."""
    rates: Mapping[str, float]
    """By the names of the weights [D, O] whose rows, the units that feed the layer, are dropped: how probably."""

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        """n masks, each one θ for as long as it is used: {name: [n, ...]}."""
        theta = {}
        for name, weight in self.weights.items():
            theta[name] = weight.expand(n, *weight.shape).clone()
            if name in self.rates:
                theta[name] *= _mask(weight.new_empty(n, len(weight), 1), self.rates[name], generator)
        return theta

    def tensors(self) -> dict[str, Tensor]:
        """`weight/<name>` for each parameter and `rate/<name>` for those that are masked."""
        rates = {f"rate/{name}": torch.tensor(rate, dtype=torch.float64) for name, rate in self.rates.items()}
        return {**{f"weight/{name}": tensor for name, tensor in self.weights.items()}, **rates}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        weights, rates = named_parts(tensors, ("weight", "rate"))
        return cls(weights, {name: float(rate) for name, rate in rates.items()})


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    rate: Annotated[float, Ge(0), Lt(1)] = 0.05,
    num_steps: Annotated[int, Gt(0)] = 2000,
    batch_size: Annotated[int, Gt(0)] = 256,
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
    kl_weight: Annotated[float, Ge(0)] = 1.0,
) -> tuple[DropoutPosterior, FitInfo]:
    """argmax_q E_q[log p(y | x, θ)] + kl_weight · E_q[log p(θ)]; the entropy of q does not depend on the weights.

    x [N, D], y [N, O]. While fitting, every datum meets a mask of its own. The prior counts once for the whole data
    set and the likelihood of a minibatch of n counts N/n times. The info's losses are in nats of the whole data set,
    without the constants of prior and entropy.

    Raises ValueError for settings or data out of bounds, a prior that is not normal or a model without hidden units,
    DivergedFitError when the fit diverges.
    """
    check_regression_data(model, x, y)
    prior = normal_prior(model)
    weights = initial_weights(model, warm_start, generator)
    rates = dict.fromkeys(sorted(model.hidden_weights), rate)
    rows = minibatches(len(x), batch_size, generator=generator)

    def loss(step: int) -> Tensor:
        batch = next(rows)
        theta: dict[str, Parameter] = {
            **weights,
            **{
                name: MaskedWeight(weights[name], lambda x: _mask(torch.empty_like(x), rate, generator))
                for name in rates
            },
        }
        log_likelihood = len(x) / len(batch) * model.log_likelihood(theta, x[batch], y[batch]).sum()
        return kl_weight * cross_entropy(weights, prior, rates) - log_likelihood

    info = minimise(loss, list(weights.values()), num_steps=num_steps, learning_rate=learning_rate)
    return finished(DropoutPosterior({name: value.detach() for name, value in weights.items()}, rates), info)


def initial_weights(model: Model, warm_start: Posterior | None, generator: torch.Generator) -> Theta:
    """Leaf tensors by name: those of the last fit, or the model's initial ones.

    Raises ValueError for a model without hidden units.
    """
    need = "dropout needs hidden units to drop and the model has none: give it a hidden layer"
    require((bool(model.hidden_weights), need))
    if warm_start is None:
        start = {name: value[0] for name, value in model.initial(1, generator=generator).items()}
    else:
        start = dict(warm_start_as(DropoutPosterior, warm_start, model).weights)
    return {name: value.clone().requires_grad_() for name, value in start.items()}


class MaskedWeight(RandomWeight):
    """A weight whose rows are dropped by another mask for every datum, by dropping the layer's inputs."""

    def __init__(self, weight: Tensor, draw_mask: Callable[[Tensor], Tensor]) -> None:
        """draw_mask: inputs [..., N, D] → factors of the same shape with mean 1."""
        self.weight = weight
        self.draw_mask = draw_mask

    def affine(self, x: Tensor, bias: Parameter) -> Tensor:
        """(x · mask) W + b."""
        assert isinstance(bias, Tensor), "dropout masks no biases"
        return torch.addmm(bias, x * self.draw_mask(x), self.weight)


def cross_entropy(weights: Theta, prior: Mapping[str, Normal], rates: Mapping[str, float | Tensor]) -> Tensor:
    """−E_q[log p(θ)] but for its constant: Σ E_q[(θ − loc)²] / (2 scale²), where masks add w² rate / (1 − rate).

    With a prior mean of 0 this is Gal & Ghahramani's (1 − rate) ‖M‖² / (2 scale²), M = weights / (1 − rate).
    """
    total = torch.zeros(())
    for name, weight in weights.items():
        second_moment = (weight - prior[name].loc) ** 2
        if name in rates:
            second_moment = second_moment + weight**2 * (rates[name] / (1 - rates[name]))
        total = total + (second_moment / (2 * prior[name].variance)).sum()
    return total


def _mask(out: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """0 with probability `rate`, else 1 / (1 − rate), written into `out`."""
    return out.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
