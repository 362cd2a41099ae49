"""`bayes-mbrl report`, `diagnose`, `list`: what shows something and changes no run."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from bayes_mbrl.cli.shell import Debug, Run, one_thread, reported, show_table
from bayes_mbrl.errors import UserError


def report(
    folders: Annotated[list[pathlib.Path], typer.Argument(metavar="RUN...", help="The folders of one run or several.")],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="The file to write.  [default: report.html in the run's folder; of several, beside the first]"
        ),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="html, a page that needs no network, or md, with PNGs beside it.")
    ] = None,
    dimensions: Annotated[
        str | None, typer.Option(metavar="I,J", help="Two dimensions of the state for the map of uncertainty.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a page about runs: what the model knows, what it does not, and whether it may be believed."""
    with reported(debug):
        from bayes_mbrl import reporting

        one_thread()
        interactive = sys.stderr.isatty()
        path = reporting.write_report(
            folders,
            out=out,
            form=reporting.parse_form(form),
            dimensions=reporting.parse_dimensions(dimensions),
            warn=lambda text: typer.echo(f"warning: {' '.join(text.split())}", err=True),
            progress=lambda text: typer.echo(text, err=True) if interactive else None,
        )
        typer.echo(path)


def diagnose(
    folder: Run,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY", help="Refit another family of posteriors to the same data and compare; may be repeated."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Refits for K-fold cross-validation, 0 for none.  [default: 5 with --against and where leave-one-out "
            "cannot be trusted]",
        ),
    ] = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder for pictures and ArviZ file.  [default: diagnosis/ in the run's]"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Did inference converge, and may its posterior be believed? Verdicts in words, pictures, an ArviZ file."""
    with reported(debug):
        from bayes_mbrl import diagnosing

        one_thread()
        report = diagnosing.diagnose_run(
            folder, against=against or (), folds=folds, out=out, progress=lambda text: typer.echo(text, err=True)
        )
        for text in report.text:
            typer.echo(text)
        for table in report.tables:
            show_table(table.title, table.columns, table.rows)
        for text in report.missing:
            typer.echo(f"missing: {text}")
        for path in report.paths:
            typer.echo(path)


def list_choices(
    what: Annotated[
        str | None,
        typer.Argument(
            help="environments, posteriors, planners, objectives, propagations, algorithms, dynamics, recalibrations "
            "or presets."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List what can be chosen, each with a line."""
    with reported(debug):
        import rich.console
        import rich.table

        console = rich.console.Console()
        for kind in _kinds(what):
            rows = _summaries(kind)
            if not console.is_terminal:
                typer.echo("".join(f"{kind}\t{name}\t{summary}\n" for name, summary in rows.items()), nl=False)
                continue
            table = rich.table.Table(
                "name", "", title=kind, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=False
            )
            for name, summary in rows.items():
                table.add_row(name, summary)
            console.print(table, "", markup=False)


KINDS = {
    "posteriors": "posterior",
    "planners": "planner",
    "objectives": "objective",
    "propagations": "propagation",
    "algorithms": "algorithm",
    "dynamics": "dynamics",
    "recalibrations": "recalibration",
}


def _kinds(what: str | None) -> list[str]:
    """The kinds to list: the one that was asked for, or all."""
    kinds = ["environments", *KINDS, "presets"]
    if what is None:
        return kinds
    if what in kinds:
        return [what]
    from bayes_mbrl.config_problems import unknown_name

    raise UserError(unknown_name("kind", what, kinds))


def _summaries(kind: str) -> Mapping[str, str]:
    """Name → line, for all choices of a kind."""
    if kind == "environments":
        from bayes_mbrl.environments.counted import COUNTED
        from bayes_mbrl.environments.specs import ENVIRONMENTS

        return {name: spec.summary for name, spec in {**ENVIRONMENTS, **COUNTED}.items()}
    if kind == "presets":
        from bayes_mbrl.presets import presets, summary

        return {name: summary(path) for name, path in presets().items()}
    from bayes_mbrl.registry import SECTIONS

    table = SECTIONS[KINDS[kind]]
    return {name: f"{row.summary}{_also(name, table.aliases)}" for name, row in table.rows.items()}


def _also(name: str, aliases: Mapping[str, str]) -> str:
    """The row's other names."""
    others = [alias for alias, row in aliases.items() if row == name]
    return f" (also: {', '.join(others)})" if others else ""
