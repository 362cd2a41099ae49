"""Calibration along imagined trajectories, step by step.

Axes: K parameter samples, R draws, W windows, H horizon, S state.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.calibration import coverage, coverage_verdict, horizon_chart, pit_of_draws
from bayes_mbrl.analysis.charts import Chart
from bayes_mbrl.analysis.mixture import Floats
from bayes_mbrl.analysis.scores import crps_of_draws, energy_score
from bayes_mbrl.loaded_run import Knowledge, LoadedRun
from bayes_mbrl.lookahead import longest_episode, lookahead
from bayes_mbrl.sections.calibration_rows import Rows

LEVELS = (0.5, 0.9)
MAX_HORIZON, MAX_WINDOWS, ROLLOUT_DRAWS = 20, 150, 100


def many_steps(
    run: LoadedRun, knowledge: Knowledge, groups: list[Rows], scale: Floats, missing: list[str]
) -> tuple[list[str], list[Chart]]:
    """Along imagined trajectories from real states under the real actions."""
    wanted = min(MAX_HORIZON, int(run.config.planner.settings.get("horizon", MAX_HORIZON)))
    held: dict[str, Floats] = {}
    scores: dict[str, Mapping[str, Floats]] = {"CRPS": {}, "energy score": {}}
    text = []
    for rows in groups:
        horizon = min(wanted, longest_episode(rows.all))
        if horizon < 2:
            missing.append(f"{rows.name}: no episode is longer than a step, so nothing is judged further ahead.")
            continue
        with torch.no_grad():
            ahead = lookahead(
                knowledge.posterior, knowledge.dynamics, rows.all, horizon=horizon, max_windows=MAX_WINDOWS,
                num_theta=ROLLOUT_DRAWS, generator=run.generator("calibration: rollouts"),
            )  # fmt: skip
        draws, real, steps = _finite_steps(ahead.imagined, ahead.real)
        if steps < horizon:
            missing.append(f"{rows.name}: imagined trajectories diverge after {steps} of {horizon} steps.")
        if not steps:
            continue
        generator, width = run.generator("calibration: ranks"), scale[: knowledge.dynamics.state_dim]
        pits = [pit_of_draws(draws[:, :, h], real[:, h], generator=generator) for h in range(steps)]
        shares = np.stack([coverage(pit, LEVELS).mean(1) for pit in pits], axis=1)
        held |= {f"{rows.name}, {100 * p:.0f} %": shares[i] for i, p in enumerate(LEVELS)}
        scaled = [(draws[:, :, h] / width, real[:, h] / width) for h in range(steps)]
        scores["CRPS"] = {**scores["CRPS"], rows.name: np.array([crps_of_draws(*pair).mean() for pair in scaled])}
        energy = np.array([energy_score(some[::2], y).mean() for some, y in scaled])  # all pairs of draws are long
        scores["energy score"] = {**scores["energy score"], rows.name: energy}
        last = coverage_verdict(0.9, float(shares[1, -1]), pits[-1].size)
        starts = "1 real state as a start" if len(real) == 1 else f"{len(real)} real states as starts"
        text.append(f"{steps} steps ahead, {rows.name} ({starts}, {ROLLOUT_DRAWS} θ): {last}.")
    if not held:
        return text, []
    note = (
        "Imagined from real states under the actions really taken. On the rules: as many outcomes are held as claimed. "
        "Windows overlap, so their outcomes depend on each other."
    )
    charts = [
        horizon_chart(
            held,
            y_label="share of outcomes held",
            title="Coverage by horizon",
            note=note,
            levels=LEVELS,
            together=len(LEVELS),
        )
    ]
    for name, curves in scores.items():
        what = "mean over dimensions" if name == "CRPS" else "of all dimensions together"
        note = f"A proper score, {what}, the lower the better: how far off, spread included."
        charts.append(
            horizon_chart(
                curves,
                y_label=f"{name} (sd of training states)",
                title=f"{name[:1].upper()}{name[1:]} by horizon",
                note=note,
            )
        )
    return text, charts


def _finite_steps(imagined: Tensor, real: Tensor) -> tuple[Floats, Floats, int]:
    """(draws [R, W, H, S], outcomes [W, H, S], steps up to which every trajectory is finite)."""
    draws = imagined.flatten(0, 1)[:, :, 1:].double()
    sound = draws.isfinite().all(-1).all(0).all(0)
    return draws.numpy(), real[:, 1:].double().numpy(), int(sound.long().cumprod(0).sum())
