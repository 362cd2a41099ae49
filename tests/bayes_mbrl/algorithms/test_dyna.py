"""Dyna in the main job: what it serves and refuses, how it acts, and that every step is in the model once."""

import dataclasses
import inspect
import json
import pathlib
import re
from typing import Any

import pytest
import torch
import typer.testing
from torch import Tensor
from toy_runs import saved, start

from bayes_mbrl import artefacts, cli
from bayes_mbrl.algorithms.dyna import Dyna, TabularAgent, TabularLearner
from bayes_mbrl.algorithms.learner import Task
from bayes_mbrl.algorithms.tabular import DynaLearner
from bayes_mbrl.config import resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.experiment import evaluate_run
from bayes_mbrl.progress import Silent

COUNTED = "toy_environments:Counted-v0"


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the picture."""
    monkeypatch.setattr(artefacts, "curve_figure", lambda *_, **__: None)
    monkeypatch.setattr(artefacts, "save_figure", lambda _, path: path.write_bytes(b""))


def test_settings_are_those_of_the_learner_in_tables() -> None:
    signature = inspect.signature(DynaLearner.__init__).parameters
    keywords = {name: p.default for name, p in signature.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords == dataclasses.asdict(Dyna())
    task = Task("x", 1, torch.zeros(3), torch.ones(3), (3,), 7)
    changed = {
        "planning_steps": 2, "step_size": 0.3, "discount": 0.4, "exploration": 0.5, "target": "sample", "memory": 0.6,
        "bonus": 0.7,
    }  # fmt: skip
    assert changed.keys() == keywords.keys()
    learner: Any = Dyna(**changed).learner(task, generator=torch.Generator())  # type: ignore[arg-type]
    assert learner.dyna.q.shape == (7, 3)
    assert {**vars(learner.dyna), "memory": learner.dyna.model.memory}.items() >= changed.items()


def _run(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(cli.app, ["run", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy_environments:Drift-v0", "dyna"), "dyna: it needs states that can be counted, .* Drift-v0 are numbers"),
        (("Pendulum-v1", "dyna"), "needs states that can be counted, .* take another algorithm"),
        (("toy_environments:CountedManyChoices-v0", "dyna"), "are several choices, out of 3 and out of 2: register it"),
        (("toy_environments:CountedForces-v0", "dyna"), "actions that can be counted, .* are numbers: register it"),
        ((COUNTED, "sac"), "needs states that are numbers, and Counted-v0 only counts its 5: take algorithm=dyna"),
        ((COUNTED, "mpc"), "needs states that are numbers, and Counted-v0 only counts its 5: take algorithm=dyna"),
        (("FrozenLake-v1", "mbpo"), "needs states that are numbers, and FrozenLake-v1 only counts its 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_before_a_folder_is_made(
    arguments: tuple[str, str], message: str, tmp_path: pathlib.Path
) -> None:
    env, algorithm = arguments
    result = _run("--env", env, "--algorithm", algorithm, "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert re.search(f"^error: .*{message}", result.stderr)
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("algorithm.step_size=0", "algorithm.step_size"),
        ("algorithm.memory=1.5", "algorithm.memory"),
        ("algorithm.target=best", "expected"),
        ("algorithm.planning_steps=-1", "algorithm.planning_steps"),
        ("algorithm.bonus=-0.1", "algorithm.bonus"),
    ],
)
def test_settings_out_of_range_are_one_line(setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(["env=FrozenLake-v1", setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _steps(*rows: tuple[int, int, float, int]) -> Transitions:
    """(s, a out of 3, r, s')"""
    states, actions, rewards, following = zip(*rows, strict=True)

    def column(numbers: Any) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float32)[:, None]

    nothing = torch.zeros(len(rows)).long()
    return Transitions(
        column(states), torch.eye(3)[list(actions)], torch.tensor(rewards), column(following), nothing.bool(), nothing
    )


