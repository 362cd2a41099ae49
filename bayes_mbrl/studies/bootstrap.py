"""Study 6: must the data of an ensemble be drawn with replacement, and how many members does it need?

Dynamics are learned from random episodes, of which the fastest turns are withheld: only transitions whose angular
velocity is in the lower part are learned from. Fresh episodes ask on the data (velocities in that part) and off them
(the highest). One ensemble a seed, with resampling or with other starts and orders of minibatches alone; fewer members
are parts of it, and their scores the mean over the parts. CRPS and correlations are of standardised changes of state.
"""

import itertools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.calibration import coverage
from bayes_mbrl.analysis.charts import CYCLE, Chart, Line, Rule
from bayes_mbrl.analysis.mixture import Mixture
from bayes_mbrl.analysis.scores import crps_of_mixture
from bayes_mbrl.analysis.uncertainty import split_predictive_variance
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.study import Contrast, Results, Study, log_ratio
from bayes_mbrl.study_parts import episodes, learned

FEW, MANY = 8, 16
SIZES = (1, 2, 4, FEW, MANY)
LEARNED, FAST = 0.6, 0.8
"""Velocities up to the first quantile are learned from; those above the second are off the data."""
NUM_STEPS = (1000, 3000)
"""Of a fit: `--quick`, and in full."""
NUM_FRESH = 10
ENVIRONMENTS = {"Pendulum-v1": 2, "CartPoleSwingUp-v0": 6}
"""With the number of episodes to learn from."""


def measure(
    folder: pathlib.Path, *, env: str, num_episodes: int, resample: bool, seed: int, quick: bool
) -> dict[str, Any]:
    """Fit one ensemble, and score it and its parts on the data and off them."""
    settings = (
        *("posterior=ensemble", f"posterior.num_members={MANY}", f"posterior.resample={str(resample).lower()}"),
        *(f"posterior.num_steps={NUM_STEPS[not quick]}", "dynamics.hidden=[50,50]", "dynamics.min_std=0.01"),
    )
    config = resolve(settings, options={"env": env, "seed": seed})
    with Environment(config.env) as environment:
        builder = Builder(config, environment)
        data = episodes(builder, builder.base_policy(), num_episodes, seed=seed)
        fresh = episodes(builder, builder.base_policy(), NUM_FRESH, seed=seed, first=num_episodes)
        edge, fast = data.state[:, -1].quantile(torch.tensor([LEARNED, FAST]))
        posterior, dynamics = learned(builder, data[data.state[:, -1] <= edge], seed=seed)
    assert isinstance(posterior, DrawsPosterior)
    assert isinstance(dynamics, NetworkDynamics)
    velocity, found = fresh.state[:, -1], {}
    for where, part in (("on", fresh[velocity <= edge]), ("off", fresh[velocity > fast])):
        x, y = dynamics.regression_data(part)
        found[where] = scores(*dynamics.model.predict(posterior.draws, x), y)
    return found


def scores(mean: Tensor, std: Tensor, y: Tensor) -> dict[str, Any]:
    """Of the members' predictions [E, N, S] of y [N, S].

    crps: for each number of members; correlation: of the errors of two members; held: share of y within central
    intervals of 90 % of `FEW` members; epistemic: the deviation of all.
    """
    held = [coverage(part.pit(y), [0.9]).mean() for part in _parts(mean, std, FEW)]
    return {
        "crps": [
            float(np.mean([crps_of_mixture(part, y).mean() for part in _parts(mean, std, size)])) for size in SIZES
        ],
        "correlation": correlation(mean - y),
        "held": float(np.mean(held)),
        "epistemic": float(split_predictive_variance(mean, std).epistemic.mean().sqrt()),
        "rms_error": float((mean.mean(0) - y).square().mean().sqrt()),
    }


def correlation(errors: Tensor) -> float:
    """E[e_i e_j] / E[e_i²] over data and pairs of members i ≠ j: errors [E, N, S] → 1 alike, 0 independent.

    About 0 and not about the mean: an error that all members share is none that more of them take away.
    """
    num_members = len(errors)
    shared = errors.sum(0).square().mean() - errors.square().sum(0).mean()
    return float(shared / (num_members - 1) / errors.square().sum(0).mean())


