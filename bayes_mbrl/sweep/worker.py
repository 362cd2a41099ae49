"""A process of this machine that does one task after another: `python -m bayes_mbrl.sweep.worker ROOT`.

It reads a task from each line of its standard input and writes what came of it as a line of its standard output, both
JSON. It ends when its input ends, in the midst of a task too: then the process that started it is gone, and whoever
takes up the task goes on from what it left. What tasks print goes to `output.txt` in their folders.
"""

import contextlib
import json
import os
import pathlib
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from bayes_mbrl.sweep.task import Outcome, Task, do


def main(root: pathlib.Path) -> None:
    """Do tasks until there is nobody to give them."""
    orders, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "rb") as nothing:  # what tasks print is no answer, and what they read is no order
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    tasks: queue.Queue[Task] = queue.Queue()
    threading.Thread(target=_listen, args=(orders, tasks), daemon=True).start()
    while True:
        task = tasks.get()
        with _printing_into(task.folder(root)):
            outcome = do(task, root)
        print(json.dumps({"result": outcome.result, "error": outcome.error}), file=answers, flush=True)


def as_line(task: Task) -> str:
    """What such a process reads."""
    return json.dumps({"name": task.name, "function": task.function, "arguments": task.arguments}) + "\n"


def as_outcome(task: Task, line: str) -> Outcome:
    """What it answers."""
    return Outcome(task, **json.loads(line))


def _listen(orders: TextIO, tasks: queue.Queue[Task]) -> None:
    for line in orders:
        tasks.put(Task(**json.loads(line)))
    os._exit(1)


@contextlib.contextmanager
def _printing_into(folder: pathlib.Path) -> Iterator[None]:
    """Sends there what this process and those that it starts print; where nothing can be written, it stays here."""
    before = os.dup(1), os.dup(2)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.txt").open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(before, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
