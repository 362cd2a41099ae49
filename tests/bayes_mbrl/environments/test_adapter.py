from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from bayes_mbrl.environments.adapter import Environment, EnvironmentFault
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.errors import UserError
from bayes_mbrl.planners.discrete import one_hot
from bayes_mbrl.seeding import stream_seed


class Scripted(gymnasium.Env[Any, Any]):
    """Returns what it is told to; keeps the last action. It takes no render_mode, as many environments do not."""

    def __init__(
        self,
        observation_space: Any = None,
        action_space: Any = None,
        start: Any = None,
        outcome: Any = None,
        error: Exception | None = None,
    ) -> None:
        self.observation_space = observation_space or Box(-1, 1, (2,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32) if action_space is None else action_space
        self.start = np.zeros(self.observation_space.shape or ()) if start is None else start
        self.outcome, self.error = outcome, error
        self.seeds: list[int | None] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        if isinstance(self.start, Exception):
            raise self.start
        return self.start, {}

    def step(self, action: Any) -> Any:
        self.action = action
        if self.error is not None:
            raise self.error
        return self.outcome if self.outcome is not None else (self.start, 1.5, False, False, {})

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gymnasium.register("tests/Scripted-v0", Scripted)
    yield
    del gymnasium.registry["tests/Scripted-v0"]


def scripted(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Environment, Scripted]:
    gymnasium.registry["tests/Scripted-v0"].kwargs = settings
    environment = Environment("tests/Scripted-v0")
    inner = environment._env.unwrapped
    assert isinstance(inner, Scripted)
    return environment, inner


def outcome(observation: Any = (0.0, 0.0), reward: Any = 0.0, terminated: Any = False) -> tuple[Any, ...]:
    return observation, reward, terminated, False, {}


ACTION = torch.tensor([0.25])


def test_pendulum_as_gymnasium_has_it() -> None:
    raw = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    with Environment("Pendulum-v1") as environment:
        assert (environment.state_dim, environment.action_dim, environment.max_episode_steps) == (3, 1, 200)
        assert environment.low.tolist() == [-2.0]
        assert environment.high.tolist() == [2.0]
        assert environment.spec is ENVIRONMENTS["Pendulum-v1"]
        observation, _ = raw.reset(seed=7)
        assert environment.reset(seed=7).tolist() == observation.tolist()
        for index in range(200):
            step = environment.step(torch.tensor([0.3]))
            observation, reward, terminated, truncated, _ = raw.step(np.array([0.3], dtype=np.float32))
            assert step.next_state.dtype == torch.float32
            assert step.next_state.tolist() == observation.tolist()
            assert (step.reward, step.terminated, step.truncated) == (float(reward), terminated, truncated)
            assert step.truncated == (index == 199)


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_seeds_reproduce_episodes(name: str) -> None:
    def episode(seed: int) -> torch.Tensor:
        with Environment(name) as environment:
            states = [environment.reset(seed=seed)]
            choices = environment.choices
            middle = one_hot(torch.tensor([1]), choices) if choices else 0.5 * (environment.low + environment.high)
            states += [environment.step(middle).next_state for _ in range(5)]
            return torch.stack(states)

    seeds = [stream_seed(0, "environment", index) for index in range(2)]
    assert torch.equal(episode(seeds[0]), episode(seeds[0]))
    assert not torch.equal(episode(seeds[0]), episode(seeds[1]))


def test_any_other_environment_of_gymnasium_works() -> None:
    with Environment("Swimmer-v5") as environment:
        assert environment.spec.reward is None
        state = environment.reset(seed=0)
        assert state.shape == (environment.state_dim,)
        assert environment.step(torch.zeros(environment.action_dim)).next_state.shape == state.shape


def test_seed_fits_signed_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, inner = scripted(monkeypatch)
    environment.reset(seed=2**63 - 1)
    assert inner.seeds == [2**31 - 1]


@pytest.mark.parametrize(
    ("space", "choices", "action", "expected"),
    [
        (Discrete(3), (3,), [0, 0, 1], 2),
        (Discrete(3, start=-1), (3,), [0, 0, 1], 1),
        (MultiDiscrete([2, 3]), (2, 3), [1, 0, 0, 1, 0], [0, 1]),
        (MultiDiscrete([2, 3], start=[5, -1]), (2, 3), [0, 1, 0, 0, 1], [6, 1]),
        (MultiDiscrete([[2, 2], [3, 1]]), (2, 2, 3, 1), [0, 1, 1, 0, 0, 0, 1, 1], [[1, 0], [2, 0]]),
    ],
)
def test_choices_arrive_as_the_environment_counts_them(
    space: Any, choices: tuple[int, ...], action: list[float], expected: Any
) -> None:
    gymnasium.registry["tests/Scripted-v0"].kwargs = {"action_space": space}
    with Environment("tests/Scripted-v0") as environment:
        assert environment.choices == choices
        assert environment.action_dim == sum(choices)
        environment.reset(seed=0)
        environment.step(torch.tensor(action, dtype=torch.float32))
        inner = environment._env.unwrapped
        assert isinstance(inner, Scripted)
        assert space.contains(inner.action)
        assert np.array_equal(inner.action, expected)
        for wrong in (0.5 * torch.tensor(action), torch.zeros(sum(choices)), torch.ones(sum(choices))):
            if sum(choices) > 1:
                with pytest.raises(ValueError, match="need one-hot vectors of"):
                    environment.step(wrong.float())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"observation_space": Dict({"camera": Box(0, 1, (2,))})}, ["observations Dict", "FlattenObservation"]),
        ({"observation_space": MultiDiscrete([2, 3])}, ["observations MultiDiscrete([2 3])", "FlattenObservation"]),
        ({"action_space": MultiBinary(3)}, ["actions MultiBinary(3)", "TransformAction"]),
        ({"action_space": Box(-np.inf, np.inf, (2,))}, ["without finite bounds", "TransformAction"]),
        ({"action_space": Box(0.0, np.inf, (2,))}, ["without finite bounds", "TransformAction"]),
        (
            {"action_space": Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,))},
            ["without finite bounds", "TransformAction"],
        ),
    ],
)
def test_unsupported_spaces(settings: dict[str, Any], words: list[str]) -> None:
    gymnasium.registry["tests/Scripted-v0"].kwargs = settings
    with pytest.raises(UserError) as caught:
        Environment("tests/Scripted-v0")
    message = str(caught.value)
    for word in [
        *words,
        "Scripted-v0 has",
        "supported are Box or Discrete observations, and Box actions with finite bounds, Discrete or",
    ]:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("observation", {"outcome": outcome(observation=(0.0, np.nan))}),
        ("observation", {"outcome": outcome(observation=(-np.inf, 0.0))}),
        ("observation", {"outcome": outcome(observation=np.array([1e300, 0.0]))}),  # beyond float32
        ("reward", {"outcome": outcome(reward=np.inf)}),
        ("reward", {"outcome": outcome(reward=np.float32(np.nan))}),
    ],
)
def test_not_finite_in_a_step_names_field_and_step(
    monkeypatch: pytest.MonkeyPatch, field: str, settings: dict[str, Any]
) -> None:
    environment, inner = scripted(monkeypatch)
    environment.reset(seed=0)
    environment.step(ACTION)
    inner.outcome = settings["outcome"]
    with pytest.raises(EnvironmentFault, match=rf"Scripted-v0 returned an? {field} .*not finite.*\(at step 2 "):
        environment.step(ACTION)
    inner.outcome = None
    environment.reset(seed=1)
    assert environment.step(ACTION).reward == 1.5


