"""An environment of the user's: what is said of it is found again by every command, and mistakes are named."""

import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import typer.testing
from toy_runs import Recorder, configure, overrides, resume, start

import bayes_mbrl
from bayes_mbrl import cli
from bayes_mbrl.config import resolve
from bayes_mbrl.environments import registration, rewards
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.registration import find_spec, register_environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.loaded_run import open_run

MODULE = '''
import gymnasium
import numpy as np
import torch

from bayes_mbrl import EnvironmentSpec, register_environment


class Tank(gymnasium.Env):
    """Keep a level near 1 by an inflow; above 3 it is over."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = self.np_random.uniform(0.0, 2.0)
        return np.array([self.level], np.float32), {}

    def step(self, action):
        self.level += 0.5 * float(action[0]) - 0.1 * self.level
        observation = np.array([self.level], np.float32)
        return observation, -abs(float(observation[0]) - 1.0), bool(observation[0] > 3.0), False, {}


def reward(state, action, next_state):
    return -(next_state[..., 0] - 1.0).abs()


def termination(state, action, next_state):
    return next_state[..., 0] > 3.0


def features(state):
    return torch.cat([state, state.square()], dim=-1)


gymnasium.register("Tank-v0", Tank, max_episode_steps=8)
register_environment(
    EnvironmentSpec(
        "Tank-v0",
        reward=reward,
        termination=termination,
        features=features,
        state_names=("level (m)",),
        defaults={"num_episodes": 2, "planner": {"horizon": 4}},
    )
)
'''


