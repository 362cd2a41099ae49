"""What both back ends read off a chart, and what a chart refuses."""

from typing import Any

import numpy as np
import pytest

from bayes_mbrl.analysis.charts import (
    Band,
    Bars,
    Chart,
    Heatmap,
    Line,
    Points,
    Rule,
    Slides,
    Table,
    cell_edges,
    color_limits,
    has_whole_x,
    is_log,
)

X = np.array([0.0, 1.0, 2.0])


def chart(*marks: Any, **changed: Any) -> Chart:
    return Chart(**{"title": "T", "x_label": "time (s)", "y_label": "angle (rad)", "marks": marks} | changed)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (Line(X, X[:2]), "one length"),
        (Line(X.reshape(3, 1), X.reshape(3, 1)), "one length"),
        (Band(X, X, X[:1], "spread"), "'spread'.*one length"),
        (Points(X, X, values=X[:2]), "one length"),
        (Bars(X, X), "3 heights need 4 edges, got 3"),
        (Heatmap(X, X[:2], np.zeros((3, 2)), "v"), r"\[3, 2\], expected \[len\(y\), len\(x\)\] = \[2, 3\]"),
        (Rule(np.nan), "nan"),
    ],
)
def test_a_mark_that_does_not_fit_is_named(mark: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"chart 'T', {type(mark).__name__}.*{words}"):
        chart(mark)


def test_axes_have_names_and_slides_have_charts() -> None:
    with pytest.raises(ValueError, match="name both axes"):
        chart(y_label="")
    with pytest.raises(ValueError, match="0 charts"):
        Slides("S", "episode", [], [])
    with pytest.raises(ValueError, match="1 charts and 2 labels"):
        Slides("S", "episode", ["0", "1"], [chart()])
    with pytest.raises(ValueError, match="a row has 1 cells, the table 2"):
        Table(("a", "b"), [("1",)])


def test_an_axis_is_logarithmic_only_with_something_to_show() -> None:
    assert is_log(chart(Line(X, X), log_y=True))
    assert not is_log(chart(Line(X, X)))
    assert not is_log(chart(Line(X, -X), log_y=True))
    assert not is_log(chart(Line(X, np.array([np.nan, np.inf, -1])), log_y=True))
    assert not is_log(chart(Rule(1.0), log_y=True))


def test_whole_places_are_counts() -> None:
    assert has_whole_x(chart(Line(X, X + 0.5), Points(np.array([np.nan, 4.0]), X[:2])))
    assert not has_whole_x(chart(Line(X, X), Points(X + 0.5, X)))
    assert not has_whole_x(chart(Line(X, X), Bars(X, X[:2])))
    assert not has_whole_x(chart())


def test_edges_lie_between_centres() -> None:
    assert cell_edges(np.array([0.0, 1.0, 3.0])).tolist() == [-0.5, 0.5, 2.0, 4.0]
    assert cell_edges(np.array([5.0])).tolist() == [4.5, 5.5]


@pytest.mark.parametrize(
    ("values", "diverging", "expected"),
    [
        ([1.0, 3.0, np.nan, np.inf], False, (1.0, 3.0)),
        ([1.0, -3.0, 2.0], True, (-3.0, 3.0)),
        ([4.0, 4.0], False, (2.0, 6.0)),
        ([0.0], False, (-0.5, 0.5)),
        ([0.0], True, (-1.0, 1.0)),
        ([np.nan], False, (0.0, 1.0)),
        ([], False, (0.0, 1.0)),
    ],
)
def test_color_limits(values: list[float], diverging: bool, expected: tuple[float, float]) -> None:
    assert color_limits(np.array(values), diverging=diverging) == expected
