"""What the model knew as each episode began: its ignorance and the noise it saw along what then really happened.

Every prediction is by the posterior that the agent acted by, which had not learned from the episode.
Axes: n time steps shown.
"""

import dataclasses
import math

import numpy as np
import torch

from bayes_mbrl.analysis.charts import (
    ALEATORIC,
    EPISTEMIC,
    REAL,
    Chart,
    Floats,
    Line,
    Mark,
    Points,
    Section,
    Slides,
    Table,
)
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.loaded_run import Knowledge, LoadedRun
from bayes_mbrl.sections.fans import ImaginedFan, fan_slides, imagine_fan
from bayes_mbrl.sections.model_error import plus_minus
from bayes_mbrl.sections.one_step import (
    INFORMATION_THETA,
    NUM_THETA,
    UNIT,
    Information,
    change_scale,
    information,
    predict_one_step,
)

TITLE = "What the model knew at each episode"
MAX_STEPS = 120
"""Of an episode in the pictures; more are thinned evenly."""
MAX_EPISODES = 12
EVALUATION = "evaluation"
HONEST = 1.25
"""A real error is called as large as claimed within this factor."""


@dataclasses.dataclass(frozen=True)
class _Moment:
    """One episode, and what was believed of it before. Variances are NaN where a prediction is not finite."""

    label: str
    num_fitted: int
    steps: Floats
    """[n]"""
    epistemic: Floats
    """[n]"""
    aleatoric: Floats
    """[n]"""
    error: Floats
    """[n] squared, of the mean prediction."""
    information: Information
    """Of a transition about θ."""
    fan: ImaginedFan

    @property
    def name(self) -> str:
        """In a sentence."""
        return "the evaluation" if self.label == EVALUATION else f"episode {self.label}"

    @property
    def share(self) -> float:
        """Of ignorance in the variance."""
        total = _mean(self.epistemic) + _mean(self.aleatoric)
        return _mean(self.epistemic) / total if total else 0.0

    @property
    def real_over_claimed(self) -> float:
        """Root mean square of the error, over what the model expected of it."""
        claimed = _mean(self.epistemic) + _mean(self.aleatoric)
        error = _mean(self.error)
        return math.sqrt(error / claimed) if claimed else math.inf if error else 1.0


def section(run: LoadedRun) -> Section:
    """Uncertainty along real trajectories, and imagined fans against reality, episode by episode."""
    if run.final is None or run.transitions is None or not len(run.transitions):
        return Section(TITLE, missing=("There is no posterior or no data, so what the model knew is not shown.",))
    missing: list[str] = []
    moments = _moments(run, missing)
    if not moments:
        missing.append("No episode has a posterior from before it, so what the model knew of it is not shown.")
        return Section(TITLE, missing=tuple(missing))
    fans, words = fan_slides([moment.fan for moment in moments], [moment.label for moment in moments], run.state_names)
    text = (_method(run, moments), *_verdict(moments), *words)
    return Section(TITLE, text, (_over_episodes(moments), _along(moments), *fans), (_table(moments),), tuple(missing))


def _moments(run: LoadedRun, missing: list[str]) -> list[_Moment]:
    """Training episodes with a snapshot before them, evenly thinned, and the first episode of evaluation."""
    assert run.transitions is not None
    scale = change_scale(run.transitions)
    numbers = [number for number in run.episodes if number - 1 in run.snapshots]
    moments = []
    for i in evenly_spaced(len(numbers), MAX_EPISODES - 1).tolist():
        knowledge = run.knowledge_before(numbers[i])
        if knowledge is None:
            missing.append(f"The posterior before episode {numbers[i]} cannot be read: the episode is left out.")
            continue
        moments.append(_moment(run, str(numbers[i]), knowledge, run.episode(numbers[i]), scale))
    if run.evaluation is not None and len(run.evaluation) and run.final is not None:
        episode = run.evaluation[run.evaluation.episode == run.evaluation.episode[0]]
        moments.append(_moment(run, EVALUATION, run.final, episode, scale))
    kept = []
    for moment in moments:
        bad, all_steps = int(np.isnan(moment.epistemic).sum()), len(moment.steps)
        if bad:
            missing.append(
                f"Episode {moment.label}: {bad} of {all_steps} predictions are not finite; they are gaps in the "
                "pictures and in no mean."
            )
        if bad < all_steps:
            kept.append(moment)
    return kept


