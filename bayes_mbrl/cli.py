"""The command `bayes-mbrl`. Heavy imports stand inside the commands, so that `--help` answers at once.

Exit codes: 0 done, 1 a fault of the program, 2 a mistake in what was asked for, 130 stopped by Ctrl-C.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer

from bayes_mbrl import __version__
from bayes_mbrl.errors import UserError

app = typer.Typer(
    name="bayes-mbrl",
    help="Model-based reinforcement learning that knows what it does not know.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[pathlib.Path, typer.Argument(help="The folder of a run.", show_default=False)]
_ALGORITHM = "How the model is used, by name or step of the lecture (v0.5 to v3.0): `bayes-mbrl list algorithms`."
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """The console entry point. The working folder may hold the module of an environment (`--env module:EnvId`)."""
    sys.path.append(os.getcwd())  # last, so that it hides no installed package
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bayes-mbrl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Any other setting, such as planner.horizon=25; see --print-config."),
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Environment: `bayes-mbrl list environments`, or any id of Gymnasium.")
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help=_ALGORITHM)] = None,
    posterior: Annotated[str | None, typer.Option(help="How p(θ|D) is approximated.")] = None,
    planner: Annotated[str | None, typer.Option(help="How a plan is searched.")] = None,
    objective: Annotated[str | None, typer.Option(help="What makes a plan good.")] = None,
    propagation: Annotated[str | None, typer.Option(help="How uncertainty travels over the horizon.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed of the run.")] = None,
    device: Annotated[str | None, typer.Option(help="Where plans are evaluated: cpu, or cuda where there is.")] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="New folder for the run.  [default: one in runs/]")] = None,
    config_file: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings as YAML, or a name from `bayes-mbrl list presets`; the command line wins.",
        ),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print what would run, and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Learn an environment's dynamics and act by them; without arguments, swing up a pendulum."""
    choices = {"env": env, "algorithm": algorithm, "posterior": posterior, "planner": planner}
    choices |= {"objective": objective, "propagation": propagation}
    with _reported(debug) as session:
        from bayes_mbrl.config import resolve

        config = resolve(overrides or [], options={**choices, "seed": seed, "device": device}, file=config_file)
        if print_config:
            typer.echo(config.to_yaml(), nl=False)
            return
        from bayes_mbrl import experiment, progress, run_folder
        from bayes_mbrl.build import Builder
        from bayes_mbrl.environments.adapter import Environment

        _one_thread()
        with Environment(config.env) as environment:
            Builder(config, environment)  # what cannot be served is refused before a folder is made
        session.folder = run_folder.new_run_folder(out, config, command=shlex.join(["bayes-mbrl", *sys.argv[1:]]))
        with progress.for_this_terminal() as observer:
            experiment.run_experiment(config, session.folder, observer=observer)
        typer.echo(
            f"what it knows, and whether to believe it: {shlex.join(['bayes-mbrl', 'report', str(session.folder)])}"
        )


@app.command()
def fit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A Minari dataset on this machine, the folder of a run, or an .npz file as a run's transitions.npz.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any other setting, as for bayes-mbrl run.")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="The environment that the data are from.  [default: as recorded, if it is here]")
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="Who acts later, by what was learned.")] = None,
    posterior: Annotated[str | None, typer.Option(help="How p(θ|D) is approximated.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one seed of the run.")] = None,
    hold_out: Annotated[
        int, typer.Option(min=0, help="How many of the last episodes only judge the model, in the report.")
    ] = 0,
    device: Annotated[
        str | None, typer.Option(help="Where evaluate and resume plan later: cpu, or cuda where there is.")
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="New folder for the run.  [default: one in runs/]")] = None,
    debug: Debug = False,
) -> None:
    """Learn from data that were recorded elsewhere, without acting; then report, diagnose, evaluate or resume."""
    with _reported(debug):
        from bayes_mbrl import offline, progress, run_folder

        _one_thread()
        recording = offline.read_data(data)
        options = {"env": env, "algorithm": algorithm, "posterior": posterior, "seed": seed, "device": device}
        warn = lambda text: typer.echo(f"warning: {text}", err=True)  # noqa: E731
        config = offline.configure(recording, overrides or [], options=options, warn=warn)
        offline.check(config, recording, hold_out)
        folder = run_folder.new_run_folder(out, config, command=shlex.join(["bayes-mbrl", *sys.argv[1:]]))
        with progress.for_this_terminal() as observer:
            offline.fit_offline(config, recording, folder, hold_out=hold_out, observer=observer)
        typer.echo(f"what it knows, and whether to believe it: {shlex.join(['bayes-mbrl', 'report', str(folder)])}")


