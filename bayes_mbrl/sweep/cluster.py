"""Tasks on a Ray cluster. Needs the extra `ray`.

The machines should all see the sweep's folder, under the same path: then a task whose machine dies goes on from its
last checkpoint elsewhere, and what runs leave is in one place. Where they do not, results come back all the same.
"""

import contextlib
import logging
import os
import pathlib
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bayes_mbrl.errors import UserError
from bayes_mbrl.sweep.task import MAX_DEATHS, ONE_THREAD, Outcome, Task, do, find_result, in_one_line, keep

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 60
_OBJECT_STORE_BYTES = 80 * 2**20
"""About the least that Ray takes; what goes through it are tasks and results, a few kB each."""


def do_on_ray(
    tasks: Sequence[Task],
    root: pathlib.Path,
    *,
    address: str | None,
    num_workers: int,
    told: Callable[[Outcome], None],
    warn: Callable[[str], None],
) -> None:
    """Do all tasks, one processor each; `told` hears of each when it is done, in whatever order.

    `address` as of `ray.init`; None starts a cluster of `num_workers` processors on this machine, and ends it. A task
    whose process or machine dies is taken up again elsewhere. Raises UserError where Ray is not installed or does not
    answer.
    """
    ray, root = _import_ray(), root.resolve()
    with _connected(ray, address, num_workers):
        if ray.cluster_resources().get("CPU", 0) < 1:
            warn("the Ray cluster has no processor yet: waiting for one")
        here = {"env_vars": ONE_THREAD}
        remote: Any = ray.remote(num_cpus=1, max_retries=MAX_DEATHS, runtime_env=here)(_do_there)
        waiting = dict[Any, Task]()
        for task in tasks:
            task.folder(root).mkdir(parents=True, exist_ok=True)  # by this the others know that they see it
            waiting[remote.remote(task, root)] = task
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(ready)
            try:
                outcome, machine = ray.get(ready)
            except ray.exceptions.RayError as error:
                outcome = find_result(task, root) or Outcome(task, error=f"Ray gave it up: {in_one_line(error)}")
                machine = ""
            if machine:
                warn(f"{task.name}: {machine} does not see {root}; what it left is there, its result comes here")
                keep(outcome, root)
            told(outcome)


def _do_there(task: Task, root: pathlib.Path) -> tuple[Outcome, str]:
    """What came of it; and the name of this machine, if it does not see the folder of the one that asked."""
    seen = task.folder(root).is_dir()
    return do(task, root), "" if seen else socket.gethostname()


def _import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(
            "--engine ray needs the package ray: pip install -c constraints.txt -e '.[ray]', or take --engine local"
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, num_workers: int) -> Iterator[None]:
    if ray.is_initialized():  # whoever did that ends it
        yield
        return
    settings: dict[str, Any] = {"address": address}
    if address is None:
        settings = {"address": "local", "num_cpus": num_workers, "object_store_memory": _OBJECT_STORE_BYTES}
        settings["include_dashboard"] = False
    else:
        _check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    state = random.getstate()
    try:
        ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise UserError(f"no Ray cluster at {address or 'this machine'}: {in_one_line(error)}") from error
    finally:
        random.setstate(state)  # Ray draws the names of its processes from it
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise UserError when no cluster answers there in time: Ray itself tries for many minutes, or ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
        except OSError as error:
            raise UserError(f"no Ray cluster at {address}: {error.strerror or error}") from error
    command = [sys.executable, "-P", "-c", "import ray, sys; ray.init(sys.argv[1])", address]
    try:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=_SECONDS_TO_ANSWER)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"no Ray cluster at {address}: it did not answer in {_SECONDS_TO_ANSWER} s") from error
    except subprocess.CalledProcessError as error:
        why = ["it ended the process that asked", *error.stderr.split("\n")]
        hint = "if one is there, RAY_AUTH_MODE and the token have to be the same here and there"
        raise UserError(f"no Ray cluster at {address}: {[line for line in why if line.strip()][-1]}; {hint}") from error
