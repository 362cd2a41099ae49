"""What a person sees of a run: a progress bar in a terminal, plain lines elsewhere, nothing in tests and studies."""

import math
import pathlib
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import rich.console
import rich.markup
import rich.progress
import rich.table

from bayes_mbrl.config import Config

_FIELDS = (
    # key, label, format, factor
    ("return", "return", "{:.1f}", 1),
    ("imagined_return", "imagined return", "{:.1f}", 1),
    ("loss", "loss", "{:.4g}", 1),
    ("critic_loss", "critic loss", "{:.3g}", 1),
    ("held_out_log_likelihood", "held-out log-likelihood", "{:.2f}", 1),
    ("held_out_rmse", "held-out RMSE", "{:.3g}", 1),
    ("planning_seconds_per_step", "planning", "{:.0f} ms/step", 1000),
    ("num_transitions", "transitions", "{:.0f}", 1),
)


class Observer(Protocol):
    """Who is told how a run is going. What it is told changes nothing in the run."""

    def started(self, config: Config, folder: pathlib.Path) -> None:
        """The run begins, or goes on."""

    def phase(self, name: str, total: int | None) -> None:
        """A part of an episode begins (acting, fitting, ...) that takes `total` steps; None: not known."""

    def advance(self, **fields: object) -> None:
        """One step of the phase is done; `fields` are numbers to show, by the keys of the metrics."""

    def episode(self, metrics: Mapping[str, object]) -> None:
        """An episode is done."""

    def warning(self, text: str) -> None:
        """Something went wrong that did not stop the run."""

    def finished(self, summary: Mapping[str, object], paths: Mapping[str, pathlib.Path]) -> None:
        """The run is done: what to print, by label, and what was written."""


class Silent:
    """Shows nothing."""

    def started(self, config: Config, folder: pathlib.Path) -> None:
        """Nothing."""

    def phase(self, name: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, **fields: object) -> None:
        """Nothing."""

    def episode(self, metrics: Mapping[str, object]) -> None:
        """Nothing."""

    def warning(self, text: str) -> None:
        """Nothing."""

    def finished(self, summary: Mapping[str, object], paths: Mapping[str, pathlib.Path]) -> None:
        """Nothing."""


class PlainLines(Silent):
    """A line for every episode, without control codes: for files and pipes."""

    def started(self, config: Config, folder: pathlib.Path) -> None:
        """Where the run is."""
        print(_headline(config, folder), flush=True)

    def episode(self, metrics: Mapping[str, object]) -> None:
        """The episode's line."""
        print(_episode_line(metrics), flush=True)

    def warning(self, text: str) -> None:
        """The warning, on stderr."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def finished(self, summary: Mapping[str, object], paths: Mapping[str, pathlib.Path]) -> None:
        """A line for everything."""
        for label, value in [*summary.items(), *paths.items()]:
            print(f"{label}: {_show(value)}", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class RichProgress:
    """Two bars, episodes and the phase within, above them a line for every episode; at the end a table."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self._console = console or rich.console.Console()
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description:<12}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("{task.fields[shown]}"),
            console=self._console,
            transient=True,
        )
        self._episodes = self._progress.add_task("episodes", total=None, shown="", visible=False)
        self._phase = self._progress.add_task("", total=None, shown="", visible=False)

    def started(self, config: Config, folder: pathlib.Path) -> None:
        """Show the bars."""
        self._print(_headline(config, folder))
        self._progress.update(self._episodes, total=config.num_episodes, visible=True)

    def phase(self, name: str, total: int | None) -> None:
        """Start the second bar anew."""
        self._progress.reset(self._phase, total=total, description=name, shown="", visible=True)

    def advance(self, **fields: object) -> None:
        """Move the second bar."""
        self._progress.update(self._phase, advance=1)
        if fields:
            self._progress.update(self._phase, shown=_numbers(fields))

    def episode(self, metrics: Mapping[str, object]) -> None:
        """Move the first bar and leave the episode's line above."""
        done = metrics.get("episode")
        completed = done + 1 if isinstance(done, int) else None
        self._progress.update(self._episodes, completed=completed)
        self._print(_episode_line(metrics))

    def warning(self, text: str) -> None:
        """Leave the warning above."""
        self._console.print("warning:", style="bold yellow", end=" ")
        self._print(text)

    def finished(self, summary: Mapping[str, object], paths: Mapping[str, pathlib.Path]) -> None:
        """Replace the bars by a table."""
        self._progress.stop()
        table = rich.table.Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label, value in summary.items():
            table.add_row(rich.markup.escape(label), rich.markup.escape(_show(value)), style="bold")
        self._console.print(table)
        width = max((len(label) for label in paths), default=0)
        for label, path in paths.items():
            self._print(f"{label:<{width}}  {path}")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _print(self, text: str) -> None:
        """One line as it is: neither wrapped nor read as markup."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def for_this_terminal() -> RichProgress | PlainLines:
    """Bars when stdout is a terminal that can show them, plain lines otherwise."""
    console = rich.console.Console()
    return RichProgress(console) if console.is_terminal and not console.is_dumb_terminal else PlainLines()


def _headline(config: Config, folder: pathlib.Path) -> str:
    algorithm = config.algorithm.row
    choices = [config.algorithm.name, *([config.posterior.name] if algorithm.learns_model else [])]
    if algorithm.plans:
        choices += [config.planner.name, config.objective.name]
    return f"{config.env}: {', '.join(choices)}, seed {config.seed} → {folder}"


def _episode_line(metrics: Mapping[str, object]) -> str:
    label = f"episode {metrics['episode']}" if "episode" in metrics else "episode"
    phase = f" ({metrics['phase']})" if metrics.get("phase") else ""
    return f"{label}{phase}: {_numbers(metrics)}"


def _numbers(fields: Mapping[str, object]) -> str:
    """The known numbers among the fields, with labels, in a fixed order."""
    parts = []
    for key, label, form, factor in _FIELDS:
        value = fields.get(key)
        if isinstance(value, int | float):
            parts.append(f"{label} {form.format(value * factor) if math.isfinite(value) else value}")
    return " · ".join(parts)


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