@app.command()
def resume(
    folder: Run,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Episodes in all.  [default: as the run was started]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Go on with a run that was stopped, or with more episodes than it had."""
    with _reported(debug) as session:
        from bayes_mbrl import experiment, progress

        _one_thread()
        session.folder = folder
        with progress.for_this_terminal() as observer:
            experiment.resume_experiment(folder, num_episodes=episodes, observer=observer)


@app.command()
def evaluate(
    folder: Run,
    episodes: Annotated[int | None, typer.Option(min=1, help="How many episodes.  [default: as in the run]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the start states.  [default: the run's]")] = None,
    env: Annotated[
        str | None, typer.Option(help="Another environment of the same states and actions.  [default: the run's]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Act with what a run has learned, and learn nothing more."""
    with _reported(debug):
        from bayes_mbrl import experiment, progress

        _one_thread()
        with progress.for_this_terminal() as observer:
            returns = experiment.evaluate_run(folder, num_episodes=episodes, seed=seed, env=env, observer=observer)
        typer.echo(_spread(returns))


@app.command()
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
    with _reported(debug):
        from bayes_mbrl import reporting

        _one_thread()
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


@app.command()
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
    with _reported(debug):
        from bayes_mbrl import diagnosing

        _one_thread()
        report = diagnosing.diagnose_run(
            folder, against=against or (), folds=folds, out=out, progress=lambda text: typer.echo(text, err=True)
        )
        for text in report.text:
            typer.echo(text)
        for table in report.tables:
            _show_table(table.title, table.columns, table.rows)
        for text in report.missing:
            typer.echo(f"missing: {text}")
        for path in report.paths:
            typer.echo(path)


@app.command(name="list")
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
    with _reported(debug):
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


_SECTIONS = {
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
    kinds = ["environments", *_SECTIONS, "presets"]
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

    table = SECTIONS[_SECTIONS[kind]]
    return {name: f"{row.summary}{_also(name, table.aliases)}" for name, row in table.rows.items()}


def _also(name: str, aliases: Mapping[str, str]) -> str:
    """The row's other names."""
    others = [alias for alias, row in aliases.items() if row == name]
    return f" (also: {', '.join(others)})" if others else ""


def _show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal, or lines with tabs for a program."""
    import rich.console
    import rich.table

    console = rich.console.Console()
    if not console.is_terminal:
        typer.echo("".join("\t".join(row) + "\n" for row in rows), nl=False)
        return
    table = rich.table.Table(*columns, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    console.print(table, "", markup=False)


def _spread(returns: list[float]) -> str:
    """Mean and spread of returns, in a line."""
    import statistics

    if not returns:
        return "no evaluation episodes"
    if len(returns) == 1:
        return f"evaluation return: {returns[0]:.1f} (1 episode)"
    spread = statistics.stdev(returns)
    mean = statistics.fmean(returns)
    return f"evaluation return: {mean:.1f} ± {spread:.1f} (mean ± standard deviation of {len(returns)} episodes)"


def _one_thread() -> None:
    """One thread for torch: with small networks, two fight over the work."""
    import torch

    torch.set_num_threads(1)


@dataclasses.dataclass
class _Session:
    """What an interrupted command tells about."""

    folder: pathlib.Path | None = None


@contextlib.contextmanager
def _reported(debug: bool) -> Iterator[_Session]:
    """Errors as lines on stderr and an exit code; with `debug`, the traceback before them."""
    session = _Session()
    try:
        yield session
        return
    except typer.Exit:
        raise
    except KeyboardInterrupt as error:
        cause: BaseException = error
        lines, code = [_how_to_go_on(session.folder)], 130
    except BrokenPipeError:  # who read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except UserError as error:
        cause = error
        lines, code = [f"error: {line}" for line in str(error).splitlines()], 2
    except Exception as error:
        cause = error
        message = " ".join(str(error).split())
        lines, code = [f"error: {type(error).__name__}: {message}; run with --debug for the traceback"], 1
    if debug:
        traceback.print_exception(cause)
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(code)


def _how_to_go_on(folder: pathlib.Path | None) -> str:
    if folder is None:
        return "stopped"
    from bayes_mbrl.checkpoint import has_checkpoint

    again = shlex.join(["bayes-mbrl", "resume", str(folder)])
    if not has_checkpoint(folder):
        return f"stopped before the first checkpoint; start again with: {again}"
    return f"stopped; what is done is saved in {folder}; go on with: {again}"
