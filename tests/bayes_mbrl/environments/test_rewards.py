from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from bayes_mbrl.environments import rewards
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.specs import ENVIRONMENTS

TOLERANCES = {"InvertedDoublePendulum-v5": 2e-4}
"""Of rewards that follow from the observation less exactly than rounding allows."""


def test_reward_is_the_real_one(real: Any) -> None:
    if real.spec.reward is None:  # it is learned: that it does not follow from the observation has its own test
        return
    clipped = (real.next_state[:, 5:8].abs() == 10).any(1) & (real.spec.name == "InvertedDoublePendulum-v5")
    predicted = real.spec.reward(real.state, real.action, real.next_state)[~clipped]
    torch.testing.assert_close(predicted, real.reward[~clipped], rtol=1e-5, atol=TOLERANCES.get(real.spec.name, 2e-6))


def test_the_reward_of_half_cheetah_is_a_speed_that_is_not_observed() -> None:
    """Two episodes at other places, equal in all that is observed, are rewarded equally; the speed over the step is
    not among what is observed after it."""
    with Environment("HalfCheetah-v5") as environment:
        state = environment.reset(seed=0)
        rows = [(state, environment.step(torch.full((6,), 0.5)))]
        for _ in range(50):
            rows.append((rows[-1][1].next_state, environment.step(torch.full((6,), (-1.0) ** len(rows)))))
    speeds = torch.tensor([step.reward for _, step in rows]) + 0.1 * 6 * torch.tensor([0.25] + [1.0] * 50)
    observed = torch.stack([step.next_state[8] for _, step in rows])
    assert float((speeds - observed).abs().max()) > 0.1


def test_termination_is_the_real_one(real: Any) -> None:
    assert real.spec.termination is not None
    predicted = real.spec.termination(real.state, real.action, real.next_state)
    assert predicted.dtype == torch.bool
    assert torch.equal(predicted, real.terminated)
    # A termination that was never reached would not have been checked.
    assert bool(real.terminated.any()) == (real.spec.termination is not rewards.never)


def test_leading_axes_broadcast(real: Any) -> None:
    num_samples, num_draws, num_plans = 2, 3, 5
    rows = torch.arange(num_samples * num_draws * num_plans)
    grid = (num_samples, num_draws, num_plans)
    state = real.state[rows].reshape(*grid, -1)
    next_state = real.next_state[-rows - 1].reshape(*grid, -1)
    action = real.action[:num_plans]
    for function in filter(None, (real.spec.reward, real.spec.termination)):
        together = function(state, action, next_state)
        assert together.shape == grid or function is rewards.never
        for k, m, c in torch.cartesian_prod(*(torch.arange(n) for n in grid)).tolist():
            alone = function(state[k, m, c], action[c], next_state[k, m, c])
            torch.testing.assert_close(together[k, m, c], alone)


def test_arguments_are_left_alone_and_gradients_are_finite(real: Any) -> None:
    originals = [real.state[:7].double(), real.action[:7].double(), real.next_state[:7].double()]
    arguments = [x.clone().requires_grad_() for x in originals]
    if real.spec.reward is None:
        return
    reward = real.spec.reward(*arguments)
    assert reward.dtype == torch.float64
    if reward.requires_grad:
        reward.sum().backward()
    for argument, original in zip(arguments, originals, strict=True):
        assert torch.equal(argument.detach(), original)
        assert argument.grad is None or bool(argument.grad.isfinite().all())


def test_pendulum_reward_is_of_the_state_before_and_of_the_clipped_torque() -> None:
    down, up = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    expected = torch.tensor(-(torch.pi**2 + 0.1 * 4.0 + 0.001 * 4.0))
    torch.testing.assert_close(rewards.pendulum_reward(down, torch.tensor([3.0]), up), expected)


def test_mountain_car_reward_counts_the_action_as_given() -> None:
    state = torch.tensor([0.0, 0.0])
    torch.testing.assert_close(rewards.mountain_car_reward(state, torch.tensor([2.0]), state), torch.tensor(-0.4))


