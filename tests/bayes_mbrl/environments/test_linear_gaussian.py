import gymnasium
import numpy as np
import pytest

from bayes_mbrl.environments import linear_gaussian


@pytest.mark.parametrize("cost", [linear_gaussian.STATE_COST, linear_gaussian.ACTION_COST])
def test_costs_are_symmetric_and_positive_definite(cost: np.ndarray) -> None:
    assert np.array_equal(cost, cost.T)
    assert np.linalg.eigvalsh(cost).min() > 0


def test_the_system_tells_transposes_apart_and_can_be_steered() -> None:
    a, b = linear_gaussian.TRANSITION_MATRIX, linear_gaussian.CONTROL_MATRIX
    assert np.abs(a - a.T).max() > 0.1
    assert np.linalg.matrix_rank(np.hstack([b, a @ b, a @ a @ b])) == 3
    assert np.abs(np.linalg.eigvals(a)).max() < 1


def test_one_episode_is_50_steps_and_seeds_decide_it() -> None:
    def states(seed: int) -> np.ndarray:
        environment = gymnasium.make("bayes_mbrl/LinearGaussian-v0", disable_env_checker=True)
        rows = [environment.reset(seed=seed)[0]]
        truncated = False
        while not truncated:
            state, _, terminated, truncated, _ = environment.step(np.array([0.5, -0.5], dtype=np.float32))
            assert not terminated
            rows.append(state)
        return np.stack(rows)

    assert states(1).shape == (51, 3)
    assert np.array_equal(states(1), states(1))
    assert not np.array_equal(states(1), states(2))
