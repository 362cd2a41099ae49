from typing import Any

import torch

from bayes_mbrl.environments import known_truth, linear_gaussian
from bayes_mbrl.environments.specs import ENVIRONMENTS


def test_only_the_environments_of_mujoco_have_no_true_step() -> None:
    assert set(ENVIRONMENTS) - set(known_truth.KNOWN_STEPS) == {
        "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "HalfCheetah-v5",
    }  # fmt: skip
    assert set(known_truth.KNOWN_STEPS) <= set(ENVIRONMENTS)


def test_step_is_the_real_one(real_with_known_step: Any) -> None:
    real = real_with_known_step
    predicted = known_truth.KNOWN_STEPS[real.spec.name](real.state.double(), real.action.double())
    residual = real.next_state.double() - predicted
    noise_std = {
        "LinearGaussian-v0": torch.from_numpy(linear_gaussian.NOISE_STD),
        "ThreeLanes-v0": known_truth.three_lanes_noise_std(real.state[:, :2].double()),
    }
    if real.spec.name in noise_std:
        standardised = residual / noise_std[real.spec.name]
        # Five standard errors of the mean and of the variance of N standard normal numbers.
        assert bool((standardised.mean(dim=0).abs() < 5 / len(residual) ** 0.5).all())
        assert bool(((standardised.var(dim=0) - 1).abs() < 5 * (2 / len(residual)) ** 0.5).all())
        assert float(torch.corrcoef(standardised.mT).triu(1).abs().max()) < 5 / len(residual) ** 0.5
    else:
        assert float(residual.abs().max()) < 2e-6


def test_single_precision_is_close(real_with_known_step: Any) -> None:
    real, step = real_with_known_step, known_truth.KNOWN_STEPS[real_with_known_step.spec.name]
    single = step(real.state, real.action)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), step(real.state.double(), real.action.double()), rtol=1e-5, atol=1e-5)


def test_leading_axes_broadcast(real_with_known_step: Any) -> None:
    real, step = real_with_known_step, known_truth.KNOWN_STEPS[real_with_known_step.spec.name]
    states, actions = real.state[:30].reshape(2, 3, 5, -1), real.action[:5]
    together = step(states, actions)
    assert together.shape == states.shape
    for c in range(5):
        torch.testing.assert_close(together[:, :, c], step(states[:, :, c], actions[c]))


def test_gradients_flow(real_with_known_step: Any) -> None:
    # Away from the bounds, where a clip has no gradient.
    state = (0.1 * real_with_known_step.state[1].double()).requires_grad_()
    action = (0.3 * real_with_known_step.action[1].double()).requires_grad_()
    assert torch.autograd.gradcheck(known_truth.KNOWN_STEPS[real_with_known_step.spec.name], (state, action))


def test_mountain_car_stops_at_the_wall_and_at_the_right_end() -> None:
    states = torch.tensor([[-1.19, -0.07], [0.59, 0.07], [-1.2, 0.01]], dtype=torch.float64)
    following = known_truth.mountain_car_step(states, torch.tensor([[-1.0], [1.0], [1.0]], dtype=torch.float64))
    assert following[0].tolist() == [-1.2, 0.0]
    assert following[1, 0].item() == 0.6
    assert following[2, 1].item() > 0.01
