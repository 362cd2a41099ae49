"""Study 5: what mean field, an ensemble and dropout make of p(θ | D), beside draws from it.

Two clusters of data of a sine with a gap between them; one hidden layer of ReLU units and known noise, so that the
posteriors differ in what they say of the function alone. NUTS draws from the exact posterior, and a second time: how
far the two are apart is what no approximation can be expected to beat. “One network” is the most probable θ. Learned
noise, more families and more problems: benchmarks/against_nuts.py. Cost is counted in gradients of all data, those of
NUTS without its warm-up: told beside the figure, but nothing is claimed of it, since the settings here say it alone
(steps of a fit; the trajectories of NUTS go as far as `max_tree_depth` lets them).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.analysis.calibration import calibration_error, coverage
from bayes_mbrl.analysis.charts import ALEATORIC, BLACK, BLUE, GREEN, GREY, VERMILLION, Chart, Line, Rule
from bayes_mbrl.analysis.mixture import Mixture
from bayes_mbrl.analysis.uncertainty import mixture_log_likelihood, split_predictive_variance
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.registry import POSTERIORS
from bayes_mbrl.seeding import generator_for
from bayes_mbrl.study import Contrast, Results, Study, difference, log_ratio, per_seed

GAP, EDGE = 0.75, 1.25
"""There are data at GAP < |x| < EDGE."""
NOISE_STD = 0.1
GRID = np.linspace(-EDGE, EDGE, 51)
LEVELS = (np.arange(50) + 0.5) / 50
NUM_DRAWS, NUM_COMPONENTS, NUM_FRESH = 2000, 500, 200
"""Of θ; of those as many to judge calibration by; of data for that."""
REFERENCE, AGAIN, POINT = "NUTS", "NUTS again", "one network"
FITS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    POINT: ("point", {"prior_weight": 1.0}),
    "mean-field": ("mean-field", {}),
    "ensemble": ("ensemble", {"num_members": 8, "resample": False}),
    "mc-dropout": ("mc-dropout", {}),
}
"""The approximations and the most probable θ: name of the posterior, settings of its fit."""
FAMILIES = ("mean-field", "ensemble", "mc-dropout")
NUTS = (
    {"num_chains": 2, "num_warmup": 300, "num_draws": 300, "max_tree_depth": 8},
    {"num_chains": 4, "num_warmup": 500, "num_draws": 500, "max_tree_depth": 9},
)
NUM_STEPS = (2000, 5000)
"""`--quick`, and in full; so for NUTS."""


def problem(num_data: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x, y [num_data, 1]: half of the data in each cluster."""
    side = torch.empty(num_data, 1, dtype=torch.float64).uniform_(GAP, EDGE, generator=generator)
    side[::2] *= -1
    return side, observed(side, generator=generator)