def test_not_finite_at_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, _ = scripted(monkeypatch, start=np.array([np.nan, 0.0]))
    with pytest.raises(EnvironmentFault, match=r"observation.*not finite.*at reset"):
        environment.reset(seed=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"error": ZeroDivisionError("inside")},
        {"outcome": outcome(reward=np.zeros(2))},
        {"outcome": outcome(reward="much")},
        {"outcome": outcome()[:4]},  # Gym before 0.26
        {"outcome": outcome(observation=(0.0, 0.0, 0.0))},
        {"outcome": outcome(observation={"camera": 0.0})},
        {"outcome": outcome(observation=[0.0, [1.0]])},
        {"outcome": outcome(observation=None)},
        {"outcome": outcome(terminated=np.zeros(2))},
    ],
)
def test_what_goes_wrong_inside_of_a_step_is_a_fault(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    environment, _ = scripted(monkeypatch, **settings)
    environment.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=r"at step 1 of the episode") as caught:
        environment.step(ACTION)
    if "error" in settings:
        assert "ZeroDivisionError: inside" in str(caught.value)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_exception_in_reset_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, _ = scripted(monkeypatch, start=OSError("gone"))
    with pytest.raises(EnvironmentFault, match=r"raised OSError: gone \(at reset"):
        environment.reset(seed=0)


def test_observations_of_any_shape_and_type_become_flat_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    environment, _ = scripted(monkeypatch, observation_space=Box(0, 255, (2, 3), np.uint8), start=pixels)
    assert environment.state_dim == 6
    state = environment.reset(seed=0)
    assert state.dtype == torch.float32
    assert state.tolist() == [0, 1, 2, 3, 4, 5]


