"""Tasks in processes of this machine. A process that dies takes no other task's result along."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool

from bayes_mbrl.sweep.task import Outcome, Task, do


def do_in_processes(
    tasks: Sequence[Task],
    root: pathlib.Path,
    *,
    num_workers: int,
    told: Callable[[Outcome], None],
    warn: Callable[[str], None],
) -> None:
    """Do all tasks; `told` hears of each when it is done, in whatever order.

    When a process dies, its task and those of its neighbours are taken up again from where they had got to.
    """
    pending = {task.key: task for task in tasks}
    while pending:
        pool = concurrent.futures.ProcessPoolExecutor(
            num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        try:
            futures = [pool.submit(do, task, root) for task in pending.values()]
            for future in concurrent.futures.as_completed(futures):
                outcome = future.result()
                del pending[outcome.task.key]
                told(outcome)
        except BrokenProcessPool:
            warn("a process died: its task is taken up again")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """End when the process that started this one ends; what it was doing goes on when somebody takes it up."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
