"""Replay: the newest rows and no others, each as likely; shares of real and imagined ones; ends are not truncations."""

import pytest
import torch

from bayes_mbrl.data import Transitions
from bayes_mbrl.replay import Batch, Replay, mixed


def rows(first: int, last: int) -> Batch:
    number = torch.arange(float(first), float(last))
    return Batch(number[:, None], -number[:, None], 10 * number, number[:, None] + 1, number.long() % 3 == 0)


@pytest.mark.parametrize("sizes", [[1] * 23, [5, 7, 11], [23], [3, 20], [2, 0, 21]])
def test_it_keeps_the_newest_rows_whole(sizes: list[int], generator: torch.Generator) -> None:
    replay, first = Replay(10), 0
    for size in sizes:
        replay.add(rows(first, first + size))
        first += size
        assert len(replay) == min(first, 10)
    drawn = replay.sample(2000, generator=generator)
    number = drawn.state[:, 0]
    assert set(number.tolist()) == set(range(13, 23))
    expected = rows(0, 23)
    for column, known in zip(drawn, expected, strict=True):
        assert torch.equal(column, known[number.long()])
    counts = torch.bincount(number.long())[13:]
    assert bool(((counts - 200).abs() < 5 * (2000 * 0.1 * 0.9) ** 0.5).all())


@pytest.mark.parametrize(("ratio", "num_real"), [(0.0, 0), (0.05, 13), (0.5, 128), (1.0, 256)])
def test_the_share_of_real_rows(ratio: float, num_real: int, generator: torch.Generator) -> None:
    real, imagined = Replay(100), Replay(100)
    real.add(rows(0, 50))
    assert len(mixed(real, imagined, 256, real_ratio=ratio, generator=generator).reward) == 256  # nothing imagined yet
    imagined.add(rows(1000, 1050))
    batch = mixed(real, imagined, 256, real_ratio=ratio, generator=generator)
    assert int((batch.state < 100).sum()) == num_real
    assert len(batch.reward) == 256


def test_bad_input_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"need 0 <= real_ratio <= 1, got 1.5"):
        mixed(Replay(1), Replay(1), 4, real_ratio=1.5, generator=generator)
    with pytest.raises(ValueError, match=r"the replay is empty"):
        Replay(3).sample(1, generator=generator)
    with pytest.raises(ValueError, match=r"need capacity >= 1, got 0"):
        Replay(0)


def test_a_truncated_episode_is_not_terminated() -> None:
    """Transitions know terminations alone: the last row of an episode that a time limit ended says False."""
    zeros = torch.zeros(2, 1)
    transitions = Transitions(zeros, zeros, torch.zeros(2), zeros, torch.tensor([False, True]), torch.tensor([0, 1]))
    assert Batch.of(transitions).terminated.tolist() == [False, True]
