"""Comparisons of made-up runs, whose answers are known."""

import csv
import io
import math

import pandas
import pytest
from toy_comparison import failed, run

from bayes_mbrl.comparison import Arm, Run, arms_of, as_csv, scores_by_method, summarise


def test_the_cross_product_has_every_point_once() -> None:
    arms = arms_of({"env": ["a", "b"], "posterior": ["p", "q", "r"], "planner": ["x"]})
    assert [arm.name for arm in arms] == ["a, p, x", "a, q, x", "a, r, x", "b, p, x", "b, q, x", "b, r, x"]
    assert {arm.method for arm in arms} == {"p, x", "q, x", "r, x"}
    assert [(arm.env, arm.method) for arm in arms_of({"env": ["a"]})] == [("a", "defaults")]


def test_methods_are_ordered_by_the_interquartile_mean() -> None:
    runs = [run("a", "point", seed, seed) for seed in range(4)] + [
        run("a", "nuts", seed, 10 + seed) for seed in range(4)
    ]
    first, second = summarise(runs)
    assert (first.method, first.interval.estimate, first.num_runs, first.num_failed) == ("nuts", 11.5, 4, 0)
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


@pytest.mark.parametrize(
    ("base", "good", "bad", "expected"),
    [
        (0.0, 4.0, -20.0, (1.0, -5.0)),  # 0 is the base policy, 1 the best method
        (20.0, 10.0, -30.0, (-0.2, -1.0)),  # none is better than the base policy: the worst one is -1
        (3.0, 3.0, 3.0, (0.0, 0.0)),
        (None, 4.0, -20.0, (1.0, 0.0)),  # no run began with the base policy: the worst one is 0
        (math.nan, 4.0, -20.0, (1.0, 0.0)),
    ],
)
def test_more_is_better_on_every_scale(
    base: float | None, good: float, bad: float, expected: tuple[float, float]
) -> None:
    runs = [run("a", "good", 0, good, base), run("a", "bad", 0, bad, base)]
    runs += [run("b", "good", 0, 2.0), run("b", "bad", 0, 1.0)]
    found = scores_by_method(runs)
    assert (found["good"], found["bad"]) == (
        [[pytest.approx(expected[0])], [1.0]],
        [[pytest.approx(expected[1])], [0.5]],
    )


def test_a_method_that_failed_in_one_environment_is_not_ranked() -> None:
    runs = [run("a", "point", 0, 1.0), run("a", "nuts", 0, 2.0), run("b", "point", 0, 1.0), failed("b", "nuts", 0)]
    assert [one.method for one in summarise(runs)] == ["point"]
    assert summarise([*runs, failed("c", "point", 0)]) == []


def test_runs_that_failed_are_counted_and_one_seed_has_no_interval() -> None:
    runs = [run("a", "point", 0, 1.0), run("a", "point", 1, 3.0), failed("a", "point", 2), run("a", "nuts", 0, 2.5)]
    nuts, point = summarise(runs)
    assert (point.num_runs, point.num_failed, nuts.num_runs, nuts.num_failed) == (2, 1, 1, 0)
    assert (point.interval.low, point.interval.high) == (1.0, 3.0)
    assert (nuts.interval.estimate, nuts.interval.low, nuts.interval.high) == (2.5, -math.inf, math.inf)


def test_the_table_of_runs_is_read_back_exactly() -> None:
    runs = [run("a", "point", 3, 1 / 3), failed("a", "x, y", 3, 'bad "name"'), run("a", "nuts", 4, -1e-17, None)]
    rows = list(csv.DictReader(io.StringIO(as_csv(runs))))
    assert rows[1] == {
        "env": "a", "posterior": "x, y", "seed": "3", "return": "", "return_std_of_episodes": "", "base_return": "",
        "num_steps": "", "folder": "", "error": 'bad "name"',
    }  # fmt: skip
    table = pandas.read_csv(io.StringIO(as_csv(runs)))
    assert [str(table[name].dtype) for name in ("seed", "return", "base_return")] == ["int64", "float64", "float64"]
    assert table["return"][0] == runs[0].score
    assert table["return_std_of_episodes"][0] == pytest.approx(2**0.5)
    assert table["return"].isna().tolist() == [False, True, False]
    assert table["base_return"].isna().tolist() == [False, True, True]


def test_a_table_always_has_the_environment() -> None:
    result = {"returns": [1.0], "base_returns": [0.0], "num_steps": 5}
    text = as_csv([Run(Arm({"planner": "cem"}), 0, "Pendulum-v1", result, folder="tasks/x/work/run")])
    assert text.splitlines()[1] == "Pendulum-v1,cem,0,1.0,,0.0,5,tasks/x/work/run,"
