"""Runs of the main job as tasks of a sweep."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import torch

from bayes_mbrl.checkpoint import has_checkpoint
from bayes_mbrl.config import Config, from_mapping
from bayes_mbrl.experiment import resume_experiment, run_experiment
from bayes_mbrl.progress import Silent
from bayes_mbrl.run_folder import new_run_folder
from bayes_mbrl.sweep.task import Task

RUN = "bayes_mbrl.sweep.runs:run"


def run_task(config: Config, name: str) -> Task:
    """The run of this configuration as a task."""
    return Task(name, RUN, {"config": config.to_mapping()})


def run(folder: pathlib.Path, *, config: Mapping[str, Any]) -> dict[str, Any]:
    """Do the run in `folder/run`, or go on with it there; what it reached, in the environment's units.

    returns: of the evaluation episodes, by the policy that the run ends with; training_returns; base_returns: those of
    them that are the base policy's; num_steps.
    """
    torch.set_num_threads(1)  # sums of another number of threads differ in their last digits
    where = folder / "run"
    if has_checkpoint(where):
        state = resume_experiment(where, num_episodes=None, observer=Silent())
    else:
        shutil.rmtree(where, ignore_errors=True)  # killed before its first checkpoint, it begins anew
        settled = from_mapping(config)
        state = run_experiment(settled, new_run_folder(where, settled), observer=Silent())
    evaluation = json.loads((where / "evaluation.json").read_text(encoding="utf-8"))
    return {
        "returns": evaluation["returns"],
        "training_returns": [metrics["return"] for metrics in state.metrics],
        "base_returns": [metrics["return"] for metrics in state.metrics if metrics["phase"] == "base policy"],
        "num_steps": evaluation["num_transitions"],
    }
