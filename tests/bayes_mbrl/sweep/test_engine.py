"""Sweeps with real processes: killed workers, a killed driver, failures; nothing is lost and nothing is repeated."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import toy_tasks

from bayes_mbrl.errors import UserError
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.task import MAX_DEATHS, Outcome, Task, do, find_result

SUPPORT = str(pathlib.Path(toy_tasks.__file__).parent)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are spawned find the toy tasks too."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT + os.pathsep + os.environ.get("PYTHONPATH", ""))


def task(function: str, x: int, log: pathlib.Path, **more: float) -> Task:
    return Task(f"{function} of {x}", f"toy_tasks:{function}", {"x": x, "log": str(log), **more})


def starts(log: pathlib.Path) -> collections.Counter[int]:
    return collections.Counter(map(int, log.read_text().split())) if log.exists() else collections.Counter()


def test_a_task_is_done_once(tmp_path: pathlib.Path) -> None:
    one = task("square", 3, tmp_path / "log")
    assert find_result(one, tmp_path) is None
    for _ in range(2):
        assert do(one, tmp_path) == Outcome(one, result={"square": 9})
    assert find_result(one, tmp_path) == Outcome(one, result={"square": 9})
    assert starts(tmp_path / "log") == {3: 1}


def test_what_is_done_depends_on_function_and_arguments_alone(tmp_path: pathlib.Path) -> None:
    one = Task("a", "toy_tasks:square", {"x": 3, "log": "l"})
    assert one.key == Task("b", "toy_tasks:square", {"log": "l", "x": 3}).key
    for other in (
        Task("a", "toy_tasks:fail", {"x": 3, "log": "l"}),
        Task("a", "toy_tasks:square", {"x": 4, "log": "l"}),
    ):
        assert one.key != other.key
    assert (
        Task("Pendulum-v1, mean-field / seed 0", "m:f", {})
        .folder(tmp_path)
        .name.startswith("Pendulum-v1-mean-field-seed-0-")
    )
    with pytest.raises(ValueError, match="a and b are the same work"):
        do_all([one, Task("b", "toy_tasks:square", {"log": "l", "x": 3})], tmp_path)


def test_a_damaged_result_is_said(tmp_path: pathlib.Path) -> None:
    one = task("square", 3, tmp_path / "log")
    do(one, tmp_path)
    path = one.folder(tmp_path) / "result.json"
    path.write_text(path.read_text()[:5])
    with pytest.raises(UserError, match=r"result.json is damaged .*: delete it"):
        do_all([one], tmp_path)
    path.unlink()
    assert do(one, tmp_path).result == {"square": 9}


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"engine": "dask"}, "local, ray, got dask"), ({"num_workers": 0}, "at least 1 worker, got 0")],
)
def test_what_cannot_be_asked_for(tmp_path: pathlib.Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        do_all([], tmp_path, **settings)  # type: ignore[arg-type]


def test_a_failure_stops_no_other_and_is_tried_again(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    tasks = [task("fail", 1, log), task("square", 2, log), Task("wrong", "toy_tasks:nothing", {})]
    heard: list[Outcome] = []
    for _ in range(2):
        outcomes = do_all(tasks, tmp_path, num_workers=2, told=heard.append)
        assert [outcome.task for outcome in outcomes] == tasks
        assert outcomes[0].error == "ValueError: 1 cannot be squared"
        assert outcomes[1].result == {"square": 4}
        assert "nothing" in outcomes[2].error
    traceback = json.loads((tasks[0].folder(tmp_path) / "error.json").read_text())["traceback"]
    assert "toy_tasks.py" in traceback
    assert starts(log) == {1: 2, 2: 1}
    assert len(heard) == 6


def test_a_killed_worker_loses_nothing_and_repeats_no_finished_task(tmp_path: pathlib.Path) -> None:
    log, warnings = tmp_path / "log", list[str]()
    tasks = [task("square", 1, log), task("die_once", 2, log), task("square", 3, log), task("square", 4, log)]
    outcomes = do_all(tasks, tmp_path, num_workers=1, warn=warnings.append)
    assert [outcome.result for outcome in outcomes] == [
        {"square": 1}, {"square": 4, "deaths": 1}, {"square": 9}, {"square": 16}
    ]  # fmt: skip
    assert starts(log) == {1: 1, 2: 2, 3: 1, 4: 1}
    assert warnings == ["a process died: its task is taken up again"]


def test_a_task_that_kills_every_process_is_given_up(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    deadly = task("die_once", 2, log, times=100)
    outcomes = do_all([deadly, task("square", 3, log)], tmp_path, num_workers=1)
    assert outcomes[0].error == f"its process died {MAX_DEATHS} times, perhaps for want of memory"
    assert outcomes[1].result == {"square": 9}
    assert starts(log) == {2: MAX_DEATHS, 3: 1}


_DRIVER = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.task import Task
if __name__ == "__main__":
    root = pathlib.Path(sys.argv[2])
    tasks = [Task(str(x), "toy_tasks:square", {"x": x, "log": str(root / "log"), "seconds": 0.3}) for x in range(8)]
    do_all(tasks, root, num_workers=2, told=lambda outcome: print(outcome.task.name, flush=True))
"""


def test_a_killed_driver_takes_its_workers_along_and_another_goes_on(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER)
    command = [sys.executable, str(script), SUPPORT, str(tmp_path)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    finished = [driver.stdout.readline().strip() for _ in range(3)]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    time.sleep(0.5)
    before = starts(tmp_path / "log")
    time.sleep(0.7)
    assert starts(tmp_path / "log") == before, "a worker went on"
    subprocess.run(command, check=True, capture_output=True)
    after = starts(tmp_path / "log")
    assert all(after[int(name)] == 1 for name in finished)
    assert set(after) == set(range(8))
    assert sum(after.values()) <= 8 + 2, "at most what two workers were at is begun again"
