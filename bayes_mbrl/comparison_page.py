"""The page of a comparison: methods in order, performance profiles, and each run as a dot. Axes: n runs."""

from collections.abc import Sequence

import numpy as np

from bayes_mbrl.analysis.bootstrap import performance_profile
from bayes_mbrl.analysis.charts import CYCLE, Band, Chart, Line, Points, Rule, Section, Table
from bayes_mbrl.comparison import Run, base_score, scores_by_method, summarise


def section(runs: Sequence[Run]) -> Section:
    """All that the page shows of these runs."""
    several = len({run.arm.env for run in runs}) > 1
    what = "score (0: base policy, 1: best method)" if several else "return"
    text = [
        "Each run is scored by the mean return of its evaluation episodes, with the policy that it ended with. Methods "
        "are ordered by the interquartile mean of their runs, with a 95 % interval by a bootstrap of the seeds within "
        "each environment; with fewer than about ten runs of a method it is too narrow, and with one there is none."
    ]
    if several:
        text.append(
            "Scores are normalised in each environment: 0 is the mean return of the base policy, 1 the mean return of "
            "the best method there. Where no method is better than the base policy, the worst one is -1; where no run "
            "began with the base policy, 0 is the worst method. Intervals take this scale as it is, though the same "
            "runs made it."
        )
    ranked = scores_by_method(runs)
    if not ranked:
        text.append("No method has a run that did not fail in every environment: none is ranked.")
    charts = [*([_profiles(ranked, what)] if ranked else []), *_dots(runs)]
    return Section("Comparison", text, charts, [_table(runs, what)] if ranked else [], _failures(runs))


def _failures(runs: Sequence[Run]) -> list[str]:
    """A line for each arm and error."""
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        if run.error:
            seeds.setdefault((run.env, run.arm.method, run.error), []).append(str(run.seed))
    return [
        f"{', '.join(part for part in (env, method) if part)}, {'seed' if len(which) == 1 else 'seeds'} "
        f"{', '.join(which)}: {error}"
        for (env, method, error), which in seeds.items()
    ]


def _table(runs: Sequence[Run], what: str) -> Table:
    rows = [[one.method, str(one.interval), str(one.num_runs), str(one.num_failed)] for one in summarise(runs)]
    return Table(["method", f"interquartile mean of the {what}, 95 % interval", "runs", "failed"], rows)


def _profiles(ranked: dict[str, list[list[float]]], what: str) -> Chart:
    values = np.concatenate([np.concatenate(tasks) for tasks in ranked.values()])
    margin = 0.05 * (values.max() - values.min()) or 1.0
    levels = np.linspace(values.min() - margin, values.max() + margin, 201)
    marks: list[Band | Line] = []
    for number, (method, tasks) in enumerate(ranked.items()):
        share, low, high = performance_profile(tasks, levels)
        color = CYCLE[number % len(CYCLE)]
        marks += [Band(levels, low, high, color=color, opacity=0.15), Line(levels, share, method, color)]
    return Chart(
        "Performance profiles",
        what,
        "share of runs above it",
        marks,
        note="A line above another one is better at that score; bands are 95 % intervals.",
    )


def _dots(runs: Sequence[Run]) -> list[Chart]:
    """For each environment every run, beside the base policy."""
    charts = []
    methods = list(dict.fromkeys(run.arm.method for run in runs))
    for env in dict.fromkeys(run.arm.env for run in runs):
        here = [run for run in runs if run.arm.env == env and run.result is not None]
        if not here:
            continue
        marks: list[Points | Rule] = []
        for number, method in enumerate(methods, start=1):
            own = [run for run in here if run.arm.method == method]
            if not own:
                continue
            marks.append(
                Points(
                    np.full(len(own), float(number)),
                    np.array([run.score for run in own]),
                    f"{number}: {method}",
                    CYCLE[(number - 1) % len(CYCLE)],
                    hover=[f"seed {run.seed}" for run in own],
                )
            )
        if (base := base_score(here)) is not None:
            marks.append(Rule(base, label="base policy"))
        charts.append(Chart(f"Runs in {here[0].env}", "method", "return", marks, x_range=(0.5, len(methods) + 0.5)))
    return charts
