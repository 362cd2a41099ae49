"""docs/getting_started.md is true: its commands run, its sections are those of the report."""

import pathlib
import re
import shlex
from collections.abc import Sequence

import pytest
import typer.testing
from toy_runs import saved

from bayes_mbrl import cli
from bayes_mbrl.reporting import SECTIONS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "getting_started.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^bayes-mbrl (.*)$", PAGE, re.MULTILINE)]
CHEAP = ("posterior.num_steps=20", "planner.num_candidates=20", "planner.num_iterations=1", "planner.horizon=5")


def _do(arguments: Sequence[str]) -> str:
    done = typer.testing.CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def _commands(*beginning: str) -> list[list[str]]:
    return [command for command in COMMANDS if tuple(command[: len(beginning)]) == beginning]


@pytest.mark.slow
def test_the_commands_about_a_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = _commands("run", "--env", "ContinuousCartPole-v0")
    _do([*run, *CHEAP, "num_evaluation_episodes=2"])
    before = len(saved(tmp_path / "runs" / "cart").metrics)
    for command in ("evaluate", "resume", "report"):
        ((*arguments,),) = _commands(command)
        if command == "resume":
            arguments[arguments.index("4")] = str(before + 1)
        _do(arguments)
    assert len(saved(tmp_path / "runs" / "cart").metrics) == before + 1
    for name in re.findall(r"`runs/cart/([\w.]+)`", PAGE):
        assert (tmp_path / "runs" / "cart" / name).is_file()
    assert "bayes-mbrl diagnose runs/cart" in PAGE
    _do(["diagnose", "runs/cart", "--folds", "0"])


@pytest.mark.slow
def test_the_comparison(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (compare,) = _commands("compare")
    _do([*compare, *CHEAP, "num_episodes=2", "num_evaluation_episodes=1"])
    assert any((tmp_path / "runs" / "compared").glob("*.html"))


def test_what_can_be_chosen_is_shown() -> None:
    for command in [*_commands("list"), *(command for command in COMMANDS if "--print-config" in command)]:
        assert len(_do(command).splitlines()) > 20


def test_no_command_is_forgotten() -> None:
    tried = {("run", "--env"), ("evaluate",), ("resume",), ("report",), ("compare",), ("list",)}
    left = [c for c in COMMANDS if "--print-config" not in c and not any(tuple(c[: len(t)]) == t for t in tried)]
    assert left == []
    assert re.search(r"^run:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_sections_are_those_of_the_report() -> None:
    titles = [row.title for row in SECTIONS]
    shown = re.findall(r"^\| ([^|]+) \| [^|]+\? \|", PAGE, re.MULTILINE)
    assert shown == [title for title in titles if title in shown]
    assert set(titles) - set(shown) == {"What this is", "What the algorithm learned", "Configuration and versions"}
