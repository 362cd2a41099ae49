"""Tasks in processes of this machine. A process that dies takes no other task along."""

import collections
import contextlib
import multiprocessing.connection
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from bayes_mbrl.sweep.task import MAX_DEATHS, ONE_THREAD, Outcome, Task
from bayes_mbrl.sweep.worker import as_line, as_outcome


def do_in_processes(
    tasks: Sequence[Task],
    root: pathlib.Path,
    *,
    num_workers: int,
    told: Callable[[Outcome], None],
    warn: Callable[[str], None],
) -> None:
    """Do all tasks; `told` hears of each when it is done, in whatever order.

    When a process dies, its task is taken up again from where it had got to. All processes end when this one does,
    however it ends.
    """
    waiting, deaths = collections.deque(tasks), collections.Counter[str]()
    idle: list[_Worker] = []
    busy: dict[int, tuple[_Worker, Task]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < num_workers:
                worker, task = idle.pop() if idle else _Worker(root), waiting.popleft()
                busy[worker.answers.fileno()] = worker, task
                worker.give(task)
            for number in multiprocessing.connection.wait(list(busy)):
                assert isinstance(number, int)
                worker, task = busy.pop(number)
                if (outcome := worker.outcome(task)) is not None:
                    idle.append(worker)
                    told(outcome)
                    continue
                worker.end()
                deaths[task.key] += 1
                if deaths[task.key] > MAX_DEATHS:  # the task counts too, but some die before they come to it
                    told(Outcome(task, error=f"{deaths[task.key]} processes died that were to do it"))
                else:
                    warn(f"{task.name}: its process died, and it is taken up again")
                    waiting.appendleft(task)
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.end()


class _Worker:
    """A process that imports from where this one does, and that Ctrl-C does not reach: this one ends it."""

    def __init__(self, root: pathlib.Path) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bayes_mbrl.sweep.worker", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
            encoding="utf-8",
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self.answers = self._process.stdin, self._process.stdout

    def give(self, task: Task) -> None:
        """Let it begin; if it is dead, `outcome` says so."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(as_line(task))
            self._orders.flush()

    def outcome(self, task: Task) -> Outcome | None:
        """What it answers, or None if it died. Waits for it."""
        line = self.answers.readline()
        return as_outcome(task, line) if line.endswith("\n") else None

    def end(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()
        self.answers.close()
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