def _parts(mean: Tensor, std: Tensor, size: int) -> list[Mixture]:
    starts = range(0, len(mean), size)
    return [Mixture(mean[start : start + size].numpy(), std[start : start + size].numpy()) for start in starts]


def contrasts(results: Results) -> list[Contrast]:
    """Log ratios of CRPS, differences of correlations and shares of outcomes.

    Not the share of a gain: the CRPS of M members is a + b / M in expectation, of which 8 save 14/15 of what 16 do.
    """
    found = []
    for env in ENVIRONMENTS:
        drawn, alone = (results[_arm(env, resample)] for resample in (True, False))
        for where in ("on", "off"):
            ratios = log_ratio(_crps(drawn, where, FEW), _crps(alone, where, FEW))
            found.append(
                Contrast(
                    f"{env}, {where} the data: CRPS of {FEW} members on resampled data, and a tenth, over that of "
                    f"{FEW} by initialisation alone (log ratio)",
                    [ratio + math.log(1.1) for ratio in ratios],
                )
            )
        pairs = zip(_of(drawn, "off", "correlation"), _of(alone, "off", "correlation"), strict=True)
        found += [
            Contrast(
                f"{env}, off the data: correlation of two members' errors with resampling, and a tenth, less that by "
                "initialisation alone (“sufficiently”: hardly less independent than with resampling)",
                [a + 0.1 - b for a, b in pairs],
            ),
            *(
                Contrast(
                    f"{env}, {where} the data: CRPS of {MANY} members, and a tenth, over that of {FEW} (log ratio)",
                    [ratio + math.log(1.1) for ratio in log_ratio(_crps(alone, where, MANY), _crps(alone, where, FEW))],
                )
                for where in ("on", "off")
            ),
            Contrast(
                f"{env}, off the data: 0.9 less the share of outcomes that intervals of 90 % by {FEW} members hold",
                [0.9 - held for held in _of(alone, "off", "held")],
            ),
        ]
    return found


def figure(results: Results) -> Chart:
    """CRPS off the data against the number of members, in units of one network on all data: means over seeds."""
    x = np.array(SIZES, dtype=float)
    lines = []
    for (number, env), resample in itertools.product(enumerate(ENVIRONMENTS), (False, True)):
        unit = np.log(_crps(results[_arm(env, False)], "off", 1))
        scored = np.stack([np.log(_crps(results[_arm(env, resample)], "off", size)) for size in SIZES])
        lines.append(Line(x, np.exp((scored - unit).mean(1)), _arm(env, resample), CYCLE[number], dashed=resample))
    return Chart(
        "Off the data: how many members, and is resampling needed?",
        "members",
        "CRPS (one network = 1)",
        [*lines, Rule(10.0, vertical=True, label="the lecture's “< 10”")],
        note="Lower is better. Geometric means over seeds, in units of one network that is fitted to all data. "
        f"Correlation of two members' errors off the data (0: independent, 1: alike): {_correlations(results)}.",
    )


def _correlations(results: Results) -> str:
    """Of each arm, the mean over seeds."""
    return "; ".join(f"{arm} {np.mean(_of(found, 'off', 'correlation')):.2f}" for arm, found in results.items())


def _arm(env: str, resample: bool) -> str:
    return f"{env}, {'resampled' if resample else 'initialisation alone'}"


def _of(arm: Mapping[int, Mapping[str, Any]], where: str, key: str) -> list[Any]:
    """One measurement on or off the data for each seed."""
    return [measured[where][key] for measured in arm.values()]


def _crps(arm: Mapping[int, Mapping[str, Any]], where: str, size: int) -> list[float]:
    return [crps[SIZES.index(size)] for crps in _of(arm, where, "crps")]


STUDY = Study(
    claim="“Resampling with replacement is usually unnecessary, because SGD and random initialization usually makes "
    "the models sufficiently independent”: hardly less so, and no worse by a tenth, than with resampling; the number "
    f"of models “is usually small (< 10)”: {FEW} are no worse by a tenth than {MANY}, and a “very crude "
    "approximation”: too sure off the data.",
    measure="bayes_mbrl.studies.bootstrap:measure",
    arms={
        _arm(env, resample): {"env": env, "num_episodes": num_episodes, "resample": resample}
        for env, num_episodes in ENVIRONMENTS.items()
        for resample in (False, True)
    },
    contrasts=contrasts,
    figure=figure,
    minutes=(1.5, 11.0),
)
