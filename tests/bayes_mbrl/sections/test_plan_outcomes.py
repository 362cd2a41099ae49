"""With the true dynamics nothing is exploited; with a reward that is too good by 1 a step, the optimism is H."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.environments.rewards import pendulum_reward
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.planners.propagation import ts_infinity
from bayes_mbrl.sections.plan_outcomes import _plan, _windows, outcomes

HORIZON = 4


@pytest.fixture
def agent() -> MPCAgent:
    """Plans for the pendulum with its true dynamics."""
    bound = torch.tensor([2.0])
    return MPCAgent(
        posterior=Nothing(),
        dynamics=KnownDynamics(pendulum_step, noise_std=torch.zeros(3)),
        planner=CEM(low=-bound, high=bound, horizon=HORIZON, num_candidates=40, num_elites=6, num_iterations=4),
        objective=expected_return(),
        propagation=ts_infinity,
        reward=pendulum_reward,
        termination=None,
        num_theta=1,
        num_noise=1,
    )


def _episodes(lengths: tuple[int, ...], ends: tuple[bool, ...], generator: torch.Generator) -> Transitions:
    """Random actions on the true pendulum; `ends` says which episodes end by a termination."""
    parts = []
    for number, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        angle = 3 * torch.randn((), generator=generator)
        state = torch.stack([angle.cos(), angle.sin(), torch.zeros(())])
        for step in range(length):
            action = 4 * torch.rand(1, generator=generator) - 2
            following = pendulum_step(state, action)
            reward = pendulum_reward(state, action, following)
            terminated = torch.tensor([end and step == length - 1])
            parts.append(
                Transitions(
                    state[None], action[None], reward[None], following[None], terminated, torch.tensor([number])
                )
            )
            state = following
    return Transitions.concatenate(parts)


def _without(transitions: Transitions, row: int) -> Transitions:
    keep = torch.arange(len(transitions)) != row
    return transitions[keep]


def test_windows_have_all_steps_or_end_in_a_termination(generator: torch.Generator) -> None:
    transitions = _episodes((6, 3, 3), (False, True, False), generator)
    first, steps, since = _windows(transitions, HORIZON)
    assert first.tolist() == [0, 1, 2, 6, 7, 8]
    assert steps.tolist() == [4, 4, 4, 3, 2, 1]
    assert since.tolist() == [0, 1, 2, 0, 1, 2]
    # Where a row is missing nothing is summed over the gap.
    gap = _without(_episodes((9, 5), (False, True), generator), 5)
    first, steps, since = _windows(gap, HORIZON)
    assert first.tolist() == [0, 1, 8, 9, 10, 11, 12]
    assert steps.tolist() == [4, 4, 4, 4, 3, 2, 1]
    assert since.tolist() == [0, 1, 0, 1, 2, 3, 4]


def test_the_true_dynamics_foresees_what_comes(agent: MPCAgent, generator: torch.Generator) -> None:
    transitions = _episodes((12, 10), (False, True), generator)
    found = outcomes(agent, transitions, 100, generator=generator)
    assert found is not None
    assert len(found.real) == 9 + 10
    assert found.num_diverged == 0
    complete = ~found.replayed.isnan()
    assert complete.sum() == 9 + 7
    torch.testing.assert_close(found.replayed[complete], found.real[complete], rtol=1e-5, atol=1e-4)
    rows = [int((transitions.state == state).all(1).nonzero()[0]) for state in found.state]
    assert found.episode.tolist() == transitions.episode[rows].tolist()
    expected = [float(transitions.reward[row : row + HORIZON][: 22 - row].sum()) for row in rows]
    torch.testing.assert_close(found.real, torch.tensor(expected, dtype=torch.float64))
    # The planner searches, so with the right model its plans are better than the random actions that were taken.
    assert bool((found.optimism[complete] > -1e-3).all())
    assert float(found.epistemic_std.max()) < 1e-5


def test_the_plan_is_the_one_that_the_agent_would_act_by(agent: MPCAgent, generator: torch.Generator) -> None:
    states, memory = _episodes((3,), (False,), generator).state, None
    acting, planning = (torch.Generator().manual_seed(6) for _ in range(2))
    for state in states:
        action, memory = agent.act(state, memory, generator=acting)
    assert torch.equal(_plan(agent, states, planning)[0], action)


def test_a_reward_that_promises_too_much_shows_as_optimism(agent: MPCAgent, generator: torch.Generator) -> None:
    def too_good(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        return pendulum_reward(state, action, next_state) + 1

    transitions = _episodes((12,), (False,), generator)
    found = outcomes(dataclasses.replace(agent, reward=too_good), transitions, 5, generator=generator)
    assert found is not None
    assert found.step.tolist() == [0, 2, 4, 6, 8]
    torch.testing.assert_close(found.replayed - found.real, torch.full((5,), 4.0).double(), rtol=1e-4, atol=1e-3)


def test_diverged_states_are_counted(agent: MPCAgent, generator: torch.Generator) -> None:
    transitions = _episodes((12,), (False,), generator)
    bad = transitions.state[3]

    def step(state: Tensor, action: Tensor) -> Tensor:
        return torch.where((state == bad).all(-1, keepdim=True), math.inf, pendulum_step(state, action))

    broken = dataclasses.replace(agent, dynamics=KnownDynamics(step, noise_std=torch.zeros(3)))
    found = outcomes(broken, transitions, 20, generator=generator)
    assert found is not None
    # At row 3 every plan diverges, and the replayed actions lead there from rows 0 to 2.
    assert 1 <= found.num_diverged <= 4
    assert 3 not in found.step.tolist()
    assert bool(torch.isfinite(found.predicted).all())


def test_nothing_long_enough(agent: MPCAgent, generator: torch.Generator) -> None:
    assert outcomes(agent, _episodes((3, 2), (False, False), generator), 5, generator=generator) is None


def test_one_seed_one_outcome(agent: MPCAgent) -> None:
    def run() -> Tensor:
        generator = torch.Generator().manual_seed(2)
        found = outcomes(agent, _episodes((9,), (True,), generator), 4, generator=generator)
        assert found is not None
        return torch.stack([found.predicted, found.real])

    assert torch.equal(run(), run())
