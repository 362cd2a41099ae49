"""Study 1: version 0.5 plans where its data are not, and the more so the worse, the more its model can express.

A model is learned once, by least squares, from episodes of random actions; plans through it are executed to their end.
Where both policies go is compared by the energy distance of their states, with a permutation test of whole episodes;
the model's error is that of its mean, held against the true mean, so that noise is no error. Two tasks that are done by
such plans where the model is true: three lanes with a swamp that random actions never see, and a field of obstacles.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.analysis.charts import CYCLE, Band, Chart, Line
from bayes_mbrl.analysis.shift import shift_test
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.sections.one_step import change_scale
from bayes_mbrl.study import Contrast, Results, Study, difference, log_ratio, per_seed
from bayes_mbrl.study_parts import episodes, knowing, learned, mean_return, step_error, true_dynamics

SETTINGS: Mapping[str, Sequence[str]] = {
    "ThreeLanes-v0": ("planner.num_candidates=400", "planner.num_elites=40", "planner.num_iterations=6"),
    "Obstacles-v0": (),
}
"""With which the plans are good where the model is true: 12 steps, the whole episode, and 10 of at most 100."""
DATA: Mapping[str, int] = {"ThreeLanes-v0": 100, "Obstacles-v0": 20}
"""Episodes of random actions, 1200 and about 2000 steps: enough that the models know the states that these lead to."""
MODELS: Mapping[str, list[int]] = {"linear": [], "10 units": [10], "2 × 200 units": [200, 200]}
"""From the least to the most expressive."""
NUM_STEPS, NUM_EPISODES = (1000, 3000), (10, 30)
"""Of a fit, and of each policy afterwards: `--quick`, and in full."""
SIMPLE, EXPRESSIVE = "linear", "2 × 200 units"


def measure(folder: pathlib.Path, *, env: str, model: str, seed: int, quick: bool) -> dict[str, Any]:
    """The states of both policies apart, the model's error under each, and what the plans brought."""
    config = resolve(
        [
            "posterior=point",
            f"posterior.num_steps={NUM_STEPS[not quick]}",
            f"dynamics.hidden={MODELS[model]}",
            "dynamics.noise=homoscedastic",  # then the mean is that of least squares
            "rollout.num_theta=1",
            *SETTINGS[env],
        ],
        options={"env": env, "algorithm": "v0.5", "seed": seed},
    )
    with Environment(config.env) as environment:
        builder = Builder(config, environment)
        data = episodes(builder, builder.base_policy(), DATA[env], seed=seed)
        posterior, dynamics = learned(builder, data, seed=seed)
        agent = builder.agent(data, posterior)
        truth = true_dynamics(env, environment.state_dim)

        def afresh(acting: Agent) -> Transitions:
            """Episodes from start states that no data are from, the same for every agent."""
            return episodes(builder, acting, NUM_EPISODES[not quick], seed=seed, first=DATA[env])

        base, own = afresh(builder.base_policy()), afresh(agent)
        ideal = afresh(knowing(agent, truth))
    generator = torch.Generator().manual_seed(seed)
    test = shift_test(base.state, own.state, groups_x=base.episode, groups_y=own.episode, generator=generator)
    scale = change_scale(data)
    return {
        "energy_distance": test.statistic,
        "above_chance": test.statistic - float(test.null.quantile(0.95)),
        "p_value": test.p_value,
        "error_base": step_error(posterior, dynamics, truth, base, scale),
        "error_own": step_error(posterior, dynamics, truth, own, scale),
        "return": mean_return(own),
        "ideal_return": mean_return(ideal),
    }


def contrasts(results: Results) -> list[Contrast]:
    """For each environment: shift, error, the more expressive model's growth of error and error, and failure."""
    found = []
    for env in SETTINGS:
        grown = {model: _log_growth(results, arm_name(env, model)) for model in MODELS}
        lost = [_lost(results, arm_name(env, model)) for model in MODELS]
        apart = [per_seed(results, arm_name(env, model), "above_chance") for model in MODELS]
        found += [
            Contrast(
                f"{env}: energy distance between the states of random actions and those of the plans, above the 95 % "
                "quantile of relabelled episodes (mean over models)",
                _mean_over_models(apart),
            ),
            Contrast(
                f"{env}: the model's error where the plans lead over that where random actions do (log ratio, mean "
                "over models)",
                _mean_over_models(list(grown.values())),
            ),
            Contrast(
                f"{env}: that log ratio with {EXPRESSIVE}, less the one of a model that is {SIMPLE}",
                difference(grown[EXPRESSIVE], grown[SIMPLE]),
            ),
            Contrast(
                f"{env}: error where the plans of {EXPRESSIVE} lead over that where those of a model that is {SIMPLE} "
                "do (log ratio)",
                log_ratio(*(per_seed(results, arm_name(env, model), "error_own") for model in (EXPRESSIVE, SIMPLE))),
            ),
            Contrast(
                f"{env}: return of such plans through the true dynamics, less that through the model (units of reward, "
                "mean over models)",
                _mean_over_models(lost),
            ),
        ]
    return found


def figure(results: Results) -> Chart:
    """Both errors by model: geometric means over seeds, ± 1 standard error."""
    places = np.arange(float(len(MODELS)))
    bands, lines = list[Band](), list[Line]()
    for env, color in zip(SETTINGS, CYCLE, strict=False):
        for key, policy, dashed in (("own", "where its plans lead", False), ("base", "where its data are", True)):
            logs = np.log([per_seed(results, arm_name(env, model), f"error_{key}") for model in MODELS])
            mean, half = logs.mean(1), logs.std(1, ddof=1) / np.sqrt(logs.shape[1])
            bands.append(Band(places, np.exp(mean - half), np.exp(mean + half), color=color, opacity=0.15))
            lines.append(Line(places, np.exp(mean), f"{env}, {policy}", color, dashed=dashed))
    return Chart(
        "A model's error where its data are, and where its plans lead",
        "model: " + ", ".join(f"{model} ({place})" for place, model in enumerate(MODELS)),
        "error of a step (its std in the data)",
        [*bands, *lines],
        note="Geometric means over seeds ± 1 standard error. Learned once, from random actions.",
        log_y=True,
    )


def arm_name(env: str, model: str) -> str:
    """As in `STUDY.arms`."""
    return f"{env}, {model}"


def _log_growth(results: Results, arm: str) -> list[float]:
    return [float(np.log(measured["error_own"] / measured["error_base"])) for measured in results[arm].values()]


def _lost(results: Results, arm: str) -> list[float]:
    return [measured["ideal_return"] - measured["return"] for measured in results[arm].values()]


def _mean_over_models(values: Sequence[Sequence[float]]) -> list[float]:
    """[models, n] → [n]"""
    return [float(mean) for mean in np.mean(values, axis=0)]


STUDY = Study(
    claim="“Does it work? No! p_{π_f}(s_t) ≠ p_{π_0}(s_t)”: the plans of version 0.5 lead to other states than its "
    "data have, where its model is wrong, and so they fail; and the “distribution mismatch problem becomes "
    "exacerbated as we use more expressive model classes”: the error grows more there, and is greater.",
    measure="bayes_mbrl.studies.distribution_shift:measure",
    arms={arm_name(env, model): {"env": env, "model": model} for env in SETTINGS for model in MODELS},
    contrasts=contrasts,
    figure=figure,
    minutes=(2.1, 17.0),
    num_seeds=(6, 20),
)
