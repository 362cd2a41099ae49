"""Stochastic-gradient Hamiltonian Monte Carlo: chains that follow minibatch gradients, with friction and noise.

Source: Chen, Fox & Guestrin (2014), eq. 13 and 15; a diagonal preconditioner that is fixed before sampling begins:
Springenberg et al. (2016), here from the norms of the Hessian's rows (Dauphin et al. 2015). Where we differ: the parts
of a step are ordered as in Leimkuhler & Matthews (2013), "BAOAB", which at the same cost, one gradient a step, samples
a normal target without any error of discretisation. And an estimate of the minibatches' noise does not reduce the noise
that friction adds, it bounds the time step: that noise is correlated, which an estimate by coordinates is not, and
minibatches that go through the data by turns, as ours do, are less noisy than independent ones.
Axes: K chains, N data, P entries of all parameters together.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from bayes_mbrl.inference import ensemble
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
from bayes_mbrl.inference.optimise import DivergedFitError, FitInfo, minibatches
from bayes_mbrl.inference.parameter_vector import ParameterVector

_NUM_TUNINGS = 4
"""Times that burn-in tunes the step anew, where the chains are by then; after the last time it stays."""
_NUM_PROBES = 10
"""Products with the Hessian for the norms of its rows, for its largest eigenvalue, and gradients for their variance."""
_HEAT = 1.0
"""Variance that a minibatch's noise may give the momentum in a step, in units of what friction takes away."""
_FASTEST = 4.0
"""Momentum that burn-in allows, in units of its std."""
_TOO_HOT = 1e4
"""Mean square momentum, in units of its expectation, at which a sampling chain has left the target for good."""


@dataclasses.dataclass(frozen=True)
class ChainsInfo(FitInfo):
    """What a person wants to see of chains. The losses are of burn-in and sampling, [steps, K]."""

    draws: Theta = dataclasses.field(default_factory=dict)
    """{name: [K, draws, ...]}: the posterior's draws, chains apart."""
    temperature: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    """[K], mean square momentum while sampling: 1 in equilibrium; above it, gradient noise makes the posterior wide."""
    time_step: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))
    """[K], the step that was taken, in the units of `step_size`: shorter where minibatches are noisy."""


