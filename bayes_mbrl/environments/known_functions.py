"""What is said about an environment, held against its shapes and against what it really did.

Axes: N transitions, S state, A action.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.rewards import check_per_state
from bayes_mbrl.errors import UserError

REWARD_TOLERANCE = 1e-3
"""Times the largest reward seen: what observations of single precision, or clipped ones, may cost."""
_AXES = (2, 3, 4)
"""K, M and C of a rollout, no two alike."""
_WITH = "states [2, 3, 4, S] and actions [4, A]"


def check_shapes(spec: EnvironmentSpec, state_dim: int, action_dim: int) -> None:
    """Try the functions of `spec` on zeros with the axes of a rollout, before anything was done.

    Raises UserError, with expected and got shapes, where one cannot be called like this or returns another shape: a sum
    over the wrong axis would broadcast in silence; and where one changes its arguments.
    """
    states, actions = torch.zeros(*_AXES, state_dim), torch.zeros(_AXES[-1], action_dim)
    versions = states._version, actions._version  # autograd counts what is done in place
    for name in ("reward", "termination", "failure"):
        if (function := getattr(spec, name)) is None:
            continue
        got = _called(spec, name, functools.partial(function, states, actions, states))
        try:
            check_per_state(name, got, _AXES)
        except ValueError as error:
            raise UserError(f"{spec.name}: {error}") from error
        if (states._version, actions._version) != versions:
            raise UserError(
                f"{spec.name}: the {name} function changes its arguments in place, which other plans still need: take "
                "a copy, as x = x + 1 does and x += 1 does not"
            )
    if (features := spec.features) is not None:
        got = _called(spec, "features", functools.partial(features, states))
        if got.shape[:-1] != _AXES or got.ndim != 4 or got.shape[-1] == 0 or not got.is_floating_point():
            raise UserError(
                f"{spec.name}: the features function should return F numbers for each state, states [2, 3, 4, S] → "
                f"[2, 3, 4, F], got {_described(got)}: work on the last axis alone"
            )


def compare_with_data(spec: EnvironmentSpec, transitions: Transitions) -> list[str]:
    """Hold the functions of `spec` against what really happened; a warning for each that disagrees.

    Raises UserError where one would make planning meaningless: numbers that are not finite, and a termination that is
    True for most of the transitions after which the episode went on.
    """
    state, action, next_state = transitions.state, transitions.action, transitions.next_state
    warnings = []
    if spec.features is not None:
        _check_finite(spec, "features", spec.features(state).flatten(1), state)
    if spec.reward is not None:
        reward = spec.reward(state, action, next_state)
        _check_finite(spec, "reward", reward.unsqueeze(-1), state)
        warnings += _reward_warnings(spec.name, reward, transitions.reward)
    if spec.termination is not None:
        predicted = spec.termination(state, action, next_state)
        warnings += _termination_warnings(spec.name, predicted, transitions.terminated)
    return warnings


def _reward_warnings(name: str, predicted: Tensor, real: Tensor) -> list[str]:
    error = (predicted.double() - real.double()).abs()
    bad = error > REWARD_TOLERANCE * float(real.abs().max())
    if not bool(bad.any()):
        return []
    row = int(bad.int().argmax())
    return [
        f"the reward function of {name} is not the reward that the environment gave: it differs in "
        f"{int(bad.sum())} of {len(real)} transitions, by up to {float(error.max()):.3g} and on average by "
        f"{float(error.mean()):.3g}; first in row {row}, {float(predicted[row]):.4g} instead of "
        f"{float(real[row]):.4g}. Plans follow the function"
    ]


def _termination_warnings(name: str, predicted: Tensor, real: Tensor) -> list[str]:
    too_often, missed = predicted & ~real, ~predicted & real
    if not bool((too_often | missed).any()):
        return []
    row = int((too_often | missed).int().argmax())
    numbers = (
        f"the termination function of {name} is True for {int(predicted.sum())} of {len(real)} transitions, of which "
        f"{int((predicted & real).sum())} ended the episode"
    )
    if int(too_often.sum()) > 0.5 * int((~real).sum()):
        raise UserError(
            f"{numbers}: plans would end where they begin. It should be True where next_state is terminal, and False "
            f"elsewhere, as in row {row}"
        )
    return [
        f"{numbers}; {int(missed.sum())} others ended it, first disagreement in row {row}. Plans follow the function"
    ]


def _check_finite(spec: EnvironmentSpec, what: str, values: Tensor, state: Tensor) -> None:
    bad = ~torch.isfinite(values).all(-1)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise UserError(
            f"{spec.name}: the {what} function is not finite for {int(bad.sum())} of {len(bad)} transitions, first in "
            f"row {row}: {values[row].tolist()} for the state {state[row].tolist()}"
        )


def _called(spec: EnvironmentSpec, name: str, call: Callable[[], Tensor]) -> Tensor:
    """The result of a user's function, which may raise anything and return anything."""
    try:
        got = call()
    except Exception as error:
        raise UserError(
            f"{spec.name}: the {name} function raised {type(error).__name__}: {error}. It is called with {_WITH}, and "
            "works on the last axis alone, as in state[..., 0]"
        ) from error
    if not isinstance(got, Tensor):
        raise UserError(f"{spec.name}: the {name} function should return a tensor, got a {type(got).__name__}")
    return got


def _described(got: Tensor) -> str:
    return f"{str(got.dtype).removeprefix('torch.')} {list(got.shape)}"
