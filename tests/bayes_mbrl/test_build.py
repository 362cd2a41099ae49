"""From a configuration to the objects that it names."""

import dataclasses
import pathlib
from typing import Any, get_args

import pytest
import torch
from toy_runs import configure, resume, start, state_numbers

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms.hallucinated import HallucinatedDynamics, HallucinatingAgent
from bayes_mbrl.algorithms.information_gain import InformationSeekingAgent
from bayes_mbrl.algorithms.mpc import Exploration, MPCAgent
from bayes_mbrl.algorithms.thompson import ThompsonAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import learned_termination
from bayes_mbrl.environments import rewards
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.specs import EnvironmentSpec
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners import objectives, propagation
from bayes_mbrl.rollout import DIVERGENCE_RETURN

DRIFT = "toy_environments:Drift-v0"


@pytest.fixture
def transitions(generator: torch.Generator) -> Transitions:
    """Of LinearGaussian-v0's shapes."""
    state, action = torch.randn(20, 3, generator=generator), torch.rand(20, 2, generator=generator)
    flags = torch.zeros(20)
    return Transitions(state, action, -state.square().sum(1), 0.9 * state, flags.bool(), flags.long())


def _builder(env: str, *more: str) -> Builder:
    """The environment is closed: only what is known of it is used."""
    with Environment(env) as environment:
        return Builder(configure(env, *more), environment)


def test_an_agent_is_what_the_configuration_says(transitions: Transitions, generator: torch.Generator) -> None:
    builder = _builder(
        "LinearGaussian-v0", "planner.horizon=7", "objective=worst-theta", "propagation=moment-matching",
        "rollout.num_theta=5", "rollout.num_noise=3", "algorithm.replan_every=2", "posterior.num_steps=3",
    )  # fmt: skip
    posterior, info = builder.fit(transitions, None, generator=generator)
    agent = builder.agent(transitions, posterior)
    assert (agent.num_theta, agent.num_noise, agent.replan_every) == (5, 3, 2)
    assert agent.planner.horizon == 7
    assert torch.equal(agent.planner.low, torch.tensor([-2.0, -1.0]))
    assert torch.equal(agent.planner.high, torch.tensor([2.0, 1.5]))
    assert agent.propagation is propagation.moment_matching
    assert agent.posterior is posterior
    assert agent.reward is rewards.linear_gaussian_reward
    returns = torch.randn(5, 3, 4, generator=generator)
    assert torch.equal(agent.objective(returns), objectives.worst_theta()(returns))
    assert isinstance(info.final_loss, float)
    assert builder.algorithm.refit_every is None


def test_a_fit_starts_from_the_last_one(transitions: Transitions) -> None:
    builder = _builder("LinearGaussian-v0", "posterior=point", "posterior.num_steps=1", "posterior.learning_rate=1e-9")
    first, _ = builder.fit(transitions, None, generator=torch.Generator().manual_seed(0))
    again, _ = builder.fit(transitions, first, generator=torch.Generator().manual_seed(1))
    anew, _ = builder.fit(transitions, None, generator=torch.Generator().manual_seed(1))
    assert isinstance(first, DrawsPosterior)
    assert isinstance(again, DrawsPosterior)
    assert isinstance(anew, DrawsPosterior)
    torch.testing.assert_close(first.draws["weight_0"], again.draws["weight_0"], rtol=0, atol=1e-6)
    assert not torch.allclose(first.draws["weight_0"], anew.draws["weight_0"], atol=1e-2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("posterior.learning_rate=1e30",), "posterior mean-field: the fit diverged"),
        (("posterior=mc-dropout", "dynamics.hidden=[]"), "posterior mc-dropout: dropout needs hidden units"),
    ],
)
def test_a_fit_that_fails_is_the_users_to_mend(transitions: Transitions, more: tuple[str, ...], message: str) -> None:
    builder = _builder("LinearGaussian-v0", *more)
    with pytest.raises(UserError, match=message):
        builder.fit(transitions, None, generator=torch.Generator().manual_seed(0))


