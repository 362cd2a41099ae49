"""The command line with a fake experiment: what arrives there, what is printed, and the exit codes."""

import os
import pathlib
import signal
import subprocess
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import typer.testing

import bayes_mbrl
from bayes_mbrl import cli, config
from bayes_mbrl.checkpoint import RunState, save_checkpoint
from bayes_mbrl.cli import looking
from bayes_mbrl.config import Component, Config
from bayes_mbrl.errors import UserError
from bayes_mbrl.progress import PlainLines
from bayes_mbrl.registry import SECTIONS

COMMAND = pathlib.Path(sys.executable).with_name("bayes-mbrl")


class _Experiment(types.ModuleType):
    """Records its calls, and raises `error` when there is one."""

    def __init__(self) -> None:
        super().__init__("bayes_mbrl.experiment")
        self.calls: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None

    def run_experiment(self, config: Config, folder: pathlib.Path, *, observer: object) -> None:
        assert isinstance(observer, PlainLines)
        self._called("run", config, folder)

    def resume_experiment(self, folder: pathlib.Path, *, num_episodes: int | None, observer: object) -> None:
        self._called("resume", folder, num_episodes)

    def evaluate_run(
        self, folder: pathlib.Path, *, num_episodes: int | None, seed: int | None, observer: object, env: str | None
    ) -> list[float]:
        self._called("evaluate", folder, num_episodes, seed, env)
        return [-100.0, -200.0, -180.0]

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> _Experiment:
    """In a folder of its own; every configuration resolves to one that needs no part of the program."""
    fake = _Experiment()
    monkeypatch.setitem(sys.modules, "bayes_mbrl.experiment", fake)
    monkeypatch.setattr(bayes_mbrl, "experiment", fake, raising=False)
    monkeypatch.chdir(tmp_path)

    def resolve(overrides: Sequence[str], *, options: dict[str, Any], file: pathlib.Path | None) -> Config:
        fake.calls.append(("resolve", list(overrides), {k: v for k, v in options.items() if v is not None}, file))
        return Config.model_validate({name: Component(name, table.default, {}) for name, table in SECTIONS.items()})

    monkeypatch.setattr(config, "resolve", resolve)
    return fake


