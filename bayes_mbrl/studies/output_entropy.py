"""Study 4: the variance that a network puts out says nothing of what the data did not show it.

Data of a sine with noise that differs from place to place, x in [−2, 2]; questions also at x in [3, 5]. One network
with an output variance ("idea 1"), an ensemble of such networks, and a mean-field posterior over one ("idea 2").
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bayes_mbrl.analysis.charts import ALEATORIC, EPISTEMIC, REAL, Band, Chart, Line, Rule
from bayes_mbrl.analysis.uncertainty import split_predictive_variance
from bayes_mbrl.inference import ensemble, point, svi
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.study import Contrast, Results, Study, difference, log_ratio, per_seed

FITS: Mapping[str, Callable[..., Any]] = {"point": point.fit, "ensemble": ensemble.fit, "mean-field": svi.fit}
ON, OFF = (-2.0, 2.0), (3.0, 5.0)
NUM_DRAWS = 200


def truth(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of y given x."""
    return torch.sin(2 * x), 0.1 + 0.05 * torch.cos(3 * x)


def measure(folder: pathlib.Path, *, posterior: str, seed: int, quick: bool) -> dict[str, Any]:
    """Fit one posterior to fresh data, and ask it on them and off them."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(200, 1).uniform_(*ON, generator=generator)
    mean, std = truth(x)
    y = mean + std * torch.randn(mean.shape, generator=generator)
    model = BayesianNetwork(input_dim=1, output_dim=1, hidden=(50, 50))
    num_steps = 1000 if quick else 3000
    fitted, _ = FITS[posterior](model, x, y, generator=generator, num_steps=num_steps)
    grid = torch.linspace(ON[0], OFF[1], 141)[:, None]
    theta = fitted.sample(NUM_DRAWS, generator=generator)
    centres, spreads = model.predict(theta, grid)
    split = split_predictive_variance(centres, spreads)
    error = (centres.mean(0) - truth(grid)[0]).abs().flatten()
    epistemic, aleatoric = split.epistemic.flatten().sqrt(), split.aleatoric.flatten().sqrt()
    off = (grid >= OFF[0]).flatten()
    on = (grid <= ON[1]).flatten()
    return {
        "grid": grid.flatten().tolist(),
        "mean": centres.mean(0).flatten().tolist(),
        "error_on": _rms(error[on]),
        "error_off": _rms(error[off]),
        "aleatoric_on": _rms(aleatoric[on]),
        "aleatoric_off": _rms(aleatoric[off]),
        "epistemic": epistemic.tolist(),
        "aleatoric": aleatoric.tolist(),
        "rank_correlation": float(stats.spearmanr(epistemic, error).statistic) if float(epistemic.max()) > 0 else 0.0,
    }


def contrasts(results: Results) -> list[Contrast]:
    """What the claim says, in logarithms (0.69 is twice) and rank correlations."""
    error, output = (log_ratio(per_seed(results, "point", f"{what}_off"), per_seed(results, "point", f"{what}_on"))
                     for what in ("error", "aleatoric"))  # fmt: skip
    return [
        Contrast(
            "growth of the one network's error from on the data to off them, over the growth of the deviation that it "
            "puts out (log ratio)",
            difference(error, output),
        ),
        Contrast(
            "the one network's error off the data over the deviation that it puts out there (log ratio)",
            log_ratio(per_seed(results, "point", "error_off"), per_seed(results, "point", "aleatoric_off")),
        ),
        *(
            Contrast(
                f"{arm}: rank correlation of epistemic deviation and error over x",
                per_seed(results, arm, "rank_correlation"),
            )
            for arm in ("ensemble", "mean-field")
        ),
    ]


def figure(results: Results) -> Chart:
    """The first seed of the ensemble: both deviations over x, beside the error of its mean."""
    measured = next(iter(results["ensemble"].values()))
    x, mean = np.array(measured["grid"]), np.array(measured["mean"])
    epistemic, aleatoric = np.array(measured["epistemic"]), np.array(measured["aleatoric"])
    total = np.sqrt(epistemic**2 + aleatoric**2)
    true = truth(torch.tensor(x))[0].numpy()
    return Chart(
        "An ensemble on its data (left of the rule) and off them",
        "x",
        "y",
        [
            Band(x, mean - 2 * total, mean + 2 * total, "mean ± 2 deviations, epistemic and aleatoric", EPISTEMIC),
            Band(x, mean - 2 * aleatoric, mean + 2 * aleatoric, "mean ± 2 aleatoric deviations alone", ALEATORIC),
            Line(x, mean, "mean of the members"),
            Line(x, true, "truth", REAL, dashed=True),
            Rule(ON[1], vertical=True, label="end of the data"),
        ],
        note="What the members put out stays small where they are wrong; that they disagree there is what shows it.",
    )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


STUDY = Study(
    claim="“Use output entropy: why is this not enough?” Off the data the output variance of a network stays small "
    "while its error grows; “the model is certain about the data, but we are not certain about the model”, and the "
    "spread over θ says so.",
    measure="bayes_mbrl.studies.output_entropy:measure",
    arms={name: {"posterior": name} for name in FITS},
    contrasts=contrasts,
    figure=figure,
    minutes=(1.0, 6.0),
)
