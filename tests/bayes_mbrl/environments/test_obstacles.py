import numpy as np
import pytest

from bayes_mbrl.environments.obstacles import GOAL, Obstacles, is_blocked


@pytest.fixture
def environment() -> Obstacles:
    made = Obstacles()
    made.reset(seed=0)
    return made


def put(environment: Obstacles, x: float, y: float) -> None:
    environment.position = np.array([x, y])


def step(environment: Obstacles, x: float, y: float) -> tuple[list[float], float, bool]:
    observation, reward, terminated, truncated, _ = environment.step(np.array([x, y], np.float32))
    assert not truncated
    np.testing.assert_allclose(observation[2:], GOAL, rtol=1e-6)
    return observation[:2].tolist(), reward, terminated


def test_a_move_is_a_tenth_of_the_action_which_is_clipped(environment: Obstacles) -> None:
    put(environment, 0.3, -0.2)
    position, reward, _ = step(environment, 0.5, 5.0)
    assert position == pytest.approx([0.35, -0.101])
    assert reward == pytest.approx(-np.hypot(0.35 - 0.7, -0.101 + 0.8), rel=1e-6)


def test_walls_and_rectangles_let_nothing_through(environment: Obstacles) -> None:
    put(environment, -0.42, 0.7)  # left of the rectangle (−0.4, 0.8, 0.4, 0.3)
    assert step(environment, 0.9, 0.0)[0] == pytest.approx([-0.42, 0.7])
    assert step(environment, 0.0, 0.9)[0] == pytest.approx([-0.42, 0.79])
    put(environment, 0.95, 0.95)
    assert step(environment, 0.9, 0.0)[0] == pytest.approx([0.95, 0.95])


def test_within_a_tenth_of_the_goal_it_ends(environment: Obstacles) -> None:
    put(environment, 0.7, -0.65)
    assert not step(environment, 0.0, 0.0)[2]
    _, reward, terminated = step(environment, 0.0, -0.9)
    assert terminated
    assert reward == pytest.approx(-0.06)


def test_starts_are_free_and_in_their_region(environment: Obstacles) -> None:
    starts = np.stack([environment.reset(seed=seed)[0][:2] for seed in range(300)]).astype(float)
    assert not is_blocked(starts).any()
    assert bool(((starts >= [-0.99, 0.26]) & (starts <= [0.59, 0.99])).all())
    assert np.ptp(starts, axis=0).min() > 0.5
