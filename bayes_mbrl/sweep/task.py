"""A piece of work that anybody may do, in any process and on any machine that sees the folder; it is done once.

All that is known of a task is in its folder `tasks/<name>-<key>/`: `result.json` once it is done, `error.json` after a
failure, `work/` for what it leaves on the way, so that a task that was killed goes on from there.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import filelock

from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.registry import load_attribute

MAX_DEATHS = 3
"""How often the process of a task may die in one sweep before the task counts as failed."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of every process that does tasks: sums over another number of threads differ in their last digits."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A call `function(folder, **arguments)`, which returns a mapping of what JSON can hold."""

    name: str
    """For a person."""
    function: str
    """"module:function". What it returns depends on its arguments alone; `folder` may hold what it left before."""
    arguments: Mapping[str, Any]
    """What JSON can hold."""

    @functools.cached_property
    def key(self) -> str:
        """12 hexadecimal digits that tell what is done: equal for equal work, whatever it is called."""
        work = json.dumps([self.function, self.arguments], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(work.encode()).hexdigest()[:12]

    def folder(self, root: pathlib.Path) -> pathlib.Path:
        """Where all of it is."""
        return root / "tasks" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name).strip('-.')[:60]}-{self.key}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a task: a result or an error."""

    task: Task
    result: Mapping[str, Any] | None = None
    error: str = ""
    """In one line; the traceback stands in the task's folder."""


def do(task: Task, root: pathlib.Path) -> Outcome:
    """Do the task unless it is done; while another process does it, wait for its result.

    Whatever goes wrong is the outcome's error, be it the task's own or a folder that cannot be written.
    """
    folder = task.folder(root)
    try:
        with writing(folder):
            (folder / "work").mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(folder / "lock"):  # the system opens it when its holder dies
                return find_result(task, root) or _begin(task, root)
    except UserError as error:
        return Outcome(task, error=in_one_line(error))


def _begin(task: Task, root: pathlib.Path) -> Outcome:
    folder = task.folder(root)
    deaths = _num_starts(folder)  # a start that came to an end is not counted any more
    if deaths >= MAX_DEATHS:
        return Outcome(task, error=f"its process died {deaths} times, perhaps for want of memory")
    write_text(folder / "starts", str(deaths + 1))
    try:
        text = _as_json(load_attribute(task.function)(folder / "work", **task.arguments))
    except Exception as error:
        line = in_one_line(error)
        write_text(folder / "error.json", json.dumps({"error": line, "traceback": traceback.format_exc()}, indent=1))
        forget_starts(task, root)
        return Outcome(task, error=line)
    write_text(folder / "result.json", text)
    (folder / "error.json").unlink(missing_ok=True)
    return Outcome(task, result=json.loads(text))


def keep(outcome: Outcome, root: pathlib.Path) -> None:
    """Write down a result that was reached elsewhere, so that it counts as done here."""
    if outcome.result is not None:
        with writing(outcome.task.folder(root)):
            write_text(outcome.task.folder(root) / "result.json", _as_json(outcome.result))


def in_one_line(error: BaseException) -> str:
    """What went wrong, for a table; of which kind it is too, unless it is written for a person."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def find_result(task: Task, root: pathlib.Path) -> Outcome | None:
    """What came of the task, if it is done. Raises UserError where its file is damaged."""
    path = task.folder(root) / "result.json"
    try:
        return Outcome(task, result=json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and the task is done again") from error


def forget_starts(task: Task, root: pathlib.Path) -> None:
    """Begin to count anew how often the task's process died: at the start of a sweep."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (task.folder(root) / "starts").unlink()


def check_distinct(tasks: Sequence[Task]) -> None:
    """Raise ValueError when two tasks are the same work."""
    seen: dict[str, str] = {}
    for task in tasks:
        if task.key in seen:
            raise ValueError(f"{seen[task.key]} and {task.name} are the same work: keep one of them")
        seen[task.key] = task.name


def _as_json(result: Mapping[str, Any]) -> str:
    return json.dumps(result, indent=1, sort_keys=True)


def _num_starts(folder: pathlib.Path) -> int:
    try:
        return int((folder / "starts").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0
