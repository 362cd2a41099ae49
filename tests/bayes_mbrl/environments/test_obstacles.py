import numpy as np
import pytest
import torch

from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import obstacles_step
from bayes_mbrl.environments.obstacles import GOAL, Obstacles, is_blocked
from bayes_mbrl.environments.rewards import obstacles_reward, obstacles_termination


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


def test_the_step_in_torch_is_that_of_the_environment_everywhere(environment: Obstacles) -> None:
    """From free positions all over, so that moves end in every rectangle, beyond every wall, and at the goal."""
    generator = torch.Generator().manual_seed(3)
    positions = 2 * torch.rand(4000, 2, dtype=torch.float64, generator=generator) - 1
    positions = positions[~torch.from_numpy(is_blocked(positions.numpy()))]
    state = torch.cat([positions, torch.from_numpy(GOAL).expand(len(positions), 2)], dim=-1)
    action = 3 * torch.rand(len(positions), 2, dtype=torch.float64, generator=generator) - 1.5  # beyond the bounds too
    following = obstacles_step(state, action)
    reward, terminated = (f(state, action, following).tolist() for f in (obstacles_reward, obstacles_termination))
    num_blocked = num_ended = 0
    for row in range(len(positions)):
        put(environment, *positions[row].tolist())
        _, real_reward, real_terminated, _, _ = environment.step(action[row].numpy())
        assert following[row, :2].tolist() == pytest.approx(environment.position.tolist(), abs=1e-12)
        assert (reward[row], terminated[row]) == (pytest.approx(real_reward, abs=1e-12), real_terminated)
        num_blocked += bool((environment.position == positions[row].numpy()).all())
        num_ended += real_terminated
    assert num_blocked > 200
    assert num_ended > 20


def test_a_made_one_is_truncated_after_100_steps() -> None:
    with Environment("Obstacles-v0") as made:
        made.reset(seed=0)
        steps = [made.step(torch.tensor([0.0, 0.0])) for _ in range(100)]
    assert [step.truncated for step in steps] == [False] * 99 + [True]