def test_a_reward_is_learned_where_none_is_known(transitions: Transitions) -> None:
    known, unknown = _builder("LinearGaussian-v0"), _builder(DRIFT)
    assert known.dynamics(transitions).output_dim == 3
    two = dataclasses.replace(transitions, state=transitions.state[:, :2], next_state=transitions.next_state[:, :2])
    dynamics = unknown.dynamics(two)
    assert (dynamics.output_dim, dynamics.state_dim) == (4, 2)  # and the termination
    posterior, _ = unknown.fit(two, None, generator=torch.Generator().manual_seed(0))
    agent = unknown.agent(two, posterior)
    next_state = torch.tensor([[1.0, 2.0, -7.0, 0.5], [3.0, 4.0, 5.0, -0.1]])
    assert agent.reward(next_state[:, :2], next_state[:, :1], next_state).tolist() == [-7.0, 5.0]
    assert agent.termination is None, "no episode has ended"
    ended = dataclasses.replace(two, terminated=torch.arange(20) == 3)
    warm, _ = unknown.fit(ended, posterior, generator=torch.Generator().manual_seed(0))
    termination = unknown.agent(ended, warm).termination
    assert termination is not None
    assert termination(next_state[:, :2], next_state[:, :1], next_state).tolist() == [True, False]


def test_failures_may_be_learned_terminations(transitions: Transitions) -> None:
    """Known from the first plan on how they look, though none may have been met."""
    builder = _builder(DRIFT, "objective=failure-limit", "objective.failure=termination", "objective.failure_return=-1")
    two = dataclasses.replace(transitions, state=transitions.state[:, :2], next_state=transitions.next_state[:, :2])
    posterior, _ = builder.fit(two, None, generator=torch.Generator().manual_seed(0))
    agent = builder.agent(two, posterior)
    assert agent.failure is learned_termination
    assert agent.termination is None


def test_known_functions_do_not_see_what_else_is_learned(transitions: Transitions) -> None:
    @dataclasses.dataclass
    class HalfKnown:
        spec: EnvironmentSpec
        state_dim: int = 3
        action_dim: int = 2
        choices: tuple[int, ...] = ()
        num_states: int | None = None
        max_episode_steps: int | None = None
        low: torch.Tensor = dataclasses.field(default_factory=lambda: -torch.ones(2))
        high: torch.Tensor = dataclasses.field(default_factory=lambda: torch.ones(2))

    def reward(state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor) -> torch.Tensor:
        return next_state.sum(-1) + 10 * state.sum(-1)

    half_known: Any = HalfKnown(EnvironmentSpec(id="HalfKnown-v0", summary="", reward=reward))
    builder = Builder(configure("LinearGaussian-v0"), half_known)
    posterior, _ = builder.fit(transitions, None, generator=torch.Generator().manual_seed(0))
    agent = builder.agent(transitions, posterior)
    assert agent.dynamics.output_dim == 4
    next_state = torch.tensor([[1.0, 2.0, 3.0, 100.0]])
    assert agent.reward(next_state, next_state[:, :2], next_state).tolist() == [66.0]


def test_the_features_of_the_environment_are_used(transitions: Transitions) -> None:
    def features(state: torch.Tensor) -> torch.Tensor:
        return torch.cat([state, state.square()], -1)

    @dataclasses.dataclass
    class Known:
        spec: EnvironmentSpec
        state_dim: int = 3
        action_dim: int = 2
        max_episode_steps: int | None = None
        choices: tuple[int, ...] = ()
        num_states: int | None = None
        low: torch.Tensor = dataclasses.field(default_factory=lambda: -torch.ones(2))
        high: torch.Tensor = dataclasses.field(default_factory=lambda: torch.ones(2))

    known: Any = Known(EnvironmentSpec(id="Known-v0", summary="", features=features, reward=rewards.pendulum_reward))
    builder = Builder(configure("LinearGaussian-v0"), known)
    assert builder.dynamics(transitions).regression_data(transitions)[0].shape == (20, 3 + 3 + 2)


def test_a_divergence_is_worse_than_all_that_could_be_seen(transitions: Transitions) -> None:
    builder = _builder("LinearGaussian-v0", "planner.horizon=5")
    posterior, _ = builder.fit(transitions, None, generator=torch.Generator().manual_seed(0))
    for scale in (1e-3, 1.0, 1e6):
        scaled = dataclasses.replace(transitions, reward=transitions.reward * scale)
        worst = 5 * float(scaled.reward.min())
        bound = builder.agent(scaled, posterior).divergence_return
        assert bound <= min(100 * worst, DIVERGENCE_RETURN)


