"""Sweeps with real processes: killed workers, a killed driver, failures; nothing is lost and nothing is repeated."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import toy_sweep
import toy_tasks
from toy_tasks import num_starts, toy_task

from bayes_mbrl.errors import UserError
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.task import MAX_DEATHS, Outcome, Task, do, find_result
from bayes_mbrl.sweep.worker import as_line

SUPPORT = str(pathlib.Path(toy_tasks.__file__).parent)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are spawned find the toy tasks too."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT + os.pathsep + os.environ.get("PYTHONPATH", ""))


def test_a_task_is_done_once(tmp_path: pathlib.Path) -> None:
    one = toy_task("square", 3, tmp_path / "log")
    assert find_result(one, tmp_path) is None
    for _ in range(2):
        assert do(one, tmp_path) == Outcome(one, result={"square": 9})
    assert find_result(one, tmp_path) == Outcome(one, result={"square": 9})
    assert num_starts(tmp_path / "log") == {3: 1}


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
    one = toy_task("square", 3, tmp_path / "log")
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
    tasks = [toy_task("fail", 1, log), toy_task("square", 2, log), Task("wrong", "toy_tasks:nothing", {})]
    heard: list[Outcome] = []
    for _ in range(2):
        outcomes = do_all(tasks, tmp_path, num_workers=2, told=heard.append)
        assert [outcome.task for outcome in outcomes] == tasks
        assert outcomes[0].error == "ValueError: 1 cannot be squared"
        assert outcomes[1].result == {"square": 4}
        assert "nothing" in outcomes[2].error
    traceback = json.loads((tasks[0].folder(tmp_path) / "error.json").read_text())["traceback"]
    assert "toy_tasks.py" in traceback
    assert num_starts(log) == {1: 2, 2: 1}
    assert len(heard) == 6


def test_a_killed_worker_loses_nothing_and_repeats_no_finished_task(tmp_path: pathlib.Path) -> None:
    log, warnings = tmp_path / "log", list[str]()
    tasks = [
        toy_task("square", 1, log),
        toy_task("die_once", 2, log),
        toy_task("square", 3, log),
        toy_task("square", 4, log),
    ]
    outcomes = do_all(tasks, tmp_path, num_workers=1, warn=warnings.append)
    assert [outcome.result for outcome in outcomes] == [
        {"square": 1}, {"square": 4, "deaths": 1}, {"square": 9}, {"square": 16}
    ]  # fmt: skip
    assert num_starts(log) == {1: 1, 2: 2, 3: 1, 4: 1}
    assert warnings == ["die_once of 2: its process died, and it is taken up again"]


def test_a_task_that_kills_every_process_is_given_up(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    deadly = toy_task("die_once", 2, log, times=100)
    outcomes = do_all([deadly, toy_task("square", 3, log)], tmp_path, num_workers=1)
    assert outcomes[0].error == f"its process died {MAX_DEATHS} times, perhaps for want of memory"
    assert outcomes[1].result == {"square": 9}
    assert num_starts(log) == {2: MAX_DEATHS, 3: 1}


def test_a_task_that_writes_and_reads_as_it_likes(tmp_path: pathlib.Path) -> None:
    chatty = toy_task("chat", 2, tmp_path / "log")
    outcomes = do_all([chatty, toy_task("square", 3, tmp_path / "log")], tmp_path)
    assert [outcome.result for outcome in outcomes] == [{"square": 4, "read": ""}, {"square": 9}]
    text = (chatty.folder(tmp_path) / "output.txt").read_text()
    assert sorted(text.split()) == ["child", "stderr", "stdout"]


def test_one_that_kills_its_process_takes_no_neighbour_along(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    tasks = [toy_task("die_once", 1, log, times=100), toy_task("square", 2, log, seconds=2.5)]
    outcomes = do_all(tasks, tmp_path, num_workers=2)
    assert outcomes[1].result == {"square": 4}
    assert num_starts(log) == {1: MAX_DEATHS, 2: 1}


def test_processes_that_cannot_begin_end_the_sweep(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (outcome,) = do_all([toy_task("square", 1, tmp_path / "log")], tmp_path)
    assert outcome.error == f"{MAX_DEATHS + 1} processes died that were to do it"


def test_a_folder_that_cannot_be_written_is_an_error_of_the_task(tmp_path: pathlib.Path) -> None:
    one, other = toy_task("square", 1, tmp_path / "log"), toy_task("square", 2, tmp_path / "log")
    one.folder(tmp_path).parent.mkdir()
    one.folder(tmp_path).touch()
    outcomes = do_all([one, other], tmp_path)
    assert outcomes[0].error.startswith("cannot write")
    assert outcomes[1].result == {"square": 4}


def test_workers_have_one_thread_and_the_order_of_imports_of_their_driver(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise ImportError")  # in the working folder, and hides nothing
    sys.path[:] = [*sys.path[1:], str(tmp_path)]
    (outcome,) = do_all([toy_task("surroundings", 1, tmp_path / "log")], tmp_path)
    assert outcome.result == {"threads": "1", "path": [entry for entry in dict.fromkeys(sys.path) if entry]}


def driver(tmp_path: pathlib.Path) -> subprocess.Popen[str]:
    (tmp_path / "mine.py").write_text(toy_sweep.MINE)
    command = [sys.executable, toy_sweep.__file__, str(tmp_path), "local"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_driver_takes_its_workers_along_and_another_goes_on(how: int, tmp_path: pathlib.Path) -> None:
    with driver(tmp_path) as first:
        assert first.stdout is not None
        finished = [first.stdout.readline().strip() for _ in range(3)]
        begun = time.monotonic()
        first.send_signal(how)
        first.wait()
        assert time.monotonic() - begun < 5
    time.sleep(0.5)
    before = num_starts(tmp_path / "log")
    time.sleep(0.7)
    assert num_starts(tmp_path / "log") == before, "a worker went on"
    with driver(tmp_path) as second:
        assert len(second.communicate()[0].split()) == 8
    after = num_starts(tmp_path / "log")
    assert all(after[int(name)] == 1 for name in finished)
    assert set(after) == set(range(8))
    assert sum(after.values()) <= 8 + 2, "at most what two workers were at is begun again"


def test_a_worker_ends_with_its_orders_in_the_midst_of_a_task(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "bayes_mbrl.sweep.worker", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        worker.stdin.write(as_line(toy_task("square", 1, tmp_path / "log", seconds=60)))
        worker.stdin.flush()
        while not num_starts(tmp_path / "log"):
            time.sleep(0.05)
        worker.stdin.close()
        assert worker.wait(timeout=10) == 1


@pytest.mark.slow
def test_two_drivers_at_once_do_everything_once(tmp_path: pathlib.Path) -> None:
    with driver(tmp_path) as first, driver(tmp_path) as second:
        for one in (first, second):
            assert sorted(one.communicate()[0].split()) == [str(x) for x in range(8)]
    assert num_starts(tmp_path / "log") == dict.fromkeys(range(8), 1)
