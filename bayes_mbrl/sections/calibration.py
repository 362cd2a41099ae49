"""Whether a run's predictions hold what they promise, one and many steps ahead, where its policy goes and elsewhere.

Axes: K parameter samples, R draws, N transitions, S dimensions of a prediction.
"""

import dataclasses

import numpy as np
import torch

from bayes_mbrl.analysis.calibration import (
    SimultaneousBand,
    calibration_error,
    calibration_error_by_chance,
    coverage,
    coverage_chart,
    coverage_verdict,
    pit_chart,
    sharpness,
    simultaneous_band,
)
from bayes_mbrl.analysis.charts import Chart, Section, Table
from bayes_mbrl.analysis.mixture import Floats, Mixture
from bayes_mbrl.analysis.scores import crps_of_draws, energy_score, interval_score, joint_log_loss
from bayes_mbrl.analysis.uncertainty import mixture_log_likelihood
from bayes_mbrl.data import evenly_spaced
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.recalibrated import RecalibratedDynamics, predictive_mixture
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.loaded_run import LoadedRun, without_unit
from bayes_mbrl.sections.calibration_by_horizon import LEVELS, many_steps
from bayes_mbrl.sections.calibration_rows import NUM_THETA, Rows, random_episodes, rows_of, scale_of
from bayes_mbrl.sections.terminations import ends_foreseen

TITLE = "Calibration"
MAX_SCORED, NUM_DRAWS = 250, 150
"""Rows that are scored by draws, and draws for each."""
MAX_DIMENSIONS = 6
"""Shown one by one: those whose 90 % intervals are furthest from holding 90 %."""
ALL_DIMENSIONS = 0.95
"""Probability, at least, that the PIT of a calibrated prediction is within the band in all dimensions (Bonferroni)."""
MAX_SIMULATIONS = 40_000
JOINT_BATCH, NUM_BATCHES = 10, 200


def section(run: LoadedRun) -> Section:
    """Coverage, PIT and proper scores of a run's last posterior; with recalibration, before and after it."""
    missing: list[str] = []
    if run.final is None or run.builder is None or run.transitions is None:
        return Section(
            TITLE, missing=("There is no posterior, or no environment to go with it: nothing is predicted.",)
        )
    theta = run.final.posterior.sample(NUM_THETA, generator=run.generator("calibration: theta"))
    sources = {"evaluation episodes": run.unseen, "random actions": random_episodes(run, missing)}
    if run.unseen is None:
        missing.append("There are no episodes by the last policy that were not learned from.")
    elif run.evaluation is None:
        sources = {"newest episodes": run.unseen, "random actions": sources["random actions"]}
    groups = [
        rows
        for name, transitions in sources.items()
        if transitions is not None
        and (rows := rows_of(name, transitions, theta, run.final.dynamics, missing)) is not None
    ]
    if not groups:
        return Section(TITLE, missing=(*missing, "There are no transitions that nothing was learned from."))
    scale = scale_of(run, run.final)
    names = [*map(without_unit, run.state_names), "reward"]
    band = _band(len(groups[0].pit), groups[0].pit.shape[1], run)
    text = [_what_is_judged(groups), *_verdicts(groups), *_pit_verdicts(groups[0], names, band)]
    text += _constants(groups, names)
    figures: list[Chart] = [
        coverage_chart({rows.name: rows.pit.reshape(-1) for rows in groups}, title="Coverage, one step ahead"),
        _pit_chart(groups[0], names, band),
    ]
    tables = [_dimension_table(groups, names, run), _score_table(groups, theta, run.final.dynamics, scale, run)]
    words, charts = many_steps(run, run.final, groups, scale, missing)
    text, figures = text + words, figures + charts
    words, charts, more = ends_foreseen(groups, theta, run.final.dynamics, run.transitions[: run.final.num_fitted])
    text, figures, tables = text + words, figures + charts, tables + more
    if isinstance(run.final.dynamics, RecalibratedDynamics):
        words, charts = _before_and_after(run.final.dynamics, groups, theta)
        text, figures = text + words, figures + charts
    return Section(TITLE, text, figures, tables, missing)


