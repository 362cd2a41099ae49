"""docs/system_identification.md is true: its system is learned by the command and by the program that it shows."""

import json
import pathlib
import re
import sys
from typing import Any

import numpy as np
import pytest
import typer.testing

from bayes_mbrl import cli
from bayes_mbrl.analysis.arviz_tree import load_tree
from bayes_mbrl.dynamics.physics import load_system

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "system_identification.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_system_of_ones_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system, program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in system.splitlines() if line.strip()]) <= 15
    (tmp_path / "my_system.py").write_text(system)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_system", raising=False)
    (command,) = re.findall(r"^bayes-mbrl (run .*my_system:CAR.*)$", PAGE, re.MULTILINE)
    done = typer.testing.CliRunner().invoke(cli.app, [*command.split(), "num_evaluation_episodes=0"])
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "parameters.png").stat().st_size > 10_000
    assert json.loads((folder / "evaluation.json").read_text())["num_transitions"] == 999
    learned = load_tree(folder / "posterior.nc")["posterior"]
    truth = load_system("my_system:CAR").truth
    for name, value in truth.items():
        draws = np.asarray(learned[name])
        assert abs(draws.mean() - value) < 0.05 * value
        assert draws.std() < 0.05 * value

    (folder / "transitions.npz").rename(tmp_path / "transitions.npz")
    names: dict[str, Any] = {}
    exec(program, names)
    assert all(name in capsys.readouterr().out for name in ("power",))
    parameters = names["dynamics"].parameters(names["posterior"].sample(100, generator=names["generator"]))
    assert {name: float(parameters[name].mean()) for name in truth} == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", PAGE))))
def test_linked_files_exist(path: str) -> None:
    assert (DOCS / path).exists()
