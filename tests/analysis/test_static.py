"""The PNG shows what the chart says: read back from the artists, and from the file."""

import pathlib
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_mbrl.analysis.charts import VERMILLION, Band, Bars, Chart, Heatmap, Line, Points, Rule, Slides
from bayes_mbrl.analysis.static import chart_figure, save_chart

X = np.arange(5.0)


def chart(*marks: Any, **changed: Any) -> Chart:
    return Chart(**{"title": "T", "x_label": "time (s)", "y_label": "angle (rad)", "marks": marks} | changed)


def axes(figure: Figure) -> Axes:
    return figure.axes[0]


def legend(figure: Figure) -> list[str]:
    return [text.get_text().strip() for found in figure.legends for text in found.get_texts()]


def test_axes_title_and_legend_say_what_the_chart_says() -> None:
    figure = chart_figure(
        chart(
            Line(X, X, "real"), Line(X, X + 1), Band(X, X, X + 1, "90 %"), Rule(1.0, label="now"), Line(X, -X, "real")
        )
    )
    axis = axes(figure)
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title("left")) == ("time (s)", "angle (rad)", "T")
    assert legend(figure) == ["real", "90 %", "now"]
    assert pyplot.get_fignums() == []


def test_marks_are_drawn_where_they_are() -> None:
    y = np.array([0.0, 1, np.nan, np.inf, 4])
    axis = axes(
        chart_figure(chart(Line(X, y, color=VERMILLION, dashed=True), Points(X, X**2), Rule(2.5, vertical=True)))
    )
    line, dots, rule = axis.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [0, 1, np.nan, np.nan, 4])
    assert (line.get_color(), line.get_linestyle()) == (VERMILLION, "--")
    np.testing.assert_array_equal(dots.get_xydata(), np.stack([X, X**2], 1))
    assert list(rule.get_xdata()) == [2.5, 2.5]


def test_the_band_lies_between_low_and_high() -> None:
    axis = axes(chart_figure(chart(Band(X, X - 1, X + 2))))
    vertices = axis.collections[0].get_paths()[0].vertices
    for x in X:
        heights = np.asarray(vertices)[np.asarray(vertices)[:, 0] == x, 1]
        assert (heights.min(), heights.max()) == (x - 1, x + 2)


def test_bars_keep_their_edges_and_heights() -> None:
    edges, heights = np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0])
    stairs = axes(chart_figure(chart(Bars(edges, heights)))).patches[0]
    assert stairs.get_data().edges.tolist() == edges.tolist()  # type: ignore[attr-defined]
    assert stairs.get_data().values.tolist() == heights.tolist()  # type: ignore[attr-defined]


def test_a_heatmap_is_not_turned_and_says_what_its_colors_are() -> None:
    values = np.array([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0]])
    figure = chart_figure(chart(Heatmap(np.array([0.0, 1, 2]), np.array([10.0, 20]), values, "std (rad)")))
    mesh = axes(figure).collections[0]
    drawn = np.ma.filled(mesh.get_array().reshape(2, 3).astype(float), np.nan)
    np.testing.assert_array_equal(drawn, values)
    assert axes(figure).get_ylim() == (5, 25)
    assert mesh.get_clim() == (1, 6)
    assert figure.axes[1].get_ylabel() == "std (rad)"


def test_dots_without_a_value_are_drawn_too() -> None:
    dots = Points(X, X, values=np.array([-1.0, 0, 4, np.nan, np.inf]), values_label="error", diverging=True)
    figure = chart_figure(chart(dots))
    drawn = axes(figure).collections[0]
    assert len(np.asarray(drawn.get_offsets())) == 5
    assert drawn.get_clim() == (-4, 4)
    figure.canvas.draw()
    assert np.ptp(np.asarray(drawn.get_facecolors())[3:, :3], axis=0).max() == 0
    assert np.asarray(drawn.get_facecolors())[3, 3] > 0


def test_a_logarithmic_axis_survives_what_it_cannot_show() -> None:
    figure = chart_figure(chart(Line(X, X), Rule(-1.0, label="below"), Bars(X, X[:4]), log_y=True, y_range=(-1, 3)))
    assert axes(figure).get_yscale() == "log"
    assert legend(figure) == []
    assert axes(chart_figure(chart(Line(X, -X), log_y=True))).get_yscale() == "linear"


def test_ranges_and_whole_ticks() -> None:
    axis = axes(chart_figure(chart(Line(X[:3], X[:3]), x_range=(-1, 9), y_range=(0, 2))))
    assert (axis.get_xlim(), axis.get_ylim()) == ((-1, 9), (0, 2))
    assert all(tick == round(tick) for tick in axis.get_xticks())


def test_slides_show_the_last_and_say_so() -> None:
    slides = Slides("Knew", "episode", ["3", "8"], [chart(Line(X, X)), chart(Line(X, 7 * X))])
    axis = axes(chart_figure(slides))
    np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), 7 * X)
    assert axis.get_title("left") == "Knew (episode 8)"


HOSTILE = "$\\frac{1}{0}$ _a_ <b>x</b> %s {0} 漢\n\ud800 " + "long " * 40


@pytest.mark.parametrize(
    "marks",
    [
        (),
        (Line(X[:0], X[:0], HOSTILE),),
        (Line(X, np.full(5, np.nan), "_hidden"), Band(X, X * np.nan, X * np.nan)),
        (Points(X[:1], X[:1], HOSTILE, values=X[:1] * np.nan, values_label=HOSTILE),),
        (Heatmap(X[:1], X[:1], np.full((1, 1), np.nan), HOSTILE),),
        (Line(X, 1e300 * X, HOSTILE), Bars(np.array([0.0, 1e-9]), np.array([np.nan]))),
    ],
    ids=["nothing", "empty", "all NaN", "one point", "one cell", "huge"],
)
def test_odd_charts_are_drawn(marks: Any, tmp_path: pathlib.Path) -> None:
    for log in (False, True):
        odd = chart(*marks, title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, log_y=log)
        save_chart(odd, tmp_path / "odd.png")
    assert [path.name for path in tmp_path.iterdir()] == ["odd.png"]


def test_the_file_is_the_same_each_time_and_not_blank(tmp_path: pathlib.Path) -> None:
    for name in ("a.png", "b.png"):
        save_chart(chart(Band(X, X, X + 1, "band"), Line(X, X, "line")), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = matplotlib.image.imread(tmp_path / "a.png")
    assert picture.shape[:2] == (720, 1125)
    assert 0.05 < (picture[..., :3].min(-1) < 0.95).mean() < 0.9
