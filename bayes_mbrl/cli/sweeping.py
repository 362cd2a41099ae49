"""`bayes-mbrl study` and `compare`: many runs, and what they say together. Started again, both go on."""

import hashlib
import itertools
import json
import os
import pathlib
from typing import Annotated

import typer

from bayes_mbrl.cli.shell import Debug, command_line, reported, show_table
from bayes_mbrl.errors import UserError

EngineName = Annotated[str, typer.Option(help="Where the runs are done: local, processes of this machine, or ray.")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster, or auto.  [default: one started on this machine]")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Local processes, or processors of a Ray cluster started here.  [default: as many as there are]"
    ),
]
Several = Annotated[list[str] | None, typer.Option(metavar="NAME[,NAME...]", help="One or several; may be repeated.")]


def study(
    name: Annotated[str | None, typer.Argument(help="Which claim to test: see --list.", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds and less data, and so wide intervals.")] = False,
    seeds: Annotated[int | None, typer.Option(min=2, help="How many seeds.  [default: the study's]")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="All studies, what they claim and what they cost.")] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Folder; what is done there is kept.  [default: one in runs/studies/]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Test a claim of the lecture over several seeds: numbers, a figure, and a verdict with intervals."""
    with reported(debug) as session:
        if list_all:
            _list_studies()
            return
        from bayes_mbrl.cli.progress_table import progress_table
        from bayes_mbrl.studying import find_study, run_study, sentence, study_names, table
        from bayes_mbrl.sweep.task import Outcome, find_result

        if name is None:
            raise UserError(f"which study? One of {', '.join(study_names())}; --list says more")
        found = find_study(name)
        folder = out or pathlib.Path("runs", "studies", f"{name}-quick" if quick else name)
        workers = workers or _num_processors()
        session.again = command_line()
        tasks = found.tasks(name, quick=quick, num_seeds=seeds)
        num_done = sum(find_result(task, folder) is not None for task in tasks)
        num_seeds = len(tasks) // len(found.arms)
        minutes = found.minutes[not quick] * num_seeds / found.num_seeds[not quick] * (1 - num_done / len(tasks))
        typer.echo(f"The claim: {found.claim}")
        typer.echo(
            f"{len(found.arms)} arms × {num_seeds} seeds, {num_done} of {len(tasks)} done before; about "
            f"{minutes:.1f} minutes of one processor to come → {folder}"
        )
        arm_of = dict(zip((task.key for task in tasks), itertools.cycle(found.arms)))
        with progress_table("arm", list(found.arms), num_each=num_seeds) as progress:

            def tell(outcome: Outcome) -> None:
                progress.heard(arm_of[outcome.task.key], outcome.task.name, error=outcome.error)

            finding = run_study(
                name, folder, quick=quick, num_seeds=seeds, told=tell, warn=progress.warn,
                engine=engine, address=address, num_workers=workers,
            )  # fmt: skip
        numbers = table(finding)
        show_table("", numbers.columns, numbers.rows)
        typer.echo(f"{name}: {sentence(finding)}")
        for error in finding.errors:
            typer.echo(error, err=True)
        for file in ("figure.png", "study.html", "finding.json"):
            if (folder / file).exists():
                typer.echo(folder / file)
        _end(len(finding.errors))


def compare(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of every run, as for bayes-mbrl run."),
    ] = None,
    env: Several = None,
    algorithm: Several = None,
    posterior: Several = None,
    planner: Several = None,
    objective: Several = None,
    propagation: Several = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs of each: seeds 0, 1, ...")] = 5,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder; what is done there is kept.  [default: one in runs/, named after what is compared]"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare all combinations of several choices over seeds: a table of runs, intervals, profiles, a page."""
    given = {"env": env, "algorithm": algorithm, "posterior": posterior, "planner": planner}
    given |= {"objective": objective, "propagation": propagation}
    with reported(debug) as session:
        from bayes_mbrl import comparing
        from bayes_mbrl.cli.progress_table import progress_table

        choices = {key: _split(key, values) for key, values in given.items() if values}
        if not choices:
            options = ", ".join(f"--{key}" for key in comparing.CHOICES)
            raise UserError(f"what is to be compared? Give values of {options}")
        if own := [override for override in overrides or [] if override.startswith("seed=")]:
            raise UserError(f"every arm has the seeds 0, 1, ...: say how many by --seeds in place of {own[0]}")
        folder = out or pathlib.Path("runs", f"compare-{_short_key([choices, overrides or []])}")
        session.again = command_line()
        arms = comparing.arms_of(choices)
        typer.echo(f"{len(arms)} arms × {seeds} seeds → {folder}")
        with progress_table("arm", [arm.name for arm in arms], num_each=seeds, measure="return") as progress:

            def tell(run: comparing.Run, done: int, total: int) -> None:
                score = None if run.result is None else run.score
                progress.heard(run.arm.name, f"{run.arm.name}, seed {run.seed}", score=score, error=run.error)

            runs, summaries = comparing.compare(
                choices, overrides or [], folder, seeds=range(seeds), told=tell, warn=progress.warn,
                engine=engine, address=address, num_workers=workers or _num_processors(),
            )  # fmt: skip
        rows = [[one.method, str(one.interval), str(one.num_runs)] for one in summaries]
        show_table("", ["method", "interquartile mean and 95 % interval", "runs"], rows)
        for file in ("runs.csv", "compare.html"):
            typer.echo(folder / file)
        _end(sum(run.result is None for run in runs))


def _list_studies() -> None:
    from bayes_mbrl.studying import find_study, study_names

    for name in study_names():
        found = find_study(name)
        quick, full = (f"{minutes:g} min, {n} seeds" for minutes, n in zip(found.minutes, found.num_seeds, strict=True))
        typer.echo(f"{name}\n  {found.claim}\n  of one processor: --quick {quick}; in full {full}")


def _split(key: str, values: list[str]) -> list[str]:
    """Names, each once: repeated options and lists with commas."""
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise UserError(f"--{key} takes names separated by commas, got {', '.join(map(repr, values))}")
    return list(dict.fromkeys(names))


def _short_key(of: object) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:8]


def _num_processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end(num_failed: int) -> None:
    """Exit code 1 where something failed: it is told above."""
    if num_failed:
        typer.echo(f"{num_failed} failed, see above; the same command tries again what raised an error", err=True)
        raise typer.Exit(1)
