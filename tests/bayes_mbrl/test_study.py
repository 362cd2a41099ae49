"""Verdicts are computed from numbers: what they rest on, with results made up so that the answer is known."""

from typing import Any

import numpy as np
import pytest

from bayes_mbrl.analysis.charts import Chart
from bayes_mbrl.study import FIRST_SEED, Contrast, Study, difference, log_ratio, per_seed, verdict_of
from bayes_mbrl.sweep.task import Outcome


def contrast(mean: float, std: float = 0.1) -> Contrast:
    return Contrast("x", list(mean + std * np.array([-1.0, 0.0, 1.0, -1.0, 1.0])))


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ([1.0], "supported"),
        ([-1.0], "refuted"),
        ([0.01], "undecided"),
        ([1.0, 2.0], "supported"),
        ([1.0, 0.0], "undecided"),
        ([1.0, -1.0], "refuted"),
        ([0.0, -1.0], "refuted"),
    ],
)
def test_a_claim_is_as_good_as_its_weakest_part(means: list[float], verdict: str) -> None:
    assert verdict_of([contrast(mean) for mean in means]) == verdict


def test_one_of_many_numbers_refutes_a_claim_only_where_chance_would_not() -> None:
    doubtful = Contrast("x", [-1.0, -2.0, -0.4, -1.6])
    assert doubtful.verdict == "refuted"
    assert doubtful.interval_at(1 - 0.05 / 8).high > 0
    assert verdict_of([doubtful]) == "refuted"
    assert verdict_of([doubtful, *[contrast(1.0)] * 7]) == "undecided"


def test_numbers_without_spread_decide_nothing() -> None:
    """Found in no run of three: the share of runs that find it may yet be large."""
    assert Contrast("x", [-10.0, -10.0, -10.0]).verdict == "undecided"


def test_a_claim_without_numbers_is_not_judged() -> None:
    with pytest.raises(ValueError, match="at least one contrast"):
        verdict_of([])


def test_one_seed_decides_nothing() -> None:
    assert Contrast("x", [5.0]).verdict == "undecided"


def study() -> Study:
    def contrasts(results: Any) -> list[Contrast]:
        return [Contrast("b over a", log_ratio(per_seed(results, "b", "y"), per_seed(results, "a", "y")))]

    return Study("claim", "m:f", {"a": {"k": 1}, "b": {"k": 2}}, contrasts, lambda _: Chart("", "x", "y", []), (1, 2))


def test_tasks_are_arms_times_seeds() -> None:
    tasks = study().tasks("name", quick=True)
    assert [(task.name, dict(task.arguments)) for task in tasks[:3]] == [
        (f"name, {arm}, seed {seed}", {"k": k, "seed": seed, "quick": True})
        for arm, k, seed in (("a", 1, FIRST_SEED), ("b", 2, FIRST_SEED), ("a", 1, FIRST_SEED + 1))
    ]
    assert len(tasks) == 6
    assert len(study().tasks("name", quick=False)) == 20
    assert len(study().tasks("name", quick=False, num_seeds=4)) == 8
    assert {task.key for task in study().tasks("name", quick=False, num_seeds=3)}.isdisjoint(
        task.key for task in tasks
    )  # quick measurements are others


def test_seeds_of_which_an_arm_failed_are_left_out_of_all() -> None:
    tasks = study().tasks("name", quick=True)
    outcomes = [Outcome(task, {"y": 1.0 + index}) for index, task in enumerate(tasks)]
    outcomes[3] = Outcome(tasks[3], error="no")
    results = study().results(outcomes)
    assert results == {
        "a": {FIRST_SEED: {"y": 1.0}, FIRST_SEED + 2: {"y": 5.0}},
        "b": {FIRST_SEED: {"y": 2.0}, FIRST_SEED + 2: {"y": 6.0}},
    }
    (found,) = study().contrasts(results)
    np.testing.assert_allclose(found.values, [np.log(2), np.log(6 / 5)])
    nothing = study().results([Outcome(task, error="no") for task in tasks])
    assert nothing == {"a": {}, "b": {}}


def test_differences_are_paired() -> None:
    assert difference([3.0, 1.0], [1.0, 4.0]) == [2.0, -3.0]
    with pytest.raises(ValueError, match="shorter"):
        difference([1.0, 2.0], [1.0])
