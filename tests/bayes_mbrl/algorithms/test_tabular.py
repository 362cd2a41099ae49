"""Dyna: the expected update against value iteration, Dyna-Q by hand, the textbook's maze, going on bit-equal."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from bayes_mbrl.algorithms.tabular import DynaLearner, TabularModel
from bayes_mbrl.environments.mazes import BLOCKING_MAZE, Maze


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def value_iteration(probabilities: Any, num_states: int, num_actions: int, discount: float) -> Any:
    """Q* [S, A] of a toy-text environment's table of (probability, s', r, terminated)."""
    q = np.zeros((num_states, num_actions))
    for _ in range(2000):
        values = q.max(1)
        for s in range(num_states):
            for a in range(num_actions):
                q[s, a] = sum(p * (r + discount * values[t] * (not end)) for p, t, r, end in probabilities[s][a])
    return q


def test_with_the_true_frequencies_the_expected_update_is_value_iteration(rng: np.random.Generator) -> None:
    table: Any = gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped
    exact = value_iteration(table.P, 16, 4, 0.9)
    learner = DynaLearner(16, 4, discount=0.9, step_size=1.0, planning_steps=0)
    for s in range(16):
        for a in range(4):
            for p, following, reward, terminated in table.P[s][a]:
                for _ in range(round(3 * p)):  # probabilities are thirds or 1
                    learner.model.add(s, a, float(reward), int(following), bool(terminated))
    learner.planning_steps = 30_000
    s, (probability, following, reward, terminated) = 15, table.P[15][0][0]
    assert probability == 1
    learner.learn(s, 0, float(reward), int(following), bool(terminated), generator=rng)
    np.testing.assert_allclose(learner.q, exact, atol=1e-3)


def test_targets_by_hand(rng: np.random.Generator) -> None:
    model = TabularModel()
    for reward, following, terminated in ((1.0, 1, False), (3.0, 1, False), (5.0, 2, True), (0.0, 0, False)):
        model.add(0, 0, reward, following, terminated)
    values = np.array([10.0, 20.0, 99.0])
    # p̂ = 1/4, 1/2, 1/4 for s' = 0, 1, 2, which is terminal.
    expected = 0.25 * (0 + 0.5 * 10) + 0.5 * (2 + 0.5 * 20) + 0.25 * 5
    assert model.expected_target(0, 0, values, 0.5) == pytest.approx(expected)
    sampled = [model.sampled_target(0, 0, values, 0.5, generator=rng) for _ in range(4000)]
    assert set(sampled) == {5.0, 12.0}
    assert np.mean(sampled) == pytest.approx(expected, abs=5 * np.std(sampled) / 4000**0.5)


def test_without_planning_and_expectation_it_is_q_learning(rng: np.random.Generator) -> None:
    learner = DynaLearner(3, 2, planning_steps=0, step_size=0.5, discount=0.9, target="sample")
    learner.learn(0, 1, 2.0, 1, False, generator=rng)
    learner.learn(1, 0, 4.0, 0, False, generator=rng)
    learner.learn(2, 1, 8.0, 0, True, generator=rng)
    np.testing.assert_allclose(learner.q, [[0, 1.0], [0.5 * (4 + 0.9 * 1.0), 0], [0, 4.0]])


@pytest.mark.parametrize("target", ["expected", "sample"])
def test_a_loaded_learner_goes_on_bit_equal(target: Any) -> None:
    one, other = (DynaLearner(54, 4, planning_steps=5, target=target) for _ in range(2))
    episode_lengths(one, Maze(), 2, np.random.default_rng(1))
    other.load(one.tensors())
    assert episode_lengths(one, Maze(), 3, np.random.default_rng(2)) == episode_lengths(
        other, Maze(), 3, np.random.default_rng(2)
    )
    assert np.array_equal(one.q, other.q)


def episode_lengths(learner: DynaLearner, maze: Maze, num_episodes: int, rng: np.random.Generator) -> list[int]:
    lengths = []
    for _ in range(num_episodes):
        state, _ = maze.reset()
        ended, length = False, 0
        while not ended:
            action = learner.act(int(state), generator=rng)
            following, reward, ended, _, _ = maze.step(np.int64(action))
            learner.learn(int(state), action, reward, int(following), ended, generator=rng)
            state, length = following, length + 1
        lengths.append(length)
    return lengths


@pytest.mark.slow
def test_the_curve_of_the_textbook() -> None:
    """Sutton & Barto, figure 8.2: the more planning steps, the fewer episodes until near the optimum of 14 steps."""
    mean: dict[int, Any] = {}
    for planning_steps in (0, 5, 50):
        runs = [
            episode_lengths(
                DynaLearner(54, 4, planning_steps=planning_steps, target="sample"), Maze(), 10, np.random.default_rng(s)
            )
            for s in range(6)
        ]
        mean[planning_steps] = np.mean(runs, 0)
    assert mean[50][2] < 40 < mean[5][2] < mean[0][2]  # third episode
    assert mean[50][3:].mean() < 22
    assert mean[5][7:].mean() < 30 < mean[0][7:].mean()


@pytest.mark.slow
def test_a_blocked_way_is_unlearned() -> None:
    maze = Maze(BLOCKING_MAZE, change_after=1000)
    learner = DynaLearner(54, 4, planning_steps=10, step_size=0.5, target="sample")
    rng = np.random.default_rng(0)
    episode_lengths(learner, maze, 60, rng)
    assert maze.grid[3, 0] == "."
    assert min(episode_lengths(learner, maze, 20, rng)) <= 20


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need step_size > 0, got 0"):
        DynaLearner(2, 2, step_size=0)
    with pytest.raises(ValueError, match=r"target is one of expected, sample, got 'best'"):
        DynaLearner(2, 2, target="best")  # type: ignore[arg-type]
