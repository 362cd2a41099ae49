"""Where imagined trajectories start, and from which share on it is said that they diverge."""

import torch

from bayes_mbrl.algorithms.trajectories import divergence_notes, draw_starts
from bayes_mbrl.data import Transitions


def test_trajectories_start_where_episodes_do_or_anywhere() -> None:
    state, nothing = torch.linspace(-1, 1, 6)[:, None], torch.zeros(6)
    data = Transitions(state, torch.zeros(6, 1), nothing, state, nothing.bool(), torch.arange(6) // 2)
    generator = torch.Generator().manual_seed(0)
    initial = draw_starts(data, "episode-starts", 3, 200, generator=generator)
    assert initial.shape == (3, 200, 1)
    assert torch.equal(initial.unique(), state[::2, 0])
    anywhere = draw_starts(data, "visited", 3, 200, generator=generator)
    assert torch.equal(anywhere.unique(), state[:, 0])
    both = draw_starts(data, "both", 1, 201, generator=generator)
    assert both.shape == (1, 201, 1)
    assert torch.equal(both[:, 100:].unique(), state[::2, 0])
    assert torch.equal(both[:, :100].unique(), state[:, 0])
    assert draw_starts(data, "both", 4, 1, generator=generator).shape == (4, 1, 1)


def test_divergence_is_worth_a_word_when_more_than_a_tenth_diverged() -> None:
    assert divergence_notes(0.9) == []
    (said,) = divergence_notes(0.89)
    assert said.startswith("11% of the imagined trajectories diverged")
    assert "algorithm.horizon" in said
