"""Luck as an input: what the dynamics makes of it, and that only actions are executed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.algorithms.hallucinated import HallucinatedDynamics, hallucinating
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.data import Transitions
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.discrete import CategoricalCEM
from bayes_mbrl.planners.icem import ICEM
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.planners.propagation import moment_matching, ts_infinity
from bayes_mbrl.planners.random_shooting import RandomShooting

K, BETA = 7, 1.7
LOW, HIGH = torch.tensor([-2.0, 0.5], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)


@pytest.fixture
def problem(network_problem: Any) -> tuple[Any, Any]:
    """(dynamics, seven draws) of three states and two actions."""
    dynamics, posterior = network_problem()
    return dynamics, posterior


def distance(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Two actions and no more are seen."""
    assert action.shape[-1] == 2
    return next_state[..., 0] - 0.01 * action.square().sum(-1)


def never_far(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    assert action.shape[-1] == 2
    return next_state[..., 1].abs() > 1e9


def planning(problem: Any, **changes: Any) -> MPCAgent:
    dynamics, posterior = problem
    return MPCAgent(
        **{
            "posterior": posterior,
            "dynamics": dynamics,
            "planner": CEM(LOW, HIGH, horizon=4, num_candidates=40, num_elites=6, num_iterations=4),
            "objective": expected_return(),
            "propagation": moment_matching,
            "reward": distance,
            "termination": never_far,
            "num_theta": K,
            "num_noise": 1,
            **changes,
        }
    )


def test_luck_moves_the_mean_by_epistemic_and_the_noise_is_aleatoric(problem: Any, transitions: Transitions) -> None:
    dynamics, posterior = problem
    theta = posterior.draws
    hallucinated = HallucinatedDynamics(dynamics, theta, action_dim=2, beta=BETA)
    states, actions = transitions.state[:5], transitions.action[:5]
    luck = torch.tensor([0.3, -1.0, 0.0], dtype=torch.float64).expand(5, 3)
    mean, std = dynamics.predict(theta, states.expand(K, 1, 5, 3), actions)
    for leading in ((1, 1), (1, 4), (2, 3)):
        got = hallucinated.predict({}, states.expand(*leading, 5, 3), torch.cat([actions, luck], -1))
        expected = mean.mean(0) + BETA * mean.std(0) * luck, (std**2).mean(0).sqrt()
        for value, wanted in zip(got, expected, strict=True):
            assert value.shape == (*leading, 5, 3)
            torch.testing.assert_close(value, wanted.expand(*leading, 5, 3))
    sure = HallucinatedDynamics(dynamics, theta, action_dim=2, beta=0.0)
    centre, _ = sure.predict({}, states.expand(1, 1, 5, 3), torch.cat([actions, luck], -1))
    torch.testing.assert_close(centre[0], mean.mean(0))


def test_a_learned_reward_is_hoped_for_too(network_problem: Any, transitions: Transitions) -> None:
    dynamics, posterior = network_problem(learns_reward=True)
    agent = hallucinating(
        planning((dynamics, posterior), reward=lambda s, a, n: n[..., -1]),
        beta=BETA,
        generator=torch.Generator().manual_seed(0),
    )
    assert agent.planning.planner.low.tolist() == [-2.0, 0.5, -1, -1, -1, -1]
    action, _ = agent.act(transitions.state[0], None, generator=torch.Generator().manual_seed(0))
    assert action.shape == (2,)


@torch.no_grad()
def test_the_best_luck_is_worth_more_than_none_and_more_of_it_more(problem: Any, transitions: Transitions) -> None:
    best = []
    for beta in (0.0, 1.0, 3.0):
        agent = hallucinating(planning(problem), beta=beta, generator=torch.Generator().manual_seed(0)).planning
        plans = agent.planner.low.new_zeros(9, 4, 5)
        plans[..., :2] = LOW
        plans[..., 2] = torch.linspace(-1, 1, 9)[:, None]
        scores = agent.score(plans, transitions.state[0], torch.Generator().manual_seed(0))
        best.append(float(scores.max()))
        assert torch.allclose(scores, scores[0]) == (beta == 0)
    assert best[0] < best[1] < best[2]


@pytest.mark.parametrize("kind", [CEM, ICEM, RandomShooting])
def test_actions_are_executed_within_their_bounds_and_luck_is_not(
    problem: Any, transitions: Transitions, kind: Any
) -> None:
    more = {} if kind is RandomShooting else {"num_elites": 5}
    planner = kind(LOW, HIGH, horizon=3, num_candidates=30, num_iterations=2, **more)
    agent = hallucinating(planning(problem, planner=planner), beta=BETA, generator=torch.Generator().manual_seed(0))
    memory, generator = None, torch.Generator().manual_seed(1)
    for state in transitions.state[:4]:
        action, memory = agent.act(state, memory, generator=generator)
        assert action.shape == (2,)
        assert (action >= LOW).all()
        assert (action <= HIGH).all()
    assert memory is not None
    assert memory.num_steps == 4
    assert memory.planner_state.plan.shape == (3, 5)


def test_samples_of_theta_are_drawn_once_and_by_the_generator(problem: Any, transitions: Transitions) -> None:
    def thetas(seed: int) -> Tensor:
        agent = hallucinating(planning(problem, num_theta=3), beta=1.0, generator=torch.Generator().manual_seed(seed))
        assert isinstance(agent.planning.dynamics, HallucinatedDynamics)
        return agent.planning.dynamics.theta["weight_0"]

    assert len(thetas(0)) == 3
    assert torch.equal(thetas(0), thetas(0))
    assert not torch.equal(thetas(0), thetas(1))


def test_savings_that_need_several_theta_or_a_network_alone_are_left_out(
    problem: Any, transitions: Transitions
) -> None:
    actions = []
    for saving in ({"bf16": True, "finalists": 0.3}, {}):
        thrifty = planning(problem, propagation=ts_infinity, **saving)
        agent = hallucinating(thrifty, beta=1.0, generator=torch.Generator().manual_seed(0))
        actions.append(agent.act(transitions.state[0], None, generator=torch.Generator().manual_seed(0))[0])
    assert torch.equal(*actions)


def test_memory_is_bounded_by_what_all_theta_predict_at_once(
    problem: Any, transitions: Transitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = hallucinating(
        planning(problem, num_noise=2, max_particles=8 * K), beta=1.0, generator=torch.Generator().manual_seed(0)
    )
    dynamics, seen = agent.planning.dynamics, []
    predict = problem[0].predict

    def counting(theta: Any, states: Tensor, actions: Tensor, **settings: Any) -> Any:
        seen.append(states[..., 0].numel())
        return predict(theta, states, actions, **settings)

    monkeypatch.setattr(problem[0], "predict", counting)
    assert dynamics.num_theta == K
    agent.act(transitions.state[0], None, generator=torch.Generator().manual_seed(0))
    assert set(seen) == {8 * K}


def test_what_cannot_be_is_refused(problem: Any) -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="need num_theta >= 2 to see θ disagree, got 1"):
        hallucinating(planning(problem, num_theta=1), beta=1.0, generator=generator)
    with pytest.raises(ValueError, match="need beta finite and >= 0, got -1"):
        hallucinating(planning(problem), beta=-1.0, generator=generator)
    choices: Any = CategoricalCEM((2,), horizon=3, num_candidates=9, num_elites=3)
    with pytest.raises(ValueError, match="need continuous actions to plan numbers beside them, got choices"):
        hallucinating(planning(problem, planner=choices), beta=1.0, generator=generator)
    hallucinated = hallucinating(planning(problem), beta=1.0, generator=generator).planning.dynamics
    rows: Any = None
    for call in (lambda: hallucinated.regression_data(rows), lambda: hallucinated.log_likelihood({}, rows)):
        with pytest.raises(TypeError, match="a hallucinated dynamics"):
            call()