def test_scalar_box(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, inner = scripted(
        monkeypatch, observation_space=Box(-1, 1, ()), action_space=Box(-1, 1, ()), start=np.float64(0.5)
    )
    assert environment.reset(seed=0).tolist() == [0.5]
    environment.step(ACTION)
    assert inner.action.shape == ()


def test_state_shares_no_memory_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (np.float32, np.float64):
        buffer = np.zeros(2, dtype=dtype)
        environment, inner = scripted(monkeypatch)
        inner.start = buffer  # given at construction, Gymnasium would copy it
        state = environment.reset(seed=0)
        buffer += 1
        assert state.tolist() == [0.0, 0.0]


def test_read_only_observations_are_taken_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = np.array([0.5, 0.25])
    fixed.setflags(write=False)
    environment, inner = scripted(monkeypatch)
    inner.start = fixed
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else torch warns once in a process, perhaps long before this test
    try:
        assert environment.reset(seed=0).tolist() == [0.5, 0.25]
    finally:
        torch.set_warn_always(before)


def test_actions_take_the_shape_and_type_of_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Box(np.array([[-1.0, -2.0], [0.0, 0.1]]), np.array([[1.0, 2.0], [0.5, 0.3]]), dtype=np.float64)
    environment, inner = scripted(monkeypatch, action_space=space)
    assert environment.low.tolist() == pytest.approx([-1.0, -2.0, 0.0, 0.1])
    environment.reset(seed=0)
    for action in (environment.low, environment.high, torch.tensor([0.5, -1.5, 0.25, 0.2])):
        environment.step(action)
        assert inner.action.dtype == np.float64
        # float32 holds neither 0.1 nor 0.3: the bound is kept all the same.
        assert space.contains(inner.action)
        np.testing.assert_allclose(inner.action, action.reshape(2, 2).numpy(), rtol=1e-6)


def test_whole_numbers_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, inner = scripted(monkeypatch, action_space=Box(0, 5, (2,), np.int64))
    environment.reset(seed=0)
    environment.step(torch.tensor([1.9, 0.2]))
    assert inner.action.dtype == np.int64
    assert inner.action.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([1.1], r"within \[-1.0\] and \[1.0\], got \[1.1"),
        ([float("nan")], "got .nan"),
        ([0.0, 0.0], r"shape \[1\], got \[2\]"),
        ([[0.0]], r"shape \[1\], got \[1, 1\]"),
    ],
)
def test_an_action_of_ours_that_is_wrong_is_our_error(
    monkeypatch: pytest.MonkeyPatch, action: list[float], words: str
) -> None:
    environment, _ = scripted(monkeypatch)
    environment.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        environment.step(torch.tensor(action))


def test_action_may_carry_a_gradient_and_be_double(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, inner = scripted(monkeypatch)
    environment.reset(seed=0)
    environment.step(torch.tensor([0.5], dtype=torch.float64, requires_grad=True))
    assert inner.action.tolist() == [0.5]


def test_time_limit_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, _ = scripted(monkeypatch)
    assert environment.max_episode_steps is None
    with Environment("Pendulum-v1", max_episode_steps=3) as limited:
        assert limited.max_episode_steps == 3
        limited.reset(seed=0)
        assert [limited.step(ACTION).truncated for _ in range(3)] == [False, False, True]


def test_an_environment_that_cannot_be_made_is_a_user_error() -> None:
    gymnasium.registry["tests/Scripted-v0"].kwargs = {"no_such_setting": 1}
    with pytest.raises(UserError, match=r"cannot make the environment tests/Scripted-v0: TypeError"):
        Environment("tests/Scripted-v0")


def test_close_and_context_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, inner = scripted(monkeypatch)
    with environment as entered:
        assert entered is environment
    assert inner.closed
    environment.close()


def test_render_needs_its_mode() -> None:
    with Environment("Pendulum-v1") as environment, pytest.raises(ValueError, match="need render_mode='rgb_array'"):
        environment.render()


def test_states_that_are_counted_are_counted_from_0() -> None:
    space = Discrete(5, start=3)
    for outcome, state in ((7, 4.0), (3, 0.0)):
        gymnasium.registry["tests/Scripted-v0"].kwargs = {
            "observation_space": space, "start": np.int64(3), "outcome": (np.int64(outcome), 0.0, False, False, {}),
        }  # fmt: skip
        with Environment("tests/Scripted-v0") as environment:
            assert (environment.state_dim, environment.num_states, environment.state_names) == (1, 5, ("state",))
            assert torch.equal(environment.reset(seed=0), torch.zeros(1))
            assert torch.equal(environment.step(environment.low).next_state, torch.tensor([state]))


@pytest.mark.parametrize("outside", [8, 2, 3.5])
def test_a_state_outside_of_those_counted_is_a_fault(outside: float) -> None:
    gymnasium.registry["tests/Scripted-v0"].kwargs = {"observation_space": Discrete(5, start=3), "start": outside}
    with (
        Environment("tests/Scripted-v0") as environment,
        pytest.raises(EnvironmentFault, match=rf"the observation {outside}, which is not in Discrete\(5, start=3\)"),
    ):
        environment.reset(seed=0)
