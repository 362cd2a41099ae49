"""Replay: the newest rows and no others, each as likely; shares of real and imagined ones; ends are not truncations."""

import pytest
import torch

from bayes_mbrl.algorithms.base import RandomAgent
from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
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


def test_rows_at_once_are_rows_one_by_one() -> None:
    """Where there are more of them than there is room for, too."""
    one, other = Replay(10), Replay(10)
    one.add(rows(0, 27))
    for number in range(27):
        other.add(rows(number, number + 1))
    assert one.num_added == other.num_added == 27
    assert all(map(torch.equal, one.tensors().values(), other.tensors().values()))


@pytest.mark.parametrize("size", [0, 4, 10, 27])
def test_a_loaded_replay_goes_on_like_the_one_that_was_saved(size: int) -> None:
    """Before it is full, when it is just full, and when its oldest row is in the middle."""
    one, other = Replay(10), Replay(10)
    one.add(rows(0, size))
    other.add(rows(500, 520))  # what was there before is gone
    saved = one.tensors()
    other.load(saved)
    for replay in (one, other):
        replay.add(rows(100, 103))
    assert (len(one), one.num_added) == (len(other), other.num_added) == (min(10, size + 3), size + 3)
    assert one.tensors().keys() == other.tensors().keys()
    assert all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())
    drawn = [replay.sample(50, generator=torch.Generator().manual_seed(1)) for replay in (one, other)]
    assert all(map(torch.equal, *drawn))
    assert set(one.sample(500, generator=torch.Generator().manual_seed(2)).state[:, 0].tolist()) == {
        *map(float, range(max(0, size - 7), size)), 100.0, 101.0, 102.0,
    }  # fmt: skip
    if size:
        assert len(saved["reward"]) == min(size, 10)  # what was saved has not changed since
        assert not (saved["state"] >= 100).any()


def test_an_empty_replay_is_nothing_to_save() -> None:
    replay = Replay(3)
    assert replay.tensors() == {}
    replay.add(rows(0, 2))
    replay.load({})
    assert len(replay) == 0


def test_rows_of_another_capacity_are_refused() -> None:
    large, small = Replay(10), Replay(5)
    large.add(rows(0, 8))
    with pytest.raises(ValueError, match=r"need 5 rows for this capacity, got 8"):
        small.load(large.tensors())


def test_time_limits_do_not_look_like_ends(generator: torch.Generator) -> None:
    """Episodes of Short-v0 terminate, those of Drift-v0 are cut off, and both stay so in one replay."""
    replay = Replay(1000)
    for name, ends in (("toy_environments:Short-v0", True), ("toy_environments:Drift-v0", False)):
        with Environment(name) as environment:
            episode = run_episode(
                environment,
                RandomAgent(environment.low, environment.high, environment.choices),
                number=0,
                seed=3,
                generator=generator,
            ).transitions
        assert episode.terminated.tolist() == [False] * (len(episode) - 1) + [ends]
        replay.add(Batch.of(episode))
    drawn = replay.sample(2000, generator=generator)
    short = drawn.state[:, 1] == 7
    assert bool(drawn.terminated[short].any())
    assert not drawn.terminated[~short].any()
    assert bool((~short).any())
