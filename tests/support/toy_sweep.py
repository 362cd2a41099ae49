"""A driver of a sweep that tests can kill: `python toy_sweep.py ROOT ENGINE [ADDRESS]`, from a folder with mine.py.

As for the console entry point, the working folder holds modules. It prints each task as soon as it is done.
"""

import os
import pathlib
import sys

from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.task import Outcome, Task

MINE = "from toy_tasks import square\n"


def tell(outcome: Outcome) -> None:
    """On standard output: its name, or what went wrong."""
    print(outcome.task.name if outcome.result is not None else outcome.error, flush=True)


if __name__ == "__main__":
    sys.path.append(os.getcwd())
    root, engine, *address = sys.argv[1:]
    log = str(pathlib.Path(root) / "log")
    tasks = [Task(str(x), "mine:square", {"x": x, "log": log, "seconds": 0.3}) for x in range(8)]
    do_all(tasks, pathlib.Path(root), engine=engine, num_workers=2, address=(*address, None)[0], told=tell)  # type: ignore[arg-type]
