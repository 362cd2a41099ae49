"""Did inference converge, and may its posterior be believed? Verdicts on one run, without a refit.

Axes: K draws of θ, Q function values, N transitions, P entries of θ.
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import Chart, Section
from bayes_mbrl.analysis.diagnostic_charts import energy_chart, loss_chart, rhat_chart
from bayes_mbrl.analysis.diagnostics import (
    ChainSummary,
    Verdict,
    chain_verdicts,
    loss_verdict,
    sampler_verdicts,
    summarise_chains,
    verdict_table,
)
from bayes_mbrl.analysis.predictive_fit import (
    k_hat_verdict,
    leave_one_out,
    loo_verdict,
    pareto_k_chart,
    variational_k_hat,
)
from bayes_mbrl.arviz_export import ThetaDraws, draws_for_diagnosis, evenly, off_distribution, off_words
from bayes_mbrl.inference.base import Posterior, Theta, log_prior, parameter_shapes
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.loaded_run import Knowledge, LoadedRun

TITLE = "Did inference converge?"
NUM_POINTS = 20
"""Transitions at which functions are looked at, and as many points off their distribution."""
MAX_FUNCTIONS = 400
"""Function values whose chains are compared; of more, as many are taken evenly."""
MAX_DRAWS = 2_000
"""Of the draws that chains have stored."""
NUM_DRAWS = 200
"""K of a posterior that draws anew each time."""
MAX_TRANSITIONS = 500
"""For leave-one-out."""
MAX_LOO_DRAWS = 400
MAX_WEIGHTS = 200
"""Whose R-hat is shown beside that of the functions."""
_MAX_COST = 3e10
"""Draws times data times entries of θ for k̂, which needs the likelihood of all data."""
_MIN_RATIOS = 50
_CHUNK = 2**18
"""Draws times data that are predicted at once."""
_HEAT = 0.1


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What is known without a refit."""

    text: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    figures: Mapping[str, Chart]
    """By the name of a file."""
    missing: tuple[str, ...]


def section(run: LoadedRun) -> Section:
    """Verdicts, with the pictures that they rest on."""
    found = diagnose(run)
    tables = [verdict_table(found.verdicts)] if found.verdicts else []
    return Section(TITLE, found.text, tuple(found.figures.values()), tables, found.missing)


def diagnose(run: LoadedRun) -> Diagnosis:
    """All that can be said of this run's last posterior and its fit."""
    figures: dict[str, Chart] = {}
    verdicts: list[Verdict] = []
    missing: list[str] = []
    is_chains = "num_chains" in run.fit
    if not run.fit:
        missing.append(
            "The fit's own record is not there: no trace of its loss, and no chains or energies of a sampler."
        )
    elif not is_chains:
        verdicts += _trace(run.fit.get("losses"), figures, missing)
    if run.final is None or run.transitions is None:
        missing.append("There is no posterior to look at, so nothing is said of its draws.")
        return Diagnosis((), tuple(verdicts), figures, tuple(missing))
    text = [_summary(run.final.posterior, run)]
    with torch.no_grad():
        generator = run.generator("diagnosis")
        draws = draws_for_diagnosis(
            run.final.posterior, run.fit, generator=generator, num_draws=NUM_DRAWS, max_stored=MAX_DRAWS
        )
        text.append(f"Looked at: {draws.words}.")
        functions = _function_values(run, run.final, draws.theta)
        if is_chains:
            text.append(_where(run))
            verdicts += _chains(draws, functions, figures)
            verdicts += _sampler(run, draws, figures)
        else:
            verdicts += _independent(run.final.posterior, functions)
        text.append(_how_left_out(run.final))
        verdicts += _k_hat(run, run.final)
        verdicts += _leave_one_out(run, run.final, figures, missing)
    return Diagnosis(tuple(text), tuple(verdicts), figures, tuple(missing))


def _summary(posterior: Posterior, run: LoadedRun) -> str:
    assert run.final is not None
    what = "stored draws" if isinstance(posterior, DrawsPosterior) else "a distribution that is drawn from anew"
    return f"The posterior ({run.config.posterior.name}: {what}) after {run.final.num_fitted:,} transitions."


def _where(run: LoadedRun) -> str:
    assert run.final is not None
    num = min(NUM_POINTS, run.final.num_fitted)
    return (
        f"Chains are compared by function values, mean and std of the prediction, at {num} of {run.final.num_fitted:,} "
        f"transitions, evenly spaced, and at {NUM_POINTS} points off their distribution ({off_words('states')}). "
        "R-hat and ESS of weights are shown and mislead: a network's units may be swapped without any other prediction."
    )


def _how_left_out(final: Knowledge) -> str:
    num = min(MAX_TRANSITIONS, final.num_fitted)
    which = f"{num} of {final.num_fitted:,} transitions, evenly spaced" if num < final.num_fitted else "all transitions"
    return (
        f"Leave-one-out is estimated at {which}, without refits, as if the draws were those of p(θ | D) and rows were "
        "independent; bayes-mbrl diagnose RUN --folds 5 refits without whole blocks of rows instead."
    )


def _trace(losses: Tensor | None, figures: dict[str, Chart], missing: list[str]) -> list[Verdict]:
    if losses is None or not len(losses):
        return []
    try:
        verdict = loss_verdict(losses)
    except ValueError as error:
        missing.append(f"No verdict on the trace of the loss: {error}.")
        return []
    figures["loss"] = loss_chart(losses)
    return [verdict]


