"""Mistakes about algorithms as a user meets them: one line that says what was got, what is allowed and what to do."""

import pathlib

import pytest
import torch
from toy_runs import start
from typer.testing import CliRunner

from bayes_mbrl import artefacts
from bayes_mbrl.cli import app
from bayes_mbrl.registry import ALGORITHMS

DRIFT = "toy_environments:Drift-v0"
SAC = ("algorithm=sac", "algorithm.hidden=[4]", "algorithm.batch_size=4", "num_base_steps=1", "num_episodes=2")

MISTAKES = {
    "--algorithm sac --env CartPole-v1": (
        "soft actor-critic needs continuous actions, and those of CartPole-v1 are choices out of 2: take algorithm=mpc"
    ),
    "--algorithm v2.0 --env Acrobot-v1": "needs continuous actions, and those of Acrobot-v1 are choices out of 3",
    "--algorithm mve --env FrozenLake-v1": "FrozenLake-v1 only counts its 16: take algorithm=dyna",
    "--algorithm dyna --env Pendulum-v1": "it needs states that can be counted, and those of Pendulum-v1 are numbers",
    "--algorithm mpc --env FrozenLake-v1": "FrozenLake-v1 only counts its 16: take algorithm=dyna",
    "--algorithm mbpo algorithm.rollout_length=0": "algorithm.rollout_length should be greater than 0, got 0",
    "--algorithm mba algorithm.rollout_length=1.5": "algorithm.rollout_length should be an integer, got 1.5",
    "--algorithm mbpo algorithm.real_ratio=1.01": "algorithm.real_ratio should be less than or equal to 1, got 1.01",
    "--algorithm mbpo algorithm.real_ratio=-0.1": "algorithm.real_ratio should be greater than or equal to 0, got -0.1",
    "--algorithm mbpo algorithm.real_ratio=nan": "algorithm.real_ratio=nan: nan is not a finite number",
    "--algorithm mbpo algorithm.lengthening_from=2000": "need lengthening_from < lengthening_until, got 2000 and 1000",
    "--algorithm sac algorithm.rollout_length=2": "unknown key algorithm.rollout_length: it is a setting of",
    "--algorithm sac algorithm.discount=1.5": "algorithm.discount should be less than or equal to 1, got 1.5",
    "--algorithm sac algorithm.hidden=64": "algorithm.hidden should be a list such as [50, 50], got 64",
    "--algorithm mbpo --propagation moment-matching": "imagines with propagation ts-infinity or ts-1, got moment",
    "--algorithm v2.0 --propagation expectation": "algorithm policy-backprop imagines with propagation ts-infinity or",
    "--algorithm v2.0 --propagation distribution-sampling algorithm.num_starts=1": (
        "propagation distribution-sampling needs algorithm.num_starts >= 2, got 1"
    ),
    "--algorithm v2.0 --propagation moment-matching algorithm.num_starts=1 rollout.num_theta=1": (
        "moment-matching needs rollout.num_theta times algorithm.num_starts >= 2, got 1 times 1"
    ),
    "--algorithm mppo": "unknown algorithm 'mppo'; did you mean mbpo? known: ",
    "--algorithm v9.9": "unknown algorithm 'v9.9'; known: ",
    "--algorithm 2.0": "unknown algorithm '2.0'; did you mean v2.0? known: ",
    "num_base_steps=-1": "num_base_steps should be greater than or equal to 0, got -1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder in which nothing may be left."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def _line(*arguments: object) -> str:
    """The error, one line but for warnings, of a command that is refused, which has left nothing behind."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 2, result.output
    (line,) = (line for line in result.stderr.splitlines() if not line.startswith("warning: "))
    assert line.startswith("error: ")
    assert list(pathlib.Path().iterdir()) == []
    return line.removeprefix("error: ")


@pytest.mark.parametrize(("command", "message"), MISTAKES.items())
def test_refused_before_a_folder_is_made(command: str, message: str) -> None:
    assert message in _line("run", *command.split())


def test_every_other_name_is_offered() -> None:
    known = _line("run", "--algorithm", "v9.9").partition("known: ")[2].split(", ")
    there = [alias for alias, name in ALGORITHMS.aliases.items() if name in ALGORITHMS.rows]
    assert known == [*ALGORITHMS.rows, *there]
    listed = CliRunner().invoke(app, ["list", "algorithms"]).stdout
    assert all(f"also: {alias}" in listed or f", {alias}" in listed for alias in there)


def test_a_device_for_planning_without_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    from bayes_mbrl import build

    monkeypatch.setattr(build, "find_device", lambda _: torch.device("meta"))  # as if there were one
    assert _line("run", "--algorithm", "sac", "--device", "cuda") == (
        "device cuda is for planning, and algorithm sac does not: take cpu"
    )


@pytest.fixture
def model_free(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder of a run of SAC."""
    monkeypatch.setattr(artefacts, "save_figure", lambda _, path: path.write_bytes(b""))
    start(tmp_path / "free", DRIFT, *SAC, "num_evaluation_episodes=1")
    return tmp_path / "free"


def test_a_run_without_a_posterior_is_not_diagnosed(model_free: pathlib.Path) -> None:
    message = _line("diagnose", model_free)
    assert message.startswith("algorithm sac fits no posterior, so there is no inference to diagnose")
    assert not (model_free / "diagnosis").exists()


@pytest.mark.parametrize("algorithm", ["sac", "mbpo", "mve"])
def test_recorded_data_bring_no_steps_of_its_own(model_free: pathlib.Path, algorithm: str) -> None:
    message = _line("fit", model_free, "--algorithm", algorithm)
    assert message.startswith(f"algorithm {algorithm} learns from steps of its own, and recorded data bring none: take")


def test_evaluating_elsewhere(model_free: pathlib.Path) -> None:
    assert "needs continuous actions" in _line("evaluate", model_free, "--env", "CartPole-v1")
    assert "learned with 2 observed numbers and 1 actions" in _line("evaluate", model_free, "--env", "Pendulum-v1")


@pytest.mark.parametrize("change", [("[4]", "[5]"), ("[4]", "[4, 4]")])
def test_other_widths_than_those_learned(model_free: pathlib.Path, change: tuple[str, str]) -> None:
    config = model_free / "config.yaml"
    text = config.read_text()
    assert text.index("algorithm:") < text.index(f"hidden: {change[0]}") < text.index("posterior:")
    config.write_text(text.replace(*(f"hidden: {widths}" for widths in change), 1))
    for command in (("resume", model_free, "--episodes", 3), ("evaluate", model_free)):
        message = _line(*command)
        assert message.startswith(
            "what algorithm sac had learned is not of its settings in config.yaml: undo the change"
        )
        assert len(message) < 400
