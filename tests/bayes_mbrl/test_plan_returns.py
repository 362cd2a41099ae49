"""The return of a plan in its two parts: the closed form of a linear-Gaussian system, and the rollout's own returns."""

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor

from bayes_mbrl.analysis.uncertainty import split_return_variance
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments import linear_gaussian
from bayes_mbrl.environments.rewards import continuous_cartpole_reward, continuous_cartpole_termination
from bayes_mbrl.inference.base import Posterior, Theta
from bayes_mbrl.inference.scratch import NO_SCRATCH, Scratch
from bayes_mbrl.plan_returns import plan_returns, split_plan_returns
from bayes_mbrl.rollout import DIVERGENCE_RETURN, evaluate_plans

K, M, C, H, REPETITIONS = 6, 3, 4, 5, 400


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


TRANSITION, CONTROL = tensor(linear_gaussian.TRANSITION_MATRIX), tensor(linear_gaussian.CONTROL_MATRIX)
NOISE_STD, DRIFT_STD = tensor([0.2, 0.5, 0.1]), tensor([0.3, 0.1, 0.2])
DRIFT, START = tensor([0.1, -0.2, 0.3]), tensor([0.5, -0.3, 0.2])
STATE_WEIGHT, NEXT_STATE_WEIGHT, ACTION_WEIGHT = tensor([1.0, -0.5, 0.3]), tensor([0.2, 0.7, -0.4]), tensor([0.1, -0.6])
PLANS = torch.randn(C, H, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(31))


class UncertainDrift(KnownDynamics):
    """s' = A s + B a + d + ε with ε ~ N(0, diag(NOISE_STD²)), θ = d [K, S]."""

    def __init__(self) -> None:
        super().__init__(lambda s, a: s @ TRANSITION.T + a @ CONTROL.T, noise_std=NOISE_STD)

    def predict(
        self, theta: Mapping[str, Tensor], states: Tensor, actions: Tensor, *, scratch: Scratch = NO_SCRATCH
    ) -> tuple[Tensor, Tensor]:
        mean, std = super().predict(theta, states, actions)
        return mean + theta["drift"].view(-1, *[1] * (states.ndim - 2), 3), std


class DriftPosterior(Posterior):
    """d ~ N(DRIFT, diag(DRIFT_STD²)), or less uncertain."""

    kind: ClassVar[str] = "drift"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        return {"drift": DRIFT + self.factor * DRIFT_STD * torch.randn(n, 3, dtype=torch.float64, generator=generator)}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls()


def linear_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return state @ STATE_WEIGHT + next_state @ NEXT_STATE_WEIGHT + action @ ACTION_WEIGHT


LINEAR: dict[str, Any] = {"posterior": DriftPosterior(), "dynamics": UncertainDrift(), "reward": linear_reward}


def returns_of_rollout(candidates: Tensor, state: Tensor, **settings: Any) -> Tensor:
    """[K, M, C] as an objective gets them."""
    kept = []

    def objective(returns: Tensor) -> Tensor:
        kept.append(returns)
        return returns.mean((0, 1))

    with torch.no_grad():
        evaluate_plans(candidates, state, objective=objective, **settings)
    return kept[0]


def closed_form() -> tuple[Tensor, Tensor]:
    """Epistemic and aleatoric variance [H] of the return of the first h steps.

    A push on the state i steps before the last moves the return by λ_i; with d held for the trajectory, its pushes add
    up before they are squared, those of the noise are squared one by one.
    """
    pushes = [NEXT_STATE_WEIGHT]
    for _ in range(H - 1):  # it counts as s' now, as s in the next step, and lives on in that step's s'
        pushes.append(NEXT_STATE_WEIGHT + STATE_WEIGHT + TRANSITION.T @ pushes[-1])
    each = torch.stack(pushes)
    return each.cumsum(0).square() @ DRIFT_STD**2, each.square().cumsum(0) @ NOISE_STD**2


@functools.cache
def sampled_returns() -> Tensor:
    """Independent repetitions [REPETITIONS, H, K, M, C]."""
    generator = torch.Generator().manual_seed(51)
    return torch.stack(
        [
            plan_returns(PLANS, START, **LINEAR, num_theta=K, num_noise=M, generator=generator)
            for _ in range(REPETITIONS)
        ]
    )


def assert_mean_is(samples: Tensor, expected: Tensor) -> None:
    standard_error = samples.std(0) / math.sqrt(len(samples))
    assert bool(((samples.mean(0) - expected).abs() < 5 * standard_error).all())


def test_variance_along_the_horizon_is_that_of_the_linear_system() -> None:
    returns = sampled_returns()
    epistemic, aleatoric = closed_form()
    split = split_return_variance(returns, clamp=False)
    assert split.epistemic.shape == (REPETITIONS, H, C)
    assert_mean_is(split.epistemic, epistemic[:, None])
    assert_mean_is(split.aleatoric, aleatoric[:, None])
    share = epistemic / (epistemic + aleatoric)
    assert float(share[0]) < float(share[-1])  # a drift that is held wins in the end


def test_mean_along_the_horizon_is_that_of_the_linear_system() -> None:
    states, rewards = [START.expand(C, 3)], []
    for action in PLANS.unbind(1):
        states.append(states[-1] @ TRANSITION.T + action @ CONTROL.T + DRIFT)
        rewards.append(linear_reward(states[-2], action, states[-1]))
    assert_mean_is(sampled_returns().mean((2, 3)), torch.stack(rewards).cumsum(0))


