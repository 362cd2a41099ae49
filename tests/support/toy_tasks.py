"""Tasks for the tests of sweeps: each writes down every start of it, so that one that is repeated is seen."""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bayes_mbrl.sweep.task import Outcome, Task, do


def toy_task(function: str, x: int, log: pathlib.Path, **more: float) -> Task:
    """One of those below as a task of a sweep."""
    return Task(f"{function} of {x}", f"toy_tasks:{function}", {"x": x, "log": str(log), **more})


def num_starts(log: pathlib.Path) -> collections.Counter[int]:
    """How often each x was begun."""
    return collections.Counter(map(int, log.read_text().split())) if log.exists() else collections.Counter()


def in_turn(
    tasks: Sequence[Task],
    root: pathlib.Path,
    *,
    num_workers: int,
    told: Callable[[Outcome], None],
    warn: Callable[[str], None],
) -> None:
    """In the place of `do_in_processes`: all of them in this process, which sees what a test has patched."""
    for task in tasks:
        told(do(task, root))


def square(folder: pathlib.Path, *, x: int, log: str, seconds: float = 0.0) -> dict[str, Any]:
    """x²."""
    _log(log, x)
    time.sleep(seconds)
    return {"square": x * x}


def fail(folder: pathlib.Path, *, x: int, log: str) -> dict[str, Any]:
    """An error."""
    _log(log, x)
    raise ValueError(f"{x} cannot be squared")


def die_once(folder: pathlib.Path, *, x: int, log: str, times: int = 1) -> dict[str, Any]:
    """Its process is killed the first `times` times, and then it goes on from what it left."""
    _log(log, x)
    deaths = len(list(folder.glob("death-*")))
    if deaths < times:
        (folder / f"death-{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": x * x, "deaths": deaths}


def chat(folder: pathlib.Path, *, x: int, log: str) -> dict[str, Any]:
    """Prints, and so does a process that it starts; reads what there is to read."""
    _log(log, x)
    print("stdout")
    print("stderr", file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    return {"square": x * x, "read": sys.stdin.read()}


def surroundings(folder: pathlib.Path, *, x: int, log: str) -> dict[str, Any]:
    """What its process has for an environment."""
    return {"threads": os.environ["OMP_NUM_THREADS"], "path": sys.path}


def _log(log: str, x: int) -> None:
    with pathlib.Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{x}\n")
