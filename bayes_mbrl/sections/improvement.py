"""What an algorithm learned beside p(θ | D), by the numbers that it told of itself: see `Learner.report`.

Axes: E episodes, H time steps.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from bayes_mbrl.analysis.charts import BLUE, IMAGINED, REAL, Chart, Floats, Heatmap, Line, Mark, Section, Table
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.sections.model_error import unbroken

TITLE = "What the algorithm learned"
MAX_CHARTS = 6
MAX_CELLS = 60
"""Along each side of a picture over episodes and time steps."""
_OF_EVERY_RUN = (
    "episode", "phase", "return", "num_steps", "terminated", "acting_seconds_per_step", "planning_seconds_per_step",
    "held_out_log_likelihood", "held_out_rmse", "loss", "num_transitions", "num_fitted",
)  # fmt: skip
"""Keys of the metrics that every run has, or may have."""


class _Words(NamedTuple):
    y_label: str
    note: str = ""


_KNOWN: Mapping[str, _Words] = {
    "critic_loss": _Words("loss of the critics", "Half the squared error of both, which grows with the returns."),
    "policy_loss": _Words("loss of the policy", "What an action costs by the critics, less its worth in entropy."),
    "temperature": _Words("α (units of the return per nat)", "What a nat of the policy's entropy is worth."),
    "gradient_norm": _Words("norm, before it was clipped", "Mean over the gradient steps."),
    "rollout_length": _Words("imagined steps"),
    "num_imagined": _Words("imagined transitions", "As many as are kept."),
    "share_sound": _Words("share", "Of the imagined trajectories those that did not diverge."),
}


def section(run: LoadedRun) -> Section:
    """Every number that the algorithm told of its own learning, over episodes; lists as pictures."""
    name = run.config.algorithm.name
    names = list(dict.fromkeys(key for row in run.metrics for key in row if key not in _OF_EVERY_RUN))
    if not names:
        return Section(TITLE, missing=(f"No episode has numbers that algorithm {name} told of its learning.",))
    missing: list[str] = []
    figures: list[Chart] = []
    if "imagined_return" in names:
        figures += _imagined_against_real(run)
    scalars = {key: values for key in names if (values := _scalar(run, key)) is not None}
    figures += [chart for key in names if key not in scalars and (chart := _picture(run, key)) is not None]
    for key, values in scalars.items():
        if unknown := sum(row.get(key, 0.0) is None for row in run.metrics):
            missing.append(f"{key} is not finite after {unknown} of {len(run.metrics)} episodes: gaps")
        if len(np.unique(values[np.isfinite(values)])) > 1 and not (key == "imagined_return" and figures):
            figures.append(_curve(run, key, values))
    if len(figures) > MAX_CHARTS:
        missing.append(f"{len(figures) - MAX_CHARTS} more numbers vary, which are in the table and in metrics.jsonl")
    text = [
        f"What algorithm {name} told of its own learning, after each training episode: means over the updates in that "
        "episode, or numbers of what followed its last fit. None of them says how well it acts: the returns do."
    ]
    tables = [_table(scalars)] if scalars else []
    return Section(TITLE, text, figures[:MAX_CHARTS], tables, missing)


def _numbers(run: LoadedRun) -> Floats:
    """[E] of the episodes."""
    return np.array([float(row.get("episode", place)) for place, row in enumerate(run.metrics)])


def _scalar(run: LoadedRun, key: str) -> Floats | None:
    """[E], NaN where there is none; None where it never is a number."""
    values = np.array([_number(row.get(key)) for row in run.metrics])
    return values if np.isfinite(values).any() else None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def _curve(run: LoadedRun, key: str, values: Floats) -> Chart:
    words = _KNOWN.get(key, _Words(_spelled(key)))
    marks = [Line(_numbers(run), values, color=BLUE)]
    return Chart(_title(key), "training episode", words.y_label, marks, words.note)


def _picture(run: LoadedRun, key: str) -> Chart | None:
    """Lists of numbers: a row an episode; logarithms where all are positive."""
    rows = {
        number: np.array([_number(value) for value in row[key]])
        for number, row in zip(_numbers(run), run.metrics, strict=True)
        if isinstance(row.get(key), list) and row[key]
    }
    if not rows:
        return None
    values = np.full((len(rows), max(map(len, rows.values()))), math.nan)
    for place, row in enumerate(rows.values()):
        values[place, : len(row)] = row
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    positive = bool((finite > 0).all())
    y, x = (evenly_spaced(size, MAX_CELLS).numpy() for size in values.shape)
    shown = values[np.ix_(y, x)]
    label = f"log10 of {_spelled(key)}" if positive else _spelled(key)
    cells = Heatmap(x.astype(float), np.array(list(rows))[y], np.log10(shown) if positive else shown, label)
    note = (
        f"From {finite.min():.2g} to {finite.max():.2g}. Where a row changes by many powers of ten, what happens at "
        "one end decides nothing, or everything."
        if positive
        else ""
    )
    return Chart(_title(key), "imagined time step", "training episode", [cells], note)


def _imagined_against_real(run: LoadedRun) -> list[Chart]:
    """The return imagined after an episode beside what the next one brought, in the same units."""
    settings = run.config.algorithm.settings
    horizon, discount = settings.get("horizon"), settings.get("discount")
    if settings.get("starts") != "visited" or settings.get(
        "terminal_value"
    ):  # of other states, or of more than H steps
        return []
    if not isinstance(horizon, int) or not isinstance(discount, int | float) or run.transitions is None:
        return []
    imagined, real, numbers = [], [], []
    for row in run.metrics:
        following = row.get("episode", -2) + 1
        if following in run.episodes and math.isfinite(value := _number(row.get("imagined_return"))):
            numbers.append(float(following))
            imagined.append(value)
            real.append(_mean_return(run.episode(following), horizon, float(discount)))
    if not np.isfinite(real).any():
        return []
    x = np.array(numbers)
    marks: list[Mark] = [
        Line(x, np.array(imagined), "imagined", IMAGINED),
        Line(x, np.array(real), "real", REAL),
    ]
    note = (
        f"The sum of {horizon} rewards, discounted by {discount:g} a step: as the policy imagined it before the "
        "episode, from states of all data, and as the episode then brought it, mean over its states with so many steps "
        "to come. A policy that exploits the model imagines more than it gets."
    )
    return [Chart("Imagined and real return", "training episode", f"return of {horizon} steps", marks, note)]


def _mean_return(episode: Transitions, horizon: int, discount: float) -> float:
    """Mean over the starts t of Σ_{i<H} γ^i r_{t+i}, for as long as the episode or, where it terminates, to its end."""
    pieces = unbroken(episode)
    returns: list[float] = []
    for number in sorted(set(pieces.episode.tolist())):
        piece = pieces[pieces.episode == number]
        rewards = piece.reward.double()
        ended = bool(piece.terminated[-1])
        if ended:
            rewards = torch.cat([rewards, rewards.new_zeros(horizon - 1)])
        if len(rewards) >= horizon:
            weights = discount ** torch.arange(horizon, dtype=rewards.dtype)
            returns += (rewards.unfold(0, horizon, 1) @ weights).tolist()
    return float(np.mean(returns)) if returns else math.nan


def _table(scalars: Mapping[str, Floats]) -> Table:
    rows = []
    for key, values in scalars.items():
        known = values[np.isfinite(values)]
        rows.append((_spelled(key), *(f"{value:.4g}" for value in (known[0], known[-1], known.min(), known.max()))))
    return Table(("number", "first", "last", "lowest", "highest"), rows, "Over the training episodes")


def _spelled(key: str) -> str:
    return key.replace("_", " ")


def _title(key: str) -> str:
    words = _spelled(key)
    return words[:1].upper() + words[1:]
