"""docs/environments.md is true: its modules are run by the commands and by the program that it shows."""

import pathlib
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import typer.testing
from toy_runs import saved

from bayes_mbrl import cli
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments import registration
from bayes_mbrl.environments.base import EnvironmentSpec
from bayes_mbrl.environments.known_functions import compare_with_data

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "environments.md").read_text(encoding="utf-8")
BOAT, PROGRAM, FERRY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def _modules(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The two modules of the page, in the working folder."""
    (tmp_path / "my_boat.py").write_text(BOAT)
    (tmp_path / "my_ferry.py").write_text(FERRY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for module, name in (("my_boat", "Boat-v0"), ("my_ferry", "Ferry-v0")):
        sys.modules.pop(module, None)
        gymnasium.registry.pop(name, None)
        registration._registered.pop(name, None)


def _commands(folder: str) -> list[list[str]]:
    """Those of the page about one run, without what they may leave to a person's patience."""
    lines = re.findall(rf"^bayes-mbrl (\w+ .*{folder}.*)$", PAGE, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def _do(*arguments: str) -> None:
    done = typer.testing.CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.usefixtures("_modules")
def test_the_boat_learns_to_stay_on_its_line(tmp_path: pathlib.Path) -> None:
    """By the functions of the page, which are those of its environment; a random rudder costs several times as much."""
    run, evaluate, *_ = _commands("runs/boat")
    cheap = "planner.num_candidates=50", "planner.num_iterations=2", "rollout.num_theta=5"
    _do(*run, "num_evaluation_episodes=3", "posterior.num_steps=400", *cheap)
    _do(*evaluate)
    folder = tmp_path / "runs" / "boat"
    state = saved(folder)
    assert len(state.metrics) == 4
    evaluation = Transitions.load(folder / "evaluation.npz")
    assert float(evaluation.reward.sum()) / 3 > 0.5 * state.metrics[0]["return"]
    assert float(evaluation.reward.sum()) / 3 > -25
    assert state.transitions is not None
    assert compare_with_data(registration.find_spec("Boat-v0"), state.transitions) == []

    fit, *_ = _commands("runs/again")
    _do(*fit, "posterior.num_steps=20")
    assert saved(tmp_path / "runs" / "again").num_fitted < len(saved(tmp_path / "runs" / "again").transitions or ())


@pytest.mark.usefixtures("_modules")
def test_the_program_and_the_ferry_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = (
        '"num_evaluation_episodes=0", "posterior.num_steps=20", "planner.num_candidates=20", "planner.num_iterations=1"'
    )
    names: dict[str, Any] = {}
    exec(PROGRAM.replace('"num_episodes=3"', f'"num_episodes=2", {tiny}'), names)
    assert len(names["state"].metrics) == 2
    assert capsys.readouterr().out.startswith("[-")
    ((*ferry,),) = _commands("runs/ferry")
    ferry[ferry.index("num_episodes=4")] = "num_episodes=2"
    _do(*ferry, *(word.strip('"') for word in tiny.split(", ")))
    state = saved(tmp_path / "runs" / "ferry")
    assert state.transitions is not None
    assert state.transitions.action.shape[1] == 3
    assert state.transitions.state.shape[1] == 2
    assert np.isfinite(state.metrics[-1]["return"])


def test_every_field_is_on_the_page() -> None:
    fields = [name for name in EnvironmentSpec.__dataclass_fields__ if name not in ("id", "summary")]
    assert [name for name in fields if f"`{name}" not in PAGE] == []