def _what_is_judged(groups: list[Rows]) -> str:
    counts = " and ".join(
        f"{rows.name} ({len(rows.judged):,} transitions)" if len(rows.judged) == len(rows.all)
        else f"{rows.name} ({len(rows.judged):,} of {len(rows.all):,} transitions, evenly spaced)"
        for rows in groups
    )  # fmt: skip
    return (
        f"Judged on data that nothing was learned from: {counts}. Random actions were taken afresh for this page, from "
        "start states of their own: a test away from where the learned policy goes. Rows of one episode resemble each "
        "other, so that there is less evidence than so many independent outcomes would be."
    )


def _verdicts(groups: list[Rows]) -> list[str]:
    """One step ahead, all dimensions together."""
    sentences = []
    for rows in groups:
        held = coverage(rows.pit, LEVELS).mean(1)
        said = "; ".join(coverage_verdict(p, float(h), rows.pit.size) for p, h in zip(LEVELS, held, strict=True))
        error, chance = float(calibration_error(rows.pit).mean()), calibration_error_by_chance(len(rows.pit))
        sentences.append(
            f"One step ahead, {rows.name}: {said}. Calibration error {100 * error:.1f} points of coverage "
            f"({100 * chance:.1f} would be chance alone)."
        )
    return sentences


def _pit_verdicts(rows: Rows, names: list[str], band: SimultaneousBand) -> list[str]:
    out = [names[d] for d in range(rows.pit.shape[1]) if not band.holds(rows.pit[:, d])]
    which = "in no dimension" if not out else f"in {len(out)} of {rows.pit.shape[1]} dimensions ({', '.join(out)})"
    return [
        f"The PIT of {rows.name} leaves the {100 * ALL_DIMENSIONS:.0f} % band {which}. {_meaning(rows)} It is for "
        "independent rows, and too narrow for those of one episode."
    ]


def _constants(groups: list[Rows], names: list[str]) -> list[str]:
    """Which outcomes are no test of an interval."""
    y = np.concatenate([rows.y for rows in groups])
    still = [names[d] for d in np.flatnonzero(np.ptp(y, axis=0) == 0)]
    if not still:
        return []
    return [
        f"In all of these data one and the same value came of {', '.join(still)}: intervals that hold it always, and "
        "so are too wide, are no fault there, and it counts in what is said of all dimensions together."
    ]


def _band(num_rows: int, num_dims: int, run: LoadedRun) -> SimultaneousBand:
    """Holds the ECDFs of all S dimensions at once with probability `ALL_DIMENSIONS`: each with 1 − 0.05 / S."""
    outside = (1 - ALL_DIMENSIONS) / num_dims
    band = simultaneous_band(
        num_rows, probability=1 - outside, num_simulations=int(min(MAX_SIMULATIONS, max(4000, 200 / outside))),
        generator=run.generator("calibration: band"),
    )  # fmt: skip
    return dataclasses.replace(band, probability=ALL_DIMENSIONS)


def _meaning(rows: Rows) -> str:
    num_dims = rows.pit.shape[1]
    if num_dims == 1:
        return ""
    return f"The band holds all {num_dims} dimensions at once, each with probability 1 − 0.05/{num_dims}."


def _worst(rows: Rows) -> list[int]:
    """Dimensions by how far their 90 % intervals are off."""
    off = np.abs(coverage(rows.pit, (0.9,))[0] - 0.9)
    return sorted(np.argsort(-off, kind="stable")[:MAX_DIMENSIONS].tolist())


def _pit_chart(rows: Rows, names: list[str], band: SimultaneousBand) -> Chart:
    pits = {names[d]: rows.pit[:, d] for d in _worst(rows)}
    chart = pit_chart(pits, band, title=f"PIT, one step: {rows.name}")
    return dataclasses.replace(chart, note=f"{chart.note} {_meaning(rows)}".strip())


