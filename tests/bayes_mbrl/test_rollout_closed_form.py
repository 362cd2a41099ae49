"""Returns of a linear-Gaussian system with an uncertain drift, in closed form for every propagation.

s' = A s + B a + d + ε with ε ~ N(0, diag(noise_var)) and θ = d ~ N(drift, diag(drift_var)); r = g·s + h·s' + q·a.
A push δ on s_{t+1} moves the return by λ_t·δ. What a propagation does to the states decides how pushes add up; K, M
are finite throughout, the statistics unbiased, and the expectations below exact.
"""

import dataclasses
import functools
import math

import pytest
import torch
from torch import Tensor

from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.dynamics.network import NetworkDynamics, identity
from bayes_mbrl.dynamics.standardise import Standardiser
from bayes_mbrl.environments import linear_gaussian
from bayes_mbrl.environments.known_truth import linear_gaussian_step
from bayes_mbrl.environments.rewards import RewardFunction, linear_gaussian_reward
from bayes_mbrl.inference.exact_linear import ExactLinearPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.registry import PROPAGATIONS
from bayes_mbrl.rollout import evaluate_plans

K, M, C, H, S, A = 6, 20, 4, 5, 3, 2
REPETITIONS = 150

every_propagation = pytest.mark.parametrize("name", PROPAGATIONS.rows)


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


TRANSITION = tensor(linear_gaussian.TRANSITION_MATRIX)
CONTROL = tensor(linear_gaussian.CONTROL_MATRIX)
STATE_COST = tensor(linear_gaussian.STATE_COST)
ACTION_COST = tensor(linear_gaussian.ACTION_COST)
NOISE_VAR = tensor([0.2, 0.5, 0.1]) ** 2
DRIFT = tensor([0.1, -0.2, 0.3])
START = tensor([0.5, -0.3, 0.2])
STATE_WEIGHT, NEXT_STATE_WEIGHT, ACTION_WEIGHT = tensor([1.0, -0.5, 0.3]), tensor([0.2, 0.7, -0.4]), tensor([0.1, -0.6])
PLANS = torch.randn(C, H, A, dtype=torch.float64, generator=torch.Generator().manual_seed(31))


def linear_reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return state @ STATE_WEIGHT + next_state @ NEXT_STATE_WEIGHT + action @ ACTION_WEIGHT


@dataclasses.dataclass(frozen=True)
class LinearSystem:
    dynamics: NetworkDynamics
    posterior: ExactLinearPosterior
    drift_var: Tensor
    """[S], of θ"""


def linear_system(drift_std: float) -> LinearSystem:
    """The system above as a network without a hidden layer, standardised by numbers that mean nothing.

    `drift_std` is the standard deviation of d in units of the noise's.
    """
    model = BayesianNetwork(S + A, S, hidden=(), noise="fixed", noise_std=0.5, dtype=torch.float64)
    inputs = Standardiser(tensor([0.3, -1.0, 2.0, 0.5, -0.2]), tensor([2.0, 0.5, 3.0, 1.5, 0.7]))
    targets = Standardiser(tensor([0.2, -0.1, 0.4]), NOISE_VAR.sqrt() / model.noise_std)
    dynamics = NetworkDynamics(
        model, features=identity, input_standardiser=inputs, target_standardiser=targets, learns_reward=False
    )
    change = torch.cat([TRANSITION - torch.eye(S), CONTROL], dim=1)  # [S, S + A]
    weight = inputs.std[:, None] * change.T / targets.std
    bias = (DRIFT + change @ inputs.mean - targets.mean) / targets.std
    factor = torch.zeros(S + A + 1, S + A + 1, dtype=torch.float64)
    factor[-1, -1] = drift_std * model.noise_std
    posterior = ExactLinearPosterior(torch.cat([weight, bias[None]]), factor)
    return LinearSystem(dynamics, posterior, drift_std**2 * NOISE_VAR)


