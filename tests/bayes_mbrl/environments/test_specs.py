import importlib.util
import pathlib
import sys
from collections.abc import Iterator

import gymnasium
import pytest
import torch

from bayes_mbrl.environments import registration, rewards, specs
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.registration import find_spec
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.errors import UserError


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_known_environment_is_found_by_name_and_by_id_and_complete(name: str) -> None:
    spec = find_spec(name)
    assert spec is ENVIRONMENTS[name] is find_spec(spec.id)
    assert spec.name == name
    assert (spec.reward is not None) == (name != "HalfCheetah-v5")  # a speed that is not observed
    assert spec.termination is not None
    assert spec.summary
    assert "\n" not in spec.summary


def test_asked_for_environments_are_there() -> None:
    assert set(ENVIRONMENTS) >= {
        "Pendulum-v1", "MountainCarContinuous-v0", "MountainCar-v0", "CartPole-v1", "Acrobot-v1",
        "ContinuousCartPole-v0", "LinearGaussian-v0", "InvertedPendulum-v5", "InvertedDoublePendulum-v5",
        "Reacher-v5", "Pusher-v5", "HalfCheetah-v5",
    }  # fmt: skip


def test_any_other_environment_of_gymnasium_has_nothing_known() -> None:
    spec = find_spec("Hopper-v5")
    assert (spec.id, spec.name, spec.reward, spec.termination, spec.features) == (
        "Hopper-v5",
        "Hopper-v5",
        None,
        None,
        None,
    )


def test_spec_is_frozen() -> None:
    with pytest.raises(AttributeError):
        EnvironmentSpec("x", "y").reward = rewards.pendulum_reward  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Pendulm-v1", "Pendulum-v1"),
        ("pendulum-v1", "Pendulum-v1"),
        ("PENDULUM-V1", "Pendulum-v1"),
        ("Pendulum", "Pendulum-v1"),
        ("ContinousCartpole-v0", "ContinuousCartPole-v0"),
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("linear_gaussian", "LinearGaussian-v0"),
    ],
)
def test_unknown_name_raises_one_line_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match="unknown environment") as caught:
        find_spec(name)
    message = str(caught.value)
    assert repr(name) in message
    assert nearest in message.split(". Known")[0]
    assert "\n" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_unknown_name_that_resembles_nothing_still_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown environment 'qqqq'\. Known here: Pendulum-v1, "):
        find_spec("qqqq")


@pytest.fixture
def outside_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of a user that registers an environment."""
    (tmp_path / "users_environments.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('users/Outside-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=7)\n"
    )
    (tmp_path / "users_broken.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_environments"
    sys.modules.pop("users_environments", None)
    gymnasium.registry.pop("users/Outside-v0", None)


def test_module_and_id(outside_module: str) -> None:
    spec = find_spec(f"{outside_module}:users/Outside-v0")
    assert (spec.name, spec.reward) == ("Outside-v0", None)
    with Environment(spec) as environment:
        assert (environment.state_dim, environment.max_episode_steps) == (3, 7)


def test_module_without_that_id(outside_module: str) -> None:
    with pytest.raises(UserError, match=r"unknown environment.*nearest are users/Outside-v0"):
        find_spec(f"{outside_module}:users/Outsid-v0")


@pytest.mark.parametrize("module", ["users_broken", "users_missing", "", ".relative", "a:b"])
def test_module_that_cannot_be_imported(outside_module: str, module: str) -> None:
    with pytest.raises(UserError, match="cannot import"):
        find_spec(f"{module}:users/Outside-v0")


@pytest.mark.parametrize("missing", registration.MUJOCO_PACKAGES)
@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Reacher-v5", "Hopper-v5"])
def test_missing_mujoco(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == missing else found(module))
    with pytest.raises(UserError, match=rf"{missing}.* cannot be found: .*pip install '\.\[mujoco\]'"):
        find_spec(name)
    assert find_spec("Pendulum-v1").reward is rewards.pendulum_reward


def test_own_environments_are_registered_once() -> None:
    specs._register_own()
    assert gymnasium.registry["bayes_mbrl/ContinuousCartPole-v0"].max_episode_steps == 200
    assert torch.equal(rewards.never(torch.zeros(3), torch.zeros(1), torch.zeros(2, 3)), torch.tensor([False, False]))


@pytest.mark.parametrize("name", [name for name, spec in ENVIRONMENTS.items() if spec.state_names])
def test_every_number_of_the_state_has_a_name(name: str) -> None:
    with Environment(name) as environment:
        assert environment.state_names == ENVIRONMENTS[name].state_names
        assert len(set(environment.state_names)) == environment.state_dim


def test_an_environment_without_names_numbers_them() -> None:
    with Environment("LinearGaussian-v0") as environment:
        assert environment.state_names == ("s[0]", "s[1]", "s[2]")
