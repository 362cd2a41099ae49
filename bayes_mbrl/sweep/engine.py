"""One way to do many tasks: whichever engine does them, the results are the same numbers, and none is lost or repeated.

A sweep that was killed is started again with the same tasks and the same folder: what is done is read, what had begun
goes on, what had failed is tried again.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from bayes_mbrl.errors import UserError
from bayes_mbrl.files import writing
from bayes_mbrl.sweep.cluster import do_on_ray
from bayes_mbrl.sweep.processes import do_in_processes
from bayes_mbrl.sweep.task import Outcome, Task, check_distinct, find_result, forget_starts

Engine = Literal["local", "ray"]


def do_all(
    tasks: Sequence[Task],
    root: pathlib.Path,
    *,
    engine: Engine = "local",
    num_workers: int = 1,
    address: str | None = None,
    told: Callable[[Outcome], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """The outcomes of all tasks, in their order; one that failed has its error and stops no other.

    `told` hears of each as soon as it is known, those done before first. `num_workers` are processes of this machine,
    or processors of a Ray cluster that is started on it; `address` is of one that runs already. Raises UserError for an
    unknown engine, for a folder that cannot be written, and for a cluster that does not answer.
    """
    check_distinct(tasks)
    if engine not in get_args(Engine):
        raise UserError(f"engine is one of {', '.join(get_args(Engine))}, got {engine}")
    if address is not None and engine != "ray":
        raise UserError(f"an address is of a Ray cluster: got {address} with the engine {engine}, not ray")
    if num_workers < 1:
        raise UserError(f"need at least 1 worker, got {num_workers}")
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}

    def hear(outcome: Outcome) -> None:
        outcomes[outcome.task.key] = outcome
        told(outcome)

    for task in tasks:
        if (done := find_result(task, root)) is not None:
            hear(done)
        else:
            forget_starts(task, root)
    left = [task for task in tasks if task.key not in outcomes]
    if left and engine == "ray":
        do_on_ray(left, root, address=address, num_workers=num_workers, told=hear, warn=warn)
    elif left:
        do_in_processes(left, root, num_workers=num_workers, told=hear, warn=warn)
    return [outcomes[task.key] for task in tasks]
