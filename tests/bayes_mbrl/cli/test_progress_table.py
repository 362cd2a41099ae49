"""What is shown of a sweep while it goes on."""

import io

import pytest
import rich.console

from bayes_mbrl.cli.progress_table import LiveTable, progress_table


def test_lines_for_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_table("arm", ["a", "b"], num_each=2, measure="return") as progress:
        progress.heard("a", "a, seed 0", score=-1.5)
        progress.heard("b", "b, seed 0", error="it diverged")
        progress.heard("b", "b, seed 1")
        progress.warn("a process died")
    shown = capsys.readouterr()
    assert shown.out == "1/4 a, seed 0: return -1.5\n3/4 b, seed 1: done\n"
    assert shown.err == "2/4 b, seed 0: failed: it diverged\nwarning: a process died\n"


def test_a_table_for_terminals() -> None:
    file = io.StringIO()
    console = rich.console.Console(file=file, force_terminal=True, width=80, color_system=None)
    with LiveTable("arm", ["[a]", "b"], num_each=3, measure="return", console=console) as progress:
        progress.heard("[a]", "a, seed 0", score=1.0)
        progress.heard("[a]", "a, seed 1", score=2.0)
        progress.heard("b", "b, seed 0", error="it [bold] diverged")
    shown = file.getvalue()
    last = shown[shown.rindex("mean return") :].splitlines()
    assert last[1].split() == ["[a]", "2/3", "1.5"]
    assert last[2].split() == ["b", "0/3", "1"]
    assert "1/6" not in shown, "a run that is done has no line of its own"
    assert "3/6 b, seed 0: failed: it [bold] diverged" in shown
