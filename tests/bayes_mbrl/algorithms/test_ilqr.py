"""iLQR as the planner of an agent: on the expected dynamics, with what it ignores refused or said."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pendulum_oracle import pendulum_oracle
from torch import Tensor
from toy_runs import configure, start

from bayes_mbrl.algorithms.ilqr import expected_dynamics
from bayes_mbrl.algorithms.information_gain import InformationSeekingAgent
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.algorithms.thompson import ThompsonAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.environments.rewards import pendulum_reward
from bayes_mbrl.errors import UserError
from bayes_mbrl.experiment import fitted
from bayes_mbrl.planners.ilqr import ILQR
from bayes_mbrl.planners.objectives import expected_return
from bayes_mbrl.planners.propagation import expectation
from bayes_mbrl.reporting import write_report
from bayes_mbrl.rollout import evaluate_plans

DRIFT = "toy_environments:Drift-v0"
SMALL = ("planner=ilqr", "planner.horizon=5", "planner.num_candidates=2", "planner.num_iterations=2")


QUICK = ("num_episodes=2", "num_evaluation_episodes=0", "algorithm.replan_every=2", "posterior=ensemble")


@pytest.fixture(scope="module")
def agent_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The agent that would act next after a tiny run, by environment and settings."""
    runs: dict[str, Any] = {}

    def agent(env: str, *more: str) -> Any:
        if env not in runs:
            runs[env] = fitted(start(tmp_path_factory.mktemp("run") / "run", env, *QUICK))
        with Environment(env) as environment:
            return Builder(configure(env, *QUICK, *SMALL, *more), environment).exploring_agent(*runs[env])

    return agent


def test_it_plans_on_the_mean_over_theta(agent_of: Callable[..., Any], generator: torch.Generator) -> None:
    """Of the network of a run: s' is the mean over K of what each θ predicts, and a plan's return is what
    `evaluate_plans` says without noise under the propagation `expectation`."""
    agent = agent_of("LinearGaussian-v0")
    assert isinstance(agent, MPCAgent)
    theta = agent.posterior.sample(7, generator=torch.Generator().manual_seed(0))
    states, actions = torch.randn(4, 3, generator=generator), torch.rand(4, 2, generator=generator)
    each = [
        agent.dynamics.predict({n: v[k : k + 1] for n, v in theta.items()}, states[None], actions)[0][0]
        for k in range(7)
    ]
    found = expected_dynamics(agent.dynamics, theta, 7)(states, actions)
    assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-6)
    assert float(torch.stack(each).std(0).max()) > 1e-3

    step = expected_dynamics(agent.dynamics, theta, 7)

    def rows(states: Tensor, actions: Tensor) -> Tensor:
        return step(states.flatten(0, -2), actions.flatten(0, -2)).view_as(states)

    planner: Any = dataclasses.replace(agent.planner, num_candidates=3)
    state, info = planner.solve(
        planner.init(), states[0], step=step, reward=agent.reward, generator=torch.Generator().manual_seed(2)
    )
    quiet = KnownDynamics(rows, noise_std=torch.zeros(3))
    (score,) = evaluate_plans(
        state.plan[None], states[0], posterior=Nothing(), dynamics=quiet, reward=agent.reward,
        objective=expected_return(), propagation=expectation, num_theta=1, generator=torch.Generator(),
    )  # fmt: skip
    assert float(score) == pytest.approx(info.plan_return, rel=1e-5)


TORQUE = torch.tensor([-2.0]), torch.tensor([2.0])


def test_the_warm_start_is_the_shifted_plan_and_an_episode_begins_without() -> None:
    agent = pendulum_oracle(ILQR(*TORQUE, horizon=6, num_candidates=1, num_iterations=2), replan_every=2)
    states = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.2, 0.4], [0.8, 0.3, 0.2]])
    generator = torch.Generator().manual_seed(0)
    action, memory = agent.act(states[0], None, generator=generator)
    second, later = agent.act(states[1], memory, generator=generator)
    assert torch.equal(second, memory.planner_state.plan[0])  # in between the plan is followed
    assert torch.equal(later.planner_state.plan[:-1], memory.planner_state.plan[1:])
    again, _ = agent.act(states[0], None, generator=generator)
    assert torch.equal(again, action)


