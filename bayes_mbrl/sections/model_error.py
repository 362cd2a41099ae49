"""How wrong the model is: under the states of each policy, as data come in, and h steps ahead.

Every error is on transitions that the posterior in question has not learned from.
Axes: N transitions, K parameter samples, S state, H horizon.
"""

import dataclasses
import math

import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import BLUE, GREEN, VERMILLION, Chart, Line, Mark, Table
from bayes_mbrl.analysis.error_growth import error_growth, fit_growth, grouped_mean, growth_chart
from bayes_mbrl.analysis.uncertainty import mixture_log_likelihood
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.loaded_run import Knowledge, LoadedRun
from bayes_mbrl.lookahead import longest_episode, lookahead
from bayes_mbrl.sections.one_step import change_scale

MAX_TRANSITIONS = 2000
"""Of each policy; more are thinned evenly."""
NUM_THETA = 50
MAX_SNAPSHOTS = 8
MAX_HORIZON, MAX_WINDOWS, ROLLOUT_THETA = 50, 60, 30

Part = tuple[list[str], list[Chart], list[Table]]
"""Words, charts and tables."""


@dataclasses.dataclass(frozen=True)
class _Error:
    """What one posterior makes of transitions that it has not learned from."""

    rmse: Tensor
    """() of the mean prediction, in standard deviations of the training targets."""
    rmse_standard_error: Tensor
    log_likelihood: Tensor
    """() of the mixture over θ, in nats a transition."""
    log_likelihood_standard_error: Tensor
    num_rows: int


def one_step(run: LoadedRun, fresh: Transitions | None, missing: list[str]) -> Part:
    """The model's one-step error under the states of each policy."""
    assert run.final is not None
    assert run.transitions is not None
    scale = change_scale(run.transitions[: run.final.num_fitted])
    generator = run.generator("model error")
    last_base, first_learned = run.base_episodes[-1], "the first planned episode"
    if not run.config.algorithm.row.plans:
        first_learned = "the learned policy's first episode"
    first, later = run.knowledge_after(last_base), [number for number in run.episodes if number > last_base]
    if first is None:
        missing.append("The posterior of the base policy's data is not kept, so its errors are not shown.")
    acted = run.episode(later[0]) if later else None
    cases = [
        ("base policy's data only", first, "base policy, fresh episodes", fresh),
        ("base policy's data only", first, first_learned, acted),
        ("base policy's data only", first, "evaluation episodes", run.evaluation),
        ("all data", run.final, "base policy, fresh episodes", fresh),
        ("all data", run.final, "evaluation episodes", run.evaluation),
    ]
    rows, found = [], {}
    for fitted_to, knowledge, name, transitions in cases:
        if knowledge is None or transitions is None or not len(transitions):
            continue
        error = _model_error(knowledge, transitions, scale, generator, MAX_TRANSITIONS)
        found[fitted_to, name] = error
        rmse = plus_minus(float(error.rmse), float(error.rmse_standard_error))
        score = plus_minus(float(error.log_likelihood), float(error.log_likelihood_standard_error))
        rows.append((fitted_to, name, _of(error.num_rows, len(transitions)), rmse, score))
    if not rows:
        missing.append("There are no transitions that the posterior has not learned from, so its error is not known.")
        return [], [], []
    columns = ("fitted to", "tried on", "transitions", "RMSE (sd of Δs)", "log-likelihood (nats)")
    table = Table(columns, rows, "Error of the model on transitions it has not learned from (± 1 standard error)")
    text = [sentence for sentence in (_cost_of_shift(found, first_learned), _repair(found)) if sentence]
    chart = _error_by_episode(run, fresh, scale, generator)
    return text, [chart] if chart else [], [table]