def _function_values(run: LoadedRun, final: Knowledge, theta: Theta) -> Tensor:
    """mean and std of s' at transitions and off their distribution: [K, Q], at most `MAX_FUNCTIONS` of them."""
    assert run.transitions is not None
    fitted = run.transitions[: final.num_fitted]
    chosen = fitted[evenly(len(fitted), NUM_POINTS)]
    off = off_distribution(fitted.state, NUM_POINTS, generator=run.generator("diagnosis off distribution"))
    states = torch.cat([chosen.state, off])
    actions = torch.cat([chosen.action, fitted.action[evenly(len(fitted), NUM_POINTS)]])
    if len(actions) < len(states):  # fewer transitions than points
        actions = actions[torch.arange(len(states)) % len(actions)]
    num_theta = len(next(iter(theta.values())))
    parts = []
    for start in range(0, num_theta, 500):
        part = {name: values[start : start + 500] for name, values in theta.items()}
        size = len(next(iter(part.values())))
        mean, std = final.dynamics.predict(part, states.expand(size, *states.shape), actions)
        width = final.dynamics.state_dim
        parts.append(torch.cat([mean[..., :width].flatten(1), std[..., :width].flatten(1)], 1).clone())
    values = torch.cat(parts)
    return values[:, evenly(values.shape[1], MAX_FUNCTIONS)]


def _chains(draws: ThetaDraws, functions: Tensor, figures: dict[str, Chart]) -> list[Verdict]:
    of_functions = summarise_chains(draws.chained(functions))
    flat = torch.cat([values.reshape(len(values), -1) for values in draws.theta.values()], 1)
    of_weights = summarise_chains(draws.chained(flat[:, evenly(flat.shape[1], MAX_WEIGHTS)]))
    figures["rhat"] = rhat_chart(of_functions, of_weights)
    return [*chain_verdicts(of_functions), *_weights(of_weights, flat.shape[1])]


def _weights(summary: ChainSummary, total: int) -> list[Verdict]:
    """To be seen, and not to be acted upon."""
    num = len(summary.rhat)
    what = "weights" if num == total else f"weights (of {total:,})"
    return [
        dataclasses.replace(
            verdict,
            name=verdict.name.replace(what, "weights"),
            text=verdict.text.removesuffix(": run longer") + "; misleading for a network, go by the function values",
            severity="note",
        )
        for verdict in chain_verdicts(summary, what)
    ]


def _sampler(run: LoadedRun, draws: ThetaDraws, figures: dict[str, Chart]) -> list[Verdict]:
    """On whole chains, thinned or not: the record has all draws."""
    record = run.fit
    verdicts = sampler_verdicts(
        diverging=record.get("diverging"),
        energy=record.get("energy"),
        tree_depth=record.get("tree_depth"),
        max_tree_depth=run.config.posterior.settings.get("max_tree_depth"),
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


def _k_hat(run: LoadedRun, final: Knowledge) -> list[Verdict]:
    """Of q against p(θ | D); what a last-layer fit holds at one value is taken as known."""
    assert run.transitions is not None
    model = final.dynamics.model
    x, y = final.dynamics.regression_data(run.transitions[: final.num_fitted])
    name = "PSIS k̂ of q"
    num_entries = sum(shape.numel() for shape in parameter_shapes(model).values())
    num_draws = int(min(1000, _MAX_COST // (len(x) * num_entries)))
    if num_draws < _MIN_RATIOS:
        text = f"not computed: too costly with {len(x):,} transitions and {num_entries:,} weights"
        known = final.posterior.log_density(final.posterior.sample(1, generator=run.generator("diagnosis k-hat")))
        return [] if known is None else [Verdict(name, math.nan, text, "note")]
    theta = final.posterior.sample(num_draws, generator=run.generator("diagnosis k-hat"))
    log_q = final.posterior.log_density(theta)
    if log_q is None:
        return []
    log_joint = log_prior(model.prior(), theta).double()
    for rows in torch.split(torch.arange(len(x)), max(1, _CHUNK // num_draws)):
        log_joint = log_joint + model.log_likelihood(theta, x[rows], y[rows]).double().sum(-1)
    sound = log_joint.isfinite() & log_q.isfinite()
    num_parameters = sum(int((values != values[:1]).any(0).sum()) for values in theta.values())
    if not bool(sound.all()):
        text = f"the log joint is NaN or infinite at {int((~sound).sum())} of {num_draws} draws of q"
        return [Verdict(name, math.nan, text, "bad")]
    k_hat = variational_k_hat(log_joint, log_q)
    return [
        k_hat_verdict(
            k_hat, num_parameters=num_parameters, tempered=float(run.config.posterior.settings.get("kl_weight", 1.0))
        )
    ]


def _leave_one_out(run: LoadedRun, final: Knowledge, figures: dict[str, Chart], missing: list[str]) -> list[Verdict]:
    assert run.transitions is not None
    rows = evenly(final.num_fitted, MAX_TRANSITIONS)
    generator = run.generator("diagnosis leave-one-out")
    draws = draws_for_diagnosis(
        final.posterior, run.fit, generator=generator, num_draws=MAX_LOO_DRAWS, max_stored=MAX_LOO_DRAWS
    )
    log_likelihood = final.dynamics.log_likelihood(draws.theta, run.transitions[rows])
    chains = "num_chains" in run.fit
    try:
        loo = leave_one_out(draws.chained(log_likelihood) if chains else log_likelihood, chains=chains)
    except ValueError as error:
        missing.append(f"No leave-one-out: {error}.")
        return []
    verdict = loo_verdict(
        loo, f"of {final.num_fitted:,} transitions" if len(rows) < final.num_fitted else "transitions"
    )
    if torch.isfinite(torch.from_numpy(loo.pareto_k)).any():
        figures["leave-one-out"] = pareto_k_chart(loo, rows.numpy(), x_label="transition")
    return [verdict]