@check_settings
def fit(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    warm_start: Posterior | None = None,
    num_chains: Annotated[int, Gt(0)] = 4,
    num_steps: Annotated[int, Gt(2)] = 4000,
    optimisation: Annotated[float, Ge(0), Lt(1)] = 0.25,
    burn_in: Annotated[float, Ge(0), Lt(1)] = 0.25,
    num_draws: Annotated[int, Gt(0)] = 50,
    batch_size: Annotated[int, Gt(0)] = 1024,
    step_size: Annotated[float, Gt(0), Lt(2)] = 0.2,
    friction: Annotated[float, Gt(0), Le(1)] = 0.05,
    learning_rate: Annotated[float, Gt(0)] = 1e-2,
) -> tuple[DrawsPosterior, ChainsInfo]:
    """Draws of K chains whose stationary distribution is ∝ p(y | x, θ) p(θ).

    x [N, D], y [N, O]. The likelihood of a minibatch of n counts N/n times, the prior once. All chains take a step in
    one batched pass, each with minibatches of its own. They start from `num_chains` draws of the warm start, any
    posterior of this model, or from the model's initial values. A share `optimisation` of the steps searches the
    maximum (Adam at `learning_rate`: new data can make the last draws improbable), a share `burn_in` is thrown away,
    and of the rest at most `num_draws` states of each chain are kept, evenly spaced.

    `step_size` is in units of the stiffest direction's inverse frequency, estimated anew at every quarter of the
    burn-in and then fixed: from 2 on, no step is stable. Where minibatches would heat the chains, the step is shorter
    than that, and the chains get on slowly: a larger batch mends it. `friction` is the share of the momentum that a
    step takes away: the less, the further a chain goes before it turns.

    Raises ValueError for settings or data out of bounds, DivergedFitError, with the draws until then, when a chain
    diverges.
    """
    check_regression_data(model, x, y)
    num_searching, num_burning = round(optimisation * num_steps), round(burn_in * num_steps)
    num_sampling = num_steps - num_searching - num_burning
    require((num_sampling > 0, f"need optimisation + burn_in < 1, got {optimisation} + {burn_in}"))
    start = None
    if warm_start is not None:
        last = warm_start_as(Posterior, warm_start, model)  # type: ignore[type-abstract]
        start = DrawsPosterior(last.sample(num_chains, generator=generator))
    if num_searching:
        start, _ = ensemble.fit(
            model,
            x,
            y,
            generator=generator,
            warm_start=start,
            num_members=num_chains,
            resample=False,
            num_steps=num_searching,
            batch_size=batch_size,
            learning_rate=learning_rate,
        )
    theta = start.draws if start else model.initial(num_chains, generator=generator)
    target = _Target(model, x, y, num_chains, batch_size, generator)
    position = torch.cat([theta[name].reshape(num_chains, -1) for name in target.layout.shapes], 1)
    chains = _Chains(target, position, step_size, friction, generator)
    try:
        for part in range(_NUM_TUNINGS):
            chains.run(num_burning * (part + 1) // _NUM_TUNINGS - num_burning * part // _NUM_TUNINGS)
            chains.tune()
        chains.run(num_sampling, keep_every=math.ceil(num_sampling / num_draws))
    except FloatingPointError as error:
        message = f"{error} of {num_burning + num_sampling}: lower step_size, got {step_size}, or burn in longer; "
        message += f"or the search before went wrong: lower learning_rate, got {learning_rate}, or standardise the data"
        raise DivergedFitError(*chains.result(message)) from error
    return chains.result()


class _Target:
    """−log joint of K chains, each by minibatches of its own."""

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, num_chains: int, batch_size: int, generator: torch.Generator
    ) -> None:
        self.layout = ParameterVector.of(model)
        self.is_exact = batch_size >= len(x)
        self._model, self._prior, self._x, self._y = model, normal_prior(model), x, y
        self._orders = [minibatches(len(x), batch_size, generator=generator) for _ in range(num_chains)]
        self._large = [minibatches(len(x), 4 * batch_size, generator=generator) for _ in range(num_chains)]

    def gradient(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(value [K], gradient [K, P]) on the next minibatches."""
        position = position.detach().requires_grad_()
        value = self._value(position, torch.stack([next(order) for order in self._orders]))
        (gradient,) = torch.autograd.grad(value.sum(), position)
        return value.detach(), gradient

    def curvature(self, position: Tensor) -> Callable[[Tensor], Tensor]:
        """v [K, P] → Hessian v [K, P], on one larger minibatch."""
        position = position.detach().requires_grad_()
        value = self._value(position, torch.stack([next(order) for order in self._large]))
        (gradient,) = torch.autograd.grad(value.sum(), position, create_graph=True)
        return lambda vector: torch.autograd.grad(gradient, position, vector, retain_graph=True)[0]

    def _value(self, position: Tensor, rows: Tensor) -> Tensor:
        theta = self.layout.split(position)
        log_likelihood = self._model.log_likelihood(theta, self._x[rows], self._y[rows]).sum(-1)
        return -len(self._x) / rows.shape[1] * log_likelihood - log_prior(self._prior, theta)


class _Chains:
    """K chains on their way; position, momentum (of unit mass in preconditioned units) and gradient are [K, P]."""

    def __init__(
        self, target: _Target, position: Tensor, step_size: float, friction: float, generator: torch.Generator
    ) -> None:
        self._target, self._step_size, self._decay, self._generator = target, step_size, 1 - friction, generator
        self._position = position
        self._momentum = self._normal()
        self._losses: list[Tensor] = []
        self._draws: list[Tensor] = []
        self._kinetic = [torch.ones(len(position))]
        self._row_norm = torch.zeros_like(position)
        self.tune()

    def tune(self) -> None:
        """Fix preconditioner and time step by the curvature and the gradient's noise where the chains are."""
        product = self._target.curvature(self._position)
        row_norm = torch.stack([product(self._normal()) for _ in range(_NUM_PROBES)]).square().mean(0).sqrt()
        if self._losses:  # the stiffest that was met since burn-in began: chains come by there again
            row_norm = self._row_norm = torch.maximum(self._row_norm, row_norm)
        scale = row_norm.rsqrt()
        direction = _unit(self._normal())
        for _ in range(_NUM_PROBES):
            image = scale * product(scale * direction)
            direction = _unit(image)
        frequency = image.norm(dim=1).sqrt()
        self._time_step = torch.full_like(frequency, self._step_size)
        if not self._target.is_exact:
            gradients = torch.stack([scale * self._target.gradient(self._position)[1] for _ in range(3 * _NUM_PROBES)])
            variance = torch.maximum((gradients * direction).sum(-1).var(0), gradients.var(0).mean(-1))
            longest = (_HEAT * (1 - self._decay**2) / variance).sqrt() * frequency
            self._time_step = torch.minimum(self._time_step, longest)
        self._step = (self._time_step / frequency).unsqueeze(-1) * scale
        self._gradient = self._target.gradient(self._position)[1]

    def run(self, num_steps: int, keep_every: int | None = None) -> None:
        """Go on; with `keep_every`, sample. Raises FloatingPointError when a chain diverges, and stays where it was."""
        fastest = math.inf if keep_every else _FASTEST  # an improbable start would fling the chain away
        for step in range(1, num_steps + 1):
            momentum = (self._momentum - 0.5 * self._step * self._gradient).clamp(-fastest, fastest)
            position = self._position + 0.5 * self._step * momentum
            momentum = self._decay * momentum + math.sqrt(1 - self._decay**2) * self._normal()
            position = position + 0.5 * self._step * momentum
            loss, gradient = self._target.gradient(position)
            momentum = (momentum - 0.5 * self._step * gradient).clamp(-fastest, fastest)
            kinetic = momentum.square().mean(1)
            sound = loss.isfinite() & kinetic.isfinite()
            if keep_every:
                sound &= kinetic < _TOO_HOT
            if not bool(sound.all()):
                bad = ", ".join(str(chain) for chain in (~sound).nonzero().flatten().tolist())
                raise FloatingPointError(f"chain {bad} diverged at step {len(self._losses)}")
            self._position, self._momentum, self._gradient = position, momentum, gradient
            self._losses.append(loss)
            if keep_every:
                self._kinetic.append(kinetic)
                if step % keep_every == 0:
                    self._draws.append(position)

    def result(self, divergence: str | None = None) -> tuple[DrawsPosterior, ChainsInfo]:
        """The draws; where a chain diverged, those until then, or else where the chains were."""
        draws = self._target.layout.split(torch.stack(self._draws or [self._position], 1))
        info = ChainsInfo(
            torch.stack(self._losses) if self._losses else self._position.new_empty(0, len(self._position)),
            divergence,
            draws=draws,
            temperature=torch.stack(self._kinetic[1:] or self._kinetic).mean(0),
            time_step=self._time_step,
        )
        return DrawsPosterior({name: value.flatten(0, 1) for name, value in draws.items()}), info

    def _normal(self) -> Tensor:
        return torch.empty_like(self._position).normal_(generator=self._generator)


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)
