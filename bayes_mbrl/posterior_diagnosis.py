"""Did inference converge, and may its posterior be believed? Verdicts on any posterior over a regression, no refit.

Chains are compared by values of functions, mean and std of y at inputs, not by weights: see analysis/diagnostics.py.
Axes: K draws of θ, Q function values, N data, D inputs, O outputs.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import Chart
from bayes_mbrl.analysis.diagnostic_charts import energy_chart, loss_chart, rhat_chart
from bayes_mbrl.analysis.diagnostics import (
    ChainSummary,
    Verdict,
    chain_verdicts,
    loss_verdict,
    sampler_verdicts,
    summarise_chains,
)
from bayes_mbrl.analysis.predictive_fit import (
    k_hat_verdict,
    leave_one_out,
    loo_verdict,
    pareto_k_chart,
    variational_k_hat,
)
from bayes_mbrl.arviz_export import ThetaDraws, draws_for_diagnosis, off_distribution, off_words
from bayes_mbrl.data import evenly_spaced
from bayes_mbrl.fit_record import fit_record
from bayes_mbrl.inference.base import Posterior, Theta, log_prior, parameter_shapes
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.regression import Regression

NUM_POINTS = 20
"""Data at which functions are looked at, and as many points off their distribution."""
MAX_FUNCTIONS = 400
"""Function values whose chains are compared; of more, as many are taken evenly."""
MAX_DRAWS = 2_000
"""Of the draws that chains have stored."""
NUM_DRAWS = 200
"""K of a posterior that draws anew each time."""
MAX_LOO_DATA, MAX_LOO_DRAWS = 500, 400
MAX_WEIGHTS = 200
"""Whose R-hat is shown beside that of the functions."""
_MAX_COST = 3e10
"""Draws times data times entries of θ for k̂, which needs the likelihood of all data."""
_MIN_RATIOS = 50
_CHUNK = 2**18
"""Draws times data that are predicted at once."""
_HEAT = 0.1
_K_HAT = "PSIS k̂ of q"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What is known without a refit."""

    text: tuple[str, ...]
    """What was looked at."""
    verdicts: tuple[Verdict, ...]
    figures: Mapping[str, Chart]
    """By the name of a file."""
    missing: tuple[str, ...]


def diagnose_posterior(
    model: Regression,
    posterior: Posterior,
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator,
    info: Any = None,
    x_off: Tensor | None = None,
    kl_weight: float = 1.0,
    max_tree_depth: int | None = None,
    log_units: float = 0.0,
    datum: str = "datum",
) -> Diagnosis:
    """Verdicts on a posterior that was fitted to x [N, D], y [N, O]; `info` is what its `fit` returned with it.

    x_off [N', D] are points off the distribution of x, by default `arviz_export.off_distribution(x)`. kl_weight and
    max_tree_depth are settings of the fit, for the words. log_units are nats to add to every datum's log-likelihood,
    for another unit of y than the model's. Raises ValueError for x and y of other widths than the model's.
    """
    model.check_widths(x, y)
    record = {} if info is None else info if isinstance(info, Mapping) else fit_record(info)
    figures: dict[str, Chart] = {}
    missing: list[str] = []
    found = _Looked(model, posterior, x, y, record, generator, figures, missing)
    verdicts = trace_verdicts(record, figures, missing)
    with torch.no_grad():
        draws = found.draws(NUM_DRAWS, MAX_DRAWS)
        functions = found.function_values(draws.theta, x_off)
        text = [f"Looked at: {draws.words}."]
        if "num_chains" in record:
            text.append(_where(min(NUM_POINTS, len(x)), len(x), datum, given=x_off is not None))
            verdicts += _chains(draws, functions, figures)
            verdicts += _sampler(record, max_tree_depth, figures)
        else:
            verdicts += _independent(posterior, functions)
        verdicts += found.k_hat(kl_weight)
        verdicts += found.leave_one_out(log_units, datum)
    text.append(_how_left_out(len(x), datum))
    return Diagnosis(tuple(text), tuple(verdicts), figures, tuple(missing))


