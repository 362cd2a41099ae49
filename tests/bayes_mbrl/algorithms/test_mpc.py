import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.episode import run_episode
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.gradient import GradientAscent
from bayes_mbrl.planners.objectives import expected_return, mean_with_failure_limit
from bayes_mbrl.planners.propagation import ts_infinity

LOW, HIGH = torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 1.5])
STATES = torch.randn(6, 3, generator=torch.Generator().manual_seed(51))


def small_cem(low: Tensor = LOW, high: Tensor = HIGH) -> CEM:
    return CEM(low, high, horizon=7, num_candidates=30, num_elites=5, num_iterations=3)


def actions_of(agent: MPCAgent, states: Tensor, *, seed: int = 0, memory: Any = None) -> tuple[Tensor, Any]:
    """(actions [T, A], memory) when the observations are `states` [T, S]."""
    generator, actions = torch.Generator().manual_seed(seed), []
    for state in states:
        action, memory = agent.act(state, memory, generator=generator)
        actions.append(action)
    return torch.stack(actions), memory


def test_the_first_action_of_a_search_is_executed_and_the_rest_is_the_warm_start(oracle: Any) -> None:
    agent = oracle("LinearGaussian-v0", small_cem())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = search(
            agent.planner,
            agent.planner.init(),
            lambda plans: agent.score(plans, STATES[0], generator),
            generator=generator,
        )
    (action,), memory = actions_of(agent, STATES[:1])
    assert torch.equal(action, found.plan[0])
    assert torch.equal(memory.planner_state.plan[:-1], found.plan[1:])


def test_every_search_starts_from_the_shifted_one_before(oracle: Any, ramp_planner: Any) -> None:
    actions, _ = actions_of(oracle("Pendulum-v1", ramp_planner), STATES[:3])
    assert ramp_planner.asked == [0, 101, 202]
    assert actions.flatten().tolist() == [100, 201, 302]


def test_replanning_every_third_step_follows_the_plan_in_between(oracle: Any, ramp_planner: Any) -> None:
    scored = []

    def counting(returns: Tensor) -> Tensor:
        scored.append(1)
        return returns.mean((0, 1))

    actions, _ = actions_of(oracle("Pendulum-v1", ramp_planner, replan_every=3, objective=counting), STATES[:5])
    assert ramp_planner.asked == [0, 103]
    assert len(scored) == 2
    assert actions.flatten().tolist() == [100, 101, 102, 203, 204]


def test_nothing_survives_an_episode(oracle: Any) -> None:
    agent = oracle("LinearGaussian-v0", small_cem(), replan_every=2)
    first, _ = actions_of(agent, STATES[:3])
    again, _ = actions_of(agent, STATES[:3])
    assert torch.equal(first, again)


def test_a_memory_is_not_changed_by_acting(oracle: Any) -> None:
    agent = oracle("LinearGaussian-v0", small_cem())
    _, memory = actions_of(agent, STATES[:1])
    kept = dataclasses.replace(memory.planner_state, mean=memory.planner_state.mean.clone())
    one, _ = actions_of(agent, STATES[1:3], memory=memory)
    assert torch.equal(memory.planner_state.mean, kept.mean)
    assert torch.equal(one, actions_of(agent, STATES[1:3], memory=memory)[0])