def test_every_step_is_in_the_model_once() -> None:
    """Those of the base policy come by `remember`, after which all else comes by `after_step`."""
    data = _steps((0, 2, 1.0, 3), (3, 1, 2.0, 0), (0, 2, 5.0, 3), (0, 2, 9.0, 1))
    generator = torch.Generator().manual_seed(0)
    first = TabularLearner(DynaLearner(4, 3, planning_steps=3))
    first.remember(data[:2])
    assert not first.dyna.q.any()  # the model alone knows of them
    first.after_step(data[2:3], None, generator=generator)
    again = TabularLearner(DynaLearner(4, 3, planning_steps=3))
    again.load(first.tensors())
    again.remember(data[:3])  # nothing new
    again.after_step(data[3:4], None, generator=generator)
    outcomes = again.dyna.model.outcomes
    assert {pair: {s: (o.count, o.total_reward) for s, o in seen.items()} for pair, seen in outcomes.items()} == {
        (0, 2): {3: (2.0, 6.0), 1: (1.0, 9.0)},
        (3, 1): {0: (1.0, 2.0)},
    }
    assert again.report() == {"num_visited_pairs": 2}


def test_it_explores_as_often_as_it_says_and_is_greedy_in_evaluation() -> None:
    dyna = DynaLearner(3, 4, exploration=0.4)
    dyna.q[1] = [0.0, 5.0, 1.0, 5.0]
    dyna.values[1] = 5.0
    generator = torch.Generator().manual_seed(0)
    state, num = torch.tensor([1.0]), 4000
    greedy, exploring = (
        torch.stack([TabularAgent(dyna, explore).act(state, None, generator=generator)[0] for _ in range(num)]).mean(0)
        for explore in (False, True)
    )
    tolerance = 5 * (0.25 / num) ** 0.5
    assert greedy.tolist() == pytest.approx([0, 0.5, 0, 0.5], abs=tolerance)
    assert greedy[[0, 2]].tolist() == [0, 0]
    assert exploring.tolist() == pytest.approx([0.1, 0.4, 0.1, 0.4], abs=tolerance)


def test_a_run_learns_the_way(tmp_path: pathlib.Path) -> None:
    """Counted-v0: to go on is the best in all cells, though its number in the state and in the action is shifted."""
    start(tmp_path / "run", COUNTED, "algorithm=dyna", "num_episodes=15", "num_base_steps=0", "algorithm.step_size=0.5")
    state = saved(tmp_path / "run")
    assert {row["phase"] for row in state.metrics} == {"dyna"}
    assert state.learned["q"].shape == (5, 3)
    assert state.learned["q"][:4].argmax(1).tolist() == [1, 1, 1, 1]
    assert not state.learned["q"][4].any()  # nothing follows a terminal state
    returns = json.loads((tmp_path / "run" / "evaluation.json").read_text())["returns"]
    assert returns == evaluate_run(tmp_path / "run", num_episodes=None, seed=None, observer=Silent())


def test_a_table_is_not_used_in_an_environment_of_another_size(tmp_path: pathlib.Path) -> None:
    settings = ("algorithm=dyna", "num_base_steps=0", "num_episodes=1", "num_evaluation_episodes=1")
    start(tmp_path / "run", "FrozenLake-v1", *settings)
    with pytest.raises(UserError, match=r"need Q of 64 states and 4 actions, got \(16, 4\)"):
        evaluate_run(tmp_path / "run", num_episodes=1, seed=None, observer=Silent(), env="FrozenLake8x8-v1")


@pytest.mark.slow
def test_the_textbooks_maze_is_solved_by_the_command(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    result = _run("--env", "DynaMaze-v0", "num_episodes=25", "num_evaluation_episodes=2", "--out", str(folder))
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "evaluation.json").read_text())["returns"] == [1.0, 1.0]
    assert len(Transitions.load(folder / "evaluation.npz")) <= 2 * 18  # 14 is the shortest way
