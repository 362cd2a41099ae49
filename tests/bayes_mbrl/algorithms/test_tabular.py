"""Dyna: the expected update against value iteration, Dyna-Q by hand, the textbook's maze, going on bit-equal."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from bayes_mbrl.algorithms.tabular import DynaLearner, TabularModel, walk
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
                    learner.observe(s, a, float(reward), int(following), bool(terminated))
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


@pytest.mark.parametrize(
    ("target", "memory", "bonus"), [("expected", 1.0, 0.0), ("sample", 0.7, 0.0), ("sample", 0.0, 0.01)]
)
def test_a_loaded_learner_goes_on_bit_equal(target: Any, memory: float, bonus: float) -> None:
    settings: Any = {"planning_steps": 5, "target": target, "memory": memory, "bonus": bonus}
    one, other = (DynaLearner(54, 4, **settings) for _ in range(2))
    episode_lengths(one, Maze(), 2, np.random.default_rng(1))
    other.load(one.tensors())
    assert episode_lengths(one, Maze(), 3, np.random.default_rng(2)) == episode_lengths(
        other, Maze(), 3, np.random.default_rng(2)
    )
    assert np.array_equal(one.q, other.q)
    assert all(np.array_equal(array, other.tensors()[name]) for name, array in one.tensors().items())


def test_a_table_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"need Q of 5 states and 4 actions, got \(54, 4\)"):
        DynaLearner(5, 4).load(DynaLearner(54, 4).tensors())


def episode_lengths(learner: DynaLearner, maze: Maze, num_episodes: int, rng: np.random.Generator) -> list[int]:
    return [len(walk(learner, maze, generator=rng)) for _ in range(num_episodes)]


def test_a_walk_ends_at_the_goal_or_after_so_many_steps(rng: np.random.Generator) -> None:
    corridor = Maze((("S.G",),))
    learner = DynaLearner(3, 4, step_size=1.0, discount=0.5, exploration=0.0, target="sample")
    rewards = walk(learner, corridor, generator=rng)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert learner.num_steps == len(rewards)
    np.testing.assert_allclose(learner.q[:, 3], [0.5, 1.0, 0.0])  # what it learned by walking: to go right
    assert walk(learner, corridor, generator=rng) == [0.0, 1.0]
    assert walk(learner, corridor, generator=rng, num_steps=1) == [0.0]
    corridor = Maze((("S.G",),), continuing=True)
    assert walk(learner, corridor, generator=rng, num_steps=6) == [0.0, 1.0] * 3


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


def goals_while_blocked(memory: float, bonus: float) -> tuple[float, float]:
    """How often the goal is reached in the 1,000 steps before the way is blocked, and in the last 500 of 3,000."""
    learner = DynaLearner(54, 4, planning_steps=50, step_size=0.5, memory=memory, bonus=bonus)
    maze = Maze(BLOCKING_MAZE, change_after=1000, continuing=True)
    rewards = walk(learner, maze, generator=np.random.default_rng(3), num_steps=3000)
    return sum(rewards[:1000]), sum(rewards[-500:])


@pytest.mark.slow
def test_a_blocked_way_is_unlearned_by_who_forgets_and_tries_again() -> None:
    """The new way takes 16 steps at the least, so 31 goals in 500 are all there are."""
    before, after = goals_while_blocked(memory=0.0, bonus=0.001)
    assert before > 40
    assert after > 20
    assert goals_while_blocked(memory=1.0, bonus=0.001)[1] < 10


def test_with_memory_0_the_last_outcome_alone_counts(rng: np.random.Generator) -> None:
    model = TabularModel(memory=0.0)
    values = np.array([10.0, 20.0, 30.0])
    for reward, following in ((1.0, 1), (1.0, 1), (5.0, 2)):
        model.add(0, 0, reward, following, False)
    assert model.expected_target(0, 0, values, 0.5) == 5 + 0.5 * 30
    assert {model.sampled_target(0, 0, values, 0.5, generator=rng) for _ in range(20)} == {5 + 0.5 * 30}


def test_a_memory_between_weighs_by_age(rng: np.random.Generator) -> None:
    model = TabularModel(memory=0.5)
    for reward, following in ((4.0, 1), (8.0, 2), (6.0, 1)):
        model.add(0, 0, reward, following, False)
    model.add(1, 0, 99.0, 2, False)  # another pair ages nothing
    # Weights 1/4, 1/2, 1: p̂ = 5/7 for s' = 1 with r̂ = (1 + 6) / (5/4), and 2/7 for s' = 2 with r̂ = 8.
    values = np.array([0.0, 10.0, 20.0])
    expected = 5 / 7 * (7 / 1.25 + 0.9 * 10) + 2 / 7 * (8 + 0.9 * 20)
    assert model.expected_target(0, 0, values, 0.9) == pytest.approx(expected)
    sampled = [model.sampled_target(0, 0, values, 0.9, generator=rng) for _ in range(4000)]
    assert np.mean(sampled) == pytest.approx(expected, abs=5 * np.std(sampled) / 4000**0.5)


def test_a_bonus_grows_with_the_time_since_a_pair_was_tried_and_reaches_what_never_was(
    rng: np.random.Generator,
) -> None:
    """One state, two actions, no reward, γ = 0: all that is imagined is the bonus."""
    learner = DynaLearner(2, 2, planning_steps=200, step_size=1.0, discount=0.0, bonus=0.5)
    for _ in range(9):
        learner.learn(1, 0, 0.0, 1, False, generator=rng)
    np.testing.assert_allclose(learner.q, [[0.0, 0.0], [0.0, 0.5 * 9**0.5]])
    learner.learn(1, 1, 0.0, 1, False, generator=rng)
    np.testing.assert_allclose(learner.q[1], [0.5 * 1**0.5, 0.0])


@pytest.mark.parametrize("slippery", [True, False])
def test_what_is_learned_by_acting_is_value_iteration_in_the_empirical_model(slippery: bool) -> None:
    """On FrozenLake, from real steps alone: Q of the visited pairs solves the counted model, which without slipping
    is the true one."""
    environment = gymnasium.make("FrozenLake-v1", is_slippery=slippery)
    rng = np.random.default_rng(1)
    learner = DynaLearner(16, 4, discount=0.9, step_size=1.0, planning_steps=0)
    for episode in range(600):
        state, _ = environment.reset(seed=episode)
        ended = False
        while not ended:
            action = int(rng.integers(4))
            following, reward, terminated, truncated, _ = environment.step(action)
            learner.learn(int(state), action, float(reward), int(following), terminated, generator=rng)
            state, ended = following, terminated or truncated
    learner.planning_steps = 20_000
    learner.learn(int(state), action, float(reward), int(following), terminated, generator=rng)
    empirical: Any = {s: {a: [(1.0, s, 0.0, True)] for a in range(4)} for s in range(16)}
    for (s, a), outcomes in learner.model.outcomes.items():
        count = sum(seen.count for seen in outcomes.values())
        empirical[s][a] = [
            (seen.count / count, t, seen.total_reward / seen.count, seen.terminated) for t, seen in outcomes.items()
        ]
    visited = tuple(np.array(list(learner.model.outcomes)).T)
    solved = value_iteration(empirical, 16, 4, 0.9)
    np.testing.assert_allclose(learner.q[visited], solved[visited], atol=1e-6)
    table: Any = environment.unwrapped
    if not slippery:
        np.testing.assert_allclose(learner.q[visited], value_iteration(table.P, 16, 4, 0.9)[visited], atol=1e-6)


def test_with_ever_more_data_it_is_value_iteration_in_the_true_model(rng: np.random.Generator) -> None:
    table: Any = gymnasium.make("FrozenLake-v1", is_slippery=True).unwrapped
    exact, errors = value_iteration(table.P, 16, 4, 0.9), []
    for num_data in (20, 2000):  # of each (s, a)
        learner = DynaLearner(16, 4, discount=0.9, step_size=1.0, planning_steps=20_000)
        for s in range(16):
            for a in range(4):
                for drawn in rng.choice(len(table.P[s][a]), num_data, p=[p for p, *_ in table.P[s][a]]):
                    _, following, reward, terminated = table.P[s][a][drawn]
                    learner.observe(s, a, float(reward), int(following), bool(terminated))
        learner.learn(15, 0, 0.0, 15, True, generator=rng)
        errors.append(float(np.abs(learner.q - exact).max()))
    assert errors[1] < 0.03 < errors[0]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need step_size > 0, got 0"):
        DynaLearner(2, 2, step_size=0)
    with pytest.raises(ValueError, match=r"target is one of expected, sample, got 'best'"):
        DynaLearner(2, 2, target="best")  # type: ignore[arg-type]
