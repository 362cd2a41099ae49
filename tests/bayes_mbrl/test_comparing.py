"""Comparisons from choices to a table and a page, with tasks that are done in this process or not at all."""

import csv
import math
import pathlib
from typing import Any

import pytest
import toy_tasks

from bayes_mbrl import artefacts, comparing
from bayes_mbrl.comparing import Run, compare
from bayes_mbrl.comparison import as_csv
from bayes_mbrl.errors import UserError
from bayes_mbrl.sweep import engine
from bayes_mbrl.sweep.task import Outcome


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are done in this process, without pictures and ArviZ files."""
    monkeypatch.setattr(engine, "do_in_processes", toy_tasks.in_turn)
    monkeypatch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))


@pytest.mark.usefixtures("here")
def test_the_cross_product_with_an_arm_that_cannot_be(tmp_path: pathlib.Path) -> None:
    heard: list[tuple[str, int, int]] = []
    tiny = ["num_episodes=2", "num_evaluation_episodes=2", "dynamics.hidden=[4]", "posterior.num_steps=3",
            "planner.horizon=2", "planner.num_candidates=4", "rollout.num_theta=2"]  # fmt: skip
    choices = {
        "env": ["LinearGaussian-v0"],
        "posterior": ["point", "mean-field", "oracle"],
        "planner": ["random-shooting"],
    }
    runs, summaries = compare(
        choices, tiny, tmp_path, seeds=(0, 1), told=lambda run, done, total: heard.append((run.arm.method, done, total))
    )
    assert [(one.arm.method, one.seed) for one in runs] == [
        (f"{posterior}, random-shooting", seed) for seed in (0, 1) for posterior in ("point", "mean-field", "oracle")
    ]
    assert [done for _, done, _ in heard] == [1, 2, 3, 4, 5, 6]
    assert {total for *_, total in heard} == {6}
    assert {one.error[:27] for one in runs if one.result is None} == {"unknown posterior 'oracle';"}
    assert {one.method for one in summaries} == {"point, random-shooting", "mean-field, random-shooting"}
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 7
    assert "unknown posterior" in (tmp_path / "compare.html").read_text()
    folders = [tmp_path / one.folder for one in runs if one.result is not None]
    assert all((folder / "config.yaml").is_file() for folder in folders)
    again, _ = compare(choices, tiny, tmp_path, seeds=(0, 1))
    assert as_csv(again) == as_csv(runs)


def made_up(monkeypatch: pytest.MonkeyPatch, returns_of: Any) -> None:
    """In the place of runs: `returns_of` the configuration, or an error."""

    def at_once(tasks, root, *, told, **_):  # type: ignore[no-untyped-def]
        for task in tasks:
            returns = returns_of(task.arguments["config"])
            result = {"returns": returns, "training_returns": [0.0], "base_returns": [0.0], "num_steps": 4}
            told(Outcome(task, error=returns) if isinstance(returns, str) else Outcome(task, result=result))

    monkeypatch.setattr(comparing, "do_all", at_once)


def rows(root: pathlib.Path) -> list[dict[str, str]]:
    return list(csv.DictReader((root / "runs.csv").read_text().splitlines()))


def test_where_everything_failed_there_is_a_table_and_no_page(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch, lambda config: "no luck")
    with pytest.raises(UserError, match=r"every run failed:\nno luck$"):
        compare({"posterior": ["point", "nuts"]}, [], tmp_path, seeds=(0,))
    assert [row["error"] for row in rows(tmp_path)] == ["no luck"] * 2
    assert not (tmp_path / "compare.html").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(["planner.horizn=3"], "did you mean planner.horizon"), (["num_evaluation_episodes=0"], "need .* >= 1, got 0"),
     (["seed=3"], "contradict each other")],
)  # fmt: skip
def test_what_no_arm_can_be_makes_no_folder(tmp_path: pathlib.Path, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=f"every run failed:\n.*{words}"):
        compare({"posterior": ["point"]}, overrides, tmp_path / "new", seeds=(0, 1))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_return_that_is_no_number_is_a_failure(
    bad: float, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch, lambda config: [1.0, bad if config["seed"] == 1 else 3.0])
    runs, (summary,) = compare({"posterior": ["point"]}, [], tmp_path, seeds=(0, 1, 2))
    assert [run.error for run in runs] == ["", f"the mean return of its evaluation episodes is {bad}", ""]
    assert (summary.interval.estimate, summary.num_runs, summary.num_failed) == (2.0, 2, 1)
    assert [row["return"] for row in rows(tmp_path)] == ["2.0", "", "2.0"]
    assert f"evaluation episodes is {bad}" in (tmp_path / "compare.html").read_text()


def test_arms_of_two_names_that_are_the_same_run_are_done_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    made_up(monkeypatch, lambda config: done.append(config["seed"]) or [4.0])  # type: ignore[func-returns-value]
    runs, summaries = compare({"algorithm": ["pets", "mpc"]}, [], tmp_path, seeds=(0, 1))
    assert done == [0, 1]
    assert [(run.arm.name, run.seed, run.score) for run in runs] == [
        ("pets", 0, 4.0), ("mpc", 0, 4.0), ("pets", 1, 4.0), ("mpc", 1, 4.0)
    ]  # fmt: skip
    assert [one.num_runs for one in summaries] == [2, 2]


def test_the_table_has_every_run_as_soon_as_it_is_told_and_outlives_the_page(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(monkeypatch, lambda config: [1.0])

    def tell(run: Run, done: int, total: int) -> None:
        assert len(rows(tmp_path)) == done
        assert (tmp_path / rows(tmp_path)[-1]["folder"]).name == "run"

    def broken(*_: object) -> None:
        raise RuntimeError("no page")

    monkeypatch.setattr(comparing, "section", broken)
    with pytest.raises(RuntimeError, match="no page"):
        compare({"posterior": ["point", "nuts"]}, [], tmp_path, seeds=(0, 1), told=tell)
    assert [row["env"] for row in rows(tmp_path)] == ["Pendulum-v1"] * 4
