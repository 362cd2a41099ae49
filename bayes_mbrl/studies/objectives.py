"""Study 7: plans for the expected return, for less than it and for more; and where each is right.

A plan is worth E[R] + c · sd_θ(E[R | θ]), the mean plus a multiple of the epistemic deviation: pessimistic for c < 0,
expected for 0, optimistic for c > 0. Three tasks:

* half known: ThreeLanes-v0, from transitions of its north and middle; the south looks better the farther one goes, and
  there is a swamp (as in benchmarks/risk.py, with little data).
* all known: the same lanes, with as many transitions a metre, from all across.
* sparse reward: MountainCarContinuous-v0, neither reward nor termination told, and the random episode does not meet the
  goal (as in benchmarks/exploration.py). The objective, or a bonus for information, plans an episode; what the model
  makes of it is tried by a plan for the expected return.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import torch

from bayes_mbrl.analysis.charts import BLACK, BLUE, GREEN, VERMILLION, Chart, Line, Points
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import three_lanes_noise_std, three_lanes_step
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.environments.rewards import three_lanes_reward
from bayes_mbrl.seeding import generator_for
from bayes_mbrl.study import Contrast, Results, Study, difference, per_seed
from bayes_mbrl.study_parts import episodes, learned

TASKS = ("half known", "all known", "sparse reward")
MULTIPLES = {"pessimistic": -3.0, "expected": 0.0, "optimistic": 3.0}
INFORMED = "sparse reward, paid for information"
LANES, SPARSE = "ThreeLanes-v0", "MountainCarContinuous-v0"
NORTHERN, SOUTHERN = -0.1, -1.2
"""Where the data begin of the half that is known, and of all (m)."""
DENSITY = 300 / (1.2 - NORTHERN)
"""Transitions for each metre across the lanes."""
LANES_SETTINGS = (
    "posterior=ensemble", "posterior.num_members=8", "posterior.resample=false", "posterior.num_steps=1000",
    "dynamics.hidden=[32,32]", "rollout.num_theta=8", "rollout.num_noise=10",
    "planner=icem", "planner.colour=2", "planner.num_candidates=100", "planner.num_iterations=4",
)  # fmt: skip
SPARSE_SETTINGS = (
    "planner=icem", "planner.horizon=100", "planner.colour=2", "planner.num_candidates=60", "planner.num_elites=8",
    "planner.num_iterations=3", "planner.initial_std_fraction=0.5", "algorithm.replan_every=50",
    "posterior=ensemble", "posterior.resample=false", "posterior.num_steps=1000", "dynamics.hidden=[32,32]",
    "rollout.num_noise=2",
)  # fmt: skip
ENOUGH = 10.0
"""Of a reward of 100, to say that it was found."""
NUM_EPISODES = {LANES: (4, 10), SPARSE: (1, 2)}
"""To judge a plan by: `--quick`, and in full."""


def measure(
    folder: pathlib.Path, *, task: str, multiple: float, exploration: str = "none", seed: int, quick: bool
) -> dict[str, Any]:
    """The mean real return of episodes that are planned with a model learned from what the task gives."""
    torch.set_num_threads(1)
    if task == "sparse reward":
        return _sparse(multiple, exploration, NUM_EPISODES[SPARSE][not quick], seed=seed)
    num_episodes = NUM_EPISODES[LANES][not quick]
    config = resolve([*LANES_SETTINGS, *objective(multiple)], options={"env": LANES, "seed": seed})
    southmost = NORTHERN if task == "half known" else SOUTHERN
    data = offline_data(
        round(DENSITY * (1.2 - southmost)), southmost=southmost, generator=generator_for(seed, "environment")
    )
    with Environment(config.env) as environment:
        builder = Builder(config, environment)
        posterior, _ = learned(builder, data, seed=seed)
        found = episodes(builder, builder.agent(data, posterior), num_episodes, seed=seed)
    return {"return": float(found.reward.sum()) / num_episodes, "across": float(found.next_state[:, 1].mean())}


def offline_data(num: int, *, southmost: float = NORTHERN, generator: torch.Generator) -> Transitions:
    """`num` real transitions of ThreeLanes-v0 from uniform x in ±1, y in southmost..1.2 (m) and uniform actions."""
    uniform = torch.rand(num, 4, generator=generator)
    low, high = torch.tensor([-1.0, southmost, -1.0, -1.0]), torch.tensor([1.0, 1.2, 1.0, 1.0])
    drawn = torch.lerp(low, high, uniform)
    state, action = drawn[:, :2], drawn[:, 2:]
    noise = torch.randn(num, 2, generator=generator)
    following = torch.addcmul(three_lanes_step(state, action), three_lanes_noise_std(state), noise)
    reward = three_lanes_reward(state, action, following)
    return Transitions(state, action, reward, following, torch.zeros(num).bool(), torch.arange(num))


def objective(multiple: float) -> list[str]:
    """Settings of E[R] + multiple · sd_θ(E[R | θ])."""
    if multiple == 0:
        return ["objective=mean"]
    if multiple > 0:
        return ["objective=mean-plus-epistemic-std", f"objective.optimism={multiple}"]
    return ["objective=mean-minus-epistemic-std", f"objective.risk_aversion={-multiple}"]


def _sparse(multiple: float, exploration: str, num_episodes: int, *, seed: int) -> dict[str, Any]:
    """A random episode, one that is planned as said, and then the evaluation of what was learned."""
    training, evaluation = (
        resolve(
            [*SPARSE_SETTINGS, *objective(c), f"algorithm.exploration={how}"], options={"env": SPARSE, "seed": seed}
        )
        for c, how in ((multiple, exploration), (0.0, "none"))
    )
    stranger = dataclasses.replace(find_spec(SPARSE), reward=None, termination=None)
    with Environment(stranger) as environment:
        builder = Builder(training, environment)
        data = episodes(builder, builder.base_policy(), 1, seed=seed)
        posterior, _ = learned(builder, data, seed=seed)
        planned = episodes(builder, builder.exploring_agent(data, posterior), 1, seed=seed, first=1)
        data = Transitions.concatenate([data, planned])
        posterior, _ = learned(builder, data, seed=seed)
        agent = Builder(evaluation, environment).agent(data, posterior)
        found = episodes(builder, agent, num_episodes, seed=seed, first=2)
    return {"return": float(found.reward.sum()) / num_episodes, "farthest": float(data.next_state[:, 0].max())}


def contrasts(results: Results) -> list[Contrast]:
    """Differences of real returns, in m along the lanes, and of the sparse reward's 100."""
    return [
        *(
            Contrast(
                f"half known: return of the pessimistic plan less that of the {other} one (m)",
                _gain(results, "half known, pessimistic", f"half known, {other}"),
            )
            for other in ("expected", "optimistic")
        ),
        *(
            Contrast(
                f"all known: return of the expected plan less that of the {other} one (m)",
                _gain(results, "all known, expected", f"all known, {other}"),
            )
            for other in ("pessimistic", "optimistic")
        ),
        *(
            Contrast(
                f"sparse reward: return after an episode {how} less that after an expected one, above {ENOUGH:.0f}",
                [gain - ENOUGH for gain in _gain(results, arm, "sparse reward, expected")],
            )
            for how, arm in (("planned with optimism", "sparse reward, optimistic"), ("paid for information", INFORMED))
        ),
    ]


