"""Comparisons of made-up runs, whose answers are known, and a real one of a few seconds."""

import csv
import io
import pathlib

import pytest
import toy_tasks

from bayes_mbrl import comparing
from bayes_mbrl.comparing import Arm, Run, as_csv, compare, section, summarise
from bayes_mbrl.errors import UserError
from bayes_mbrl.sweep import engine
from bayes_mbrl.sweep.task import Outcome


def run(env: str, posterior: str, seed: int, score: float, base: float = 0.0) -> Run:
    result = {"returns": [score - 1, score + 1], "training_returns": [base, score], "num_steps": 10}
    return Run(Arm({"env": env, "posterior": posterior}), seed, result)


def test_methods_are_ordered_by_the_interquartile_mean() -> None:
    runs = [run("a", "point", seed, seed) for seed in range(4)] + [
        run("a", "nuts", seed, 10 + seed) for seed in range(4)
    ]
    first, second = summarise(runs)
    assert (first.method, first.interval.estimate, first.num_runs) == ("nuts", 11.5, 4)
    assert (second.method, second.interval.estimate) == ("point", 1.5)
    assert 0 <= second.interval.low < 1.5 < second.interval.high <= 3


def test_environments_of_other_units_count_alike() -> None:
    """In "a" the base policy has 0 and the best 10; in "b" −1000 and −500."""
    runs = [
        *(run("a", "point", seed, 5.0) for seed in (0, 1)), *(run("a", "nuts", seed, 10.0) for seed in (0, 1)),
        *(run("b", "point", seed, -750.0, -1000.0) for seed in (0, 1)),
        *(run("b", "nuts", seed, -500.0, -1000.0) for seed in (0, 1)),
    ]  # fmt: skip
    assert [(one.method, one.interval.estimate) for one in summarise(runs)] == [("nuts", 1.0), ("point", 0.5)]
    titles = [figure.title for figure in section(runs).figures]
    assert titles == ["Performance profiles", "Runs in a", "Runs in b"]


def test_a_method_that_failed_in_one_environment_is_not_ranked_but_told() -> None:
    failed = Run(Arm({"env": "b", "posterior": "nuts"}), 0, None, "it diverged")
    runs = [run("a", "point", 0, 1.0), run("a", "nuts", 0, 2.0), run("b", "point", 0, 1.0), failed]
    assert [one.method for one in summarise(runs)] == ["point"]
    assert section(runs).missing == ("b, nuts, seed 0: it diverged",)


def test_the_table_of_runs() -> None:
    runs = [run("a", "point", 3, 1.0), Run(Arm({"env": "a", "posterior": "x, y"}), 3, None, 'bad "name"')]
    rows = list(csv.DictReader(io.StringIO(as_csv(runs))))
    assert rows[0]["return"] == "1.0"
    assert float(rows[0]["return_std_of_episodes"]) == pytest.approx(2**0.5)
    assert rows[1] == {
        "env": "a", "posterior": "x, y", "seed": "3", "return": "", "return_std_of_episodes": "", "num_steps": "",
        "error": 'bad "name"',
    }  # fmt: skip


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are done in this process."""
    monkeypatch.setattr(engine, "do_in_processes", toy_tasks.in_turn)


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
    again, _ = compare(choices, tiny, tmp_path, seeds=(0, 1))
    assert as_csv(again) == as_csv(runs)


def test_where_everything_failed_there_is_no_page(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(tasks, root, *, told, **_):  # type: ignore[no-untyped-def]
        for task in tasks:
            told(Outcome(task, error="no luck"))

    monkeypatch.setattr(comparing, "do_all", failing)
    with pytest.raises(UserError, match=r"every run failed:\nno luck$"):
        compare({"posterior": ["point", "nuts"]}, [], tmp_path, seeds=(0,))
    assert not (tmp_path / "runs.csv").exists()
