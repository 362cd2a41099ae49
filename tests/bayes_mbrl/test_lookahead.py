"""Imagined beside real: windows stay within episodes, and a known model imagines what was simulated with it."""

import pytest
import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.linear import LinearDynamics
from bayes_mbrl.inference import exact_linear
from bayes_mbrl.lookahead import longest_episode, lookahead, windows


def _transitions(generator: torch.Generator, lengths: tuple[int, ...]) -> Transitions:
    """s' = s + 0.1 (a, −2 a) + noise of std (0.02, 0.04), in episodes of these lengths."""
    parts: list[tuple[Tensor, Tensor, Tensor, int]] = []
    for number, length in enumerate(lengths):
        state = torch.randn(2, generator=generator)
        for _ in range(length):
            action = torch.randn(1, generator=generator)
            noise = torch.tensor([0.02, 0.04]) * torch.randn(2, generator=generator)
            following = state + torch.cat([0.1 * action, -0.2 * action]) + noise
            parts.append((state, action, following, number))
            state = following
    states, actions, next_states, episodes = zip(*parts, strict=True)
    n = len(parts)
    return Transitions(
        torch.stack(states), torch.stack(actions), torch.arange(n) * 1.0, torch.stack(next_states),
        torch.zeros(n, dtype=torch.bool), torch.tensor(episodes),
    )  # fmt: skip


def test_windows_stay_within_an_episode(generator: torch.Generator) -> None:
    transitions = _transitions(generator, (3, 1, 5))
    assert windows(transitions, 3).tolist() == [0, 4, 5, 6]
    assert windows(transitions, 1).tolist() == list(range(9))
    assert windows(transitions, 10).tolist() == []
    assert longest_episode(transitions) == 5


def test_real_and_imagined_begin_alike_and_agree_for_a_known_system(generator: torch.Generator) -> None:
    transitions = _transitions(generator, (40, 60))
    dynamics = LinearDynamics.from_data(transitions, noise_std=0.196)  # of the standardised change
    posterior, _ = exact_linear.fit(dynamics.model, *dynamics.regression_data(transitions), generator=generator)
    seen = lookahead(
        posterior, dynamics, transitions, horizon=5, max_windows=30, num_theta=20, num_noise=3, generator=generator
    )
    assert seen.imagined.shape == (20, 3, 30, 6, 2)
    assert seen.real.shape == (30, 6, 2)
    assert torch.equal(seen.imagined[:, :, :, 0], seen.real[:, 0].expand(20, 3, 30, 2))
    rows = seen.first_rows
    assert (rows[0], rows[-1]) == (0, 95)  # from the first start to the last one, and evenly in between
    assert set((rows[1:] - rows[:-1]).tolist()) <= {3, 4, 7, 8}
    assert torch.equal(seen.real[:, 3], transitions.state[rows + 3])
    assert torch.equal(seen.rewards[:, 4], transitions.reward[rows + 4])
    assert torch.equal(seen.actions[:, 4], transitions.action[rows + 4])
    error = seen.imagined.mean((0, 1))[:, -1] - seen.real[:, -1]
    spread = seen.imagined.flatten(0, 1)[..., -1, :].std(0)
    assert 0.6 < float((error / spread).square().mean().sqrt()) < 1.6
    # Noise is each window's own: their imagined errors are not correlated.
    one, other = (seen.imagined.flatten(0, 1)[:, w, -1, 0] for w in (0, 7))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.6


def test_no_episode_is_long_enough(generator: torch.Generator) -> None:
    transitions = _transitions(generator, (3, 4))
    dynamics = LinearDynamics.from_data(transitions, noise_std=0.02)
    posterior, _ = exact_linear.fit(dynamics.model, *dynamics.regression_data(transitions), generator=generator)
    with pytest.raises(ValueError, match="at least 5 steps, the longest has 4"):
        lookahead(posterior, dynamics, transitions, horizon=5, max_windows=3, num_theta=2, generator=generator)