@functools.cache
def sampled_returns(name: str, drift_std: float, reward: RewardFunction = linear_reward) -> Tensor:
    """Independent repetitions of the returns: [REPETITIONS, K, M, C]."""
    system, generator, kept = linear_system(drift_std), torch.Generator().manual_seed(32), []

    def objective(returns: Tensor) -> Tensor:
        kept.append(returns)
        return returns.mean((0, 1))

    for _ in range(REPETITIONS):
        with torch.no_grad():
            evaluate_plans(
                PLANS,
                START,
                posterior=system.posterior,
                dynamics=system.dynamics,
                reward=reward,
                objective=objective,
                propagation=PROPAGATIONS.rows[name].load(),
                num_theta=K,
                num_noise=M,
                generator=generator,
            )
    return torch.stack(kept)


def assert_mean_is(samples: Tensor, expected: Tensor | float) -> None:
    """The mean over repetitions [REPETITIONS, C] is `expected` within 5 standard errors."""
    standard_error = samples.std(dim=0) / math.sqrt(len(samples))
    assert ((samples.mean(dim=0) - expected).abs() < 5 * standard_error).all()


def mean_states() -> list[Tensor]:
    """E[s_0], …, E[s_H], each [C, S]."""
    states = [START.expand(C, S)]
    for action in PLANS.unbind(1):
        states.append(states[-1] @ TRANSITION.T + action @ CONTROL.T + DRIFT)
    return states


def mean_return() -> Tensor:
    """E[R] [C], the return of the mean states since the reward is linear."""
    states = mean_states()
    return sum(linear_reward(s, a, n) for s, a, n in zip(states, PLANS.unbind(1), states[1:], strict=False))


def pushes() -> Tensor:
    """λ [H, S]: what the return gains by a push on s_{t+1}, backwards from λ_{H-1} = h."""
    result = [NEXT_STATE_WEIGHT]
    for _ in range(H - 1):
        result.insert(0, NEXT_STATE_WEIGHT + STATE_WEIGHT + TRANSITION.T @ result[0])
    return torch.stack(result)


def within_theta_variance(name: str, drift_var: Tensor) -> Tensor:
    """The expected unbiased variance of returns over M."""
    every_push = (pushes() ** 2).sum(0)
    match name:
        case "ts-infinity":
            return every_push @ NOISE_VAR
        case "ts-1":  # every step another drift; two steps share one with probability 1 / K
            return every_push @ (NOISE_VAR + (1 - 1 / K) * drift_var)
        case "expectation":
            return variance_of_separate_steps(0 * NOISE_VAR)
        case "distribution-sampling":
            return variance_of_separate_steps(NOISE_VAR)
        case "moment-matching":
            return variance_of_separate_steps(NOISE_VAR + M * (K - 1) / (K * M - 1) * drift_var)
    raise NotImplementedError(name)


def variance_of_separate_steps(spread_var: Tensor) -> Tensor:
    """Variance of a return whose link to the state is cut after every step; there `spread_var` [S] is left of it."""
    variance, spread = torch.zeros(()), torch.zeros(S, S, dtype=torch.float64)
    step_weight = STATE_WEIGHT + TRANSITION.T @ NEXT_STATE_WEIGHT
    for _ in range(H):
        variance = variance + step_weight @ spread @ step_weight + NEXT_STATE_WEIGHT**2 @ NOISE_VAR
        spread = TRANSITION @ spread @ TRANSITION.T + torch.diag(spread_var)
    return variance


def state_covariances(name: str) -> list[Tensor]:
    """Cov(s_t), t = 0, …, H - 1, of a particle over repetitions, without uncertainty of the drift.

    Particles of a group of n are drawn anew around the group's mean, which has a covariance of its own.
    """
    group_sizes = {"expectation": K * M, "distribution-sampling": M, "moment-matching": K * M}
    size = group_sizes.get(name, math.inf)
    shared = spread = torch.zeros(S, S, dtype=torch.float64)
    result = []
    for _ in range(H):
        result.append(shared + spread)
        shared = TRANSITION @ (shared + spread / size) @ TRANSITION.T + torch.diag(NOISE_VAR / size)
        spread = TRANSITION @ spread @ TRANSITION.T + torch.diag(NOISE_VAR)
        spread = 0 * spread if name == "expectation" else spread
    return result


