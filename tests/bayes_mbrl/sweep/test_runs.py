"""A run as a task: the same numbers as the run itself, also when it was killed on the way."""

import pathlib

import pytest
from toy_runs import configure, start

from bayes_mbrl import artefacts, experiment
from bayes_mbrl.sweep.runs import run_task
from bayes_mbrl.sweep.task import do

DRIFT = "toy_environments:Drift-v0"


class Killed(BaseException):
    """Stands in for the end of the process."""


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the pictures and the ArviZ file."""
    monkeypatch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))


@pytest.mark.parametrize("saves", [0, 1, 2])
def test_a_run_that_was_killed_goes_on_and_gives_the_same_numbers(
    saves: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(tmp_path / "whole", DRIFT)
    task = run_task(configure(DRIFT), "drift")
    original, calls = experiment.save_checkpoint, 0

    def killed(*arguments: object) -> None:
        nonlocal calls
        if calls == saves:
            raise Killed
        calls += 1
        original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "save_checkpoint", killed)
        with pytest.raises(Killed):
            do(task, tmp_path)
    result = do(task, tmp_path).result
    assert result is not None
    assert whole.transitions is not None
    assert result["training_returns"] == [metrics["return"] for metrics in whole.metrics]
    assert result["num_steps"] == len(whole.transitions)
    assert len(result["returns"]) == 2