def _run(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(cli.app, arguments)


def test_options_and_overrides_arrive(experiment: _Experiment, tmp_path: pathlib.Path) -> None:
    result = _run(
        "run", "planner.horizon=30", "--posterior", "ensemble", "rollout.num_theta=3", "--seed", "7",
        "--config", "my.yaml", "--env", "E", "--algorithm", "A", "--planner", "P", "--objective", "O",
        "--propagation", "G", "--out", "here",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    options = {
        "env": "E",
        "algorithm": "A",
        "posterior": "ensemble",
        "planner": "P",
        "objective": "O",
        "propagation": "G",
    }
    assert experiment.calls[0] == (
        "resolve", ["planner.horizon=30", "rollout.num_theta=3"], {**options, "seed": 7}, pathlib.Path("my.yaml"),
    )  # fmt: skip
    assert experiment.calls[1][0::2] == ("run", pathlib.Path("here"))
    assert (tmp_path / "here" / "config.yaml").exists()
    assert result.output.splitlines()[-1].endswith("bayes-mbrl report here")


def test_without_arguments_a_new_folder_is_made_below_runs(experiment: _Experiment) -> None:
    assert _run("run").exit_code == 0
    assert experiment.calls[1][2].parent == pathlib.Path("runs")


def test_print_config_prints_and_writes_nothing(experiment: _Experiment, tmp_path: pathlib.Path) -> None:
    result = _run("run", "--print-config")
    assert result.exit_code == 0
    assert result.stdout.startswith("env: Pendulum-v1\n")
    assert [call[0] for call in experiment.calls] == ["resolve"]
    assert list(tmp_path.iterdir()) == []


def test_resume_and_evaluate(experiment: _Experiment) -> None:
    assert _run("resume", "runs/x").exit_code == 0
    assert _run("resume", "runs/x", "--episodes", "9").exit_code == 0
    assert _run("evaluate", "runs/x").exit_code == 0
    result = _run("evaluate", "runs/x", "--episodes", "3", "--seed", "0", "--env", "E")
    folder = pathlib.Path("runs/x")
    assert experiment.calls == [
        ("resume", folder, None), ("resume", folder, 9), ("evaluate", folder, None, None, None),
        ("evaluate", folder, 3, 0, "E"),
    ]  # fmt: skip
    assert result.stdout == "evaluation return: -160.0 ± 52.9 (mean ± standard deviation of 3 episodes)\n"


@pytest.mark.parametrize("command", [["run"], ["resume", "x"], ["evaluate", "x"]])
def test_a_mistake_is_a_line_each_and_exit_code_2(experiment: _Experiment, command: list[str]) -> None:
    experiment.error = UserError("first mistake\nsecond mistake")
    result = _run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: first mistake\nerror: second mistake\n"
    result = _run(*command, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: first mistake\nerror: second mistake\n")


def test_a_fault_of_the_program_is_one_line_and_exit_code_1(experiment: _Experiment) -> None:
    experiment.error = RuntimeError("shapes differ:\n [3] and [4]")
    result = _run("run")
    assert result.exit_code == 1
    assert result.stderr == "error: RuntimeError: shapes differ: [3] and [4]; run with --debug for the traceback\n"
    result = _run("run", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "raise self.error" in result.stderr


def test_ctrl_c_says_how_to_go_on(experiment: _Experiment, tmp_path: pathlib.Path) -> None:
    experiment.error = KeyboardInterrupt()
    result = _run("run", "--out", "a run")
    assert result.exit_code == 130
    assert result.stderr == "stopped before the first checkpoint; start again with: bayes-mbrl resume 'a run'\n"
    save_checkpoint(tmp_path / "a run", RunState(None, None, [], 0))
    result = _run("resume", "a run")
    assert result.exit_code == 130
    assert result.stderr == "stopped; what is done is saved in a run; go on with: bayes-mbrl resume 'a run'\n"
    assert "Traceback" not in result.stderr


def test_an_existing_run_is_not_overwritten(experiment: _Experiment) -> None:
    assert _run("run", "--out", "x").exit_code == 0
    result = _run("run", "--out", "x")
    assert result.exit_code == 2
    assert "bayes-mbrl resume x" in result.stderr
    assert [call[0] for call in experiment.calls] == ["resolve", "run", "resolve"]


@pytest.mark.parametrize(
    "arguments",
    [["run", "--sed", "3"], ["run", "--seed", "x"], ["resume"], ["resume", "x", "--episodes", "0"], ["walk"]],
)
def test_usage_errors_have_exit_code_2(arguments: list[str]) -> None:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_list_shows_every_choice_with_a_line() -> None:
    result = _run("list")
    assert result.exit_code == 0
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert all(len(row) == 3 and len(row[2]) >= 20 for row in rows)
    listed = {(kind, name) for kind, name, _ in rows}
    assert ("environments", "Pendulum-v1") in listed
    for kind, section in looking.KINDS.items():
        assert {name for k, name in listed if k == kind} == set(SECTIONS[section].rows)
    assert set(looking.KINDS.values()) == set(SECTIONS)
    assert {line.split("\t")[0] for line in _run("list", "planners").stdout.splitlines()} == {"planners"}
    wrong = _run("list", "planer")
    assert wrong.exit_code == 2
    assert "did you mean planners?" in wrong.stderr


def _subprocess(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_installed_command(tmp_path: pathlib.Path) -> None:
    assert _subprocess("--version", cwd=tmp_path).stdout == f"bayes-mbrl {bayes_mbrl.__version__}\n"
    shown = _subprocess("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in ("run", "resume", "evaluate", "list"):
        assert f"  {command} " in shown.stdout


def test_mistakes_on_the_real_command_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run.yaml").write_text("seed: 00143\n")
    done = _subprocess("run", "--config", "run.yaml", "planner.horizn=3", "--env", "Pendulu-v1", cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    assert lines[0].startswith("error: run.yaml, line 1: 00143 has leading zeros")
    assert "error: unknown key planner.horizn; did you mean planner.horizon?" in lines
    assert any("unknown environment 'Pendulu-v1'" in line for line in lines)
    assert done.stdout == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]


def test_help_imports_no_framework() -> None:
    code = """
import sys
from bayes_mbrl import cli
for arguments in (["--help"], ["run", "--help"], ["list", "planners"]):
    try:
        cli.app(arguments)
    except SystemExit as end:
        assert not end.code
print(sorted({"torch", "numpy", "pyro", "jax", "gymnasium"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


_WAITING = """
import pathlib, sys, time, types
import bayes_mbrl
from bayes_mbrl import cli

def resume_experiment(folder, *, num_episodes, observer):
    print("ready", flush=True)
    time.sleep(60)

fake = types.ModuleType("bayes_mbrl.experiment")
fake.resume_experiment = resume_experiment
sys.modules["bayes_mbrl.experiment"] = bayes_mbrl.experiment = fake
cli.main()
"""


def test_a_real_ctrl_c(tmp_path: pathlib.Path) -> None:
    save_checkpoint(tmp_path, RunState(None, None, [], 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING, "resume", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == f"stopped; what is done is saved in {tmp_path}; go on with: bayes-mbrl resume {tmp_path}\n"