def _cost_of_shift(found: dict[tuple[str, str], _Error], first_learned: str = "the first planned episode") -> str:
    """The first model at home and abroad, in words."""
    at_home = found.get(("base policy's data only", "base policy, fresh episodes"))
    abroad = found.get(("base policy's data only", first_learned))
    if at_home is None or abroad is None:
        return ""
    home, away, spread = float(at_home.rmse), float(abroad.rmse), float(at_home.rmse_standard_error)
    certain = abs(away - home) > 2 * spread  # never, where the spread is not known
    change = f"{away / home:.2g} times that" if certain else "not clearly another than that"
    return (
        f"Fitted to the base policy's data alone, the model's error in {first_learned} (RMSE "
        f"{away:.2g}, log-likelihood {float(abroad.log_likelihood):.3g} nats a transition) is {change} in fresh "
        f"episodes of the base policy (RMSE {plus_minus(home, spread, 2)}, log-likelihood "
        f"{float(at_home.log_likelihood):.3g}). It had seen neither."
    )


def _repair(found: dict[tuple[str, str], _Error]) -> str:
    """What the data after the base policy's changed, in words."""
    before = found.get(("base policy's data only", "evaluation episodes"))
    after = found.get(("all data", "evaluation episodes"))
    if before is None or after is None:
        return ""
    old, new = float(before.rmse), float(after.rmse)
    spread = math.hypot(float(before.rmse_standard_error), float(after.rmse_standard_error))
    change = "no clear change" if not abs(new - old) > 2 * spread else "a gain" if new < old else "a loss"
    return (
        f"In the evaluation episodes, where the learned policy goes, the RMSE went from {old:.2g} with the base "
        f"policy's data to {new:.2g} with all data: {change} by the data of the episodes since."
    )


def _model_error(
    knowledge: Knowledge, transitions: Transitions, scale: Tensor, generator: torch.Generator, at_most: int
) -> _Error:
    rows = transitions[evenly_spaced(len(transitions), at_most)]
    theta = knowledge.posterior.sample(NUM_THETA, generator=generator)
    dynamics, squares, scores = knowledge.dynamics, [], []
    for start in range(0, len(rows), 250):
        some = rows[start : start + 250]
        mean = dynamics.predict(theta, some.state.expand(NUM_THETA, -1, -1), some.action)[0].mean(0)
        squares.append(((mean[:, : dynamics.state_dim] - some.next_state) / scale).square().mean(-1))
        scores.append(mixture_log_likelihood(dynamics.log_likelihood(theta, some)))
    mean_square, of_square = grouped_mean(torch.cat(squares).double(), rows.episode)
    score, of_score = grouped_mean(torch.cat(scores).double(), rows.episode)
    rmse = mean_square.sqrt()
    return _Error(rmse, of_square / (2 * rmse), score, of_score, len(rows))


