"""Did inference converge, and may its posterior be believed? Verdicts on one run, without a refit."""

import dataclasses

import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import Chart, Section
from bayes_mbrl.analysis.diagnostics import verdict_table
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.posterior_diagnosis import Diagnosis, diagnose_posterior, trace_verdicts

TITLE = "Did inference converge?"


def section(run: LoadedRun) -> Section:
    """Verdicts, with the pictures that they rest on."""
    found = diagnose(run)
    tables = [verdict_table(found.verdicts)] if found.verdicts else []
    return Section(TITLE, found.text, tuple(found.figures.values()), tables, found.missing)


def diagnose(run: LoadedRun) -> Diagnosis:
    """All that can be said of this run's last posterior and its fit, in the environment's units.

    A recalibration is left out: it mends predictions, not the posterior. What it held out was not fitted.
    """
    missing = []
    if not run.fit:
        missing.append("The fit's own record is not there: no trace of its loss, no chains or energies of a sampler.")
    if run.final is None or run.transitions is None or run.builder is None:
        missing.append("There is no posterior to look at, so nothing is said of its draws.")
        figures: dict[str, Chart] = {}
        verdicts = trace_verdicts(run.fit, figures, missing)
        return Diagnosis((), tuple(verdicts), figures, tuple(missing))
    fitted, posterior = run.transitions[: run.final.num_fitted], run.config.posterior
    dynamics = run.builder.dynamics(fitted)
    learned = learned_from(run.builder, fitted)
    x, y = dynamics.regression_data(learned)
    theta = run.final.posterior.sample(1, generator=run.generator("diagnosis units"))
    units = dynamics.log_likelihood(theta, learned[:1]) - dynamics.model.log_likelihood(theta, x[:1], y[:1])
    found = diagnose_posterior(
        dynamics.model,
        run.final.posterior,
        x,
        y,
        generator=run.generator("diagnosis"),
        info=record_of(run),
        kl_weight=posterior.settings.get("kl_weight", 1.0),
        max_tree_depth=posterior.settings.get("max_tree_depth"),
        log_units=float(units),
        datum="transition",
    )
    first = f"The posterior ({posterior.name}) after {run.final.num_fitted:,} transitions."
    return dataclasses.replace(found, text=(first, *found.text), missing=(*missing, *found.missing))


def record_of(run: LoadedRun) -> dict[str, Tensor]:
    """What the fit told of itself; where that is not there, as long as a run goes on, the number of chains at least."""
    chains = run.config.posterior.settings.get("num_chains")
    return dict(run.fit) if run.fit or chains is None else {"num_chains": torch.tensor(chains)}


def learned_from(builder: Builder, fitted: Transitions) -> Transitions:
    """Those that the posterior was fitted to: a recalibration holds some out."""
    return builder.recalibration.split(fitted)[0]
