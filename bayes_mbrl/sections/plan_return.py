"""What the agent's plans may return, and how much of that is ignorance and how much is noise.

From states of a real episode the agent plans anew; the return of its plan is imagined for K samples of θ, each M times.
Axes: H horizon, K parameter samples, M noise draws, C candidate plans, S state.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from bayes_mbrl.algorithms.mpc import MPCAgent
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
from bayes_mbrl.analysis.uncertainty import VarianceSplit
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.loaded_run import LoadedRun
from bayes_mbrl.plan_returns import PlanReturnSplit, split_plan_returns

TITLE = "What a plan may return"
MAX_STATES = 20
NUM_THETA, NUM_NOISE = 50, 10
DETECTABLE: float = (8 / (NUM_THETA - 1)) ** 0.25 / NUM_NOISE**0.5
"""Epistemic over aleatoric standard deviation, where the epistemic variance is twice its standard error."""
LEAST_SHARE = DETECTABLE**2 / (1 + DETECTABLE**2)
"""Of the variance, that can be detected."""
CERTAIN = 0.01
"""Standard deviation of a return, over the root mean square of what plans return, that is called practically none. The
size of returns and not how they differ between states: where all states are worth the same, nothing is uncertain."""
NUM_CANDIDATES = 50
MAX_PREDICTIONS = 2 * 10**7
"""Of single steps while planning: fewer states are looked at where the planner searches for long."""
MAX_ROWS = 6


@dataclasses.dataclass(frozen=True)
class _Planned:
    """The agent's plan from one state."""

    step: int
    state: Tensor
    """[S]"""
    plan: Tensor
    """[H, A]"""
    parts: PlanReturnSplit
    """[H, 1], without clamp: a mean over states shall not be biased."""

    @property
    def sound(self) -> bool:
        """Whether no imagined trajectory diverged."""
        return not bool(self.parts.diverged.any())


def section(run: LoadedRun) -> Section:
    """The return of chosen plans and of candidates, split into its two parts."""
    if run.final is None or run.builder is None or run.transitions is None:
        return Section(TITLE, missing=("There is no posterior to plan with, so no plan's return is shown.",))
    if not run.builder.plans:
        return Section(
            TITLE, missing=(f"Algorithm {run.config.algorithm.name} acts by what it learned, without plans.",)
        )
    source, name = run.evaluation, "the first episode of evaluation"
    if source is None or not len(source):
        source, name = run.transitions, "the first episode of training"
        if run.episodes:
            source, name = run.episode(run.episodes[-1]), "the last episode of training, which it has learned from"
    if not len(source):
        return Section(TITLE, missing=("There is no state to plan from, so no plan's return is shown.",))
    episode = source[source.episode == source.episode[0]]
    agent = run.builder.agent(run.transitions[: run.final.num_fitted], run.final.posterior)
    planned = _plan(run, agent, episode)
    sound = [one for one in planned if one.sound]
    missing = []
    if len(sound) < len(planned):
        worst = max(float(one.parts.diverged[-1]) for one in planned)
        missing.append(
            f"From {len(planned) - len(sound)} of {len(planned)} states some imagined trajectories diverged (up to "
            f"{worst:.1%} of them): a variance would say nothing but that, so these states are left out."
        )
    if not sound:
        return Section(TITLE, missing=tuple(missing))
    figures: list[Chart | Slides] = []
    if any(float(one.parts.variance.total[-1, 0]) > 0 for one in sound):
        figures = [_over_time(sound), _along_horizon(sound)]
    if chart := _candidates(run, agent, sound, missing):
        figures.append(chart)
    text = [_method(agent, planned, len(episode), name), *_verdict(sound)]
    if agent.termination is None and bool(source.terminated.any()):
        text.append(
            "This model never ends an episode, and real ones ended before their time: all these returns are as if "
            "the episode went on, and no part of them is doubt about that."
        )
    return Section(TITLE, text, tuple(figures), (_table(sound),), tuple(missing))


