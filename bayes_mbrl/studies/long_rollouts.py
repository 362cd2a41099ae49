"""Study 10: how the error of imagined trajectories grows with their length.

A model is learned from episodes of the base policy. On fresh episodes of the same policy its trajectories, under the
actions that were really taken, are held against what happened: so the states are those that it knows, and all error is
the model's own, one step's carried on by the next.
"""

import pathlib
from typing import Any

import numpy as np
import torch

from bayes_mbrl.analysis.charts import CYCLE, Chart, Floats, Line, Rule
from bayes_mbrl.analysis.error_growth import error_growth
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.lookahead import lookahead
from bayes_mbrl.study import Contrast, Results, Study, log_ratio, per_seed
from bayes_mbrl.study_parts import episodes, learned

SHORT, LONG = 5, 40


def measure(folder: pathlib.Path, *, env: str, num_episodes: int, seed: int, quick: bool) -> dict[str, Any]:
    """Errors of the mean over θ and noise after 1..LONG steps, in standard deviations of the state in the data."""
    config = resolve([f"posterior.num_steps={1000 if quick else 3000}"], options={"env": env, "seed": seed})
    with Environment(config.env) as environment:
        builder = Builder(config, environment)
        data = episodes(builder, builder.base_policy(), num_episodes, seed=seed)
        fresh = episodes(builder, builder.base_policy(), num_episodes, seed=seed, first=num_episodes)
        posterior, dynamics = learned(builder, data, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    looked = lookahead(
        posterior, dynamics, fresh, horizon=LONG, max_windows=100, num_theta=20, num_noise=2, generator=generator
    )
    errors = error_growth(looked.imagined, looked.real, scale=Standardiser.fitted(data.state).std)
    error = errors.mean_error.clamp(min=1e-12).numpy()
    return {
        "error": error.tolist(),
        "exponent_of_sum": exponent_of_sum(error),
        "error_short": float(error[SHORT - 1]),
        "error_long": float(error[-1]),
        "diverged": int(errors.diverged[-1]),
    }


def exponent_of_sum(error: Floats) -> float:
    """b of Σ error ~ T^b, for errors [T] after 1..T steps: 1 where the error does not grow, 2 where it grows as h."""
    steps = np.arange(1, len(error) + 1)
    return float(np.polyfit(np.log(steps), np.log(np.cumsum(error)), 1)[0])


def contrasts(results: Results) -> list[Contrast]:
    """Exponents of the error summed over the trajectory, and log ratios of errors."""
    found = []
    for env in results:
        exponents = per_seed(results, env, "exponent_of_sum")
        mean = float(np.mean(exponents))
        found += [
            Contrast(
                f"{env}: exponent b of Σ error ~ T^b, {mean:.2f}, above 1 (the error accumulates)",
                [b - 1 for b in exponents],
            ),
            Contrast(f"{env}: exponent b, {mean:.2f}, below the lecture's 2", [2 - b for b in exponents]),
            Contrast(
                f"{env}: error after {LONG} steps over that after {SHORT} (log ratio)",
                log_ratio(per_seed(results, env, "error_long"), per_seed(results, env, "error_short")),
            ),
        ]
    return found


def figure(results: Results) -> Chart:
    """Error against length, a line for each environment: the geometric mean over seeds."""
    x = np.arange(1.0, LONG + 1)
    lines = [
        Line(
            x, np.exp(np.mean([np.log(measured["error"]) for measured in by_seed.values()], axis=0)), env, CYCLE[number]
        )
        for number, (env, by_seed) in enumerate(results.items())
    ]
    return Chart(
        "The curse of long rollouts",
        "steps imagined",
        "error of the mean (standard deviations of the state)",
        [*lines, Rule(float(SHORT), vertical=True, label="a short, branched rollout ends here")],
        note="Geometric means over seeds, on fresh episodes of the policy that the model was learned from.",
        log_y=True,
    )


STUDY = Study(
    claim="“How quickly does error accumulate? O(εT²)”: the error of imagined trajectories, summed over their length "
    "T, grows faster than T and no faster than T², and short rollouts have “much lower error”.",
    measure="bayes_mbrl.studies.long_rollouts:measure",
    arms={
        "Pendulum-v1": {"env": "Pendulum-v1", "num_episodes": 3},
        "LinearGaussian-v0": {"env": "LinearGaussian-v0", "num_episodes": 8},
    },
    contrasts=contrasts,
    figure=figure,
    minutes=(2.0, 10.0),
    num_seeds=(5, 15),
)
