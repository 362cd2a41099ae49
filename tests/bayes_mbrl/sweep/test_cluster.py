"""Sweeps on Ray: two machines in small, killed processes, a killed machine, killed drivers; and where there is none."""

import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import toy_sweep
from toy_runs import configure
from toy_tasks import num_starts, toy_task

from bayes_mbrl.errors import UserError
from bayes_mbrl.study import FIRST_SEED
from bayes_mbrl.studying import find_study
from bayes_mbrl.sweep import cluster as on_ray
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.runs import run_task
from bayes_mbrl.sweep.task import MAX_DEATHS, Outcome, Task, find_result, keep

pytestmark = pytest.mark.filterwarnings(
    r"ignore:os\.fork\(\) was called:RuntimeWarning"  # by JAX, if an earlier test has loaded it: Ray starts processes
)

SUPPORT = str(pathlib.Path(toy_sweep.__file__).parent)
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    """A folder for all that Ray writes; no process that lived there is left over."""
    pytest.importorskip("ray", reason="NOT TESTED: Ray is not installed")
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets have 107 letters at most
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", folder)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", SUPPORT + os.pathsep + os.environ.get("PYTHONPATH", ""))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder
        left = processes(folder, seconds=45)
    for process in left:
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, "processes of Ray were left over"


@pytest.fixture(scope="module")
def cluster(home: str) -> Iterator[Any]:
    """Two machines, as far as Ray can tell, with a processor each."""
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False})
    machines.add_node(**SMALL)
    yield machines
    machines.shutdown()


