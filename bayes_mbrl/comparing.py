"""`bayes-mbrl compare`: the cross product of choices over seeds, as a table of runs and as a page."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayes_mbrl.analysis.report import Chapter, html_page
from bayes_mbrl.comparison import CHOICES, Arm, Run, Summary, arms_of, as_csv, summarise
from bayes_mbrl.comparison_page import section
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.errors import UserError
from bayes_mbrl.files import write_text, writing
from bayes_mbrl.sweep.engine import do_all
from bayes_mbrl.sweep.runs import run_task
from bayes_mbrl.sweep.task import Outcome, Task, in_one_line

__all__ = ["CHOICES", "Arm", "Run", "Summary", "arms_of", "compare"]


def compare(
    choices: Mapping[str, Sequence[str]],
    overrides: Sequence[str],
    root: pathlib.Path,
    *,
    seeds: Sequence[int],
    told: Callable[[Run, int, int], None] = lambda run, done, total: None,
    **engine: Any,
) -> tuple[list[Run], list[Summary]]:
    """Do all runs of the cross product, and write `runs.csv` and `compare.html` into the folder `root`.

    `choices`: values by key of CHOICES. `told` hears of each run, how many are done, and of how many; `runs.csv` has it
    by then. `engine` as of `do_all`. An arm that cannot be configured, or whose run fails, has its error in the table
    and stops no other. Raises UserError when every run failed, and as `do_all`.
    """
    wanted = [(arm, seed) for seed in seeds for arm in arms_of(choices)]
    tasks: dict[str, Task] = {}
    indices: dict[str, list[int]] = {}
    runs: dict[int, Run] = {}
    envs: dict[int, str] = {}
    for index, (arm, seed) in enumerate(wanted):
        try:
            config = _configure(arm, seed, overrides)
        except UserError as error:
            runs[index] = Run(arm, seed, arm.env, None, in_one_line(error))
            continue
        envs[index] = config.env
        task = run_task(config, f"{config.env.rpartition('/')[2]}, {arm.method}, seed {seed}")
        tasks.setdefault(task.key, task)
        indices.setdefault(task.key, []).append(index)  # arms that are called differently may be the same run
    if not tasks:
        raise _all_failed(runs.values())
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(list(runs.values()), start=1):
        told(run, number, len(wanted))

    def hear(outcome: Outcome) -> None:
        folder = (outcome.task.folder(root) / "work" / "run").relative_to(root)
        for index in indices[outcome.task.key]:
            runs[index] = _run(*wanted[index], envs[index], outcome, folder)
            with writing(root):
                write_text(root / "runs.csv", as_csv([runs[index] for index in sorted(runs)]))
            told(runs[index], len(runs), len(wanted))

    do_all(list(tasks.values()), root, told=hear, **engine)
    ordered = [runs[index] for index in range(len(wanted))]
    if all(run.result is None for run in ordered):
        raise _all_failed(ordered)
    page = html_page("Comparison", [Chapter("Comparison", [("", section(ordered))])])
    with writing(root):
        write_text(root / "compare.html", page)
    return ordered, summarise(ordered)


def _configure(arm: Arm, seed: int, overrides: Sequence[str]) -> Config:
    config = resolve(overrides, options={**arm.chosen, "seed": seed})
    if config.num_evaluation_episodes == 0:
        raise UserError("runs are compared by their evaluation episodes: need num_evaluation_episodes >= 1, got 0")
    return config


def _run(arm: Arm, seed: int, env: str, outcome: Outcome, folder: pathlib.Path) -> Run:
    """A run whose return is not a number has failed: it must not drop out of a mean unseen."""
    run = Run(arm, seed, env, outcome.result, outcome.error, str(folder))
    if run.result is not None and not math.isfinite(run.score):
        return Run(arm, seed, env, None, f"the mean return of its evaluation episodes is {run.score}", str(folder))
    return run


def _all_failed(runs: Any) -> UserError:
    return UserError("\n".join(dict.fromkeys(["every run failed:", *(run.error for run in runs)])))