@pytest.fixture
def tank(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The module `tanks` of a user, which registers Tank-v0."""
    path = tmp_path / "tanks.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    _forget()


def _forget() -> None:
    """As in a new process."""
    sys.modules.pop("tanks", None)
    gymnasium.registry.pop("Tank-v0", None)
    registration._registered.pop("Tank-v0", None)


def test_what_the_module_says_is_used(tank: pathlib.Path) -> None:
    spec = find_spec("tanks:Tank-v0")
    module = sys.modules["tanks"]
    assert (spec.name, spec.reward, spec.termination) == ("Tank-v0", module.reward, module.termination)
    assert find_spec("Tank-v0") == spec
    config = configure("tanks:Tank-v0")
    assert (config.planner.settings["horizon"], config.num_episodes) == (2, 3)  # what is written wins
    assert resolve(options={"env": "tanks:Tank-v0"}).planner.settings["horizon"] == 4


def test_every_command_finds_it_again(tank: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    runner = typer.testing.CliRunner()
    arguments = ["run", "--env", "tanks:Tank-v0", "--out", str(folder), *overrides("num_episodes=2")]
    assert (done := runner.invoke(cli.app, arguments)).exit_code == 0, done.output
    for more in (["evaluate", str(folder)], ["resume", str(folder), "--episodes", "3"], ["report", str(folder)]):
        _forget()
        assert (done := runner.invoke(cli.app, more)).exit_code == 0, done.output
    _forget()
    with open_run(folder) as run:
        assert run.state_names == ("level (m)",)
        assert run.builder is not None
        assert run.builder.environment.spec.reward is sys.modules["tanks"].reward
        assert run.final is not None
        assert run.final.dynamics.regression_data(run.transitions)[0].shape[1] == 2 + 1  # type: ignore[arg-type]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_package_brings_it_and_nothing_else() -> None:
    assert bayes_mbrl.register_environment is register_environment
    assert bayes_mbrl.EnvironmentSpec is EnvironmentSpec
    with pytest.raises(AttributeError, match="no attribute 'register_enviroment'"):
        bayes_mbrl.register_enviroment  # noqa: B018


def test_an_unknown_id() -> None:
    with pytest.raises(UserError, match=r"does not know 'CartPol-v1' \(nearest are CartPole-v1.*call gymnasium.regist"):
        register_environment(EnvironmentSpec("CartPol-v1"))


def test_a_known_environment_is_not_said_anew() -> None:
    with pytest.raises(UserError, match=r"Pendulum-v1 is known already.*under an id of your own"):
        register_environment(EnvironmentSpec("Pendulum-v1", reward=rewards.reacher_reward))


def test_to_say_the_same_again_changes_nothing_and_another_thing_has_to_be_meant(tank: pathlib.Path) -> None:
    spec = find_spec("tanks:Tank-v0")
    del sys.modules["tanks"], gymnasium.registry["Tank-v0"]
    find_spec("tanks:Tank-v0")  # imported anew: other objects, the same functions
    changed = EnvironmentSpec(spec.id, reward=lambda s, a, n: n[..., 0], features=spec.features)
    message = "another reward and another termination and another state_names and another defaults: .*replace=True"
    with pytest.raises(UserError, match=message):
        register_environment(changed)
    assert find_spec("Tank-v0").termination is not None
    register_environment(changed, replace=True)
    assert find_spec("Tank-v0").reward is changed.reward


def test_functions_of_one_body_and_other_constants_are_different(tank: pathlib.Path) -> None:
    def scaled(factor: float) -> Any:
        return lambda state, action, next_state: factor * next_state[..., 0]

    find_spec("tanks:Tank-v0")
    register_environment(EnvironmentSpec("Tank-v0", reward=scaled(1.0)), replace=True)
    with pytest.raises(UserError, match="another reward"):
        register_environment(EnvironmentSpec("Tank-v0", reward=scaled(2.0)))


@pytest.mark.parametrize("field", ["reward", "termination", "failure", "features"])
def test_what_is_no_function(tank: pathlib.Path, field: str) -> None:
    find_spec("tanks:Tank-v0")
    settings: dict[str, Any] = {field: 1.0}
    with pytest.raises(UserError, match=f"Tank-v0: {field} should be a function or None, got 1.0"):
        register_environment(EnvironmentSpec("Tank-v0", **settings), replace=True)


def test_a_mistake_in_the_module_is_told_as_it_is(tank: pathlib.Path) -> None:
    tank.write_text(MODULE.replace('EnvironmentSpec(\n        "Tank-v0"', 'EnvironmentSpec(\n        "Tink-v0"'))
    with pytest.raises(UserError, match=r"^tanks: Gymnasium does not know 'Tink-v0' \(nearest are Tank-v0"):
        find_spec("tanks:Tank-v0")


def test_a_default_that_is_no_setting(tank: pathlib.Path) -> None:
    tank.write_text(MODULE.replace('{"horizon": 4}', '{"horizn": 4}'))
    with pytest.raises(UserError, match=r"unknown key planner\.horizn in the defaults of tanks:Tank-v0"):
        resolve(options={"env": "tanks:Tank-v0"})


SHORT = "toy_environments:Short-v0"  # episodes of at most six steps


def test_where_the_reward_is_learned_its_noise_does_not_explain_it_away() -> None:
    assert resolve(options={"env": SHORT}).dynamics.settings["noise"] == "homoscedastic"
    assert resolve(["dynamics.noise=fixed"], options={"env": SHORT}).dynamics.settings["noise"] == "fixed"
    assert resolve(options={"env": "Pendulum-v1"}).dynamics.settings["noise"] == "heteroscedastic"
    assert resolve(["dynamics=linear"], options={"env": SHORT}).dynamics.name == "linear"


def test_the_usual_horizon_ends_with_the_episode_and_a_longer_one_is_refused(tmp_path: pathlib.Path) -> None:
    assert resolve(options={"env": SHORT}).planner.settings["horizon"] == 6
    assert resolve(options={"env": "MountainCar-v0"}).planner.settings["horizon"] > 6
    done = typer.testing.CliRunner().invoke(
        cli.app, ["run", "planner.horizon=7", "--env", SHORT, "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 2
    assert (
        "planner.horizon is 7, and an episode of Short-v0 has at most 6 steps: need planner.horizon <= 6" in done.output
    )
    assert not (tmp_path / "run").exists()


def test_a_function_of_the_wrong_shape_is_refused_before_a_folder_is_made(
    tank: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tank.write_text(MODULE.replace("return next_state[..., 0] > 3.0", "return next_state > 3.0"))
    folder = tmp_path / "run"
    done = typer.testing.CliRunner().invoke(cli.app, ["run", "--env", "tanks:Tank-v0", "--out", str(folder)])
    assert done.exit_code == 2
    assert "Tank-v0: the termination function should return a bool for each state" in done.output
    assert "got bool [2, 3, 4, 1]" in done.output
    assert not folder.exists()


def test_a_termination_that_is_always_true_stops_the_run_and_keeps_the_data(
    tank: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tank.write_text(MODULE.replace("return next_state[..., 0] > 3.0", "return (next_state[..., 0] - 3.0).abs() > 0"))
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"True for 8 of 8 transitions, of which 0 ended.*data are kept.*module"):
        start(folder, "tanks:Tank-v0", "num_episodes=2")
    tank.write_text(MODULE)
    _forget()
    assert resume(folder).next_episode == 2


def test_a_reward_that_is_not_the_environments_is_warned_of_once(tank: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tank.write_text(MODULE.replace("return -(next_state[..., 0] - 1.0).abs()", "return -next_state[..., 0]"))
    seen = Recorder()
    start(tmp_path / "run", "tanks:Tank-v0", observer=seen)
    (warning,) = seen.warnings
    assert "differs in 8 of 8 transitions" in warning
    evaluated = json.loads((tmp_path / "run" / "evaluation.json").read_text())["returns"]
    assert np.isfinite(evaluated).all()
    assert torch.isfinite(torch.tensor(evaluated)).all()