def observed(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """y = sin 3x + noise, in the shape of x."""
    return torch.sin(3 * x) + NOISE_STD * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def measure(folder: pathlib.Path, *, fit: str, run: int = 0, seed: int, quick: bool) -> dict[str, Any]:
    """Fit one posterior to the data that all arms of this seed have; `run` numbers independent fits to them."""
    torch.set_num_threads(1)
    data = torch.Generator().manual_seed(seed)
    x, y = problem(40, generator=data)
    fresh = torch.empty(NUM_FRESH, 1, dtype=x.dtype).uniform_(-EDGE, EDGE, generator=data)
    fresh_y = observed(fresh, generator=data)
    settled: Mapping[str, Any] = {"hidden": (50,), "activation": "relu", "prior_scale": 2.0, "dtype": x.dtype}
    model = BayesianNetwork(1, 1, noise="fixed", noise_std=NOISE_STD, **settled)
    name, settings = FITS.get(fit, ("nuts", NUTS[not quick]))
    if fit in FITS:
        settings = {"num_steps": NUM_STEPS[not quick], **settings}
    generator = generator_for(seed, "inference", run)
    posterior, info = POSTERIORS.rows[name].load()(model, x, y, generator=generator, **settings)
    theta = posterior.sample(NUM_DRAWS, generator=generator)
    grid = torch.tensor(GRID)[:, None]
    split = split_predictive_variance(*model.predict(theta, grid))
    draws = model.sample(theta, grid, generator=generator)[..., 0]
    mean, std = (part[:NUM_COMPONENTS].numpy() for part in model.predict(theta, fresh))
    pit = Mixture(mean, std).pit(fresh_y)
    epistemic = split.epistemic[:, 0].sqrt()
    return {
        "quantiles": np.quantile(draws.numpy(), LEVELS, axis=0).round(6).tolist(),
        "std": split.total[:, 0].sqrt().tolist(),
        "epistemic": epistemic.tolist(),
        "epistemic_in_gap": float(epistemic[torch.tensor(np.abs(GRID) < GAP / 2)].square().mean().sqrt()),
        "calibration_error": float(calibration_error(pit)[0]),
        "held": float(coverage(pit, [0.9])[0, 0]),
        "log_likelihood": float(mixture_log_likelihood(model.log_likelihood(theta, fresh, fresh_y)).mean()),
        "gradients": int(info.num_leapfrog_steps.sum()) if name == "nuts" else info.losses.numel(),
    }


def distance(one: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """2-Wasserstein distance of two predictive distributions of y, in deviations of the reference: mean over x.

    By their quantiles [L, N] at `LEVELS`, without what lies beyond the outer ones.
    """
    apart = np.array(one["quantiles"]) - np.array(reference["quantiles"])
    return float((np.sqrt((apart**2).mean(0)) / np.array(reference["std"])).mean())


def distances(results: Results, arm: str) -> list[float]:
    """From NUTS, for each seed."""
    return [distance(found, results[REFERENCE][seed]) for seed, found in results[arm].items()]


def contrasts(results: Results) -> list[Contrast]:
    """Log ratios of distances and of deviations, and points of coverage; last, whether NUTS can be the measure."""
    point, found = distances(results, POINT), []
    for family in FAMILIES:
        errors = (per_seed(results, arm, "calibration_error") for arm in (POINT, family))
        deviations = (per_seed(results, arm, "epistemic_in_gap") for arm in (REFERENCE, family))
        found += [
            Contrast(
                f"{family}: predictive distance from NUTS of one network over that of the family (log ratio)",
                log_ratio(point, distances(results, family)),
            ),
            Contrast(
                f"{family}: calibration error of one network less that of the family (share of outcomes)",
                difference(*errors),
            ),
            Contrast(
                f"{family}: epistemic deviation in the gap by NUTS over that by the family (log ratio)",
                log_ratio(*deviations),
            ),
        ]
    nearest = [min(of_seed) for of_seed in zip(*(distances(results, family) for family in FAMILIES), strict=True)]
    return [
        *found,
        Contrast(
            f"the reference: predictive distance from NUTS of the nearest family over that of {AGAIN} (log ratio)",
            log_ratio(nearest, distances(results, AGAIN)),
        ),
    ]


def figure(results: Results) -> Chart:
    """Epistemic deviation over x, a line for each posterior: the mean over seeds."""
    colors = {REFERENCE: BLACK, AGAIN: GREY, "mean-field": BLUE, "ensemble": VERMILLION, "mc-dropout": GREEN}
    lines = [
        Line(
            GRID,
            np.mean([found["epistemic"] for found in results[arm].values()], axis=0),
            f"{arm} (distance {np.mean(distances(results, arm)):.2f})" if arm != REFERENCE else arm,
            color,
            dashed=arm == AGAIN,
        )
        for arm, color in colors.items()
    ]
    one = np.mean(distances(results, POINT))
    cost = [f"{arm} {np.mean(per_seed(results, arm, 'gradients')):,.0f}" for arm in (REFERENCE, *FAMILIES)]
    return Chart(
        "Who knows what the gap hides?",
        "x",
        "epistemic deviation of y",
        [
            Rule(NOISE_STD, label="noise (aleatoric)", color=ALEATORIC),
            Rule(-GAP, vertical=True, label="edges of the gap"),
            Rule(GAP, vertical=True),
            *lines,
        ],
        note="Means over seeds. Distance: of predictive distributions from that of NUTS, in its deviations; of one "
        f"network, which has no epistemic deviation, {one:.2f}. Gradients of all data: {', '.join(cost)}; those of the "
        "warm-up of NUTS are not counted.",
    )


STUDY = Study(
    claim="Mean field is the “common approximation” of p(θ | D); an ensemble “basically works” and is a “very crude "
    "approximation”: either, or dropout, predicts more like the exact posterior, and better calibrated, than "
    "one network does, and yet sees too little of what is unknown in a gap; by draws of NUTS, whose second run is "
    "nearer to the first than any of them.",
    measure="bayes_mbrl.studies.posteriors_against_nuts:measure",
    arms={
        REFERENCE: {"fit": REFERENCE, "run": 1},
        AGAIN: {"fit": AGAIN, "run": 2},
        **{fit: {"fit": fit} for fit in FITS},
    },
    contrasts=contrasts,
    figure=figure,
    minutes=(2.3, 12.0),
    num_seeds=(4, 10),
)