@pytest.mark.slow
def test_the_pendulum_swings_up_from_the_bottom() -> None:
    """Its reward is neither quadratic nor concave; hanging down at rest, the first plan moves nothing."""
    agent = pendulum_oracle(ILQR(*TORQUE, horizon=20, num_candidates=1, num_iterations=5, tolerance=1e-3))
    state, memory, total = torch.tensor([-1.0, 1e-3, 0.0]), None, 0.0
    generator = torch.Generator().manual_seed(0)
    for t in range(150):
        action, memory = agent.act(state, memory, generator=generator)
        assert action.abs() <= 2
        following = pendulum_step(state, action)
        total += float(pendulum_reward(state, action, following)) * (t >= 120)
        state = following
    assert total > -1.0  # upright and at rest over the last thirty steps


def test_a_diverging_model_is_penalised_and_the_search_goes_on() -> None:
    """Plans that push overflow to infinity; those that pull do not."""

    def step(state: Tensor, action: Tensor) -> Tensor:
        return state * torch.where(action > 0, 1e30, 0.5) + 0.1 * action

    agent = pendulum_oracle(
        ILQR(*TORQUE, horizon=4, num_candidates=6),
        dynamics=KnownDynamics(step, noise_std=torch.zeros(3)),
        reward=lambda s, a, n: n[..., 0],
        divergence_return=-1e6,
    )
    action, memory = agent.act(torch.ones(3), None, generator=torch.Generator().manual_seed(1))
    plan = memory.planner_state.plan[:-1]
    assert (action <= 0).all()
    assert (plan <= 0).all()


def test_thompson_sampling_plans_with_one_theta(agent_of: Callable[..., Any]) -> None:
    agent = agent_of("LinearGaussian-v0", "algorithm.exploration=thompson")
    assert isinstance(agent, ThompsonAgent)
    _, memory = agent.act(torch.zeros(3), None, generator=torch.Generator().manual_seed(0))
    assert memory.believer.num_theta == 1
    assert isinstance(memory.believer.planner, ILQR)


def test_optimism_by_hallucinated_inputs_plans_the_luck_too(agent_of: Callable[..., Any]) -> None:
    agent = agent_of("LinearGaussian-v0", "algorithm.exploration=hallucinated", "rollout.num_theta=3")
    action, memory = agent.act(torch.ones(3), None, generator=torch.Generator().manual_seed(0))
    assert action.shape == (2,)
    assert memory.planner_state.plan.shape == (5, 5)
    assert (memory.planner_state.plan[:-1, 2:].abs() > 0.5).any()  # luck is taken where it pays


def test_a_learned_reward_is_planned_with(agent_of: Callable[..., Any]) -> None:
    agent = agent_of(DRIFT)
    assert agent.dynamics.output_dim == agent.dynamics.state_dim + 2  # and the termination
    start_state = agent.planner.init()
    found = agent.replan(start_state, torch.tensor([0.3, 0.4]), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(found.plan, start_state.plan)


@pytest.mark.parametrize(
    ("env", "more", "message"),
    [
        ("LinearGaussian-v0", ("objective=worst-theta",), "planner ilqr needs objective mean, got worst-theta"),
        ("LinearGaussian-v0", ("propagation=ts-1",), "planner ilqr needs propagation expectation, got ts-1"),
        ("LinearGaussian-v0", ("algorithm.exploration=information-gain",), "needs a planner of scores"),
        ("ContinuousCartPole-v0", (), "planner ilqr in ContinuousCartPole-v0: the reward is constant but for jumps"),
        ("toy_environments:Choices-v0", (), "planner ilqr cannot plan the actions of Choices-v0"),
    ],
)
def test_what_it_would_ignore_is_refused(env: str, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message), Environment(env) as environment:
        Builder(resolve(["planner=ilqr", f"env={env}", *more]), environment)
    assert resolve(["planner=ilqr"]).propagation.name == "expectation"


def test_an_agent_that_seeks_information_needs_scores() -> None:
    with pytest.raises(ValueError, match="need a planner that goes by scores, which ILQR does not: take cem"):
        InformationSeekingAgent(pendulum_oracle(ILQR(*TORQUE), num_theta=2), 1.0)


@pytest.mark.slow
def test_the_report_of_such_a_run_opens_and_plans(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", "LinearGaussian-v0", *SMALL, "num_evaluation_episodes=1", "algorithm.replan_every=5")
    said: list[str] = []
    page = write_report([tmp_path / "run"], out=tmp_path / "report.md", warn=said.append).read_text()
    assert said == []
    assert "the final model planned anew, 5 steps ahead" in page
    assert "Candidate plans: what they may return" in page