def _dimension_table(groups: list[Rows], names: list[str], run: LoadedRun) -> Table:
    cells = []
    for rows in groups:
        draws, y = _draws(rows, run)
        crps, held = crps_of_draws(draws, y).mean(0), coverage(rows.pit, LEVELS)
        low, high = np.quantile(draws, (0.05, 0.95), axis=0)
        interval = interval_score(low, high, y, level=0.9).mean(0)
        error, width = calibration_error(rows.pit), sharpness(rows.mixture.total_std())
        cells += [
            (
                rows.name, names[d], *(f"{100 * share:.0f} %" for share in held[:, d]), f"{100 * error[d]:.1f}",
                f"{width[d]:.3g}", f"{crps[d]:.3g}", f"{interval[d]:.3g}",
                coverage_verdict(0.9, float(held[1, d]), len(rows.pit)).rpartition(": ")[2],
            )
            for d in _worst(rows)
        ]  # fmt: skip
    columns = (
        "data", "of", "50 % hold", "90 % hold", "calibration error (points)", "sharpness", "CRPS",
        "90 % interval score", "90 % intervals are",
    )  # fmt: skip
    return Table(columns, cells, "One step ahead, by dimension (sharpness and scores in its own unit)")


def _score_table(groups: list[Rows], theta: Theta, dynamics: Dynamics, scale: Floats, run: LoadedRun) -> Table:
    cells = []
    for rows in groups:
        draws, y = _draws(rows, run)
        with torch.no_grad():
            log_likelihood = dynamics.log_likelihood(theta, rows.judged).double()
        size = min(JOINT_BATCH, len(rows.judged))
        joint = joint_log_loss(
            log_likelihood.numpy(), batch_size=size, num_batches=NUM_BATCHES,
            generator=run.generator("calibration: batches"),
        )  # fmt: skip
        marginal = float(mixture_log_likelihood(log_likelihood).mean())
        energy = energy_score(draws / scale, y / scale).mean()
        cells.append((rows.name, f"{marginal:.2f}", f"{-joint.mean() / size:.2f} (of {size})", f"{energy:.3g}"))
    columns = (
        "data",
        "log-likelihood (nats a row)",
        "joint log-likelihood (nats a row)",
        "energy score (sd of states)",
    )
    return Table(columns, cells, f"One step ahead, all dimensions together ({NUM_THETA} samples of θ)")


def _draws(rows: Rows, run: LoadedRun) -> tuple[Floats, Floats]:
    """Draws [R, N, S] of up to `MAX_SCORED` rows, and what came [N, S]."""
    some = evenly_spaced(len(rows.y), MAX_SCORED).numpy()
    part = Mixture(rows.mixture.mean[:, some], rows.mixture.std[:, some], rows.mixture.noise)
    return part.sample(NUM_DRAWS, generator=run.generator("calibration: draws")), rows.y[some]


def _before_and_after(
    dynamics: RecalibratedDynamics, groups: list[Rows], theta: Theta
) -> tuple[list[str], list[Chart]]:
    """What the map of recalibration changed."""
    fitted = dynamics.fitted
    helped = f"{int(fitted.helps.sum())} of {len(fitted.helps)} dimensions"
    text = [
        f"Recalibration: the map was fitted to {fitted.num_held_out} held-out transitions and is used in {helped}, "
        "where it raised the log-likelihood in cross-validation. All figures of this page are with it."
    ]
    charts = []
    for rows in groups:
        before = predictive_mixture(dynamics.base, theta, rows.judged).pit(rows.y)
        shares = [float(coverage(pit, (0.9,)).mean()) for pit in (before, rows.pit)]
        errors = [100 * float(calibration_error(pit).mean()) for pit in (before, rows.pit)]
        with torch.no_grad():
            likely = [
                float(mixture_log_likelihood(model.log_likelihood(theta, rows.judged)).mean())
                for model in (dynamics.base, dynamics)
            ]
        text.append(
            f"{rows.name}: 90 % intervals held {100 * shares[0]:.0f} % before and hold {100 * shares[1]:.0f} % after; "
            f"calibration error {errors[0]:.1f} and {errors[1]:.1f} points; log-likelihood {likely[0]:.2f} and "
            f"{likely[1]:.2f} nats a transition."
        )
        pits = {"before recalibration": before.reshape(-1), "after": rows.pit.reshape(-1)}
        charts.append(coverage_chart(pits, title=f"Recalibration: {rows.name}"))
    return text, charts