def _plan(run: LoadedRun, agent: MPCAgent, episode: Transitions) -> list[_Planned]:
    planner, generator = agent.planner, run.generator("plan returns")
    with torch.no_grad():
        num_candidates = len(planner.ask(planner.init(), generator=run.generator("count candidates")))
    predictions = planner.num_iterations * num_candidates * planner.horizon * agent.num_theta * agent.num_noise
    at_most = min(MAX_STATES, max(2, MAX_PREDICTIONS // predictions))
    planned = []
    for step in evenly_spaced(len(episode), at_most).tolist():
        state = episode.state[step]
        with torch.no_grad():
            plan = agent.replan(planner.init(), state, generator=generator).plan
        planned.append(_Planned(step, state, plan, _split(agent, plan[None], state, generator)))
    return planned


def _split(agent: MPCAgent, plans: Tensor, state: Tensor, generator: torch.Generator) -> PlanReturnSplit:
    return split_plan_returns(
        plans, state, posterior=agent.posterior, dynamics=agent.dynamics, reward=agent.reward,
        termination=agent.termination, num_theta=NUM_THETA, num_noise=NUM_NOISE, generator=generator,
        divergence_return=agent.divergence_return, clamp=False,
    )  # fmt: skip


def _method(agent: MPCAgent, planned: list[_Planned], num_steps: int, name: str) -> str:
    return (
        f"From {len(planned)} of {num_steps} states of {name}, evenly spaced, the final model planned anew, "
        f"{agent.planner.horizon} steps ahead. The return of each chosen plan was imagined {NUM_THETA * NUM_NOISE} "
        f"times: {NUM_THETA} samples of θ, each held for the whole trajectory (TS∞), with {NUM_NOISE} draws of the "
        "noise. What differs between samples of θ is ignorance, that data could take away; what differs within one is "
        f"noise. A standard deviation is known within about {1 / math.sqrt(2 * (NUM_THETA - 1)):.0%} of itself; an "
        f"epistemic one below {DETECTABLE:.0%} of the aleatoric cannot be told from 0."
    )


def _verdict(planned: list[_Planned]) -> list[str]:
    epistemic, aleatoric, returns = (
        torch.stack(values).double()
        for values in zip(
            *[(o.parts.variance.epistemic[-1, 0], o.parts.variance.aleatoric[-1, 0], o.parts.mean[-1, 0])
              for o in planned], strict=True,
        )
    )  # fmt: skip
    mean = VarianceSplit(epistemic.mean().clamp(min=0), aleatoric.mean())
    share, deviations = float(mean.epistemic_share), (float(mean.epistemic.sqrt()), float(mean.aleatoric.sqrt()))
    total, size = float(mean.total.sqrt()), float(returns.square().mean().sqrt())
    if not any(deviations):
        return ["The model is certain of what its plans return: neither samples of θ nor the noise make a difference."]
    if total < CERTAIN * size:
        return [
            f"What its plans return is practically certain to the model: a standard deviation of {total:.2g}, both "
            f"parts together, where returns are of the size {size:.3g} (root mean square over these states). Which "
            "part is the larger says little there."
        ]
    if deviations[0] < DETECTABLE * deviations[1]:
        return [
            "Over these states the ignorance in a plan's return is below what can be detected "
            f"({DETECTABLE:.0%} of the aleatoric standard deviation, which is {deviations[1]:.3g} in units of reward): "
            "more data would change little, since the rest is noise to the model."
        ]
    advice = (
        "more data would make returns easier to foretell" if share > 0.6
        else "more data would change little, since the rest is noise to the model" if share < 0.4
        else "about half of it could go with more data"
    )  # fmt: skip
    most = _least_known(planned)
    where = "" if most is None else f" The model knew least at step {most.step}: {_cell(most.parts.variance)}."
    return [
        f"Over these states {share:.0%} of the variance of a plan's return is ignorance: {advice}. Standard deviations "
        f"are {deviations[0]:.3g} (epistemic) and {deviations[1]:.3g} (aleatoric), in units of reward.{where}"
    ]


def _least_known(planned: list[_Planned]) -> _Planned | None:
    """Where the ignorance is largest; None where it is within what chance would show as the largest of several."""
    most = max(planned, key=lambda one: float(one.parts.variance.epistemic[-1, 0]))
    parts = most.parts.variance
    return most if _deviation(parts.epistemic) > 1.5 * DETECTABLE * _deviation(parts.aleatoric) else None


def _is_detected(variance: VarianceSplit) -> bool:
    """Whether the whole plan's epistemic part can be told from 0; it is exact where there is no noise."""
    return _deviation(variance.epistemic) >= DETECTABLE * _deviation(variance.aleatoric)


def _cell(variance: VarianceSplit) -> str:
    """The epistemic standard deviation of the whole plan, or what it is below."""
    if _is_detected(variance):
        return f"{_deviation(variance.epistemic):.3g}"
    return f"< {DETECTABLE * _deviation(variance.aleatoric):.2g}"


def _over_time(planned: list[_Planned]) -> Chart:
    steps = np.array([one.step for one in planned], dtype=float)
    marks: list[Mark] = []
    for part, color in (("aleatoric", ALEATORIC), ("epistemic", EPISTEMIC)):
        y = np.array([_deviation(getattr(one.parts.variance, part)) for one in planned])
        marks += [Line(steps, y, part, color), Points(steps, y, color=color)]
    note = "Each dot is of the plan that the agent made at this step of the episode."
    title = "Uncertainty of the chosen plan's return"
    return Chart(title, "time step", "standard deviation (reward)", marks, note)


def _along_horizon(planned: list[_Planned]) -> Slides:
    charts, labels = [], []
    highest = max(
        float(torch.maximum(p.variance.epistemic, p.variance.aleatoric).max()) for p in (o.parts for o in planned)
    )
    y_range = (0.0, 1.05 * highest**0.5) if highest > 0 else None
    for one in planned:
        variance = one.parts.variance
        steps = np.arange(1, len(variance.epistemic) + 1, dtype=float)
        marks: list[Mark] = [
            Line(steps, _deviations(variance.aleatoric[:, 0]), "aleatoric", ALEATORIC),
            Line(steps, _deviations(variance.epistemic[:, 0]), "epistemic", EPISTEMIC),
        ]
        note = (
            "Of the rewards summed up to a step; the whole plan is expected to return "
            f"{float(one.parts.mean[-1, 0]):.4g}. A line that bends upwards says that small differences grow."
        )
        title = f"Return so far along the plan, made at step {one.step}"
        charts.append(Chart(title, "steps ahead", "standard deviation (reward)", marks, note, y_range=y_range))
        labels.append(str(one.step))
    return Slides("Return so far along the plan", "planned at step", labels, charts)


def _candidates(run: LoadedRun, agent: MPCAgent, planned: list[_Planned], missing: list[str]) -> Chart | None:
    """Mean and both deviations of candidates that the search begins with, and of the chosen plan."""
    most = _least_known(planned)
    one = planned[0] if most is None else most
    why = "" if most is None else ", where the model seemed to know least"
    generator = run.generator("candidate plans")
    asked = agent.planner.ask(agent.planner.init(), generator=generator)
    plans = torch.cat([one.plan[None], asked[evenly_spaced(len(asked), NUM_CANDIDATES)]])
    parts = _split(agent, plans, one.state, generator)
    sound = ~parts.diverged.any(0)
    if not bool(sound[0]):
        missing.append(
            f"The candidates at step {one.step} are not shown: imagined trajectories of the chosen plan diverged."
        )
        return None
    if hidden := int((~sound).sum()):
        missing.append(f"{hidden} of {len(asked)} candidates at step {one.step} diverged and are not shown.")
    mean = parts.mean[-1].double().numpy()
    marks: list[Mark] = []
    shown = sound.numpy().copy()
    shown[0] = False
    deviations = {part: _deviations(getattr(parts.variance, part)[-1]) for part in ("aleatoric", "epistemic")}
    for part, color in (("aleatoric", ALEATORIC), ("epistemic", EPISTEMIC)):
        marks.append(Points(mean[shown], deviations[part][shown], part, color))
    for part, color in (("aleatoric", ALEATORIC), ("epistemic", EPISTEMIC)):
        marks.append(
            Points(
                mean[:1],
                deviations[part][:1],
                "chosen plan" if part == "epistemic" else "",
                REAL,
                size=13.0,
                opacity=1.0,
            )
        )
        marks.append(Points(mean[:1], deviations[part][:1], "", color, size=8.0, opacity=1.0))
    note = (
        f"At step {one.step}{why}. Each candidate has two dots, one above the other; "
        "all met the same θ and the same noise. The chosen plan has black rims: a search for the mean return ends far "
        "right."
    )
    title = "Candidate plans: what they may return"
    return Chart(title, "expected return (reward)", "standard deviation (reward)", marks, note)


def _table(planned: list[_Planned]) -> Table:
    rows = []
    for i in evenly_spaced(len(planned), MAX_ROWS).tolist():
        parts = planned[i].parts
        rows.append(
            (
                str(planned[i].step), f"{float(parts.mean[-1, 0]):.4g}", _cell(parts.variance),
                f"{_deviation(parts.variance.aleatoric):.3g}",
                f"{_share(parts.variance):.0%}" if _is_detected(parts.variance) else f"< {LEAST_SHARE:.0%}",
            )
        )  # fmt: skip
    columns = ("planned at step", "expected return", "epistemic sd", "aleatoric sd", "epistemic share")
    return Table(columns, rows, "Return of the chosen plan; the share is of the variance")


def _deviation(variance: Tensor) -> float:
    """Of the whole plan: variance [H, 1]."""
    return float(_deviations(variance[-1])[0])


def _deviations(variances: Tensor) -> Floats:
    """Standard deviations of variances [n] that were estimated, and came out below 0 where there is next to none."""
    return variances.clamp(min=0).double().sqrt().numpy()


def _share(variance: VarianceSplit) -> float:
    """Of ignorance in the whole plan's variance."""
    return float(VarianceSplit(variance.epistemic.clamp(min=0), variance.aleatoric).epistemic_share[-1, 0])
