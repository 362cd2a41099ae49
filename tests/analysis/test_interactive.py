"""The plotly figure holds the numbers of the chart, and no markup that was in its strings."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bayes_mbrl.analysis.charts import Band, Bars, Chart, Heatmap, Line, Points, Rule, Slides
from bayes_mbrl.analysis.interactive import figure, plotly_script

X = np.arange(5.0)
HOSTILE = '<b>bold</b> <a href="https://example.org">a</a> &lt; $x$ </script>'
SHOWN = '&lt;b&gt;bold&lt;/b&gt; &lt;a href="https://example.org"&gt;a&lt;/a&gt; &amp;lt; &#36;x&#36; &lt;/script&gt;'


def chart(*marks: Any, **changed: Any) -> Chart:
    return Chart(**{"title": "T", "x_label": "time (s)", "y_label": "angle (rad)", "marks": marks} | changed)


def spec(drawn: Chart | Slides) -> dict[str, Any]:
    """What plotly.js gets."""
    loaded: dict[str, Any] = json.loads(figure(drawn).to_json())
    return loaded


def numbers(values: Any) -> NDArray[Any]:
    """An array as plotly.js decodes it."""
    if not isinstance(values, dict):
        return np.array(values, dtype=float)
    array = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).astype(float)
    return array.reshape([int(n) for n in values["shape"].split(",")]) if "shape" in values else array


def test_marks_hold_the_numbers() -> None:
    y = np.array([0.5, 1, np.nan, np.inf, 4])
    values = np.array([[1.0, 2, 3, 4, 5], [4, np.nan, 6, 7, 8]])
    data = spec(
        chart(
            Heatmap(X, np.array([3.0, 4]), values, "std (rad)", limits=(0, 9)),
            Line(X, y, "line", "#112233", dashed=True),
            Bars(np.array([0.0, 1, 4]), np.array([2.0, 3]), "bars"),
            Points(X, -X, "dots", values=y, values_label="error", diverging=True, hover=list("abcde")),
        )
    )["data"]
    heat, line, bars, dots = data
    np.testing.assert_array_equal(numbers(heat["z"]), values)
    assert (heat["zmin"], heat["zmax"], heat["colorbar"]["title"]["text"]) == (0, 9, "std (rad)")
    np.testing.assert_array_equal(numbers(line["y"]), [0.5, 1, np.nan, np.nan, 4])
    assert (line["name"], line["line"]["color"], line["line"]["dash"]) == ("line", "#112233", "dash")
    assert (numbers(bars["x"]).tolist(), numbers(bars["width"]).tolist()) == ([0.5, 2.5], [1, 3])
    assert numbers(bars["y"]).tolist() == [2, 3]
    np.testing.assert_array_equal(numbers(dots["marker"]["color"]), [0.5, 1, np.nan, np.nan, 4])
    assert (dots["marker"]["cmin"], dots["marker"]["cmax"], dots["text"]) == (-4, 4, list("abcde"))


def test_a_band_is_broken_where_a_number_is_missing() -> None:
    band = spec(chart(Band(X, np.array([0.0, 1, np.nan, 3, 4]), X + 10, "90 %", "#0072B2", 0.25)))["data"][0]
    x, y = numbers(band["x"]), numbers(band["y"])
    np.testing.assert_array_equal(x, [0, 1, 1, 0, 0, np.nan, 3, 4, 4, 3, 3])
    np.testing.assert_array_equal(y, [10, 11, 1, 0, 10, np.nan, 13, 14, 4, 3, 13])
    assert (band["fill"], band["fillcolor"]) == ("toself", "rgba(0,114,178,0.25)")
    assert spec(chart(Band(X, X * np.nan, X)))["data"][0]["name"] == ""


def test_rules_go_over_the_whole_chart() -> None:
    across, along = spec(chart(Rule(2.0, vertical=True, label="now"), Rule(-1.0)))["layout"]["shapes"]
    assert (across["x0"], across["x1"], across["y0"], across["y1"], across["yref"]) == (2, 2, 0, 1, "paper")
    assert (along["y0"], along["y1"], along["xref"]) == (-1, -1, "paper")
    assert (across["name"], across["showlegend"], along["showlegend"]) == ("now", True, False)


@pytest.mark.parametrize("values", [[1e9, 1e9 + 1e-3], [1e300, 2e300], [0.1, 0.2], [3.0, 3.0], [np.pi] * 3])
def test_numbers_are_shortened_only_where_nobody_sees_it(values: list[float]) -> None:
    line = spec(chart(Line(np.arange(float(len(values))), np.array(values))))["data"][0]
    seen, width = numbers(line["y"]), np.ptp(values) or max(values)
    assert np.abs(seen - values).max() <= 1e-4 * width


def test_texts_are_shown_letter_by_letter() -> None:
    dots = Points(X, X, HOSTILE, values=X, values_label=HOSTILE, hover=[HOSTILE] * 5)
    hostile = chart(dots, Rule(1.0, label=HOSTILE), title=HOSTILE, x_label=HOSTILE, y_label=HOSTILE)
    drawn = spec(Slides(HOSTILE, HOSTILE, [HOSTILE], [hostile]))
    (trace,), layout = drawn["data"], drawn["layout"]
    slider = layout["sliders"][0]
    assert trace["text"][0] == slider["steps"][0]["label"] == SHOWN
    assert slider["currentvalue"]["prefix"] == f"{SHOWN}: "
    names = [trace["name"], layout["shapes"][0]["name"]]
    texts = [*names, layout["title"]["text"], layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]]
    for text in [*texts, trace["marker"]["colorbar"]["title"]["text"]]:
        assert text.replace("<br>", "").replace(" ", "") == SHOWN.replace(" ", "")


def test_each_step_of_the_slider_shows_one_chart() -> None:
    charts = [
        chart(Line(X, X), Rule(1.0), y_range=(0, 4)),
        chart(Line(X, 2 * X), Line(X, 3 * X)),
        chart(Line(X, -X), log_y=True),
    ]
    drawn = spec(Slides("Knew", "episode", ["0", "3", "8"], charts))
    assert [trace.get("visible", True) for trace in drawn["data"]] == [False, False, False, True]
    slider = drawn["layout"]["sliders"][0]
    assert (slider["active"], [step["label"] for step in slider["steps"]]) == (2, ["0", "3", "8"])
    shown = [step["args"][0]["visible"] for step in slider["steps"]]
    assert shown == [[True, False, False, False], [False, True, True, False], [False, False, False, True]]
    layouts = [step["args"][1] for step in slider["steps"]]
    assert [len(layout["shapes"]) for layout in layouts] == [1, 0, 0]
    assert (layouts[0]["yaxis.range"], layouts[0]["yaxis.autorange"]) == ([0, 4], False)
    assert (layouts[1]["yaxis.range"], layouts[1]["yaxis.autorange"]) == (None, True)


@pytest.mark.parametrize(
    ("low", "high", "some"),
    [
        (0.005, 0.5, {"0.01", "0.1"}),
        (1e-9, 1e-3, {"10⁻⁶"}),
        (3, 4.1, {"3.5", "4"}),
        (7, 7, {"7"}),
        (1e-9, 1e40, {"10⁻⁴", "10³²"}),
    ],
)
def test_a_logarithmic_axis_has_ticks_to_read(low: float, high: float, some: set[str]) -> None:
    axis = spec(chart(Line(X[:2], np.array([low, high])), log_y=True))["layout"]["yaxis"]
    texts = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert axis["type"] == "log"
    assert some <= texts.keys()
    assert 1 <= sum(low / 1.001 <= place <= 1.001 * high for place in texts.values()) <= 16
    plain = {text: place for text, place in texts.items() if not set("⁰¹²³⁴⁵⁶⁷⁸⁹") & set(text)}
    assert all(float(text) == pytest.approx(place, rel=1e-5) for text, place in plain.items())


def test_a_logarithmic_axis_without_anything_positive_is_linear() -> None:
    layout = spec(chart(Line(X, -X), Rule(-1.0), log_y=True, y_range=(-4, 0)))["layout"]
    assert (layout["yaxis"]["type"], layout["yaxis"]["range"], len(layout["shapes"])) == ("linear", [-4, 0], 1)
    layout = spec(chart(Line(X, X), Rule(-1.0), log_y=True, y_range=(1, 100)))["layout"]
    assert (layout["yaxis"]["type"], layout["yaxis"]["range"], "shapes" in layout) == ("log", [0, 2], False)


def test_a_figure_is_the_same_each_time() -> None:
    assert figure(chart(Line(X, X, "a"))).to_json() == figure(chart(Line(X, X, "a"))).to_json()


def test_the_script_is_whole_and_ends_no_element() -> None:
    script = plotly_script()
    assert "plotly.js v" in script[:200]
    assert "</script" not in script.lower()
    assert 1e6 < len(script.encode()) < 5e6
