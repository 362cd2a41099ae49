"""Plans held against what came of them: the return that the posterior predicts and the return that was received.

Axes: W windows of real trajectory, H horizon, K parameter samples, M noise draws, S state.
"""

import dataclasses
import math

import torch
from torch import Tensor

from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.analysis.uncertainty import split_return_variance
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.plan_returns import plan_returns
from bayes_mbrl.sections.model_error import unbroken

NUM_THETA, NUM_NOISE = 50, 2
WARM_UP = 2
"""Steps before each state at which the agent plans too, since each of its plans starts from the one before."""


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What was predicted and what came of it, at W states; all in units of reward over H steps."""

    predicted: Tensor
    """[W] mean over [K, M] of the return of the plan that the agent chooses there."""
    epistemic_std: Tensor
    """[W] of that return: what data could take away."""
    replayed: Tensor
    """[W] predicted for the actions that were really taken; NaN where the episode ended before they were H."""
    real: Tensor
    """[W] sum of the rewards that were really received."""
    state: Tensor
    """[W, S]"""
    episode: Tensor
    """[W]"""
    step: Tensor
    """[W] within the episode."""
    num_diverged: int
    """Windows with an imagined trajectory that diverged; they are in none of the above."""

    @property
    def optimism(self) -> Tensor:
        """predicted − real [W]."""
        return self.predicted - self.real


def outcomes(
    agent: MPCAgent, transitions: Transitions, num_states: int, *, generator: torch.Generator
) -> Outcomes | None:
    """Plan at up to `num_states` states, evenly spaced over those with H real steps ahead or a termination.

    The return of the plan is predicted with θ and noise of its own, not those among which the plan was the best.
    None where there is no such state.
    """
    horizon = agent.planner.horizon
    first, steps, since = _windows(transitions, horizon)
    if len(first) == 0:
        return None
    chosen = evenly_spaced(len(first), num_states)
    first, steps, since = first[chosen], steps[chosen], since[chosen]
    rows = []
    with torch.no_grad():
        for row, length, before in zip(first.tolist(), steps.tolist(), since.tolist(), strict=True):
            plan = _plan(agent, transitions.state[max(row - before, row - WARM_UP) : row + 1], generator)
            rows.append(_outcome(agent, plan, transitions[row : row + length], generator))
    values = torch.tensor(rows, dtype=torch.float64)  # predicted, epistemic std, replayed, real, whether sound
    sound = values[:, 4] > 0
    predicted, epistemic_std, replayed, real = values[sound, :4].unbind(1)
    state, episode = transitions.state[first][sound], transitions.episode[first][sound]
    num_diverged = int((~sound).sum())
    return Outcomes(predicted, epistemic_std, replayed, real, state, episode, since[sound], num_diverged)


def _plan(agent: MPCAgent, states: Tensor, generator: torch.Generator) -> Tensor:
    """The plan [H, A] that the agent makes at the last of these states [n, S], having planned at those before."""
    planner, found = agent.planner, agent.planner.init()
    for number, state in enumerate(states):
        if number:
            found = planner.shift(found)
        found = agent.replan(found, state, generator=generator)
    return found.plan


def _outcome(agent: MPCAgent, plan: Tensor, window: Transitions, generator: torch.Generator) -> tuple[float, ...]:
    state, length = window.state[0], len(window)
    # Both plans meet the same θ and noise; actions after the end of the episode are only there to fill the shape.
    plans = torch.stack([plan, torch.cat([window.action, plan[length:]])])
    returns = plan_returns(
        plans,
        state,
        posterior=agent.posterior,
        dynamics=agent.dynamics,
        reward=agent.reward,
        termination=agent.termination,
        num_theta=NUM_THETA,
        num_noise=NUM_NOISE,
        generator=generator,
        divergence_return=agent.divergence_return,
    )[-1].double()
    mean = returns.mean((0, 1))
    real = float(window.reward.sum(dtype=torch.float64))
    spread = float(split_return_variance(returns).epistemic[0].sqrt())
    sound = bool((returns > agent.divergence_return).all())
    return float(mean[0]), spread, float(mean[1]) if length == len(plan) else math.nan, real, float(sound)


def _windows(transitions: Transitions, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    """(first row, steps, steps since the episode began), each [W]: H steps of an episode, or fewer to its end."""
    pieces = unbroken(transitions).episode
    rows = torch.arange(len(pieces))
    starts = torch.searchsorted(pieces, pieces)
    ends = torch.searchsorted(pieces, pieces, right=True)
    steps = (ends - rows).clamp(max=horizon)
    complete = (steps == horizon) | transitions.terminated[ends - 1]
    return rows[complete], steps[complete], (rows - starts)[complete]
