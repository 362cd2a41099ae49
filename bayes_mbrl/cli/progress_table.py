"""How a sweep is going: a table with a row for each arm in a terminal, a line for each run elsewhere."""

import statistics
import sys
from collections.abc import Sequence
from typing import Self

import rich.console
import rich.live
import rich.markup
import rich.table


class PlainLines:
    """A line for every run, without control codes: for files and pipes."""

    def __init__(self, heading: str, rows: Sequence[str], *, num_each: int, measure: str) -> None:
        self._heading, self._measure, self._num_each = heading, measure, num_each
        self._num_done = dict.fromkeys(rows, 0)
        self._num_failed = dict.fromkeys(rows, 0)
        self._scores: dict[str, list[float]] = {row: [] for row in rows}

    def heard(self, row: str, name: str, *, score: float | None = None, error: str = "") -> None:
        """A run of the arm `row` came to an end: its score, if it has one, or its error."""
        if error:
            self._num_failed[row] += 1
        else:
            self._num_done[row] += 1
        if score is not None:
            self._scores[row].append(score)
        ended = sum(self._num_done.values()) + sum(self._num_failed.values())
        result = f"failed: {error}" if error else "done" if score is None else f"{self._measure} {score:.4g}"
        self._say(f"{ended}/{len(self._num_done) * self._num_each} {name}: {result}", failed=bool(error))

    def warn(self, text: str) -> None:
        """Something went wrong that stopped nothing."""
        self._say(f"warning: {text}", failed=True)

    def _say(self, text: str, *, failed: bool) -> None:
        print(text, file=sys.stderr if failed else sys.stdout, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class LiveTable(PlainLines):
    """A table that is drawn again after every run; errors and warnings stand above it."""

    def __init__(
        self, heading: str, rows: Sequence[str], *, num_each: int, measure: str, console: rich.console.Console
    ) -> None:
        super().__init__(heading, rows, num_each=num_each, measure=measure)
        self._live = rich.live.Live(self._table(), console=console, auto_refresh=False)

    def _say(self, text: str, *, failed: bool) -> None:
        if failed:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._live.update(self._table(), refresh=True)

    def _table(self) -> rich.table.Table:
        scored = [f"mean {self._measure}"] if self._measure else []
        table = rich.table.Table(self._heading, "done", "failed", *scored, box=None, padding=(0, 2, 0, 0))
        for row, num_done in self._num_done.items():
            scores = [f"{statistics.fmean(self._scores[row]):.4g}" if self._scores[row] else "" for _ in scored]
            failed = str(self._num_failed[row] or "")
            table.add_row(rich.markup.escape(row), f"{num_done}/{self._num_each}", failed, *scores)
        return table

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()


def progress_table(heading: str, rows: Sequence[str], *, num_each: int, measure: str = "") -> PlainLines:
    """For this terminal: `rows` are the arms, each of `num_each` runs; `measure` names their scores, "" for none."""
    console = rich.console.Console()
    if not console.is_terminal or console.is_dumb_terminal:
        return PlainLines(heading, rows, num_each=num_each, measure=measure)
    return LiveTable(heading, rows, num_each=num_each, measure=measure, console=console)