def test_one_call_gives_all_of_it() -> None:
    parts, again = (
        split_plan_returns(
            PLANS, START, **LINEAR, num_theta=400, num_noise=50, generator=torch.Generator().manual_seed(6)
        )
        for _ in range(2)
    )
    assert torch.equal(parts.variance.epistemic, again.variance.epistemic)
    assert parts.mean.shape == parts.variance.epistemic.shape == parts.diverged.shape == (H, C)
    epistemic, aleatoric = closed_form()
    torch.testing.assert_close(parts.variance.epistemic, epistemic[:, None].expand(H, C), rtol=0.4, atol=0)
    torch.testing.assert_close(parts.variance.aleatoric, aleatoric[:, None].expand(H, C), rtol=0.05, atol=0)
    assert not parts.diverged.any()
    # All candidates meet the same θ and noise: a linear system's spread is the same for each of them.
    torch.testing.assert_close(parts.variance.epistemic[:, 0], parts.variance.epistemic[:, 3])


def sharp_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0] * state[..., 1].tanh() - action.square().sum(-1) + 0.01 * next_state[..., 2]


def leaves_a_box(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 0].abs() > 1.5


@pytest.mark.parametrize("max_particles", [2**13, 1])
@pytest.mark.parametrize("termination", [None, leaves_a_box])
@pytest.mark.parametrize("learns_reward", [False, True])
def test_last_step_has_the_returns_of_the_rollout(
    network_problem: Any, transitions: Transitions, termination: Any, learns_reward: bool, max_particles: int
) -> None:
    dynamics, posterior = network_problem(learns_reward=learns_reward, likelihood="student-t")
    candidates = torch.randn(4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(41))
    settings: dict[str, Any] = {
        "posterior": posterior, "dynamics": dynamics, "termination": termination,
        "reward": dynamics.reward or sharp_reward, "num_theta": 3, "num_noise": 4,
    }  # fmt: skip
    seed = torch.Generator().manual_seed
    expected = returns_of_rollout(candidates, transitions.state[0], **settings, generator=seed(7))
    got = plan_returns(candidates, transitions.state[0], **settings, generator=seed(7), max_particles=max_particles)
    assert got.shape == (5, 3, 4, 4)
    torch.testing.assert_close(got[-1], expected)
    shorter = plan_returns(candidates[:, :1], transitions.state[0], **settings, generator=seed(7))
    assert shorter.shape[0] == 1


def test_termination_ends_the_sum() -> None:
    """A cart that moves by its action, 0.4 m a step: beyond 2.4 m no further reward of 1 comes."""
    dynamics = KnownDynamics(lambda s, a: s + torch.cat([a, 0 * s[..., 1:]], -1), noise_std=torch.zeros(4))
    candidates = torch.tensor([0.4, -0.9]).view(2, 1, 1).expand(2, 10, 1)
    settings: dict[str, Any] = {
        "posterior": Nothing(), "dynamics": dynamics, "reward": continuous_cartpole_reward,
        "termination": continuous_cartpole_termination, "num_theta": 2, "num_noise": 2,
    }  # fmt: skip
    got = plan_returns(candidates, torch.zeros(4), **settings, generator=torch.Generator())
    steps = torch.arange(1.0, 11.0)
    torch.testing.assert_close(got[:, 0, 0, 0], steps.clamp(max=7))
    torch.testing.assert_close(got[:, 1, 1, 1], steps.clamp(max=3))
    expected = returns_of_rollout(candidates, torch.zeros(4), **settings, generator=torch.Generator())
    assert torch.equal(got[-1], expected)


def hides_the_overflow(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return torch.where(next_state[..., 0].isinf(), 7.0, next_state[..., 0])


def test_a_diverged_trajectory_counts_as_the_divergence_return_from_there_on() -> None:
    dynamics = KnownDynamics(lambda s, a: (s + 1) * a, noise_std=torch.zeros(1))
    candidates = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, math.inf, 1.0, 1.0], [1e30] * 4]).unsqueeze(-1)
    settings: dict[str, Any] = {
        "posterior": Nothing(), "dynamics": dynamics, "reward": hides_the_overflow, "num_theta": 2,
        "num_noise": 2, "divergence_return": -777.0,
    }  # fmt: skip
    got = plan_returns(candidates, torch.zeros(1), **settings, generator=torch.Generator())[:, 1, 0]
    assert got.T.tolist() == [[1, 3, 6, 10], [1, -777, -777, -777], [-777] * 4]
    expected = returns_of_rollout(candidates, torch.zeros(1), **settings, generator=torch.Generator())
    assert torch.equal(got[-1], expected[1, 0])
    parts = split_plan_returns(candidates, torch.zeros(1), **settings, generator=torch.Generator())
    assert parts.diverged.T.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert DIVERGENCE_RETURN < -777


def test_the_clamp_can_be_left_out() -> None:
    one, other = (
        split_plan_returns(
            PLANS, START, **{**LINEAR, "posterior": DriftPosterior(0.0)}, num_theta=3, num_noise=2,
            generator=torch.Generator().manual_seed(8), clamp=clamp,
        ).variance.epistemic
        for clamp in (True, False)
    )  # fmt: skip
    assert bool((other < 0).any())
    torch.testing.assert_close(one, other.clamp(min=0))


def test_one_noise_draw_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="M >= 2"):
        split_plan_returns(PLANS, START, **LINEAR, num_theta=3, num_noise=1, generator=torch.Generator())