# A comparison inside of the absolute value, abs(x < limit), is true on one side of the limits only.
@pytest.mark.parametrize(
    ("name", "dimension", "limit"),
    [("ContinuousCartPole-v0", 0, 2.4), ("ContinuousCartPole-v0", 2, 0.20943951), ("InvertedPendulum-v5", 1, 0.2)],
)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_termination_on_both_sides_of_a_limit(name: str, dimension: int, limit: float, sign: float) -> None:
    termination = ENVIRONMENTS[name].termination
    assert termination is not None
    states = torch.zeros(4, 4)
    states[:, dimension] = sign * limit * torch.tensor([0.0, 0.999, 1.001, 100.0])
    assert termination(states, torch.zeros(4, 1), states).tolist() == [False, False, True, True]


def test_dimensions_without_limit_do_not_terminate() -> None:
    fast = torch.tensor([[0.0, 150.0, 0.0, -150.0], [150.0, 0.0, -150.0, 150.0]])
    action = torch.zeros(2, 1)
    assert rewards.continuous_cartpole_termination(fast, action, fast).tolist() == [False, True]
    assert rewards.inverted_pendulum_termination(fast, action, fast).tolist() == [True, False]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dimension", range(4))
def test_inverted_pendulum_terminates_where_a_number_is_not_finite(bad: float, dimension: int) -> None:
    states = torch.zeros(2, 4)
    states[1, dimension] = bad
    assert rewards.inverted_pendulum_termination(states, torch.zeros(2, 1), states).tolist() == [False, True]


def test_mountain_car_goal_near_its_boundary(generator: torch.Generator) -> None:
    environment = gymnasium.make("MountainCarContinuous-v0", disable_env_checker=True).unwrapped
    environment.reset(seed=0)
    scale = torch.tensor([0.05, 0.07])
    states = torch.tensor([0.45, 0.0]) + scale * (2 * torch.rand(1000, 2, generator=generator) - 1)
    actions = 2 * torch.rand(1000, 1, generator=generator) - 1
    _assert_ends_as_in(environment, states, actions, rewards.mountain_car_termination, minimum=200)


def test_continuous_cartpole_limits_near_their_boundaries(generator: torch.Generator) -> None:
    environment = gymnasium.make("bayes_mbrl/ContinuousCartPole-v0", disable_env_checker=True).unwrapped
    environment.reset(seed=0)
    signs = torch.randint(0, 2, (1000, 4), generator=generator) * 2 - 1
    near = torch.tensor([2.4, 0.0, 0.20944, 0.0]) * (0.9 + 0.12 * torch.rand(1000, 4, generator=generator))
    states = signs * near + torch.tensor([0.0, 2.0, 0.0, 2.0]) * torch.randn(1000, 4, generator=generator)
    actions = 2 * torch.rand(1000, 1, generator=generator) - 1
    _assert_ends_as_in(environment, states, actions, rewards.continuous_cartpole_termination, minimum=200)


def test_inverted_pendulum_limit_near_its_boundary(generator: torch.Generator) -> None:
    environment: Any = gymnasium.make("InvertedPendulum-v5", disable_env_checker=True).unwrapped
    environment.reset(seed=0)
    for _ in range(200):
        angle = float(torch.empty(()).uniform_(-0.25, 0.25, generator=generator))
        state = torch.tensor([0.5, angle, 0.0, 0.0])
        environment.set_state(state[:2].double().numpy(), state[2:].double().numpy())
        action = torch.zeros(1)
        observation, reward, terminated, _, _ = environment.step(action.numpy())
        following = torch.from_numpy(observation).float()
        assert bool(rewards.inverted_pendulum_termination(state, action, following)) == terminated
        assert float(rewards.inverted_pendulum_reward(state, action, following)) == reward


def _assert_ends_as_in(environment: Any, states: Tensor, actions: Tensor, termination: Any, minimum: int) -> None:
    """One step from each state in the real environment; at least `minimum` of them end and as many go on."""
    following, ended = [], []
    for state, action in zip(states, actions, strict=True):
        environment.state = state.double().numpy()
        observation, _, terminated, _, _ = environment.step(action.numpy())
        following.append(torch.from_numpy(observation.copy()))
        ended.append(terminated)
    assert minimum < sum(ended) < len(ended) - minimum
    assert termination(states, actions, torch.stack(following)).tolist() == ended
