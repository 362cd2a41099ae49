"""Study 12: what imagined data add to model-free learners, and what they do where the model is poor.

The cart-pole with a continuous force, from few real steps. Soft actor-critic with targets that look three imagined
steps ahead (MVE) or with short imagined rollouts among its data (MBPO), and Q-learning by normalised advantages with
such rollouts (MBA), against the same learners on real data alone: with as many real steps, and as many updates by
batches of the same size. The model is Bayesian linear regression, which suits a pole that nearly stands. The poor one
is a network that a few gradient steps have hardly moved from where it was initialised.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes_mbrl.analysis.charts import CYCLE, Band, Chart, Line
from bayes_mbrl.config import resolve
from bayes_mbrl.study import Contrast, Results, Study, difference, per_seed
from bayes_mbrl.study_parts import learning_curve

ENV = "ContinuousCartPole-v0"
NUM_STEPS = (400, 800)
"""Real steps, the first 100 of them random: `quick`, and in full."""
EVERY = 100
LEARNERS = (
    "num_base_steps=100",
    "algorithm.updates_per_step=4",
    "algorithm.batch_size=64",
    "algorithm.learning_rate=0.002",
    "algorithm.discount=0.95",
    "algorithm.target_rate=0.02",
)
"""Alike for all, so that something is learned from so few steps and updates."""
MODELS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "good": ("dynamics=linear", "posterior=exact-linear"),
    "poor": ("posterior=point", "posterior.num_steps=5"),
}
SAC, MVE, MBPO, NAF, MBA, POOR = "SAC", "SAC and MVE", "SAC and MBPO", "NAF", "NAF and MBA", "SAC and MBPO, poor model"


def measure(
    folder: pathlib.Path, *, algorithm: str, model: str, seed: int, quick: bool, real_data_only: bool = False
) -> dict[str, Any]:
    """Returns of the policy as it was after 200, 300, … real steps, and their mean."""
    num_steps = NUM_STEPS[not quick]
    only = ["algorithm.real_ratio=1", "algorithm.num_rollouts=1"] if real_data_only else []
    config = resolve(
        [*LEARNERS, *MODELS[model], *only, f"num_steps={num_steps}"],
        options={"env": ENV, "algorithm": algorithm, "seed": seed},
    )
    steps, returns = learning_curve(folder, config, every=EVERY, num_episodes=3 if quick else 10)
    at = np.interp(grid(num_steps), steps, returns)  # episodes end where they will
    return {"returns": at.tolist(), "mean_return": float(at.mean())}


def grid(num_steps: int) -> list[int]:
    """Real steps at which policies are compared: after the random ones."""
    return list(range(2 * EVERY, num_steps + 1, EVERY))


def contrasts(results: Results) -> list[Contrast]:
    """Differences of mean returns."""
    return [
        Contrast(f"mean return while learning: {more} less that of {less}", _difference(results, more, less))
        for more, less in ((MVE, SAC), (MBPO, SAC), (MBA, NAF), (MBPO, POOR), (SAC, POOR))
    ]


def _difference(results: Results, more: str, less: str) -> list[float]:
    return difference(per_seed(results, more, "mean_return"), per_seed(results, less, "mean_return"))


def figure(results: Results) -> Chart:
    """Returns against real steps, a line for each arm: means over seeds; dashed without imagined data."""
    marks: list[Band | Line] = []
    length = len(next(iter(results[SAC].values()))["returns"])
    x = EVERY * np.arange(2.0, 2.0 + length)
    for color, (arm, by_seed) in zip(CYCLE, results.items(), strict=False):
        curves = np.array([measured["returns"] for measured in by_seed.values()])
        mean, error = curves.mean(0), curves.std(0, ddof=1) / len(curves) ** 0.5
        marks += [
            Band(x, mean - error, mean + error, color=color, opacity=0.12),
            Line(x, mean, arm, color, dashed=arm in (SAC, NAF)),
        ]
    return Chart(
        "What imagined data add at equal real steps: cart-pole",
        "real steps",
        "return (steps the pole stands, at most 200)",
        marks,
        note="Means over seeds ± standard error, of the policy as it was at the time, without exploration. Dashed: "
        "real data alone.",
        y_range=(0.0, 210.0),
    )


STUDY = Study(
    claim="“The model used to generate synthetic samples … actually works very well. Essentially “model-based "
    "acceleration” for model-free RL”: with as many real steps MVE, MBPO and MBA do better than the same learners on "
    "real data alone. “Why is this a bad idea?” Where the model is poor, imagined data do harm: less is learned than "
    "with a good model, and less than without any.",
    measure="bayes_mbrl.studies.imagined_data:measure",
    arms={
        SAC: {"algorithm": "sac", "model": "none"},
        MVE: {"algorithm": "mve", "model": "good"},
        MBPO: {"algorithm": "mbpo", "model": "good"},
        NAF: {"algorithm": "mba", "model": "good", "real_data_only": True},
        MBA: {"algorithm": "mba", "model": "good"},
        POOR: {"algorithm": "mbpo", "model": "poor"},
    },
    contrasts=contrasts,
    figure=figure,
    minutes=(3.3, 28.0),
    num_seeds=(3, 10),
)
