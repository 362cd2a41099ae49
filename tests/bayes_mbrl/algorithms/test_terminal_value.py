"""Bootstrapped returns by hand; the value inside v2.0 is tried in test_policy_backprop.py."""

import torch

from bayes_mbrl.algorithms.terminal_value import StateValue, bootstrapped_returns, mean_squared_error
from bayes_mbrl.imagination import Imagined


def test_bootstrapped_returns_by_hand() -> None:
    """Three steps at γ = ½: the first trajectory goes on, the second ends in its second step."""
    rewards = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]], [[4.0, 0.0]]])
    states = torch.arange(8.0).view(4, 1, 2, 1)
    lived = torch.tensor([[[True, True]], [[True, True]], [[True, False]]])
    terminated = torch.tensor([[[False, False]], [[False, True]], [[False, False]]])
    imagined = Imagined(states, torch.zeros(3, 1, 2, 1), rewards, lived, terminated)
    returns = bootstrapped_returns(imagined, lambda s: 10 * s[..., 0], discount=0.5)
    third = 4 + 0.5 * 60
    assert returns[lived].tolist() == [1 + 0.5 * (2 + 0.5 * third), 2.0, 2 + 0.5 * third, 2.0, third]
    error = mean_squared_error(imagined, lambda s: s[..., 0], returns)
    expected = ((states[:3, :, :, 0] - returns)[lived] ** 2).mean()
    torch.testing.assert_close(error, expected)
    diverged = imagined._replace(terminated=torch.zeros_like(terminated))  # the second: its return is not known
    error = mean_squared_error(diverged, lambda s: s[..., 0], returns)
    torch.testing.assert_close(error, ((states[:3, :, 0, 0] - returns[:, :, 0]) ** 2).mean())
    empty = imagined._replace(lived=torch.zeros_like(lived))
    assert float(mean_squared_error(empty, lambda s: s[..., 0], returns)) == 0


def test_a_value_is_in_units_of_its_scale() -> None:
    one, equal, other = (
        StateValue(3, hidden=(4,), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    inputs = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2))
    assert one(inputs).shape == (5, 2)
    assert torch.equal(one(inputs), equal(inputs))
    assert not torch.equal(one(inputs), other(inputs))
    equal.scale.fill_(100.0)
    torch.testing.assert_close(equal(inputs), 100 * one(inputs))
    other.load_state_dict(equal.state_dict())
    assert torch.equal(other(inputs), equal(inputs))