def figure(results: Results) -> Chart:
    """Real return against the multiple of the epistemic deviation, a line for each task; seeds are dots."""
    marks: list[Line | Points] = []
    for task, color in zip(TASKS, (BLUE, GREEN, VERMILLION), strict=True):
        unit, said = (100.0, "hundreds") if task == "sparse reward" else (1.0, "m")
        arms = {c: f"{task}, {name}" for name, c in MULTIPLES.items() if f"{task}, {name}" in results}
        returns = {c: np.array(per_seed(results, arm, "return")) / unit for c, arm in arms.items()}
        x = np.array(list(returns), dtype=float)
        marks.append(Line(x, np.array([found.mean() for found in returns.values()]), f"{task} ({said})", color))
        marks += [Points(np.full(len(found), c), found, color=color, size=4) for c, found in returns.items()]
    informed = np.array(per_seed(results, INFORMED, "return")) / 100
    marks.append(Points(np.zeros(len(informed)), informed, f"{INFORMED} (hundreds)", BLACK, size=9))
    return Chart(
        "Pessimistic, expected, optimistic: where each is right",
        "multiple of the epistemic deviation (0: expected)",
        "real return (m, or hundreds)",
        marks,
        note="Dots are seeds, lines their means.",
    )


def _gain(results: Results, arm: str, other: str) -> list[float]:
    return difference(per_seed(results, arm, "return"), per_seed(results, other, "return"))


def _arms() -> dict[str, dict[str, Any]]:
    arms: dict[str, dict[str, Any]] = {
        f"{task}, {name}": {"task": task, "multiple": c}
        for task in TASKS
        for name, c in MULTIPLES.items()
        if task != "sparse reward" or c >= 0  # nothing is claimed of pessimism there
    }
    return arms | {INFORMED: {"task": "sparse reward", "multiple": 0.0, "exploration": "information-gain"}}


STUDY = Study(
    claim="“Need to explore to get better”; “expected value is not the same as pessimistic value” nor “as optimistic "
    "value … but expected value is often a good start”: where half of the world is unknown, and bad, the pessimistic "
    "plan wins, where all is known the expected one, and a sparse reward is found by optimism, or for the sake of "
    "information.",
    measure="bayes_mbrl.studies.objectives:measure",
    arms=_arms(),
    contrasts=contrasts,
    figure=figure,
    minutes=(3.3, 30.0),
    num_seeds=(3, 20),
)