def _moment(run: LoadedRun, label: str, knowledge: Knowledge, episode: Transitions, scale: torch.Tensor) -> _Moment:
    rows = evenly_spaced(len(episode), MAX_STEPS)
    some, generator = episode[rows], run.generator(f"knowledge, episode {label}")
    one = predict_one_step(knowledge, some.state, some.action, scale, generator=generator)
    error = ((one.mean - some.next_state) / scale).square().mean(-1)
    parts = torch.stack([one.epistemic, one.aleatoric, error])
    parts[:, ~torch.isfinite(parts).all(0)] = math.nan
    epistemic, aleatoric, squared = parts.numpy()
    fan = imagine_fan(knowledge, episode, generator=generator)
    told = information(knowledge, some.state, some.action, generator=generator)
    return _Moment(label, knowledge.num_fitted, rows.double().numpy(), epistemic, aleatoric, squared, told, fan)


def _method(run: LoadedRun, moments: list[_Moment]) -> str:
    longest = max(int(moment.steps[-1]) + 1 for moment in moments)
    steps = f", at most {MAX_STEPS} of the up to {longest} steps of each," if longest > MAX_STEPS else ""
    possible = len(run.episodes) - 1 + int(run.evaluation is not None)
    thinning = (
        f"{len(moments)} of {possible} episodes{steps}"
        if len(moments) < possible
        else f"Each episode after the first{steps}"
    )
    then = "the agent acted by" if run.config.algorithm.row.plans else "there was"
    return (
        f"{thinning} as seen by the posterior that {then} when it began ({NUM_THETA} samples of θ), which "
        "had not learned from it. All uncertainties are of one step ahead, in standard deviations of the change of "
        f"state over the whole run ({UNIT}), root mean square over its dimensions: 1 is as much as the state changes "
        "anyway."
    )


def _verdict(moments: list[_Moment]) -> list[str]:
    """First against last, and what was claimed against what happened."""
    first, last = moments[0], moments[-1]
    sentences = []
    if not any(_mean(moment.epistemic) for moment in moments):
        sentences.append("The epistemic part is 0 throughout: one set of parameters cannot say what it does not know.")
    elif len(moments) > 1:
        before, after = (math.sqrt(_mean(moment.epistemic)) for moment in (first, last))
        change = "rose" if after > 1.1 * before else "fell" if after < before / 1.1 else "hardly moved"
        noise = [f"{math.sqrt(_mean(moment.aleatoric)):.2g}" for moment in (first, last)]
        sentences.append(
            f"Ignorance (epistemic) {change} from {before:.2g} {UNIT} in {first.name}, {first.share:.0%} of the "
            f"predicted variance, to {after:.2g} in {last.name}, {last.share:.0%} of it. Noise (aleatoric) went from "
            f"{noise[0]} to {noise[1]}."
        )
    sentences.append(f"The real error in {last.name} was {_judgement(last)}.")
    worst = max(moments, key=lambda moment: moment.real_over_claimed)
    if worst is not last and worst.real_over_claimed > HONEST:
        sentences.append(
            f"The model erred most beyond its claims in {worst.name}, where the error was {_judgement(worst)}."
        )
    return sentences


def _judgement(moment: _Moment) -> str:
    ratio = moment.real_over_claimed
    error = f"{math.sqrt(_mean(moment.error)):.2g} {UNIT}"
    if 1 / HONEST <= ratio <= HONEST:
        return f"{error}, about as large as claimed"
    if ratio > HONEST:
        return f"{error}, {ratio:.2g} times what was claimed: overconfident"
    return f"{error}, {ratio:.2g} times what was claimed: too cautious"