@every_propagation
@pytest.mark.parametrize("drift_std", [0.0, 1.5])
def test_linear_returns_have_the_closed_form_mean_and_variance(name: str, drift_std: float) -> None:
    returns = sampled_returns(name, drift_std)
    assert_mean_is(returns.mean((1, 2)), mean_return())
    assert_mean_is(returns.var(dim=2).mean(1), within_theta_variance(name, linear_system(drift_std).drift_var))


@pytest.mark.parametrize("name", ["ts-infinity", "ts-1"])
def test_drift_held_adds_up_and_drift_shuffled_averages_out(name: str) -> None:
    """Total variance of a return, around its exact mean: with d held, pushes by d add before they are squared."""
    drift_var = linear_system(1.5).drift_var
    held = pushes().sum(0) ** 2 @ drift_var
    shuffled = (pushes() ** 2).sum(0) @ drift_var
    share = 1.0 if name == "ts-infinity" else 1 / K  # probability that two steps have the same θ
    expected = (pushes() ** 2).sum(0) @ NOISE_VAR + share * held + (1 - share) * shuffled
    assert_mean_is(((sampled_returns(name, 1.5) - mean_return()) ** 2).mean((1, 2)), expected)


@every_propagation
def test_quadratic_returns_have_the_closed_form_mean(name: str) -> None:
    """E[−sᵀQs] = −E[s]ᵀ Q E[s] − tr(Q Cov(s)), the actions' cost is certain."""
    expected = tensor(0.0)
    for state, covariance, action in zip(mean_states(), state_covariances(name), PLANS.unbind(1), strict=False):
        expected = expected + linear_gaussian_reward(state, action, state) - (STATE_COST * covariance).sum()
    returns = sampled_returns(name, 0.0, linear_gaussian_reward)
    assert_mean_is(returns.mean((1, 2)), expected)


def optimal_return(start: Tensor, horizon: int) -> Tensor:
    """−s₀ᵀ P₀ s₀ by the backward Riccati recursion from P_H = 0 (Bertsekas 2017, section 3.1)."""
    cost = torch.zeros(S, S, dtype=torch.float64)
    for _ in range(horizon):
        curvature = ACTION_COST + CONTROL.T @ cost @ CONTROL
        gain = torch.linalg.solve(curvature, CONTROL.T @ cost @ TRANSITION)
        cost = STATE_COST + TRANSITION.T @ cost @ (TRANSITION - CONTROL @ gain)
    return -start @ cost @ start


def test_cem_on_the_known_system_is_within_one_percent_of_the_optimum(generator: torch.Generator) -> None:
    start = tensor([1.0, -0.5, 2.0])
    planner = CEM(tensor([-6.0, -7.0]), tensor([7.0, 8.0]), horizon=8)
    known = KnownDynamics(linear_gaussian_step, noise_std=torch.zeros(S, dtype=torch.float64))

    def score(plans: Tensor) -> Tensor:
        with torch.no_grad():
            return evaluate_plans(
                plans,
                start,
                posterior=Nothing(),
                dynamics=known,
                reward=linear_gaussian_reward,
                objective=expected_return(),
                num_theta=1,
                generator=generator,
            )

    plan = search(planner, planner.init(), score, generator=generator).plan
    optimum = optimal_return(start, planner.horizon)
    assert (plan > planner.low).all()  # so the bounds cost nothing
    assert (plan < planner.high).all()
    assert optimum * 1.01 < score(plan[None]).squeeze() <= optimum * (1 - 1e-9)
