"""What an algorithm told of its learning: charts of numbers, pictures of lists, imagined against real return."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import start

from bayes_mbrl import artefacts
from bayes_mbrl.analysis.charts import Chart, Heatmap, Line, Section
from bayes_mbrl.data import Transitions
from bayes_mbrl.loaded_run import LoadedRun, open_run
from bayes_mbrl.sections.improvement import MAX_CELLS, MAX_CHARTS, _mean_return, section

DRIFT = "toy_environments:Drift-v0"
BACKPROP = (
    "algorithm=policy-backprop", "algorithm.hidden=[8]", "algorithm.horizon=3", "algorithm.num_gradient_steps=3",
    "algorithm.num_starts=2", "algorithm.discount=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    folder = tmp_path_factory.mktemp("runs") / "drift"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artefacts, "write", lambda folder, builder, state, _: _save(folder, state))
        start(folder, DRIFT, *BACKPROP, "num_episodes=4", "num_evaluation_episodes=0")
    with open_run(folder) as loaded:
        yield loaded


def _save(folder: pathlib.Path, state: Any) -> dict[str, pathlib.Path]:
    state.transitions.save(folder / "transitions.npz")
    return {}


def _told(run: LoadedRun, *rows: dict[str, Any]) -> LoadedRun:
    """A run whose episodes told these rows and nothing else."""
    return dataclasses.replace(
        run, metrics=[{"episode": number, "return": 1.0, **row} for number, row in enumerate(rows)]
    )


def _charts(found: Section) -> dict[str, Chart]:
    return {chart.title: chart for chart in found.figures if isinstance(chart, Chart)}


def test_a_run_of_version_2(run: LoadedRun) -> None:
    found = section(run)
    assert list(found.missing) == []
    charts = _charts(found)
    assert list(charts) == ["Imagined and real return", "Action gradient norms", "Gradient norm"]
    (cells,) = charts["Action gradient norms"].marks
    assert isinstance(cells, Heatmap)
    norms = np.array([row["action_gradient_norms"] for row in run.metrics])
    assert norms.shape == (4, 3)
    np.testing.assert_allclose(cells.values, np.log10(norms))
    imagined, real = charts["Imagined and real return"].marks
    assert isinstance(imagined, Line)
    assert isinstance(real, Line)
    assert imagined.x.tolist() == real.x.tolist() == [1, 2, 3]
    assert imagined.y.tolist() == [row["imagined_return"] for row in run.metrics[:3]]
    rewards = run.episode(2).reward.double().numpy()
    by_hand = np.mean([rewards[t] + 0.5 * rewards[t + 1] + 0.25 * rewards[t + 2] for t in range(len(rewards) - 2)])
    assert real.y[1] == pytest.approx(by_hand)
    assert [row[0] for row in found.tables[0].rows] == ["imagined return", "gradient norm", "share sound"]


@pytest.mark.parametrize(
    ("terminated", "broken", "expected"),
    [
        (False, False, (1 + 0.5 * 2 + 2 + 0.5 * 4) / 2),  # starts 0 and 1 have two steps to come
        (True, False, (1 + 0.5 * 2 + 2 + 0.5 * 4 + 4) / 3),  # after its end there is no reward
        (False, True, 2 + 0.5 * 4),  # step 0 and 1 do not hang together
    ],
)
def test_returns_of_h_steps_by_hand(terminated: bool, broken: bool, expected: float) -> None:
    state = torch.arange(3.0)[:, None]
    following = state + 1 + (10 if broken else 0) * (torch.arange(3.0)[:, None] == 0)
    ends = torch.tensor([False, False, terminated])
    rewards = torch.tensor([1.0, 2.0, 4.0])
    episode = Transitions(state, torch.zeros(3, 1), rewards, following, ends, torch.full((3,), 7))
    assert _mean_return(episode, 2, 0.5) == pytest.approx(expected)
    assert math.isnan(_mean_return(episode, 4, 0.5)) != terminated


def test_gaps_constants_and_unknown_numbers(run: LoadedRun) -> None:
    """A number that never varies has no chart, one that is not finite is a gap, and new ones need no code."""
    told = _told(
        run,
        {"critic_loss": 2.0, "rollout_length": 1, "new_number": 3, "flag": True},
        {"critic_loss": None, "rollout_length": 1, "new_number": 5, "flag": False},
        {"critic_loss": 1.0, "rollout_length": 1, "new_number": 4, "words": "x"},
    )
    found = section(told)
    charts = _charts(found)
    assert list(charts) == ["Critic loss", "New number"]
    (line,) = charts["Critic loss"].marks
    assert isinstance(line, Line)
    np.testing.assert_array_equal(line.y, [2.0, math.nan, 1.0])
    assert list(found.missing) == ["critic_loss is not finite after 1 of 3 episodes: gaps"]
    assert found.tables[0].rows == [
        ("critic loss", "2", "1", "1", "2"), ("rollout length", "1", "1", "1", "1"), ("new number", "3", "4", "3", "5"),
    ]  # fmt: skip


def test_lists_of_other_lengths_with_holes_and_of_both_signs(run: LoadedRun) -> None:
    found = section(
        _told(run, {"slopes": [1.0, -2.0, None]}, {}, {"slopes": [3.0]}, {"slopes": []}, {"slopes": [None]})
    )
    (cells,) = _charts(found)["Slopes"].marks
    assert isinstance(cells, Heatmap)
    assert cells.y.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(cells.values[:2], [[1, -2, math.nan], [3, math.nan, math.nan]])
    assert cells.label == "slopes"
    assert _charts(section(_told(run, {"slopes": [None, None]}))) == {}


def test_much_is_thinned(run: LoadedRun) -> None:
    rows = [{"norms": [1.0] * 200, **{f"number_{i}": float(i + e) for i in range(9)}} for e in range(100)]
    found = section(_told(run, *rows))
    assert len(found.figures) == MAX_CHARTS
    assert list(found.missing) == ["4 more numbers vary, which are in the table and in metrics.jsonl"]
    (cells,) = _charts(found)["Norms"].marks
    assert isinstance(cells, Heatmap)
    assert cells.values.shape == (MAX_CELLS, MAX_CELLS)


def test_a_run_that_told_nothing(run: LoadedRun) -> None:
    (sentence,) = section(_told(run, {})).missing
    assert "policy-backprop" in sentence
    assert section(dataclasses.replace(run, metrics=[])).figures == ()


def test_no_metric_of_every_run_is_taken_for_one_of_the_algorithm(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefacts, "write", lambda folder, builder, state, _: _save(folder, state))
    start(tmp_path / "run", DRIFT, "num_episodes=2", "num_evaluation_episodes=0")
    with open_run(tmp_path / "run") as planned:
        assert section(planned).figures == ()
