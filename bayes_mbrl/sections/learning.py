"""Learning curves of one run or several: runs that differ in nothing but the seed are one line with a band.

Axes: R runs of a group, E episodes.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayes_mbrl.analysis.charts import CYCLE, ORANGE, Band, Chart, Line, Mark, Points, Section, Table
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.sections.provenance import ABSENT, run_names, settings_of

Floats = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: Sequence[LoadedRun]
    color: str

    def column(self, name: str) -> Floats:
        """[R, E] of the metrics, NaN where a run has no such number; E is that of the longest run."""
        rows = [[_number(row.get(name)) for row in run.metrics] for run in self.runs]
        longest = max(map(len, rows), default=0)
        return np.array([row + [np.nan] * (longest - len(row)) for row in rows]).reshape(len(rows), longest)


def section(runs: Sequence[LoadedRun]) -> Section:
    """Return per episode with its spread over seeds, evaluation, and how well the model foresaw each next episode.

    Runs of several environments get a chart each. The band is the mean ± one standard deviation of the seeds.
    """
    missing = [f"{run.name} has no finished episode on record" for run in runs if not run.metrics]
    groups = _grouped(runs)
    figures: list[Chart] = []
    text: list[str] = []
    environments = dict.fromkeys(run.config.env for run in runs)
    for env in environments:
        chosen = [g for g in groups if g.runs[0].config.env == env and any(run.metrics for run in g.runs)]
        if not chosen:
            continue
        where = f", {env}" if len(environments) > 1 else ""
        figures.append(_returns(chosen, where))
        if len({length for g in chosen for run in g.runs for length in _lengths(run)}) > 1:
            figures.append(_over_steps(chosen, where))
        figures += _foresight(chosen, where)
        text += [_in_words(group, where) for group in chosen]
    for run in runs:
        unknown = sum(np.isnan(_number(row.get("return"))) for row in run.metrics)
        if unknown:
            missing.append(f"{unknown} of {len(run.metrics)} returns of {run.name}, which are not finite: gaps")
    return Section("Learning curve", text, figures, [_table(runs)], missing)


def evaluation_returns(run: LoadedRun) -> Floats:
    """[V] returns of the evaluation episodes, those that are finite; none where there was no evaluation."""
    try:
        returns = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))["returns"]
        values = np.array([_number(value) for value in returns], dtype=float)
    except (OSError, ValueError, KeyError, TypeError):
        if run.evaluation is None:
            return np.empty(0)
        episode, reward = run.evaluation.episode.numpy(), run.evaluation.reward.numpy()
        values = np.array([reward[episode == number].sum() for number in np.unique(episode)])
    return np.asarray(values[np.isfinite(values)])


def _grouped(runs: Sequence[LoadedRun]) -> list[_Group]:
    found: dict[str, list[LoadedRun]] = {}
    for run in runs:
        settings = {name: value for name, value in settings_of(run).items() if name != "seed"}
        found.setdefault(json.dumps(settings), []).append(run)
    groups = list(found.values())
    return [_Group(_label(group, groups), group, CYCLE[i % len(CYCLE)]) for i, group in enumerate(groups)]


def _label(group: Sequence[LoadedRun], groups: Sequence[Sequence[LoadedRun]]) -> str:
    """What sets the group apart, in a few words; of one run its name."""
    if len(groups) == 1:
        what = " ".join(group[0].config.method)
    elif len(group) == 1:
        return group[0].name
    else:
        settings = [settings_of(other[0]) for other in groups if other[0].config.env == group[0].config.env]
        mine = settings_of(group[0])
        apart = [name for name in mine if name != "seed" and len({other.get(name) for other in settings}) > 1]
        what = ", ".join(f"{name} {mine[name]}" for name in apart[:2]) or " ".join(group[0].config.method)
    return what if len(group) == 1 else f"{what}, {len(group)} seeds"


def _returns(groups: Sequence[_Group], where: str) -> Chart:
    """Over episodes, and behind the last one the evaluation."""
    marks: list[Mark] = []
    place = max(group.column("return").shape[1] for group in groups)
    for group in groups:
        marks += _spread(group, group.column("return"))
    base = [
        (float(row.get("episode", number)), _number(row.get("return")))
        for group in groups for run in group.runs for number, row in enumerate(run.metrics)
        if row.get("phase") == "base policy"
    ]  # fmt: skip
    if base:
        marks.append(Points(np.array(base)[:, 0], np.array(base)[:, 1], "base policy", ORANGE, size=7))
    note = ""
    for group in groups:
        values = [evaluation_returns(run) for run in group.runs]
        pooled = np.concatenate(values)
        if not len(pooled):
            continue
        hover = [run.name for run, own in zip(group.runs, values, strict=True) for _ in own]
        x = np.full(len(pooled), place)
        label = "evaluation" if len(groups) == 1 else f"evaluation, {group.label}"
        marks.append(Points(x, pooled, label=label, color=group.color, size=6, opacity=0.4, hover=hover))
        mean = np.array([pooled.mean()])
        marks.append(Points(x[:1], mean, color=group.color, size=11, opacity=1.0, hover=["mean of the evaluation"]))
        place += 1
        note = "Dots behind the last episode: evaluation, from which nothing was learned; the large dot is the mean."
    if any(len(group.runs) > 1 for group in groups):
        note = f"Band: mean ± one standard deviation of the seeds; thin lines: each seed. {note}".strip()
    return Chart(f"Return of each episode{where}", "training episode", "return (sum of rewards)", marks, note)


def _spread(group: _Group, values: Floats) -> list[Mark]:
    """values [R, E]: one line, or the mean over R with its band and every run as a thin line.

    The mean ends where the shortest run ends, so that it is always of the same runs; a NaN is a gap in it.
    """
    if not values.size:
        return []
    x = np.arange(float(values.shape[1]))
    if len(values) == 1:
        return [Line(x, values[0], group.label, group.color)]
    mean, std = values.mean(0), values.std(0, ddof=1)
    thin: list[Mark] = [Line(x, row, color=group.color, width=0.8, opacity=0.5) for row in values]
    band = Band(x, mean - std, mean + std, color=group.color, opacity=0.2)
    return [band, *thin, Line(x, mean, group.label, group.color, 2.5)]


def _over_steps(groups: Sequence[_Group], where: str) -> Chart:
    """For episodes of different lengths: the return of the episode that ended last, over environment steps."""
    marks: list[Mark] = []
    for group in groups:
        curves = []
        for run in group.runs:
            curve = np.array([[_number(row.get("num_transitions")), _number(row.get("return"))] for row in run.metrics])
            if len(curve):
                curves.append(curve[np.isfinite(curve[:, 0])])
        for curve in curves:
            single = len(curves) == 1
            width, label = (2.0, group.label) if single else (0.8, "")
            marks.append(Line(curve[:, 0], curve[:, 1], label, group.color, width, opacity=1.0 if single else 0.5))
        if len(curves) > 1 and all(map(len, curves)):
            first, last = max(curve[0, 0] for curve in curves), min(curve[-1, 0] for curve in curves)
            steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
            steps = steps[(steps >= first) & (steps <= last)]
            values = np.array([curve[np.searchsorted(curve[:, 0], steps, "right") - 1, 1] for curve in curves])
            mean, std = values.mean(0), values.std(0, ddof=1)
            marks.append(Band(steps, mean - std, mean + std, color=group.color, opacity=0.2))
            marks.append(Line(steps, mean, group.label, group.color, 2.5))
    note = "An episode counts at the step at which it ended."
    if any(len(group.runs) > 1 for group in groups):
        note += " Band: mean ± one standard deviation, over seeds, of the episodes that ended last."
    return Chart(f"Return over steps{where}", "environment steps", "return (sum of rewards)", marks, note)


def _foresight(groups: Sequence[_Group], where: str) -> list[Chart]:
    """How well the model foresaw each episode before it had learned from it."""
    charts = []
    for name, title, label, log in (
        ("held_out_rmse", "Error on the next episode", "RMSE (standard deviations of the targets)", True),
        ("held_out_log_likelihood", "Log-likelihood of the next episode", "nats a transition", False),
    ):
        columns = [group.column(name) for group in groups]
        if not any(np.isfinite(values).any() for values in columns):
            continue
        marks = [mark for group, values in zip(groups, columns, strict=True) for mark in _spread(group, values)]
        note = "One step ahead, on each episode before anything was learned from it."
        charts.append(Chart(f"{title}{where}", "training episode", label, marks, note, log_y=log))
    return charts


def _in_words(group: _Group, where: str) -> str:
    values = group.column("return")
    sound = values[:, ~np.isnan(values).any(0)]
    evaluation = [evaluation_returns(run) for run in group.runs]
    means = np.array([own.mean() for own in evaluation if len(own)])
    parts = []
    if values.shape[1] == 1 and sound.shape[1]:
        parts.append(f"return {_plus_minus(sound[:, 0])} in the only episode")
    elif sound.shape[1]:
        parts.append(f"return {_plus_minus(sound[:, 0])} in the first episode, {_plus_minus(sound[:, -1])} in the last")
    if len(means) == 1:
        (own,) = (own for own in evaluation if len(own))
        number = (
            "1 evaluation episode" if len(own) == 1 else f"{len(own)} evaluation episodes (± one standard deviation)"
        )
        parts.append(f"{_plus_minus(own)} in {number}")
    elif len(means):
        parts.append(f"{_plus_minus(means)} in evaluation (± one standard deviation of {len(means)} seeds)")
    return f"{group.label}{where}: {'; '.join(parts) or 'no return is known'}."


def _table(runs: Sequence[LoadedRun]) -> Table:
    rows = []
    for name, run in zip(run_names(runs), runs, strict=True):
        returns, steps = ([_number(row.get(name)) for row in run.metrics] for name in ("return", "num_transitions"))
        evaluation = evaluation_returns(run)
        rows.append(
            (
                name,
                str(run.config.seed),
                str(len(run.metrics)),
                f"{steps[-1]:,.0f}" if steps and np.isfinite(steps[-1]) else ABSENT,
                f"{returns[-1]:.1f}" if returns and np.isfinite(returns[-1]) else ABSENT,
                f"{_plus_minus(evaluation)} ({len(evaluation)})" if len(evaluation) else ABSENT,
            )
        )
    columns = ("run", "seed", "episodes", "steps", "last return", "evaluation: mean ± sd (episodes)")
    return Table(columns, rows, "Returns")


def _plus_minus(values: Floats) -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}".replace("-", "−")


def _lengths(run: LoadedRun) -> set[float]:
    return {_number(row.get("num_steps")) for row in run.metrics} - {np.nan}


def _number(value: object) -> float:
    """What a line of metrics or of JSON holds; NaN for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return np.nan
    return float(value) if np.isfinite(value) else np.nan