def trace_verdicts(record: Mapping[str, Tensor], figures: dict[str, Chart], missing: list[str]) -> list[Verdict]:
    """On the losses of what an optimiser minimised; a sampler's are no trace that comes to rest."""
    losses = record.get("losses")
    if losses is None or not len(losses) or "num_chains" in record:
        return []
    try:
        verdict = loss_verdict(losses)
    except ValueError as error:
        missing.append(f"No verdict on the trace of the loss: {error}.")
        return []
    figures["loss"] = loss_chart(losses)
    return [verdict]


@dataclasses.dataclass(frozen=True)
class _Looked:
    """What is looked at, and where pictures and what is missing are collected."""

    model: Regression
    posterior: Posterior
    x: Tensor
    y: Tensor
    record: Mapping[str, Tensor]
    generator: torch.Generator
    figures: dict[str, Chart]
    missing: list[str]

    def draws(self, num_draws: int, max_stored: int) -> ThetaDraws:
        """As `draws_for_diagnosis`."""
        return draws_for_diagnosis(
            self.posterior, self.record, generator=self.generator, num_draws=num_draws, max_stored=max_stored
        )

    def function_values(self, theta: Theta, x_off: Tensor | None) -> Tensor:
        """mean and std at data and off their distribution: [K, Q], at most `MAX_FUNCTIONS` of them."""
        if x_off is None:
            x_off = off_distribution(self.x, NUM_POINTS, generator=self.generator)
        points = torch.cat([self.x[evenly_spaced(len(self.x), NUM_POINTS)], x_off])
        parts = []
        for rows in torch.split(torch.arange(len(next(iter(theta.values())))), 500):
            mean, std = self.model.predict({name: values[rows] for name, values in theta.items()}, points)
            parts.append(torch.cat([mean.flatten(1), std.flatten(1)], 1))
        values = torch.cat(parts)
        return values[:, evenly_spaced(values.shape[1], MAX_FUNCTIONS)]

    def k_hat(self, kl_weight: float) -> list[Verdict]:
        """Of q against p(θ | D); what a last-layer fit holds at one value is taken as known."""
        if self.posterior.log_density(self.posterior.sample(1, generator=self.generator)) is None:
            return []
        num_entries = sum(shape.numel() for shape in parameter_shapes(self.model).values())
        num_draws = int(min(1000, _MAX_COST // (len(self.x) * num_entries)))
        if num_draws < _MIN_RATIOS:
            text = f"not computed: too costly with {len(self.x):,} data and {num_entries:,} weights"
            return [Verdict(_K_HAT, math.nan, text, "note")]
        theta = self.posterior.sample(num_draws, generator=self.generator)
        log_q = self.posterior.log_density(theta)
        assert log_q is not None
        log_joint = log_prior(self.model.prior(), theta).double()
        for rows in torch.split(torch.arange(len(self.x)), max(1, _CHUNK // num_draws)):
            log_joint = log_joint + self.model.log_likelihood(theta, self.x[rows], self.y[rows]).double().sum(-1)
        if bad := int((~(log_joint.isfinite() & log_q.isfinite())).sum()):
            text = f"the log joint is NaN or infinite at {bad} of {num_draws} draws of q"
            return [Verdict(_K_HAT, math.nan, text, "bad")]
        num_random = sum(int((values != values[:1]).any(0).sum()) for values in theta.values())
        return [
            k_hat_verdict(variational_k_hat(log_joint, log_q), num_parameters=num_random, tempered=float(kl_weight))
        ]

    def leave_one_out(self, log_units: float, datum: str) -> list[Verdict]:
        """PSIS-LOO at `MAX_LOO_DATA` data."""
        rows = evenly_spaced(len(self.x), MAX_LOO_DATA)
        draws = self.draws(MAX_LOO_DRAWS, MAX_LOO_DRAWS)
        log_likelihood = self.model.log_likelihood(draws.theta, self.x[rows], self.y[rows]).double() + log_units
        chains = "num_chains" in self.record
        try:
            loo = leave_one_out(draws.chained(log_likelihood) if chains else log_likelihood, chains=chains)
        except ValueError as error:
            self.missing.append(f"No leave-one-out: {error}.")
            return []
        if bool(torch.from_numpy(loo.pareto_k).isfinite().any()):
            self.figures["leave-one-out"] = pareto_k_chart(loo, rows.numpy(), x_label=datum)
        return [loo_verdict(loo, _plural(datum))]


def _plural(datum: str) -> str:
    return "data" if datum == "datum" else f"{datum}s"


def _where(num: int, num_data: int, datum: str, *, given: bool) -> str:
    off = (
        "at points that were given"
        if given
        else f"at {NUM_POINTS} points off their distribution ({off_words('inputs')})"
    )
    return (
        f"Chains are compared by function values, mean and std of the prediction, at {num} of {num_data:,} "
        f"{_plural(datum)}, evenly spaced, and {off}. R-hat and ESS of weights are shown and mislead: a network's "
        "units may be swapped without any other prediction."
    )


def _how_left_out(num_data: int, datum: str) -> str:
    num, data = min(MAX_LOO_DATA, num_data), _plural(datum)
    which = f"{num} of {num_data:,} {data}, evenly spaced" if num < num_data else f"all {data}"
    return (
        f"Leave-one-out is estimated at {which}, without refits, as if the draws were those of p(θ | D) and rows were "
        "independent; K-fold (bayes-mbrl diagnose RUN --folds 5) refits without whole blocks of rows instead."
    )


def _chains(draws: ThetaDraws, functions: Tensor, figures: dict[str, Chart]) -> list[Verdict]:
    of_functions = summarise_chains(draws.chained(functions))
    flat = torch.cat([values.reshape(len(values), -1) for values in draws.theta.values()], 1)
    of_weights = summarise_chains(draws.chained(flat[:, evenly_spaced(flat.shape[1], MAX_WEIGHTS)]))
    figures["rhat"] = rhat_chart(of_functions, of_weights)
    return [*chain_verdicts(of_functions), *_weights(of_weights, flat.shape[1])]


def _weights(summary: ChainSummary, total: int) -> list[Verdict]:
    """To be seen, and not to be acted upon."""
    what = "weights" if len(summary.rhat) == total else f"weights (of {total:,})"
    return [
        dataclasses.replace(
            verdict,
            name=verdict.name.replace(what, "weights"),
            text=verdict.text.removesuffix(": run longer") + "; misleading for a network, go by the function values",
            severity="note",
        )
        for verdict in chain_verdicts(summary, what)
    ]


def _sampler(record: Mapping[str, Tensor], max_tree_depth: int | None, figures: dict[str, Chart]) -> list[Verdict]:
    """On whole chains: the record has all draws."""
    verdicts = sampler_verdicts(
        diverging=record.get("diverging"),
        energy=record.get("energy"),
        tree_depth=record.get("tree_depth"),
        max_tree_depth=max_tree_depth,
    )
    if "energy" in record and record["energy"].ndim == 2 and record["energy"].shape[1] > 1:
        figures["energy"] = energy_chart(record["energy"])
    if (temperature := record.get("temperature")) is not None and temperature.numel():
        furthest = float(temperature.reshape(-1)[(temperature.reshape(-1) - 1).abs().argmax()])
        off = abs(furthest - 1) > _HEAT
        text = f"the chain furthest from equilibrium has temperature {furthest:.2f}, 1 is right"
        text += ": raise batch_size or lower step_size" if off else ""
        verdicts.append(Verdict("temperature", furthest, text, "bad" if off else "good"))
    return verdicts


def _independent(posterior: Posterior, functions: Tensor) -> list[Verdict]:
    """There are no chains to compare; what is not finite is counted all the same."""
    what = "members of an ensemble" if isinstance(posterior, DrawsPosterior) else "independent draws of one fit"
    if isinstance(posterior, DrawsPosterior) and posterior.num_draws == 1:
        what = "one point"
    text = f"says nothing here: {what}, no chains; judge by the trace of the loss and by predictions"
    verdicts = [Verdict("R-hat", math.nan, text, "note")]
    if bad := int((~functions.isfinite()).any(0).sum()):
        text = f"{bad} of {functions.shape[1]} function values are NaN or infinite in some draw"
        verdicts.append(Verdict("finite function values", float(bad), text, "bad"))
    return verdicts
