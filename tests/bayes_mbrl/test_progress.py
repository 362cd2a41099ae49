import io
import pathlib

import pytest
import rich.console
from rich.console import Console

from bayes_mbrl.config import Component, Config
from bayes_mbrl.progress import Observer, PlainLines, RichProgress, Silent, for_this_terminal

METRICS = {
    "episode": 1, "phase": "mpc", "return": -153.25, "loss": None, "held_out_log_likelihood": float("nan"),
    "held_out_rmse": 0.01234, "planning_seconds_per_step": 0.0125, "num_transitions": 400, "note": "x",
}  # fmt: skip
LINE = (
    "episode 1 (mpc): return -153.2 · held-out log-likelihood nan · "
    "held-out RMSE 0.0123 · planning 12 ms/step · transitions 400"
)


def _config() -> Config:
    names = ("algorithm", "posterior", "dynamics", "planner", "objective", "propagation")
    parts = {name: Component(name, f"a-{name}", {}) for name in names}
    return Config.model_validate({**parts, "algorithm": Component("algorithm", "mpc", {})})


def _tell_a_run(observer: Observer) -> None:
    observer.started(_config(), pathlib.Path("runs/x"))
    observer.phase("acting", 2)
    observer.advance()
    observer.advance(**{"return": -3.0})
    observer.phase("fitting", None)
    observer.advance(loss=12.5)
    observer.episode(METRICS)
    observer.warning("episode 2 was dropped: [state] has NaN")
    observer.finished(
        {"episodes": 4, "evaluation return": "-150.2 ± 12.1", "x": 1.0}, {"folder": pathlib.Path("runs/x")}
    )


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _tell_a_run(Silent())
    assert capsys.readouterr() == ("", "")


def test_plain_lines_without_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines() as observer:
        _tell_a_run(observer)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "Pendulum-v1: mpc, a-posterior, a-planner, a-objective, seed 0 → runs/x",
        LINE,
        "episodes: 4",
        "evaluation return: -150.2 ± 12.1",
        "x: 1",
        "folder: runs/x",
    ]
    assert err == "warning: episode 2 was dropped: [state] has NaN\n"
    assert "\x1b" not in out


def test_bars_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with RichProgress(console) as observer:
        _tell_a_run(observer)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert LINE in shown
    assert "[state] has NaN" in shown
    assert "-150.2 ± 12.1" in shown
    assert "folder  runs/x" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again


def test_the_terminal_is_given_back_when_a_run_fails() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with pytest.raises(KeyError), RichProgress(console) as observer:
        {}["a fault of the run"]
    observer.started(_config(), pathlib.Path("runs/x"))
    assert "\x1b[?25h" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_pipe_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(for_this_terminal(), PlainLines)
    terminal = Console(force_terminal=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr(rich.console, "Console", lambda: terminal)
    assert isinstance(for_this_terminal(), RichProgress)


def test_what_an_algorithm_does_without_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    for name, told in (
        ("mpc", "mpc, a-posterior, a-planner, a-objective"),
        ("mbpo", "mbpo, a-posterior"),
        ("sac", "sac"),
    ):
        config = _config().model_copy(update={"algorithm": Component("algorithm", name, {})})
        PlainLines().started(config, pathlib.Path("runs/x"))
        assert capsys.readouterr().out.startswith(f"Pendulum-v1: {told}, seed 0")
