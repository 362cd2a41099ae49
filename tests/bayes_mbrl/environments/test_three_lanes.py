"""What the toy promises of its lanes, in closed form."""

import gymnasium
import numpy as np
import torch

from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import three_lanes_noise_std, three_lanes_step
from bayes_mbrl.environments.rewards import three_lanes_reward
from bayes_mbrl.planners.objectives import expected_return, mean_minus_total_std
from bayes_mbrl.rollout import evaluate_plans

LANES = torch.tensor([[0.0, 0.6], [0.0, 0.0], [0.0, -0.6]], dtype=torch.float64)
"""North, middle, south."""


def test_the_middle_is_fast_and_gusty_the_north_slow_and_quiet_the_south_a_swamp() -> None:
    ahead = torch.tensor([1.0, 0.0], dtype=torch.float64)
    north, middle, south = (three_lanes_step(LANES, ahead)[:, 0] / 0.2).tolist()
    assert 0.5 < north < 0.6
    assert 0.99 < middle <= 1
    assert south < 0.01
    north, middle, south = three_lanes_noise_std(LANES)[:, 0].tolist()
    assert abs(middle - 0.22) < 1e-12
    assert north < 0.03
    assert south < 0.03
    extrapolated = 1 - 0.5 * np.tanh(2 * -0.6)  # without the swamp
    assert extrapolated > 1.4


def test_returns_of_staying_in_a_lane_are_those_of_the_closed_form() -> None:
    """Straight ahead for five steps: the mean is 5 · 0.2 · speed, the variance about that of five gusts."""
    ahead = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64).expand(1, 5, 2)
    truth = KnownDynamics(three_lanes_step, noise_std=torch.ones(2).double(), noise_std_at=three_lanes_noise_std)

    def score(objective: object, state: torch.Tensor) -> float:
        generator = torch.Generator().manual_seed(0)
        return float(
            evaluate_plans(
                ahead,
                state,
                posterior=Nothing(),
                dynamics=truth,
                reward=three_lanes_reward,
                objective=objective,
                num_theta=1,
                num_noise=20_000,
                generator=generator,  # type: ignore[arg-type]
            )
        )

    # y wanders by 0.02 a step, which moves the north's numbers a little.
    for lane, mean, std, slack in ((LANES[0], 0.58315, 0.0475, 0.01), (LANES[1], 0.99, 0.2196 * 5**0.5, 0.01)):
        got = score(expected_return(), lane)
        assert abs(got - mean) < 5 * std / 20_000**0.5 + slack
        assert abs(got - score(mean_minus_total_std(1.0), lane) - std) < 5 * std / 40_000**0.5 + slack


def test_one_episode_is_12_steps_and_seeds_decide_it() -> None:
    def states(seed: int) -> np.ndarray:
        environment = gymnasium.make("bayes_mbrl/ThreeLanes-v0", disable_env_checker=True)
        rows = [environment.reset(seed=seed)[0]]
        truncated = False
        while not truncated:
            state, reward, terminated, truncated, _ = environment.step(np.array([5.0, -0.2], dtype=np.float32))
            assert not terminated
            assert abs(reward - (state[0] - rows[-1][0])) < 1e-6
            rows.append(state)
        return np.stack(rows)

    assert states(1).shape == (13, 2)
    assert np.array_equal(states(1), states(1))
    assert not np.array_equal(states(1), states(2))
    assert states(1)[0, 0] < 0.06
    assert 0.54 < states(1)[0, 1] < 0.66
