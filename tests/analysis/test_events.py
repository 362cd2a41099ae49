"""Scores of probabilities: by hand, proper, and reliable where the probabilities are right."""

import math

import numpy as np
import pytest
import torch

from bayes_mbrl.analysis.charts import Line, Points
from bayes_mbrl.analysis.events import event_scores, reliability_chart


def test_scores_by_hand() -> None:
    scores = event_scores([0.9, 0.2, 0.5, 0.0], [True, False, True, False], base_rate=0.25)
    assert (scores.num_data, scores.num_events) == (4, 2)
    assert scores.log_score == pytest.approx((math.log(0.9) + math.log(0.8) + math.log(0.5)) / 4)
    assert scores.brier == pytest.approx((0.01 + 0.04 + 0.25) / 4)
    assert scores.base_log_score == pytest.approx((math.log(0.25) + math.log(0.75)) / 2)
    assert scores.base_brier == pytest.approx((0.75**2 + 0.25**2) / 2)
    assert scores.mean_at_events == pytest.approx(0.7)
    assert scores.mean_elsewhere == pytest.approx(0.1)


def test_certainty_that_was_wrong_and_events_that_never_came() -> None:
    assert event_scores([0.0, 0.5], [1, 0], base_rate=0.1).log_score == -math.inf
    never = event_scores(torch.tensor([0.1, 0.0]), torch.tensor([False, False]), base_rate=0.1)
    assert math.isnan(never.mean_at_events)
    assert never.log_score == pytest.approx(math.log(0.9) / 2)


def test_the_truth_scores_best(generator: torch.Generator) -> None:
    truth = torch.rand(20_000, dtype=torch.float64, generator=generator)
    came = torch.rand(20_000, dtype=torch.float64, generator=generator) < truth
    right, bold, shy = (
        event_scores(p, came, base_rate=0.5) for p in (truth, truth**2 / (truth**2 + (1 - truth) ** 2), (truth + 1) / 3)
    )
    for other in (bold, shy):
        assert right.log_score > other.log_score
        assert right.brier < other.brier
    assert right.log_score == pytest.approx(-0.5, abs=0.02)  # ∫ p log p + (1 − p) log(1 − p)
    assert right.brier == pytest.approx(1 / 6, abs=0.01)
    assert right.base_log_score == pytest.approx(-math.log(2))


def test_what_is_reliable_lies_on_the_diagonal(generator: torch.Generator) -> None:
    truth = torch.rand(5000, dtype=torch.float64, generator=generator) ** 3
    came = torch.rand(5000, dtype=torch.float64, generator=generator) < truth
    chart = reliability_chart(truth, came, title="Ends")
    points = chart.marks[-1]
    assert isinstance(points, Points)
    assert len(points.x) == 10
    error = np.sqrt(
        points.x * (1 - points.x) / np.array([int(text.split()[0].replace(",", "")) for text in points.hover])
    )
    assert (np.abs(points.y - points.x) < 4 * error).all()
    assert (np.abs(reliability_chart(truth / 3, came, title="Ends").marks[-1].y[-1]) > 0.6).all()  # type: ignore[union-attr]
    whiskers = [mark for mark in chart.marks if isinstance(mark, Line) and not mark.dashed]
    np.testing.assert_allclose([line.y[1] - line.y[0] for line in whiskers[1:-1]], 2 * error[1:-1])
    alone = reliability_chart([1.0], [True], title="Ends").marks[-1]
    assert isinstance(alone, Points)
    assert (alone.x.tolist(), alone.y.tolist()) == ([1.0], [1.0])


@pytest.mark.parametrize(
    ("probability", "happened", "base_rate", "message"),
    [
        ([0.5], [True], 0.0, r"need 0 < base_rate < 1, got 0.0: of e events in n data take \(e \+ 1\)"),
        ([0.5, 1.2], [True, False], 0.5, "need probabilities within .* 0.5 to 1.2"),
        ([0.5, float("nan")], [True, False], 0.5, "need probabilities within"),
        ([0.5], [True, False], 0.5, r"of one length .* got \(1,\) and \(2,\)"),
        ([], [], 0.5, "N >= 1"),
    ],
)
def test_bad_input(probability: list[float], happened: list[bool], base_rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        event_scores(probability, happened, base_rate=base_rate)
