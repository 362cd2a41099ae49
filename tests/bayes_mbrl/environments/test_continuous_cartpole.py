import gymnasium
import numpy as np
import pytest
import torch

from bayes_mbrl.environments.adapter import Environment


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_full_force_is_gymnasiums_cartpole(seed: int) -> None:
    ours = gymnasium.make("bayes_mbrl/ContinuousCartPole-v0", disable_env_checker=True)
    theirs = gymnasium.make("CartPole-v1", disable_env_checker=True)
    assert np.array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
    pushes = np.random.default_rng(seed).integers(0, 2, size=200)
    for push in pushes:
        a = ours.step(np.array([2.0 * push - 1.0], dtype=np.float32))
        b = theirs.step(int(push))
        assert np.array_equal(a[0], b[0])
        assert a[1:3] == b[1:3]
        if a[2]:
            break
    else:
        pytest.fail("random pushes did not end the episode")


def test_force_is_clipped_and_lies_between() -> None:
    environment = gymnasium.make("bayes_mbrl/ContinuousCartPole-v0", disable_env_checker=True)

    def speed_after(action: float) -> float:
        environment.reset(seed=0)
        return float(environment.step(np.array([action], dtype=np.float32))[0][1])

    assert speed_after(3.0) == speed_after(1.0)
    assert speed_after(-3.0) == speed_after(-1.0)
    assert speed_after(0.5) == pytest.approx(0.75 * speed_after(1.0) + 0.25 * speed_after(-1.0), rel=1e-5)


def test_starts_small_and_a_balanced_episode_is_truncated_at_200_with_return_200() -> None:
    with Environment("ContinuousCartPole-v0") as environment:
        assert environment.max_episode_steps == 200
        state, total, num_steps = environment.reset(seed=3), 0.0, 0
        assert float(state.abs().max()) <= 0.05
        while True:
            feedback = torch.tensor([0.2, 0.4, 4.0, 1.0]) @ state
            step = environment.step(feedback.clamp(-1.0, 1.0).reshape(1))
            state, total, num_steps = step.next_state, total + step.reward, num_steps + 1
            if step.terminated or step.truncated:
                break
        assert (num_steps, total, step.terminated, step.truncated) == (200, 200.0, False, True)


def test_picture() -> None:
    with Environment("ContinuousCartPole-v0", render_mode="rgb_array") as environment:
        environment.reset(seed=0)
        environment.step(torch.tensor([0.3]))
        assert environment.render().shape == (400, 600, 3)
