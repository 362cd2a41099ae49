"""Tasks on a Ray cluster, whose machines all see the sweep's folder. Needs the extra `ray`."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from bayes_mbrl.errors import UserError
from bayes_mbrl.sweep.task import MAX_DEATHS, Outcome, Task, do


def do_on_ray(
    tasks: Sequence[Task],
    root: pathlib.Path,
    *,
    address: str | None,
    told: Callable[[Outcome], None],
    warn: Callable[[str], None],
) -> None:
    """Do all tasks, one processor each; `told` hears of each when it is done, in whatever order.

    `address` as of `ray.init`: None starts a cluster on this machine. A task whose process or machine dies is taken up
    again elsewhere. Raises UserError where Ray is not installed or not reached.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(
            "--engine ray needs the package ray: pip install -c constraints.txt -e '.[ray]', or take --engine local"
        ) from error
    started_here = not ray.is_initialized()
    if started_here:
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except Exception as error:
            raise UserError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        remote: Any = ray.remote(num_cpus=1, max_retries=MAX_DEATHS, retry_exceptions=False)(do)
        waiting = {remote.remote(task, root.resolve()): task for task in tasks}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(ready)
            try:
                told(ray.get(ready))
            except ray.exceptions.RayError as error:
                warn(f"{task.name}: {type(error).__name__}")
                told(Outcome(task, error=f"Ray gave it up: {str(error).splitlines()[0]}"))
    finally:
        if started_here:
            ray.shutdown()