def test_a_limit_on_failures_takes_them_from_the_environment_or_from_what_ends_an_episode() -> None:
    transitions = Transitions(
        torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(20, 1), torch.ones(20),
        torch.zeros(20, 4), torch.zeros(20).bool(), torch.zeros(20).long(),
    )  # fmt: skip
    limit = "objective=failure-limit"
    for more, failure in (
        ((limit, "objective.failure=state"), rewards.continuous_cartpole_termination),
        ((limit, "objective.failure=termination"), rewards.continuous_cartpole_termination),
        ((limit,), None),
        ((), None),
    ):
        builder = _builder("ContinuousCartPole-v0", "posterior=point", *more)
        posterior, _ = builder.fit(transitions, None, generator=torch.Generator().manual_seed(0))
        assert builder.agent(transitions, posterior).failure is failure


@pytest.mark.parametrize(
    ("env", "kind", "message"),
    [
        ("LinearGaussian-v0", "state", "of LinearGaussian-v0 no failing states are known"),
        ("MountainCarContinuous-v0", "state", "no failing states are known"),  # its end is no failure
        ("LinearGaussian-v0", "termination", "no termination is known: give its EnvironmentSpec a failure function"),
    ],
)
def test_a_limit_on_failures_that_nobody_knows_is_refused_before_any_episode(env: str, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _builder(env, "objective=failure-limit", f"objective.failure={kind}")


EXPLORERS = {
    "none": MPCAgent,
    "thompson": ThompsonAgent,
    "information-gain": InformationSeekingAgent,
    "hallucinated": HallucinatingAgent,
}


def test_every_way_to_explore_has_its_agent_and_evaluation_is_greedy(transitions: Transitions) -> None:
    assert set(EXPLORERS) == set(get_args(Exploration))
    for name, kind in EXPLORERS.items():
        builder = _builder(
            "LinearGaussian-v0", "posterior=ensemble", f"algorithm.exploration={name}",
            "algorithm.information_weight=0.3", "algorithm.optimism=2.5", "posterior.num_steps=3",
        )  # fmt: skip
        posterior, _ = builder.fit(transitions, None, generator=torch.Generator().manual_seed(0))
        agent = builder.exploring_agent(transitions, posterior)
        assert type(agent) is kind
        assert type(builder.agent(transitions, posterior)) is MPCAgent
        if isinstance(agent, InformationSeekingAgent):
            assert agent.weight == 0.3
        if isinstance(agent, HallucinatingAgent):
            assert isinstance(agent.planning.dynamics, HallucinatedDynamics)
            assert agent.planning.dynamics.beta == 2.5


@pytest.mark.parametrize("exploration", ["thompson", "information-gain", "hallucinated"])
def test_an_exploring_run_that_is_resumed_gives_the_numbers_of_one_that_was_not(
    tmp_path: pathlib.Path, exploration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "write", lambda *_: {})
    settings = (f"algorithm.exploration={exploration}", "algorithm.refit_every=20", "num_evaluation_episodes=0")
    whole = start(tmp_path / "whole", "LinearGaussian-v0", *settings)
    start(tmp_path / "parts", "LinearGaussian-v0", *settings, "num_episodes=2")
    assert state_numbers(resume(tmp_path / "parts", 3)) == state_numbers(whole)
    assert whole.transitions is not None
    assert len(whole.transitions) == 150


@pytest.mark.parametrize(
    ("env", "more", "message"),
    [
        ("toy_environments:Choices-v0", ("algorithm.exploration=hallucinated",), "those of Choices-v0 are choices"),
        (
            DRIFT,
            ("algorithm.exploration=hallucinated", "rollout.num_theta=1"),
            "hallucinated needs rollout.num_theta >= 2 .* got 1",
        ),
        (
            DRIFT,
            ("algorithm.exploration=information-gain", "rollout.num_theta=1"),
            "information-gain needs rollout.num_theta >= 2 .* got 1",
        ),
    ],
)
def test_a_way_to_explore_that_cannot_be_is_refused_before_any_episode(
    env: str, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _builder(env, *more)


def test_choices_are_explored_by_information(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "write", lambda *_: {})
    state = start(tmp_path / "run", "toy_environments:Choices-v0", "algorithm.exploration=information-gain")
    assert state.next_episode == 3


def test_the_base_policy_keeps_to_the_bounds() -> None:
    agent = _builder(DRIFT).base_policy()
    generator = torch.Generator().manual_seed(0)
    actions = torch.stack([agent.act(torch.zeros(2), None, generator=generator)[0] for _ in range(300)])
    assert actions.shape == (300, 1)
    assert -1 <= float(actions.min()) < -0.9
    assert 1.9 < float(actions.max()) <= 2
    assert abs(float(actions.mean()) - 0.5) < 5 * 3 / 12**0.5 / 300**0.5


def test_only_here_configuration_and_objects_are_both_known() -> None:
    """The layers above build through `Builder`, those below take ordinary arguments."""
    root = pathlib.Path(__file__).parents[2] / "bayes_mbrl"
    users = {path.name for path in root.rglob("*.py") if ".build(" in path.read_text() and not path.is_symlink()}
    assert users <= {"build.py", "config.py"}


def test_a_known_termination_does_not_see_a_learned_reward(generator: torch.Generator) -> None:
    """It may take the last of the numbers that it was written for, whatever is predicted behind them."""
    seen: list[int] = []

    def falls(state: torch.Tensor, action: torch.Tensor, next_state: torch.Tensor) -> torch.Tensor:
        seen.extend((state.shape[-1], next_state.shape[-1]))
        return next_state[..., -1] < -1

    with Environment(EnvironmentSpec(DRIFT, termination=falls, failure=falls)) as environment:
        builder = Builder(configure(DRIFT, "objective=failure-limit", "objective.failure=state"), environment)
        step = environment.step
        state = environment.reset(seed=0)
        following = step(torch.zeros(1)).next_state
    row = Transitions(
        state[None], torch.zeros(1, 1), torch.ones(1), following[None], torch.tensor([False]), torch.zeros(1).long()
    )
    transitions = Transitions.concatenate([row] * 4)
    posterior, _ = builder.fit(transitions, None, generator=generator)
    agent = builder.agent(transitions, posterior)
    agent.act(state, None, generator=generator)
    assert set(seen) == {2}
    with_reward = torch.tensor([[0.0, -2.0, 5.0], [0.0, 2.0, -5.0]])
    for function in (agent.termination, agent.failure):
        assert function is not None
        assert function(with_reward, torch.zeros(1), with_reward).tolist() == [True, False]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["rollout.finalists=0.5", "propagation=ts-1"], "needs a propagation that keeps the θ .* got ts-1"),
        (["rollout.bf16=true", "dynamics=physics"], "hidden layers of dynamics network, got physics"),
        (["rollout.bf16=true", "planner=gradient"], "planner gradient needs rollout.bf16=false"),
        (["rollout.finalists=0.5", "planner=gradient"], "planner gradient needs .* rollout.finalists=1"),
        (
            ["rollout.finalists=0.3", "planner=cem", "planner.num_candidates=100", "planner.num_elites=31"],
            r"since elites are finalists, got 0\.3 · 100 and 31",
        ),
        (["rollout.finalists=0.0"], "rollout.finalists should be greater than 0"),
        (["algorithm.tolerance=1.0"], "algorithm.tolerance should be less than 1"),
    ],
)
def test_what_saves_work_and_cannot_be_had(overrides: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        resolve(overrides)


def test_what_saves_work_reaches_the_agent(transitions: Transitions) -> None:
    builder = _builder("LinearGaussian-v0", "rollout.bf16=true", "rollout.finalists=0.5", "algorithm.tolerance=0.1")
    draws = builder.dynamics(transitions).model.initial(2, generator=torch.Generator().manual_seed(0))
    agent = builder.agent(transitions, DrawsPosterior(draws))
    assert (agent.bf16, agent.finalists, agent.tolerance) == (True, 0.5, 0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"env": "InvertedPendulum-v5"}, (20, 1000, 1)),
        ({"env": "InvertedPendulum-v5", "algorithm": "v2.0"}, (20, 1000, 1)),
        ({"env": "InvertedPendulum-v5", "algorithm": "mbpo"}, (1000, 2400, 200)),
        ({"env": "InvertedPendulum-v5", "algorithm": "mbpo", "num_steps": 7}, (1000, 7, 200)),
        ({"env": "FrozenLake-v1"}, (500, None, 0)),  # which recommends dyna itself
    ],
)
def test_an_algorithm_that_says_how_long_to_run_wins_over_an_environment_made_for_another(
    options: dict[str, Any], expected: tuple[int, int | None, int]
) -> None:
    made = resolve([], options=options)
    assert (made.num_episodes, made.num_steps, made.num_base_steps) == expected
