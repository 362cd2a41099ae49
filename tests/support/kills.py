"""Kills runs with SIGKILL and resumes them, in forks of one process, so that a kill costs no imports.

    python kills.py JSON    a list of {"folder", "env", "settings", "points", "num_times"}

Each run is done whole in folder/whole, and killed at each of the points, and `num_times` times at a random time, in
folder/<point>. Prints the folder of each run that was killed and resumed.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import toy_runs

from bayes_mbrl import artefacts, checkpoint, experiment
from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.algorithms.tabular import DynaLearner
from bayes_mbrl.inference import optimise

POINTS: dict[str, tuple[Any, str, int]] = {
    "acting": (experiment.Environment, "step", 8),
    "fitting": (optimise.torch, "_foreach_copy_", 9),
    "learning": (GradientLearner, "descend", 5),
    "learning_tables": (DynaLearner, "learn", 4),
    "fitted": (experiment, "save_checkpoint", 2),
    "checkpoint_half_written": (checkpoint, "save_posterior", 2),
    "checkpoint_without_what_was_learned": (checkpoint, "save_tensors", 2),
    "checkpoint_without_pointer": (checkpoint, "write_text", 4),
    "first_checkpoint": (checkpoint, "write_text", 2),
    "before_metrics": (experiment.MetricsLog, "write", 2),
    "evaluating": (experiment, "evaluate", 1),
    "artefacts": (artefacts, "save_tree", 1),
}
"""Killed instead of the call of this number."""


def killed_and_resumed(*jobs: dict[str, Any]) -> list[pathlib.Path]:
    """The folders that `main` printed. Raises AssertionError with what it wrote where it failed."""
    command = [sys.executable, __file__, json.dumps(jobs, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [pathlib.Path(line) for line in done.stdout.splitlines()]


def main(jobs: Sequence[dict[str, Any]]) -> None:
    """Do them all."""
    torch.set_num_threads(1)
    for name in ("run_figure", "curve_figure"):  # most of the time of a tiny run, and nothing of it is compared
        setattr(artefacts, name, lambda *_, **__: None)
    artefacts.save_figure = lambda _, path: path.touch()
    if not any("artefacts" in job["points"] for job in jobs):
        artefacts.dynamics_tree = artefacts.save_tree = lambda *_, **__: None
    for job in jobs:
        _kill_and_resume(pathlib.Path(job["folder"]), job)


def _kill_and_resume(root: pathlib.Path, job: dict[str, Any]) -> None:
    def run(folder: pathlib.Path, point: str | None) -> None:
        if point is not None:
            _kill_at_call(*POINTS[point])
        toy_runs.start(folder, job["env"], *job["settings"])

    started = time.monotonic()
    run(root / "whole", None)  # here, so that the forks find imported what is imported late
    whole = time.monotonic() - started
    seeded = random.Random(len(job["settings"]))
    times = {f"time_{n}": whole * seeded.random() for n in range(job["num_times"])}
    for name in [*job["points"], *times]:
        folder = root / name
        pid = _forked(lambda folder=folder, name=name: run(folder, None if name in times else name))
        if name in times:
            time.sleep(times[name])
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or name in times, name
        if not (folder / "config.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
            again = lambda folder=folder: run(folder, None)  # noqa: E731
        else:
            again = lambda folder=folder: toy_runs.resume(folder)  # noqa: E731
        assert os.waitpid(_forked(again), 0)[1] == 0, name
        print(folder, flush=True)


def _kill_at_call(module: Any, name: str, number: int) -> None:
    original, calls = getattr(module, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, counted)


def _forked(action: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        action()
    except BaseException as error:
        print(type(error), error, flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
