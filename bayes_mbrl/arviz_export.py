"""What a posterior knows, as ArviZ's tree: of a regression's data, or of the transitions of a run.

posterior: the functions `f` and `sigma` (mean and std of the prediction) at data and, as `f_off` and `sigma_off`, off
their distribution; named parameters; weights by name. log_likelihood, posterior_predictive, prior, prior_predictive,
sample_stats and the data. Functions come first: a network's weights have symmetries that make their R-hat and ESS
misleading, its predictions have not (Izmailov et al., What Are Bayesian Neural Network Posteriors Really Like?, 2021).
Axes: K draws, or chain and draw; N data, D inputs, O outputs; N transitions, S state, A action; P entries of θ.
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import xarray
from torch import Tensor

from bayes_mbrl.analysis.arviz_tree import posterior_tree
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.fit_record import fit_record
from bayes_mbrl.inference.base import Model, Posterior, Theta, sample_prior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.likelihoods import Likelihood
from bayes_mbrl.inference.regression import Regression

NUM_DRAWS = 100
"""K of a posterior that draws anew each time, and of the prior."""
MAX_STORED = 400
"""Draws taken of those that a chain or an ensemble has stored; of more, as many are taken evenly."""
MAX_POINTS = 200
"""Data in the tree; of more, as many are taken evenly."""
NUM_OFF = 50
"""Points off the distribution of the data."""
MAX_VALUES = 2_000_000
"""Numbers in `f`: with many outputs there are fewer points."""
MAX_WEIGHTS = 2_000
"""Entries of θ in the tree; of more, as many are taken evenly."""
STRETCH = 3.0
"""How much wider than the data's box the points off their distribution lie."""
_CHUNK = 2**21
"""Draws times data that are predicted at once."""
_STATISTICS = {
    "log_joint": "lp",
    "energy": "energy",
    "acceptance": "acceptance_rate",
    "num_leapfrog_steps": "n_steps",
    "tree_depth": "tree_depth",
    "diverging": "diverging",
    "step_size": "step_size",
    "time_step": "step_size",
    "temperature": "temperature",
}
"""Our names of what a sampler tells → ArviZ's."""


@dataclasses.dataclass(frozen=True)
class ThetaDraws:
    """Draws of θ for diagnosis, and what is known of how they came about."""

    theta: Theta
    """{name: [chains · draws, ...]}, chain after chain."""
    num_chains: int
    """1 where there are none."""
    statistics: Mapping[str, Tensor]
    """Of a sampler, by ArviZ's names: [chains · draws]."""
    words: str
    """What these draws are: "4 chains, 100 draws of each"."""

    def chained(self, values: Tensor) -> Tensor:
        """[chains · draws, ...] → [chain, draw, ...]."""
        return values.view(self.num_chains, -1, *values.shape[1:])


