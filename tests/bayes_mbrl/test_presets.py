"""Presets: each can be found, is valid, says whether it was run; the small ones run at a budget of seconds."""

import math
import os
import pathlib
import re

import pytest
import typer.testing
from toy_runs import Recorder

from bayes_mbrl import cli, experiment
from bayes_mbrl.algorithms.mbpo import MBPO
from bayes_mbrl.build import Builder
from bayes_mbrl.config import resolve
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.presets import find_file, presets, summary
from bayes_mbrl.run_folder import new_run_folder

NAMES = list(presets())
_HASTE = (
    "num_episodes=2",
    "num_base_steps=1",
    "num_evaluation_episodes=1",
    "posterior.num_steps=5",
    "dynamics.hidden=[4]",
)
SMALL = {
    "pets-small": ("planner.num_candidates=12", "planner.num_iterations=1", "planner.horizon=2"),
    "mbpo-small": ("algorithm.updates_per_step=1", "algorithm.rollout_every=100"),
    "deep-pilco-small": ("algorithm.num_gradient_steps=2", "algorithm.horizon=3"),
}
"""Name → what makes it quick."""


def _run(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(cli.app, arguments)


def test_those_that_are_asked_for_are_there() -> None:
    assert set(NAMES) >= {"pets-paper", "pets-small", "mbpo-paper", "mbpo-small"}
    assert {name for name in NAMES if name.endswith("-small")} <= SMALL.keys()


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_can_be_built_and_says_whether_it_was_run(name: str) -> None:
    path = presets()[name]
    config = resolve(file=pathlib.Path(name))
    assert config == resolve(file=path)
    with Environment(config.env) as environment:
        Builder(config, environment)
    assert 20 <= len(summary(path)) <= 130
    comments = " ".join(line[1:] for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"not run\b|\brun: |(measured in|see) docs/", comments, re.IGNORECASE)
    for page in re.findall(r"docs/[\w/]+\.md", comments):
        assert (path.parents[2] / page).exists()


def test_mbpo_imagines_as_the_authors_code_does_in_hopper() -> None:
    """jannerm/mbpo, examples/config/hopper/0.py, and `_set_rollout_length` at the start of an epoch of 1000 steps."""
    settings = resolve(file=pathlib.Path("mbpo-paper")).algorithm.build()
    assert isinstance(settings, MBPO)
    assert (settings.target_entropy, settings.real_ratio, settings.updates_per_step) == (-1, 0.05, 20)
    assert (settings.refit_every, settings.rollout_every, settings.num_rollouts) == (250, 250, 100_000)
    for epoch in range(200):
        share = min(max(epoch - 20, 0) / (150 - 20), 1)
        assert settings.length(1000 * epoch) == int(share * (15 - 1) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name in SMALL])
def test_the_small_ones_run(name: str, tmp_path: pathlib.Path) -> None:
    config = resolve([*_HASTE, *SMALL[name]], file=pathlib.Path(name))
    seen = Recorder()
    state = experiment.run_experiment(config, new_run_folder(tmp_path / "run", config), observer=seen)
    assert [row["episode"] for row in state.metrics] == [0, 1]
    assert math.isfinite(state.metrics[-1]["return"])
    assert seen.warnings == []


def test_a_file_wins_over_the_preset_of_its_name_and_a_folder_does_not(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = pathlib.Path("pets-small")
    assert find_file(name) == presets()["pets-small"]
    os.mkdir("pets-small")
    assert find_file(name) == presets()["pets-small"]
    os.rmdir("pets-small")
    name.write_text("seed: 12\n")
    assert find_file(name) == name
    assert resolve(file=name).seed == 12


def test_on_the_command_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = _run("run", "--config", "pets-small", "--seed", "7", "planner.horizon=9", "--print-config")
    assert shown.exit_code == 0, shown.output
    assert "seed: 7\n" in shown.stdout
    assert "  horizon: 9\n" in shown.stdout
    assert "  name: ensemble\n" in shown.stdout
    wrong = _run("run", "--config", "pets-smal", "--print-config")
    assert wrong.exit_code == 2
    assert re.search(r"error: pets-smal does not exist, .* presets are .*pets-small", wrong.stderr)
    listed = _run("list", "presets").stdout.splitlines()
    assert [line.split("\t")[:2] for line in listed] == [["presets", name] for name in NAMES]


def test_a_folder_is_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        resolve(file=tmp_path)
