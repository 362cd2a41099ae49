"""Predictions of one step in the two parts of their variance, in a unit that all posteriors of a run share; and what
a transition would tell about θ, in nats.

Axes: N transitions, K parameter samples, S state, A action.
"""

import dataclasses
import math

import torch
from torch import Tensor

from bayes_mbrl.analysis.entropy import split_predictive_entropy
from bayes_mbrl.analysis.uncertainty import split_predictive_variance
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.dynamics.standardise import Standardiser, negligible_std
from bayes_mbrl.loaded_run import Knowledge

NUM_THETA = 100
ROWS_AT_ONCE = 250
INFORMATION_ROWS, INFORMATION_THETA, INFORMATION_DRAWS = 20, 50, 2
"""Fewer, since a mutual information takes K² · M densities a row."""
ROUNDING = 16
"""Units in the last place that one prediction differs by between equal θ, since products are added in another order."""
NEGLIGIBLE = 1e-5
"""Epistemic over aleatoric standard deviation that is taken for rounding too."""
UNIT = "sd of Δs"
"""Standard deviations of the change of state over the whole run, root mean square over its dimensions."""


@dataclasses.dataclass(frozen=True)
class OneStep:
    """Of N predictions; both variances are means over the S dimensions, in squared standard deviations of Δs."""

    mean: Tensor
    """[N, S] predicted next states, in the environment's units."""
    epistemic: Tensor
    """[N] 0 where it is no more than rounding."""
    aleatoric: Tensor
    """[N]"""


def change_scale(transitions: Transitions) -> Tensor:
    """Standard deviation of Δs [S]; of a dimension that stands still, a thousandth of the state's."""
    change = transitions.next_state - transitions.state
    return Standardiser.fitted(change, constant_std=negligible_std(transitions.state)).std


def predict_one_step(
    knowledge: Knowledge, states: Tensor, actions: Tensor, scale: Tensor, *, generator: torch.Generator
) -> OneStep:
    """From states [N, S] under actions [N, A], with `NUM_THETA` samples of θ; scale [S] as `change_scale` gives it."""
    dynamics = knowledge.dynamics
    theta = knowledge.posterior.sample(NUM_THETA, generator=generator)
    means, epistemic, aleatoric = [], [], []
    for some, acts in zip(torch.split(states, ROWS_AT_ONCE), torch.split(actions, ROWS_AT_ONCE), strict=True):
        predicted = dynamics.predict(theta, some.expand(NUM_THETA, -1, -1), acts)
        mean, std = (values[..., : dynamics.state_dim].double() for values in predicted)
        split = split_predictive_variance(mean / scale, std / scale)
        means.append(mean.mean(0))
        aleatoric.append(split.aleatoric.mean(-1))
        digits = torch.finfo(states.dtype).eps * (1 + (means[-1] / scale).square().mean(-1).sqrt())
        least = torch.maximum(ROUNDING * digits, NEGLIGIBLE * aleatoric[-1].sqrt()).square()
        found = split.epistemic.mean(-1)
        epistemic.append(torch.where(found <= least, 0.0, found))
    return OneStep(torch.cat(means), torch.cat(epistemic), torch.cat(aleatoric))


@dataclasses.dataclass(frozen=True)
class Information:
    """Mutual information of the next state and θ, in nats; NaN where no prediction is finite. See `entropy.py`."""

    shown: float
    """What the samples of θ show."""
    standard_error: float
    """Of `shown`: of the draws of next states, for the samples as they are."""
    upper: float
    """An upper bound."""


def information(knowledge: Knowledge, states: Tensor, actions: Tensor, *, generator: torch.Generator) -> Information:
    """The mean over at most `INFORMATION_ROWS` of the rows, from `INFORMATION_THETA` samples."""
    dynamics, rows = knowledge.dynamics, evenly_spaced(len(states), INFORMATION_ROWS)
    theta = knowledge.posterior.sample(INFORMATION_THETA, generator=generator)
    predicted = dynamics.predict(theta, states[rows].expand(INFORMATION_THETA, -1, -1), actions[rows])
    mean, std = (values[..., : dynamics.state_dim].double() for values in predicted)
    sound = (torch.isfinite(mean) & torch.isfinite(std) & (std > 0)).all(-1).all(0)
    if not bool(sound.any()):
        return Information(math.nan, math.nan, math.nan)
    joint = split_predictive_entropy(
        mean[:, sound], std[:, sound], likelihood=dynamics.likelihood, num_draws=INFORMATION_DRAWS, generator=generator
    ).joint
    error = joint.mutual_information_error.square().sum().sqrt() / len(joint.upper)  # rows have draws of their own
    return Information(float(joint.mutual_information.mean()), float(error), float(joint.upper.mean()))