def draws_for_diagnosis(
    posterior: Posterior,
    record: Mapping[str, Tensor],
    *,
    generator: torch.Generator,
    num_draws: int = NUM_DRAWS,
    max_stored: int = MAX_STORED,
) -> ThetaDraws:
    """Stored draws as they are, chains apart and each once, else `num_draws` new ones.

    `record` is what the fit told of itself (`fit_record`): it knows the number of chains.
    """
    if not isinstance(posterior, DrawsPosterior):
        theta = posterior.sample(num_draws, generator=generator)
        return ThetaDraws(theta, 1, {}, f"{num_draws} independent draws")
    num_stored, num_chains = posterior.num_draws, int(record.get("num_chains", torch.tensor(0)))
    is_chains = num_chains > 0 and num_stored % num_chains == 0
    num_chains = num_chains if is_chains else 1
    length = num_stored // num_chains
    kept = evenly_spaced(length, max(1, max_stored // num_chains))
    rows = (torch.arange(num_chains)[:, None] * length + kept).flatten()
    members = "one point" if num_stored == 1 else f"{num_stored} members of an ensemble"
    words = f"{num_chains} chain{'s' * (num_chains > 1)}" if is_chains else members
    if is_chains:
        words += (
            f", {len(kept)} of {length} draws of each, evenly spaced"
            if len(kept) < length
            else f", {length} draws of each"
        )
    elif len(kept) < length:
        words += f", {len(kept)} of them, evenly spaced"
    statistics = {
        name: values.reshape(num_chains, -1).expand(num_chains, length)[:, kept].flatten()
        for ours, name in _STATISTICS.items()
        if is_chains and (values := record.get(ours)) is not None and values.numel() in (num_chains, num_stored)
    }
    return ThetaDraws({name: draws[rows] for name, draws in posterior.draws.items()}, num_chains, statistics, words)


def regression_tree(
    model: Regression,
    posterior: Posterior,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    x_off: Tensor | None = None,
    info: Any = None,
    num_draws: int = NUM_DRAWS,
    attributes: Mapping[str, Any] | None = None,
) -> xarray.DataTree:
    """The tree of a regression: x [N, D], y [N, O]; `info` is what the posterior's `fit` returned with it.

    The observation is called `y`, its axes datum and output; of a single output that is not binary the axis output is
    left out, so that ArviZ's PIT works at once. x_off [N', D] are points off the distribution of x, by default
    `off_distribution(x)`.
    Of more than `MAX_POINTS` data as many are taken, evenly; an attribute says so.
    Raises ValueError for x and y of other widths than the model's, and for y that are not finite.
    """
    model.check_widths(x, y)
    record = {} if info is None else info if isinstance(info, Mapping) else fit_record(info)
    rows = evenly_spaced(len(x), _num_points(num_draws, y.shape[1]))
    source = "given" if x_off is not None else off_words("x")
    x_off = off_distribution(x, NUM_OFF, generator=generator) if x_off is None else x_off
    chosen, targets = x[rows], y[rows]
    output_axes = ["output"] if y.shape[1] > 1 or model.num_binary else []

    def predict(theta: Theta, at: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = _chunked(lambda part: model.predict(part, at), theta, len(at))
        return (mean, std) if output_axes else (mean[..., 0], std[..., 0])

    def named(theta: Theta) -> Theta:
        physical = getattr(model, "physical", None)  # a parametric regression's parameters in their units
        return {} if physical is None else {k: v for k, v in physical(theta).items() if k not in theta}

    return _tree(
        _Problem(
            model=model,
            likelihood=model.likelihood,
            predict=lambda theta: predict(theta, chosen),
            predict_off=lambda theta: predict(theta, x_off),
            parameters=named,
            observed="y",
            targets=targets if output_axes else targets[:, 0],
            constant_data={"x": chosen, "x_off": x_off},
            dims={"x": ["datum", "input"], "x_off": ["off_point", "input"]},
            axes=("datum", *output_axes),
            coords={"datum": rows.tolist()},
        ),
        draws_for_diagnosis(posterior, record, generator=generator, num_draws=num_draws),
        num_data=len(x),
        generator=generator,
        attributes={"off_distribution": source, **(attributes or {})},
    )


def dynamics_tree(
    dynamics: Dynamics,
    posterior: Posterior,
    transitions: Transitions,
    *,
    generator: torch.Generator,
    record: Mapping[str, Tensor] | None = None,
    num_draws: int = NUM_DRAWS,
    attributes: Mapping[str, Any] | None = None,
) -> xarray.DataTree:
    """The tree of a dynamics at transitions [N], in the environment's units; `record` is what its fit told of itself.

    The observation is called `next_state`, its axes transition and state_dim. ArviZ's PIT wants a scalar:
    `loo_pit(tree.sel(state_dim=0))`. Off the distribution of the data: see `off_distribution`, for states; actions
    are uniform between the smallest and the largest that were taken, since no planner goes beyond.
    """
    states = transitions.state
    rows = evenly_spaced(len(transitions), _num_points(num_draws, states.shape[1]))
    chosen = transitions[rows]
    state_off = off_distribution(states, NUM_OFF, generator=generator)
    low, high = transitions.action.amin(0), transitions.action.amax(0)
    action_off = low + (high - low) * torch.empty(NUM_OFF, len(low), dtype=low.dtype).uniform_(generator=generator)

    def predict(theta: Theta, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        def one(part: Theta) -> tuple[Tensor, Tensor]:
            num_theta = len(next(iter(part.values())))
            mean, std = dynamics.predict(part, state.expand(num_theta, *state.shape), action)
            return mean[..., : dynamics.state_dim], std[..., : dynamics.state_dim]

        return _chunked(one, theta, len(state))

    return _tree(
        _Problem(
            model=dynamics.model,
            likelihood=dynamics.likelihood,
            predict=lambda theta: predict(theta, chosen.state, chosen.action),
            predict_off=lambda theta: predict(theta, state_off, action_off),
            parameters=dynamics.parameters,
            observed="next_state",
            targets=chosen.next_state,
            constant_data={
                "state": chosen.state, "action": chosen.action, "state_off": state_off, "action_off": action_off,
            },
            dims={
                "state": ["transition", "state_dim"],
                "action": ["transition", "action_dim"],
                "state_off": ["off_point", "state_dim"],
                "action_off": ["off_point", "action_dim"],
            },
            axes=("transition", "state_dim"),
            coords={"transition": rows.tolist()},
        ),
        draws_for_diagnosis(posterior, record or {}, generator=generator, num_draws=num_draws),
        num_data=len(transitions),
        generator=generator,
        attributes={"off_distribution": off_words("states") + "; actions in their own", **(attributes or {})},
    )  # fmt: skip


def off_distribution(x: Tensor, n: int, *, generator: torch.Generator, stretch: float = STRETCH) -> Tensor:
    """n points about the data x [N, D] but outside their box: uniform in the box `stretch` times as wide, [n, D].

    A point that would fall into the data's box has one coordinate, drawn at random, moved out of it. A coordinate that
    is constant in the data stays so, unless all are: then each varies by ±stretch. Where coordinates depend on each
    other, as the cosine and the sine of an angle do, the points may be such as cannot occur at all.
    """
    low, high = x.amin(0), x.amax(0)
    centre, half = (low + high) / 2, (high - low) / 2
    half = half if bool((half > 0).any()) else torch.ones_like(half)
    unit = stretch * (2 * torch.empty(n, len(half), dtype=x.dtype).uniform_(generator=generator) - 1)
    varying = torch.nonzero(half > 0)[:, 0]
    moved = varying[torch.randint(len(varying), (n,), generator=generator)]
    size = 1 + (stretch - 1) * torch.empty(n, dtype=x.dtype).uniform_(generator=generator)
    rows = torch.arange(n)
    inside = (unit[:, varying].abs() <= 1).all(1)
    outward = torch.copysign(size, unit[rows, moved])
    unit[rows, moved] = torch.where(inside, outward, unit[rows, moved])
    return centre + half * unit


def off_words(what: str) -> str:
    """How the points off the distribution are chosen, in a sentence."""
    return f"{what} uniform in a box {STRETCH:g} times as wide as that of the data, outside of the data's own"


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What differs between a regression and a dynamics."""

    model: Model
    likelihood: Likelihood
    predict: Callable[[Theta], tuple[Tensor, Tensor]]
    predict_off: Callable[[Theta], tuple[Tensor, Tensor]]
    parameters: Callable[[Theta], Mapping[str, Tensor]]
    observed: str
    targets: Tensor
    constant_data: Mapping[str, Tensor]
    dims: Mapping[str, Sequence[str]]
    axes: tuple[str, ...]
    coords: Mapping[str, Sequence[Any]]

    def functions(self, theta: Theta, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Function values at and off the data, parameters, and weights under names that are not taken."""
        named: dict[str, Tensor] = {}
        named["f"], named["sigma"] = self.predict(theta)
        named["f_off"], named["sigma_off"] = self.predict_off(theta)
        named |= {_free(name, named): values for name, values in self.parameters(theta).items()}
        return named | {_free(name, named): values for name, values in weights.items()}


def _tree(
    problem: _Problem,
    draws: ThetaDraws,
    *,
    num_data: int,
    generator: torch.Generator,
    attributes: Mapping[str, Any],
) -> xarray.DataTree:
    """All groups of the tree."""
    with torch.no_grad():
        kept, weight_words = _kept_weights(draws.theta)
        posterior = problem.functions(draws.theta, _weights(draws.theta, kept))
        mean, std = posterior["f"], posterior["sigma"]
        log_density = problem.likelihood.log_density(problem.targets, mean, std)
        log_likelihood = log_density.flatten(2).sum(2) if log_density.ndim > 2 else log_density
        predictive = _noisy(problem.likelihood, mean, std, generator)
        prior: dict[str, Tensor] = {}
        prior_words = "drawn"
        try:
            believed = sample_prior(problem.model, NUM_DRAWS, generator=generator)
        except ValueError as error:
            prior_words = f"not drawn: {error}"
        else:
            prior = problem.functions(believed, _weights(believed, kept))
    dims = {**problem.dims, **dict.fromkeys(("f", "sigma", problem.observed), problem.axes)}
    dims |= dict.fromkeys(("f_off", "sigma_off"), ("off_point", *problem.axes[1:]))
    noisy_prior = (
        {} if not prior else {problem.observed: _noisy(problem.likelihood, prior["f"], prior["sigma"], generator)}
    )
    num_points = len(problem.targets)
    versions = {f"version_{name}": importlib.metadata.version(name) for name in ("bayes-mbrl", "torch", "pyro-ppl")}
    return posterior_tree(
        posterior={name: draws.chained(values) for name, values in posterior.items()},
        posterior_predictive={problem.observed: draws.chained(predictive)},
        log_likelihood={problem.observed: draws.chained(log_likelihood)},
        sample_stats={name: draws.chained(values) for name, values in draws.statistics.items()},
        prior=prior,
        prior_predictive=noisy_prior,
        observed_data={problem.observed: problem.targets},
        constant_data=problem.constant_data,
        chains=True,
        dims=dims | {name: [f"{name}_entry"] for name in kept if name in posterior and kept[name] is not None},
        coords={
            **problem.coords,
            **{f"{name}_entry": rows.tolist() for name, rows in kept.items() if rows is not None and name in posterior},
        },
        attributes={
            "draws": draws.words,
            "data": f"{num_points} of {num_data}, evenly spaced" if num_points < num_data else f"all {num_data}",
            "weights": weight_words,
            "prior": prior_words,
            **versions,
            **attributes,
        },
    )


def _kept_weights(theta: Theta) -> tuple[dict[str, Tensor | None], str]:
    """Name → the entries of the flattened parameter that are kept, None for all of it in its shape; and in words."""
    sizes = {name: values[0].numel() for name, values in theta.items()}
    total = sum(sizes.values())
    if total <= MAX_WEIGHTS:
        return dict.fromkeys(sizes), f"all {total} entries of θ"
    most = {name: max(1, MAX_WEIGHTS * size // total) for name, size in sizes.items()}
    kept = {name: evenly_spaced(sizes[name], most[name]) for name in sizes}
    num_kept = sum(len(rows) for rows in kept.values())
    return {**kept}, f"{num_kept} of {total} entries of θ, evenly spaced; their indices are in <name>_entry"


def _weights(theta: Theta, kept: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    return {
        name: values if (rows := kept[name]) is None else values.reshape(len(values), -1)[:, rows]
        for name, values in theta.items()
    }


def _free(name: str, taken: Mapping[str, Tensor]) -> str:
    """The name, or one that is not taken: of a parameter in its units and of its latent, say."""
    while name in taken:
        name = f"latent_{name}"
    return name


def _noisy(likelihood: Likelihood, mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    noise = likelihood.noise(torch.empty_like(mean).normal_(generator=generator))
    return likelihood.observed(mean + std * noise)


def _num_points(num_draws: int, width: int) -> int:
    return max(1, min(MAX_POINTS, MAX_VALUES // (max(num_draws, MAX_STORED) * width)))


def _chunked(predict: Callable[[Theta], tuple[Tensor, Tensor]], theta: Theta, num_points: int) -> tuple[Tensor, Tensor]:
    """(mean, std) for all θ, a part of them at a time."""
    size = max(1, _CHUNK // (100 * max(1, num_points)))
    num_theta = len(next(iter(theta.values())))
    parts = [predict({n: v[i : i + size] for n, v in theta.items()}) for i in range(0, num_theta, size)]
    return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])