@pytest.mark.slow
def test_a_cluster_that_was_started_here_ends_with_its_driver(home: str, tmp_path: pathlib.Path) -> None:
    with driver(tmp_path) as first:
        (finished,) = told(first, 1)
        assert len(processes(home)) > 4
        first.kill()
    agents = [b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"]  # see that their cluster is gone after half a minute
    assert not processes(home, besides=agents, seconds=20)
    before = num_starts(tmp_path / "log")
    assert before[finished] == 1
    assert sum(before.values()) < 8


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_a_failure_stops_no_other(cluster: Any, tmp_path: pathlib.Path) -> None:
    log, heard = tmp_path / "log", list[Outcome]()
    tasks = [
        *(toy_task("square", x, log) for x in (1, 2, 3)), toy_task("die_once", 4, log), toy_task("fail", 5, log),
        toy_task("die_once", 6, log, times=100),
    ]  # fmt: skip
    outcomes = do_all(tasks, tmp_path, engine="ray", address=cluster.address, told=heard.append)
    assert [outcome.task for outcome in outcomes] == tasks
    assert [outcome.result for outcome in outcomes] == [
        {"square": 1}, {"square": 4}, {"square": 9}, {"square": 16, "deaths": 1}, None, None
    ]  # fmt: skip
    assert outcomes[4].error == "ValueError: 5 cannot be squared"
    assert outcomes[5].error == f"its process died {MAX_DEATHS} times, perhaps for want of memory"
    assert len(heard) == len(tasks)
    assert num_starts(log) == {1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 6: MAX_DEATHS}


@pytest.mark.slow
def test_runs_and_measurements_are_the_same_numbers_on_every_engine(cluster: Any, tmp_path: pathlib.Path) -> None:
    study = find_study("gradient-norms")
    arguments = {**next(iter(study.arms.values())), "seed": FIRST_SEED, "quick": True}
    tasks = [
        run_task(configure("LinearGaussian-v0", "posterior=mean-field", "num_episodes=2"), "a run"),
        Task("a measurement", study.measure, arguments),
    ]
    local = do_all(tasks, tmp_path / "local", num_workers=2)
    ray = do_all(tasks, tmp_path / "ray", engine="ray", address=cluster.address)
    assert all(outcome.result is not None for outcome in local)
    assert ray == local


@pytest.mark.slow
def test_a_killed_machine_loses_nothing_and_repeats_no_finished_task(cluster: Any, tmp_path: pathlib.Path) -> None:
    log, finished = tmp_path / "log", list[int]()
    tasks = [toy_task("square", x, log, seconds=0.5) for x in range(12)]
    machine = next(iter(cluster.worker_nodes))

    def tell(outcome: Outcome) -> None:
        finished.append(outcome.task.arguments["x"])
        if len(finished) == 4:
            cluster.remove_node(machine, allow_graceful=False)

    state = random.getstate()  # this machine's names are drawn from it
    outcomes = do_all(tasks, tmp_path, engine="ray", address=cluster.address, told=tell)
    cluster.add_node(**SMALL)
    random.setstate(state)
    assert [outcome.result for outcome in outcomes] == [{"square": x * x} for x in range(12)]
    counts = num_starts(log)
    assert all(counts[x] == 1 for x in finished[:4])
    assert sum(counts.values()) <= 12 + 1, "only what the machine was at is begun again"


@pytest.mark.slow
def test_a_killed_driver_takes_its_tasks_along_and_another_goes_on(cluster: Any, tmp_path: pathlib.Path) -> None:
    with driver(tmp_path, cluster.address) as first:
        finished = told(first, 3)
        first.kill()
    with driver(tmp_path, cluster.address) as second:
        assert sorted(told(second, 8)) == list(range(8))
        assert second.wait() == 0
    counts = num_starts(tmp_path / "log")
    assert all(counts[x] == 1 for x in finished)
    assert sum(counts.values()) <= 8 + 2, "at most what two workers were at is begun again"


@pytest.mark.slow
def test_what_ray_gives_up_is_an_error_of_its_own(
    cluster: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "MAX_DEATHS", 0)
    tasks = [toy_task("die_once", 1, tmp_path / "log"), toy_task("square", 2, tmp_path / "log")]
    outcomes = do_all(tasks, tmp_path, engine="ray", address=cluster.address)
    assert outcomes[0].error.startswith("Ray gave it up: WorkerCrashedError: ")
    assert outcomes[1].result == {"square": 4}


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True])
def test_an_address_where_there_is_no_cluster(
    answers: bool, home: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_SECONDS_TO_ANSWER", 4)
    begun = time.monotonic()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if answers:  # the system accepts, and nobody says anything
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster at {re.escape(address)}: ") as raised:
            do_all([toy_task("square", 1, tmp_path / "log")], tmp_path, engine="ray", address=address)
    assert ("did not answer in 4 s" if answers else "refused") in str(raised.value)
    assert time.monotonic() - begun < 30


@pytest.mark.slow
def test_an_address_that_ray_does_not_know(home: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"no Ray cluster at nonsense: .*nonsense"):
        do_all([toy_task("square", 1, tmp_path / "log")], tmp_path, engine="ray", address="nonsense")


def test_without_ray_there_is_a_way_to_go_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install .*\[ray\].*--engine local"):
        do_all([toy_task("square", 1, tmp_path / "log")], tmp_path, engine="ray")


def test_a_machine_that_does_not_see_the_folder_says_so_and_its_result_is_kept(tmp_path: pathlib.Path) -> None:
    one, there, here = toy_task("square", 3, tmp_path / "log"), tmp_path / "there", tmp_path / "here"
    outcome, machine = on_ray._do_there(one, there)
    assert (outcome.result, machine) == ({"square": 9}, socket.gethostname())
    one.folder(here).mkdir(parents=True)
    keep(outcome, here)
    assert find_result(one, here) == outcome
    assert on_ray._do_there(one, here) == (outcome, "")


def driver(folder: pathlib.Path, *address: str) -> subprocess.Popen[str]:
    """Eight tasks of a module in the working folder, which nothing but it tells where to find."""
    (folder / "mine.py").write_text(toy_sweep.MINE)
    command = [sys.executable, toy_sweep.__file__, str(folder), "ray", *address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)


def told(process: subprocess.Popen[str], number: int) -> list[int]:
    """The first tasks that a driver says are done; Ray too writes there, of machines that died."""
    assert process.stdout is not None
    return list(itertools.islice((int(line) for line in process.stdout if line.strip().isdigit()), number))


def processes(home: str, *, besides: Sequence[bytes] = (), seconds: float = 0) -> list[int]:
    """Those that live there after they had some time to end, without this one and those of the names `besides`."""
    mark, until = f"RAY_TMPDIR={home}".encode(), time.monotonic() + seconds
    while True:
        found = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                lives_there = mark in (folder / "environ").read_bytes().split(b"\0")
                if lives_there and not any(name in (folder / "cmdline").read_bytes() for name in besides):
                    found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        found = [process for process in found if process != os.getpid()]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.2)