def _over_episodes(moments: list[_Moment]) -> Chart:
    trained = [moment for moment in moments if moment.label != EVALUATION]
    x = [float(moment.label) for moment in trained]
    beyond = x[-1] + math.ceil(0.06 * (x[-1] - x[0]) + 0.5) if x else 0.0  # seen apart from the last
    places = np.array([*x, beyond][: len(moments)])
    marks: list[Mark] = []
    for label, color in (("epistemic", EPISTEMIC), ("aleatoric", ALEATORIC), ("error", REAL)):
        y = np.array([math.sqrt(_mean(getattr(moment, label))) for moment in moments])
        legend = "real error" if label == "error" else label
        marks.append(Line(places[: len(trained)], y[: len(trained)], legend, color, dashed=label == "error"))
        marks.append(Points(places, y, color=color))
    evaluated = " The dots beyond the lines are the first episode of evaluation." if len(trained) < len(moments) else ""
    note = (
        "Root mean square over each episode. The model may be believed where the real error is about as large as the "
        f"two parts together (the root of the sum of their squares).{evaluated}"
    )
    title = "Ignorance and noise over episodes"
    return Chart(title, "episode", f"one-step uncertainty ({UNIT})", marks, note, log_y=True)


def _along(moments: list[_Moment]) -> Slides:
    note = "Thin: the error of the mean prediction, which should rarely be twice the larger of the other two."
    y_range = _range(moments)
    charts = []
    for moment in moments:
        marks: list[Mark] = [
            Line(moment.steps, np.sqrt(moment.error), "real error", REAL, width=1.0, opacity=0.6),
            Line(moment.steps, np.sqrt(moment.aleatoric), "aleatoric", ALEATORIC),
            Line(moment.steps, np.sqrt(moment.epistemic), "epistemic", EPISTEMIC),
        ]
        title = f"Along the real trajectory, episode {moment.label}"
        axes = "time step", f"one-step uncertainty ({UNIT})"
        charts.append(Chart(title, *axes, marks, note, y_range=y_range, log_y=True))
    return Slides("Along the real trajectory", "episode", [moment.label for moment in moments], charts)


def _range(moments: list[_Moment]) -> tuple[float, float] | None:
    """One scale for all slides: what is positive, without the few errors that happen to be near 0."""
    values = np.sqrt(np.concatenate([part for m in moments for part in (m.epistemic, m.aleatoric, m.error)]))
    values = values[np.isfinite(values) & (values > 0)]
    return (0.7 * float(np.quantile(values, 0.01)), 1.4 * float(values.max())) if values.size else None


def _table(moments: list[_Moment]) -> Table:
    rows = [
        (
            moment.label, str(moment.num_fitted), f"{math.sqrt(_mean(moment.epistemic)):.2g}",
            f"{math.sqrt(_mean(moment.aleatoric)):.2g}", f"{moment.share:.0%}",
            f"{math.sqrt(_mean(moment.error)):.2g}", f"{moment.real_over_claimed:.2g}", _nats(moment),
        )
        for moment in moments
    ]  # fmt: skip
    columns = (
        "episode",
        "learned from",
        "epistemic",
        "aleatoric",
        "epistemic share",
        "real error",
        "real / claimed",
        "nats",
    )
    title = (
        f"One step ahead, in {UNIT}; the share is of the variance; nats: what a transition tells about θ (± 1 standard "
        f"error of the estimate from {INFORMATION_THETA} samples; to an upper bound where they leave it open)"
    )
    return Table(columns, rows, title)


def _nats(moment: _Moment) -> str:
    """The mutual information with its standard error; its bracket, where the number of samples leaves it open."""
    told = moment.information
    if math.isnan(told.shown):
        return "–"
    if max(told.shown, told.upper) < 1e-3:
        return "< 0.001"
    shown = plus_minus(told.shown, told.standard_error, 2)
    if told.shown > 0.8 * math.log(INFORMATION_THETA):
        return f"at least {shown}"
    return f"{shown} to {told.upper:.2g}" if told.upper > 1.1 * told.shown + 0.005 else shown


def _mean(variances: Floats) -> float:
    """Over what is finite."""
    return float(np.nanmean(variances))
