"""The main job, reduced: a pendulum learned with the default settings and one episode less."""

import json
import pathlib
import statistics

import pytest

from bayes_mbrl.config import resolve
from bayes_mbrl.experiment import run_experiment
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder


@pytest.mark.slow
def test_a_pendulum_is_swung_up_within_600_steps(tmp_path: pathlib.Path) -> None:
    config = resolve(["num_episodes=3", "num_evaluation_episodes=3"], options={"env": "Pendulum-v1"})
    folder = new_run_folder(tmp_path / "run", config)
    state = run_experiment(config, folder, observer=Silent())
    assert state.transitions is not None
    assert len(state.transitions) == 600
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["num_transitions"] == 600
    assert statistics.fmean(evaluation["returns"]) >= -300, evaluation["returns"]
