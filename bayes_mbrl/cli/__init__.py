"""The command `bayes-mbrl`. Heavy imports stand inside the commands, so that `--help` answers at once.

Exit codes: 0 done, 1 a fault of the program or, of a study or comparison, of one of its runs, 2 a mistake in what was
asked for, 130 stopped by Ctrl-C.
"""

import os
import sys
from typing import Annotated

import typer

from bayes_mbrl import __version__
from bayes_mbrl.cli import acting, looking, sweeping

app = typer.Typer(
    name="bayes-mbrl",
    help="Model-based reinforcement learning that knows what it does not know.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


for _command in (
    acting.run,
    acting.fit,
    acting.resume,
    acting.evaluate,
    looking.report,
    looking.diagnose,
    sweeping.compare,
    sweeping.study,
):
    app.command()(_command)
app.command(name="list")(looking.list_choices)
