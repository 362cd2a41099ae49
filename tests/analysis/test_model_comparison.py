"""Differences of elpd against ArviZ and by hand, and folds that keep episodes whole."""

import math

import arviz_stats
import numpy as np
import pytest
import xarray

from bayes_mbrl.analysis.charts import Line, Points
from bayes_mbrl.analysis.model_comparison import (
    compare_models,
    comparison_chart,
    comparison_table,
    comparison_verdicts,
    contiguous_folds,
)

RNG = np.random.default_rng(5)
BASE = RNG.normal(size=50)
MODELS = {"worse": BASE - 0.5 + 0.1 * RNG.normal(size=50), "best": BASE, "alike": BASE - 0.02 * RNG.random(50)}


def as_elpd_data(values: np.ndarray) -> arviz_stats.ELPDData:
    return arviz_stats.ELPDData(
        kind="loo", elpd=float(values.sum()), se=float(np.sqrt(len(values) * values.var())), p=1.0, n_samples=100,
        n_data_points=len(values), scale="log", warning=False, good_k=0.7,
        elpd_i=xarray.DataArray(values, dims=["datum"]), pareto_k=xarray.DataArray(0 * values, dims=["datum"]),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_numbers_are_arviz() -> None:
    """Which divides the variance by N rather than N − 1, and rounds up for a table."""
    ours = compare_models(MODELS)
    oracle = arviz_stats.compare({name: as_elpd_data(values) for name, values in MODELS.items()})
    assert list(ours.names) == list(oracle.index) == ["best", "alike", "worse"]
    np.testing.assert_allclose(ours.elpd, oracle["elpd"].astype(float), rtol=1e-6)
    np.testing.assert_allclose(ours.difference, oracle["elpd_diff"].astype(float).abs(), rtol=1e-6)
    np.testing.assert_allclose(ours.error * math.sqrt(49 / 50), oracle["dse"].astype(float), rtol=1e-6)


def test_words() -> None:
    comparison = compare_models(MODELS)
    assert comparison_verdicts(comparison) == ["predicts alike", "predicts worse"]
    uncertain = compare_models({"a": BASE, "b": BASE - 0.2 + 3 * RNG.normal(size=50)})
    assert comparison_verdicts(uncertain) in (["cannot be told apart"], ["predicts alike"])
    table = comparison_table(comparison)
    assert table.rows[0][0] == "best"
    assert table.rows[0][3:] == ("–", "best")
    assert table.rows[2][4] == "predicts worse"
    chart = comparison_chart(comparison)
    points = [mark for mark in chart.marks if isinstance(mark, Points)]
    assert [mark.label for mark in points] == list(comparison.names)
    np.testing.assert_allclose([float(mark.x[0]) for mark in points], -comparison.difference)
    line = next(mark for mark in chart.marks if isinstance(mark, Line))
    assert np.ptp(line.x) == pytest.approx(4 * comparison.error[1])


def test_rows_of_an_episode_count_together() -> None:
    """A difference that is the same all along an episode: 10 rows say no more than one."""
    per_episode = RNG.normal(size=5)
    rows, episodes = np.repeat(per_episode, 10), np.repeat(np.arange(5), 10)
    by_row = compare_models({"a": rows, "b": np.zeros(50)})
    by_episode = compare_models({"a": rows, "b": np.zeros(50)}, episodes)
    assert by_episode.num_groups == 5
    np.testing.assert_allclose(by_episode.difference, by_row.difference)
    expected = math.sqrt(5 * (10 * per_episode).var(ddof=1))
    assert by_episode.error.max() == pytest.approx(expected)
    assert by_episode.error.max() > 2.5 * by_row.error.max()
    one = compare_models({"a": rows, "b": np.zeros(50)}, np.zeros(50))
    assert math.isnan(one.error[1])
    assert "no error" in comparison_verdicts(one)[0]
    comparison_chart(one)


def test_a_single_model() -> None:
    comparison = compare_models({"only": BASE})
    assert comparison.difference.tolist() == [0]
    assert len(comparison_table(comparison).rows) == 1
    comparison_chart(comparison)


@pytest.mark.parametrize(
    ("elpd", "groups", "message"),
    [
        ({"a": np.ones(3), "b": np.ones(4)}, None, "'a': 3, 'b': 4"),
        ({}, None, "at least one"),
        ({"a": np.array([1, np.nan])}, None, "elpd of a is NaN or infinite in 1 of 2"),
        ({"a": np.ones(3)}, np.ones(2), r"need groups \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused(elpd: dict[str, np.ndarray], groups: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_models(elpd, groups)


@pytest.mark.parametrize(
    ("num", "folds", "groups"),
    [(10, 3, None), (7, 7, None), (2, 2, None), (60, 4, np.repeat(np.arange(6), [3, 20, 7, 10, 10, 10])),
     (30, 5, np.repeat([0, 1, 2], 10)), (12, 3, np.repeat([4, 2, 9], 4)), (100, 3, np.repeat([0, 1, 2], [98, 1, 1]))],
)  # fmt: skip
def test_folds_are_contiguous_and_share_all_rows(num: int, folds: int, groups: np.ndarray | None) -> None:
    held_out = contiguous_folds(num, folds, groups)
    assert len(held_out) == folds
    assert np.concatenate(held_out).tolist() == list(range(num))
    assert all(len(rows) > 0 for rows in held_out)
    if groups is not None and len(set(groups.tolist())) >= folds:
        parts = [set(groups[rows].tolist()) for rows in held_out]
        assert not any(a & b for i, a in enumerate(parts) for b in parts[:i])


def test_folds_are_about_as_long() -> None:
    groups = np.repeat(np.arange(20), 50)
    assert [len(rows) for rows in contiguous_folds(1000, 4, groups)] == [250] * 4


@pytest.mark.parametrize("folds", [0, 1, 11])
def test_impossible_folds_are_refused(folds: int) -> None:
    with pytest.raises(ValueError, match=f"need 2 <= folds <= 10, .* got {folds}"):
        contiguous_folds(10, folds)
