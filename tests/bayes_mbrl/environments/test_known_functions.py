import re
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.environments import rewards
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.known_functions import check_shapes, compare_with_data
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.errors import UserError

NUM_ROWS = 40


def _spec(**functions: Any) -> EnvironmentSpec:
    return EnvironmentSpec("Own-v0", **functions)


def _reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0] - 0.1 * action[..., 0].square()


def _ends(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 1] > 1.0


@pytest.fixture
def rows(generator: torch.Generator) -> Transitions:
    """Of an environment that does what `_reward` and `_ends` say; some transitions end an episode."""
    state, following = (torch.randn(NUM_ROWS, 3, generator=generator) for _ in range(2))
    action = torch.randn(NUM_ROWS, 2, generator=generator)
    ended = _ends(state, action, following)
    assert 2 < int(ended.sum()) < 15
    return Transitions(state, action, _reward(state, action, following), following, ended, torch.zeros(NUM_ROWS).long())


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_all_known_functions_have_the_right_shapes(name: str) -> None:
    sizes = {"Reacher-v5": (10, 2), "Pusher-v5": (23, 7), "LinearGaussian-v0": (3, 2), "Acrobot-v1": (6, 3)}
    check_shapes(ENVIRONMENTS[name], *sizes.get(name, (9, 3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s, a, n: n.sum(), "should return a number for each state, .*got float32 []: reduce over the last"),
        (lambda s, a, n: n, "got float32 [2, 3, 4, 3]"),
        (lambda s, a, n: a.sum(-1), "got float32 [4]"),
        (lambda s, a, n: n.sum(0), "got float32 [3, 4, 3]"),
        (lambda s, a, n: n[..., 0] > 0, "got bool [2, 3, 4]"),
        (lambda s, a, n: 1.0, "should return a tensor, got a float"),
        (lambda s, a, n: n[..., 7], "raised IndexError"),
        (lambda s, a: s[..., 0], "raised TypeError"),
    ],
)
def test_a_reward_of_the_wrong_shape(function: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message).replace(r"\.\*", ".*")):
        check_shapes(_spec(reward=function), 3, 2)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_arguments_that_are_changed_in_place(which: int) -> None:
    def reward(*arguments: Tensor) -> Tensor:
        arguments[which][..., 0] *= 2.0
        return arguments[2][..., 0]

    with pytest.raises(UserError, match="Own-v0: the reward function changes its arguments in place"):
        check_shapes(_spec(reward=reward), 3, 2)


@pytest.mark.parametrize("field", ["termination", "failure"])
def test_a_termination_is_a_bool_for_each_state(field: str) -> None:
    check_shapes(_spec(**{field: _ends}), 3, 2)
    with pytest.raises(
        UserError, match=rf"the {field} function should return a bool for each .* got float32 \[2, 3, 4"
    ):
        check_shapes(_spec(**{field: _reward}), 3, 2)


@pytest.mark.parametrize(
    "features", [lambda s: s[..., 0], lambda s: s.flatten(), lambda s: s[..., :0], lambda s: s > 0, lambda s: s.sum(0)]
)
def test_features_of_the_wrong_shape(features: Any) -> None:
    with pytest.raises(UserError, match=r"F numbers for each state, states \[2, 3, 4, S\] → \[2, 3, 4, F\], got "):
        check_shapes(_spec(features=features), 3, 2)
    check_shapes(_spec(features=lambda s: torch.cat([s, s.sin()], -1)), 3, 2)


def test_what_is_true_is_not_warned_of(rows: Transitions) -> None:
    spec = _spec(reward=lambda s, a, n: _reward(s, a, n) + 1e-6, termination=_ends, features=lambda s: s.sin())
    assert compare_with_data(spec, rows) == []
    assert compare_with_data(_spec(), rows) == []


def test_a_reward_that_differs_is_told_with_numbers(rows: Transitions) -> None:
    def wrong(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return _reward(state, action, next_state) + 0.5 * (torch.arange(len(state)) % 4 == 2)

    (text,) = compare_with_data(_spec(reward=wrong), rows)
    assert "differs in 10 of 40 transitions, by up to 0.5 and on average by 0.125; first in row 2" in text


def test_a_termination_that_is_always_true(rows: Transitions) -> None:
    def always(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return rewards.never(state, action, next_state).logical_not()

    ended = int(rows.terminated.sum())
    with pytest.raises(UserError, match=rf"True for 40 of 40 transitions, of which {ended} ended the episode"):
        compare_with_data(_spec(termination=always), rows)
    everything_ends = Transitions(**{**rows.tensors(), "terminated": torch.ones(NUM_ROWS).bool()})
    assert compare_with_data(_spec(termination=always), everything_ends) == []


def test_a_termination_that_is_wrong_now_and_then(rows: Transitions) -> None:
    late, early = (lambda s, a, n: n[..., 1] > 1.5), (lambda s, a, n: n[..., 1] > 0.5)
    for wrong in (late, early):
        (text,) = compare_with_data(_spec(termination=wrong), rows)
        predicted = wrong(rows.state, rows.action, rows.next_state)
        assert f"is True for {int(predicted.sum())} of 40 transitions" in text
        assert f"{int((~predicted & rows.terminated).sum())} others ended it" in text
        assert f"in row {(predicted != rows.terminated).int().argmax()}" in text


def test_numbers_that_are_not_finite_are_a_mistake(rows: Transitions) -> None:
    def root(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return next_state[..., 0].sqrt()

    first = int((rows.next_state[:, 0] < 0).int().argmax())
    with pytest.raises(
        UserError, match=rf"reward function is not finite for \d+ of 40 transitions, first in row {first}"
    ):
        compare_with_data(_spec(reward=root), rows)
    first = int((rows.state[:, 2] < 0).int().argmax())
    with pytest.raises(UserError, match=rf"features function is not finite .* first in row {first}: "):
        compare_with_data(_spec(features=lambda s: s.log()[..., 2:]), rows)
