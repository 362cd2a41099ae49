"""Does the learned policy go where the base policy's data are, p_{π_f}(s) ≠ p_{π_0}(s), and what does the model lose?

Source: lecture, "does it work? no": version 0.5 fails by distribution shift.
Axes: N transitions, S state.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_mbrl.algorithms.episode import MAX_STEPS_WITHOUT_LIMIT, run_episode
from bayes_mbrl.analysis.charts import Section, Table
from bayes_mbrl.analysis.shift import Distance, ShiftTest, energy_distance, marginal_chart, null_chart, shift_test
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.environments.adapter import EnvironmentFault
from bayes_mbrl.loaded_run import LoadedRun, without_unit
from bayes_mbrl.sections.model_error import Part, growth, one_step
from bayes_mbrl.seeding import stream_seed

FRESH_EPISODES, FRESH_STEPS = 8, 2000
"""Of the base policy, played for the analysis: no further episode begins that may go beyond. Steps and not seconds, so
that the page is the same each time; 15 seconds where a step takes 7 ms, as in a slow simulator."""
MAX_HISTOGRAMS = 3
LABELS = "base policy", "learned policy"


def section(run: LoadedRun) -> Section:
    """Distance between the policies' states, the model's error under each, and its growth with the horizon."""
    title = "Shift and error growth"
    if run.transitions is None or not len(run.transitions):
        return Section(title, missing=("There are no transitions of training, so no states to compare.",))
    missing: list[str] = []
    if run.metrics and all(row.get("phase") == "offline data" for row in run.metrics):
        missing.append("All data were recorded elsewhere, so there are no two policies to compare.")
        text, figures, tables = _growth(run, missing) if run.final and run.builder else ([], [], [])
        return Section(title, text, figures, tables, missing)
    if run.builder is not None and run.builder.environment.num_states is not None:
        why = f"The states of {run.config.env} are only counted: distances between their numbers would mean nothing."
        return Section(title, missing=(why,))
    base = base_policy_rows(run)
    fresh = _fresh_episodes(run, missing)
    learned, learned_name = learned_policy_rows(run)
    if learned is None:
        missing.append(
            "All episodes are the base policy's, so there are no states of a learned policy to compare with."
        )
        return Section(title, missing=missing)
    text, figures, tables = _states(run, base, fresh, learned, learned_name)
    if not run.config.algorithm.row.learns_model:
        return Section(title, text, figures, tables, missing)
    if run.final is None or run.builder is None:
        missing.append(
            "The model's errors are not shown, since there is no posterior, or no environment to go with it."
        )
        return Section(title, text, figures, tables, missing)
    with torch.no_grad():
        for part in (one_step(run, fresh, missing), growth(run, missing)):
            text, figures, tables = text + part[0], figures + part[1], tables + part[2]
    return Section(title, text, figures, tables, missing)


def _growth(run: LoadedRun, missing: list[str]) -> Part:
    with torch.no_grad():
        return growth(run, missing)


def base_policy_rows(run: LoadedRun) -> Transitions:
    """What the base policy collected in training: its episodes, or the first one where nothing says which they are."""
    assert run.transitions is not None
    return run.transitions[torch.isin(run.transitions.episode, torch.tensor(run.base_episodes))]


def learned_policy_rows(run: LoadedRun, max_episodes: int = 5) -> tuple[Transitions | None, str]:
    """(evaluation episodes, or the last ones of training that are not the base policy's; what they are, in words)."""
    if run.evaluation is not None and len(run.evaluation):
        return run.evaluation, "evaluation episodes"
    assert run.transitions is not None
    later = [number for number in run.episodes if number not in run.base_episodes][-max_episodes:]
    if not later:
        return None, ""
    return run.transitions[torch.isin(run.transitions.episode, torch.tensor(later))], "last episodes of training"


def _fresh_episodes(run: LoadedRun, missing: list[str]) -> Transitions | None:
    """Episodes of the base policy in the real environment that nothing was learned from; the same each time."""
    if run.builder is None:
        return None
    environment, num_steps = run.builder.environment, 0
    longest = environment.max_episode_steps or MAX_STEPS_WITHOUT_LIMIT
    episodes: list[Transitions] = []
    for number in range(FRESH_EPISODES):
        if episodes and num_steps + longest > FRESH_STEPS:
            break
        try:
            episode = run_episode(
                environment,
                run.builder.base_policy(),
                number=number,
                seed=stream_seed(run.config.seed, "report", 2**34 + number),
                generator=run.generator(f"fresh episode {number} of the base policy"),
            )
        except EnvironmentFault as fault:
            missing.append(f"{fault}: this fresh episode of the base policy is left out.")
            continue
        episodes.append(episode.transitions)
        num_steps += len(episode.transitions)
    return Transitions.concatenate(episodes) if episodes else None


def _states(
    run: LoadedRun, base: Transitions, fresh: Transitions | None, learned: Transitions, learned_name: str
) -> Part:
    """Where both policies went."""
    numbers = [base.episode] if fresh is None else [base.episode, base.episode.max() + 1 + fresh.episode]
    states = base.state if fresh is None else torch.cat([base.state, fresh.state])
    groups = torch.cat(numbers)
    if min(len(states), len(learned)) < 2:
        return ["A policy visited fewer than two states, so nothing can be compared."], [], []
    tests = [_test(run, distance, states, groups, learned) for distance in ("energy", "mmd")]
    first = tests[0]
    played = "" if fresh is None else (
        f" and {_episodes(fresh)} played afresh for this page ({len(fresh)} transitions; at most {FRESH_EPISODES} "
        f"episodes and {FRESH_STEPS:,} steps)"
    )  # fmt: skip
    text = [
        f"A model is only as good as its data, and {_acting(run)} changes which states are visited: this is the "
        "distribution shift of the lecture. Compared are the states of the base policy, from "
        f"{_episodes(base)} of training ({len(base)} transitions){played}, with those of the learned policy, from "
        f"{_episodes(learned)} ({learned_name}, {len(learned)} transitions); the tests use a random "
        f"{first.num_rows[0]} and {first.num_rows[1]} of them.",
        " ".join([_shift_verdict(tests), first.caution]).strip(),
    ]
    rows = [
        (
            {"energy": "energy distance", "mmd": "squared MMD"}[test.distance],
            f"{test.statistic:.3g}",
            f"{_quantile(test):.3g}",
            f"{test.p_value:.2g}",
            f"{test.smallest_p:.2g}",
            f"{len(test.null)}{' (all)' if test.exhaustive else ''}",
        )
        for test in tests
    ]
    columns = ("distance", "found", "95 % of relabelled", "p-value", "smallest possible p", "relabellings")
    table = Table(columns, rows, "States of the base policy against those of the learned one")
    dimensions = _most_shifted(states, learned.state)
    charts = [
        marginal_chart(
            states[:, i],
            learned.state[:, i],
            name=run.state_names[i],
            labels=LABELS,
            title=f"Visited: {without_unit(run.state_names[i])}",
        )
        for i in dimensions[:MAX_HISTOGRAMS]
    ]
    if len(dimensions) > MAX_HISTOGRAMS:
        text.append(f"Shown are the {MAX_HISTOGRAMS} of {len(dimensions)} dimensions whose distributions differ most.")
    return text, [*charts, null_chart(first)], [table]


def _acting(run: LoadedRun) -> str:
    return "planning with it" if run.config.algorithm.row.plans else "acting by what was learned"


def _test(run: LoadedRun, distance: Distance, states: Tensor, groups: Tensor, learned: Transitions) -> ShiftTest:
    return shift_test(
        states, learned.state, distance=distance, groups_x=groups, groups_y=learned.episode,
        generator=run.generator("shift test"),
    )  # fmt: skip


def _shift_verdict(tests: Sequence[ShiftTest]) -> str:
    found = [test for test in tests if test.p_value <= 0.05]
    energy, mmd = tests
    measured = (
        f"energy distance {energy.statistic:.2g}, p = {energy.p_value:.2g}; squared MMD {mmd.statistic:.2g}, "
        f"p = {mmd.p_value:.2g}"
    )
    how = "Whole episodes were relabelled, each counting alike: the rows of one episode depend on each other."
    if len(found) == len(tests):
        return f"The learned policy visits other states than the base policy ({measured}). {how}"
    if found:
        return f"The two distances disagree on whether the states differ ({measured}). {how}"
    few = (
        f"That is no proof of the contrary: of {energy.num_groups[0]} and {energy.num_groups[1]} episodes only a large"
    )
    return (
        f"It cannot be shown that the learned policy visits other states than the base policy ({measured}). {how} "
        f"{few} shift can be told from the differences between episodes of one policy."
    )


def _quantile(test: ShiftTest) -> float:
    return float(test.null.quantile(0.95)) if len(test.null) else math.nan


def _most_shifted(x: Tensor, y: Tensor) -> list[int]:
    """Dimensions by the energy distance between their marginals, largest first."""
    x, y = (values[evenly_spaced(len(values), 500)] for values in (x, y))
    distances = [energy_distance(x[:, [i]], y[:, [i]]) for i in range(x.shape[1])]
    return sorted(range(x.shape[1]), key=lambda i: -distances[i])


def _episodes(transitions: Transitions) -> str:
    number = len(set(transitions.episode.tolist()))
    return f"{number} episode{'' if number == 1 else 's'}"
