"""What every command shares: errors as lines and exit codes, tables, one thread for torch."""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from bayes_mbrl.errors import UserError

Run = Annotated[pathlib.Path, typer.Argument(help="The folder of a run.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclasses.dataclass
class Session:
    """What an interrupted command tells about."""

    folder: pathlib.Path | None = None
    """Of the run that it does."""
    again: str = ""
    """The command that goes on with it, where that is no `resume`."""


@contextlib.contextmanager
def reported(debug: bool) -> Iterator[Session]:
    """Errors as lines on stderr and an exit code; with `debug`, the traceback before them."""
    session = Session()
    try:
        yield session
        return
    except typer.Exit:
        raise
    except KeyboardInterrupt as error:
        cause: BaseException = error
        lines, code = [_how_to_go_on(session)], 130
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


def command_line() -> str:
    """The command that this process was started by."""
    return shlex.join(["bayes-mbrl", *sys.argv[1:]])


def _how_to_go_on(session: Session) -> str:
    if session.again:
        return f"stopped; what is done is saved; go on with: {session.again}"
    folder = session.folder
    if folder is None:
        return "stopped"
    from bayes_mbrl.checkpoint import has_checkpoint

    again = shlex.join(["bayes-mbrl", "resume", str(folder)])
    if not has_checkpoint(folder):
        return f"stopped before the first checkpoint; start again with: {again}"
    return f"stopped; what is done is saved in {folder}; go on with: {again}"


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal, or lines with tabs for a program."""
    import rich.console
    import rich.markup
    import rich.table

    console = rich.console.Console()
    if not console.is_terminal:
        typer.echo("".join("\t".join(row) + "\n" for row in rows), nl=False)
        return
    table = rich.table.Table(*columns, title=title or None, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(rich.markup.escape, row))
    console.print(table, "", markup=False)


def one_thread() -> None:
    """One thread for torch: with small networks, two fight over the work."""
    import torch

    torch.set_num_threads(1)