def test_the_generator_decides_the_actions(oracle: Any) -> None:
    agent = oracle("LinearGaussian-v0", small_cem())
    first, again, other = (actions_of(agent, STATES, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).all()


def test_actions_stay_within_unequal_bounds_and_reach_them(oracle: Any) -> None:
    """From far away the best action is at a bound."""
    low, high = torch.tensor([-0.3, -0.1]), torch.tensor([0.2, 0.4])
    planner = dataclasses.replace(small_cem(low, high), num_candidates=100, num_iterations=12)
    actions, _ = actions_of(oracle("LinearGaussian-v0", planner), 10 * STATES)
    assert (actions >= low).all()
    assert (actions <= high).all()
    assert torch.isclose(actions, low, atol=0.05).any()
    assert torch.isclose(actions, high, atol=0.05).any()


@pytest.mark.parametrize("replan_every", [0, 5])
def test_a_plan_cannot_be_followed_beyond_its_end(oracle: Any, ramp_planner: Any, replan_every: int) -> None:
    with pytest.raises(ValueError, match=f"need 1 <= replan_every <= horizon, got {replan_every} and 4"):
        oracle("Pendulum-v1", ramp_planner, replan_every=replan_every)


def test_the_true_dynamics_hold_up_a_pendulum(oracle: Any) -> None:
    """A few steps in the real environment from its start near the top: the return is near 0, as far as it can be."""
    with Environment("Pendulum-v1", max_episode_steps=6) as environment:
        planner = CEM(environment.low, environment.high, horizon=10, num_candidates=60, num_elites=8, num_iterations=3)
        seed = next(seed for seed in range(100) if environment.reset(seed=seed)[0] > 0.98)
        generator = torch.Generator().manual_seed(0)
        episode = run_episode(environment, oracle("Pendulum-v1", planner), number=0, seed=seed, generator=generator)
    assert len(episode.transitions) == 6
    assert -1.0 < episode.total_reward <= 0
    assert episode.acting_seconds > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": lambda s, a, n: -n.square().sum(-1, keepdim=True)},
            r"the reward function .* got float32 \[2, 3, 4, 1\]",
        ),
        ({"reward": lambda s, a, n: -n.square().sum()}, r"the reward function .* got float32 \[\]"),
        ({"reward": lambda s, a, n: -n.square().sum(0)}, r"got float32 \[3, 4, 3\]: reduce over the last axis alone"),
        (
            {"termination": lambda s, a, n: n[..., 0] * 0},
            r"the termination function should return a bool .* got float32",
        ),
        ({"termination": lambda s, a, n: n > 1}, r"the termination function .* got bool \[2, 3, 4, 3\]"),
        ({"failure": lambda s, a, n: n > 1}, r"the failure function .* got bool \[2, 3, 4, 3\]"),
        ({"failure": lambda s, a, n: n[..., 0] > 1}, "need no failure function where the objective does not count"),
    ],
)
def test_functions_of_the_wrong_shape_are_refused_before_any_planning(
    oracle: Callable[..., MPCAgent], ramp_planner: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        oracle("Pendulum-v1", ramp_planner, **changes)


def test_what_saves_work_and_cannot_be_had(oracle: Any) -> None:
    low = torch.tensor([-2.0])
    gradient = GradientAscent(low, -low, horizon=3)
    with pytest.raises(ValueError, match=r"gradients needs rollout\.bf16=false"):
        oracle("Pendulum-v1", gradient, finalists=0.5)
    with pytest.raises(ValueError, match="KnownDynamics has none"):
        oracle("Pendulum-v1", CEM(low, -low, horizon=3), bf16=True)
    with pytest.raises(ValueError, match="need 0 < finalists <= 1"):
        oracle("Pendulum-v1", CEM(low, -low, horizon=3), finalists=0.0)
    few = CEM(low, -low, horizon=3, num_candidates=101, num_elites=11)
    assert oracle("Pendulum-v1", few, finalists=0.1).finalists == 0.1
    with pytest.raises(ValueError, match=r"finalists 0\.09 of num_candidates 101 are 10, and num_elites is 11: take"):
        oracle("Pendulum-v1", few, finalists=0.09)


def test_tolerance_ends_a_search_early(oracle: Any) -> None:
    """With all of the range as the tolerance, after one of five iterations."""
    calls = []

    def counting(returns: Tensor) -> Tensor:
        calls.append(len(returns))
        return returns.mean((0, 1))

    planner = CEM(torch.tensor([-2.0]), torch.tensor([2.0]), horizon=3, num_iterations=5, num_candidates=60)
    for tolerance, expected in ((0.0, 5), (0.999, 1)):
        calls.clear()
        agent = oracle("Pendulum-v1", planner, tolerance=tolerance, objective=counting)
        agent.act(STATES[0], None, generator=torch.Generator().manual_seed(0))
        assert len(calls) == expected


def test_a_limit_on_failures_is_kept_and_used_up() -> None:
    """s' = a + 0.2 ε, reward s', failing above 1.5: the best a with P(failure) <= 5 % is 1.5 − 1.645 · 0.2."""
    planner = CEM(torch.zeros(1), torch.tensor([2.0]), horizon=1, num_candidates=100, num_elites=10, num_iterations=12)
    agent = MPCAgent(
        posterior=Nothing(),
        dynamics=KnownDynamics(lambda state, action: 0 * state + action, noise_std=torch.tensor([0.2])),
        planner=planner,
        objective=mean_with_failure_limit(0.0, max_probability=0.05, penalty=100.0, failure="state"),
        propagation=ts_infinity,
        reward=lambda state, action, next_state: next_state[..., 0],
        termination=None,
        num_theta=1,
        num_noise=4000,
        failure=lambda state, action, next_state: next_state[..., 0] > 1.5,
    )
    action, _ = agent.act(torch.zeros(1), None, generator=torch.Generator().manual_seed(0))
    # The 95 % quantile of M normal numbers has the standard error √(0.05 · 0.95 / M) / φ(1.645), times 0.2.
    assert abs(float(action) - (1.5 - 1.645 * 0.2)) < 5 * 0.2 * (0.05 * 0.95 / 4000) ** 0.5 / 0.103
    neutral = dataclasses.replace(agent, objective=expected_return(), failure=None)
    action, _ = neutral.act(torch.zeros(1), None, generator=torch.Generator().manual_seed(0))
    assert float(action) > 1.9