def _error_by_episode(
    run: LoadedRun, fresh: Transitions | None, scale: Tensor, generator: torch.Generator
) -> Chart | None:
    """RMSE of the posterior after each kept episode, under the states of both policies and in the episode after it."""
    kept = list(run.snapshots)
    kept = [kept[int(i)] for i in evenly_spaced(len(kept), MAX_SNAPSHOTS)]
    lines: dict[str, list[float]] = {name: [] for name in ("base policy", "learned policy", "the next episode")}
    for number in kept:
        knowledge = run.knowledge_after(number)
        following = run.episode(number + 1) if number + 1 in run.episodes else None
        for name, transitions in zip(list(lines), (fresh, run.evaluation, following), strict=True):
            rmse = math.nan
            if knowledge is not None and transitions is not None and len(transitions):
                rmse = float(_model_error(knowledge, transitions, scale, generator, MAX_TRANSITIONS // 4).rmse)
            lines[name].append(rmse)
    x = torch.tensor(kept, dtype=torch.float64).numpy()
    marks: list[Mark] = [
        Line(x, torch.tensor(values, dtype=torch.float64).numpy(), name, color)
        for (name, values), color in zip(lines.items(), (VERMILLION, BLUE, GREEN), strict=True)
        if not all(map(math.isnan, values))
    ]
    if len(kept) < 2 or not marks:
        return None
    note = (
        "Base policy: fresh episodes; learned policy: evaluation episodes; the next episode is the first "
        "one that this posterior had not seen. None of them was learned from before; of each at most "
        f"{MAX_TRANSITIONS // 4} transitions, evenly spaced."
    )
    return Chart(
        "Model error as data come in", "posterior after episode", "RMSE (sd of Δs)", marks, note, log_y=True
    )  # fmt: skip


def growth(run: LoadedRun, missing: list[str]) -> Part:
    """Error against horizon in episodes that were not learned from, of the first posterior and of the last."""
    assert run.final is not None
    assert run.transitions is not None
    unseen = run.unseen
    if unseen is None or not len(unseen):
        missing.append("There are no episodes that were not learned from, so the growth of the error is not shown.")
        return [], [], []
    pieces = unbroken(unseen)
    longest = longest_episode(pieces)
    planned = int(run.config.planner.settings.get("horizon", 0))
    horizon = min(MAX_HORIZON, longest, max(longest // 2, planned))
    scale = Standardiser.fitted(run.transitions.state[: run.final.num_fitted]).std
    text = [
        f"Error of imagined trajectories after 1 to {horizon} steps, each from a state that was really visited and "
        f"under the actions that were really taken there ({ROLLOUT_THETA} samples of θ); errors are in standard "
        "deviations of the training states, standard errors by episode. The lecture's bound O(εT²) is of a sum over "
        "T steps: errors that grow in proportion to h, b = 1, add up to it."
    ]
    charts, rows = [], []
    for name, knowledge in (
        ("all data", run.final),
        ("base policy's data", run.knowledge_after(run.base_episodes[-1])),
    ):
        if knowledge is None:
            continue
        seen = lookahead(
            knowledge.posterior, knowledge.dynamics, pieces, horizon=horizon, max_windows=MAX_WINDOWS,
            num_theta=ROLLOUT_THETA, generator=run.generator(f"error growth, {name}"),
        )  # fmt: skip
        errors = error_growth(seen.imagined, seen.real, scale=scale, groups=unseen.episode[seen.first_rows])
        fitted = fit_growth(errors, generator=run.generator("resamples"))
        charts.append(growth_chart(errors, fitted, title=f"Error by horizon ({name})"))
        diverged = f"{int(errors.diverged[-1])} of {errors.num_trajectories}"
        text.append(
            f"Model of {name}: {'nothing to fit, ' if fitted is None else fitted.verdict} {diverged} imagined "
            f"trajectories from {len(seen.real)} states diverged."
        )
        rates = ("–", "–") if fitted is None else tuple(
            plus_minus(fit.rate, fit.rate_standard_error) for fit in (fitted.exponential, fitted.power)
        )  # fmt: skip
        rows.append(
            (name, f"{float(errors.mean_error[0]):.2g}", f"{float(errors.mean_error[-1]):.2g}", *rates, diverged)
        )
    columns = ("model of", "error after 1 step", f"after {horizon}", "rate λ per step", "exponent b", "diverged")
    return text, charts, [Table(columns, rows, "How the error grows (± 1 standard error)")]


def unbroken(transitions: Transitions) -> Transitions:
    """The same rows; where rows were left out in the middle of an episode, another episode begins."""
    breaks = torch.ones(len(transitions), dtype=torch.bool)
    follows = (transitions.next_state[:-1] == transitions.state[1:]).all(1)
    breaks[1:] = (transitions.episode[1:] != transitions.episode[:-1]) | ~follows
    return dataclasses.replace(transitions, episode=breaks.long().cumsum(0) - 1)


def plus_minus(value: float, standard_error: float, digits: int = 3) -> str:
    """ "0.123 ± 0.004", or without the ± where it is not known; what is only rounding is 0."""
    known = 0.0 if standard_error < 1e-9 * abs(value) else standard_error
    spread = "" if math.isnan(standard_error) else f" ± {known:.2g}"
    return f"{value:.{digits}g}{spread}"


def _of(num_rows: int, num_all: int) -> str:
    return str(num_all) if num_rows == num_all else f"{num_rows} of {num_all}, evenly"
