"""Plotly's home: charts that answer to hover, zoom and a slider. `figure(chart)` is an ordinary plotly figure.

Strings are shown as they are: the subset of HTML that plotly reads in texts is escaped, so that a name from outside can
neither be bold nor a link.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import plotly.graph_objects
import plotly.offline

from bayes_mbrl.analysis.charts import (
    Band,
    Bars,
    Chart,
    Floats,
    Heatmap,
    Line,
    Mark,
    Points,
    Rule,
    Slides,
    color_limits,
    has_whole_x,
    heights_of,
    is_log,
    printable,
)

HEIGHT = 420
"""Pixels, the slider left out."""
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", "size": 14}
INK, GRID = "#1A1A1A", "#DDDDDD"
LABEL_WIDTH, Y_LABEL_WIDTH, LEGEND_WIDTH = 34, 32, 28
"""Letters that fit on a line below the x axis, beside the y axis and in the legend on a phone."""

Spec: TypeAlias = dict[str, Any]


def figure(chart: Chart | Slides, *, with_title: bool = True) -> plotly.graph_objects.Figure:
    """The chart as a plotly figure; slides get a slider and begin with the last.

    The legend stands above the axes, over no data. What is NaN or infinite is left empty; a logarithmic axis without
    any positive value is drawn linear.
    """
    charts = chart.charts if isinstance(chart, Slides) else [chart]
    traces = [[trace for mark in one.marks if (trace := _trace(mark))] for one in charts]
    layouts = [_axes(one) for one in charts]
    for trace in (trace for group in traces[:-1] for trace in group):
        trace["visible"] = False
    layout = _layout(layouts[-1])
    if with_title:
        layout["title"] = {"text": _wrapped(chart.title, 60), "x": 0, "xref": "paper", "font": {"size": 18}}
        layout["title"] |= {"automargin": True, "yref": "container", "y": 0.98, "yanchor": "top"}
    if isinstance(chart, Slides):
        layout["sliders"] = [_slider(chart, traces, layouts)]
        layout["height"] = HEIGHT + 90
    _place_color_bars(traces)
    return plotly.graph_objects.Figure({"data": [t for group in traces for t in group], "layout": layout})


def plotly_script() -> str:
    """The whole of plotly.js, to be written into a page: it needs no network then."""
    return str(plotly.offline.get_plotlyjs())


def _trace(mark: Mark) -> Spec | None:
    """What plotly draws for a mark; a rule is part of the layout instead."""
    if isinstance(mark, Rule):
        return None
    if isinstance(mark, Heatmap):
        low, high = mark.limits or color_limits(np.asarray(mark.values))
        spec: Spec = {"type": "heatmap", "x": _compact(mark.x), "y": _compact(mark.y), "z": _compact(mark.values)}
        bar = _color_bar(mark.label)
        return spec | {"colorscale": "Viridis", "zmin": low, "zmax": high, "colorbar": bar, "hoverongaps": False}
    named = {
        "name": _wrapped(mark.label, LEGEND_WIDTH),
        "showlegend": bool(mark.label),
        "legendgroup": _wrapped(mark.label, LEGEND_WIDTH),
    }
    match mark:
        case Line():
            line = {"color": mark.color, "width": mark.width, "dash": "dash" if mark.dashed else "solid"}
            spec = {"type": "scatter", "mode": "lines", "x": _compact(mark.x), "y": _compact(mark.y)}
            return spec | named | {"line": line, "opacity": mark.opacity}
        case Band():
            x, y = _outline(mark)
            spec = {"type": "scatter", "mode": "lines", "x": _compact(x), "y": _compact(y), "fill": "toself"}
            fill = {"fillcolor": _transparent(mark.color, mark.opacity), "hoveron": "points"}
            return spec | named | fill | {"line": {"width": 0, "color": mark.color}}
        case Bars():
            edges = np.asarray(mark.edges, dtype=float)
            spec = {"type": "bar", "x": _compact((edges[1:] + edges[:-1]) / 2), "y": _compact(mark.heights)}
            style = {"color": mark.color, "opacity": mark.opacity, "line": {"width": 0}}
            return spec | named | {"width": _compact(np.diff(edges)), "marker": style}
        case Points():
            spec = {"type": "scatter", "mode": "markers", "x": _compact(mark.x), "y": _compact(mark.y)}
            hover = {"text": [_escaped(text) for text in mark.hover]} if len(mark.hover) else {}
            return spec | named | hover | {"marker": _marker(mark)}


def _marker(mark: Points) -> Spec:
    marker: Spec = {"size": mark.size * 4 / 3, "opacity": mark.opacity, "line": {"width": 0}}  # points as pixels
    if mark.values is None:
        return marker | {"color": mark.color}
    low, high = color_limits(mark.values, diverging=mark.diverging)
    scale = {"colorscale": "RdBu", "reversescale": True} if mark.diverging else {"colorscale": "Viridis"}
    marker |= scale | {"color": _compact(mark.values), "cmin": low, "cmax": high, "showscale": True}
    return marker | {"colorbar": _color_bar(mark.values_label), "line": {"width": 0.5, "color": "#444444"}}


def _color_bar(label: str) -> Spec:
    title = {"text": _wrapped(label, 36), "side": "right", "font": {"size": 14}}
    return {"title": title, "thickness": 14, "outlinewidth": 0, "tickfont": {"size": 14}}


def _place_color_bars(groups: Sequence[Sequence[Spec]]) -> None:
    """Scales of one chart stand beside each other, not over each other."""
    for traces in groups:
        found = [bar for trace in traces for bar in (trace.get("colorbar"), trace.get("marker", {}).get("colorbar"))]
        for number, bar in enumerate(bar for bar in found if bar):
            bar["x"] = 1.02 + 0.22 * number


def _axes(chart: Chart) -> Spec:
    """What a slide may have of its own in the layout: ranges and rules."""
    log = is_log(chart)
    x: Spec = {"title": {"text": _wrapped(chart.x_label), "standoff": 10}, "range": None, "autorange": True}
    y: Spec = {
        "title": {"text": _wrapped(chart.y_label, Y_LABEL_WIDTH), "standoff": 10},
        "range": None,
        "autorange": True,
    }
    if chart.x_range is not None:
        x |= {"range": list(map(float, chart.x_range)), "autorange": False}
    if chart.y_range is not None and not (log and min(chart.y_range) <= 0):
        ends = np.log10(chart.y_range) if log else chart.y_range
        y |= {"range": list(map(float, ends)), "autorange": False}
    y |= {"type": "log" if log else "linear", "tickmode": "auto", "tickvals": None, "ticktext": None}
    if log:
        places = _log_ticks(chart)
        y |= {"tickmode": "array", "tickvals": places, "ticktext": [_power(place) for place in places]}
    if has_whole_x(chart) and _width(chart) <= 8:
        x["dtick"] = 1
    rules = [
        _shape(mark) for mark in chart.marks if isinstance(mark, Rule) and (mark.vertical or mark.at > 0 or not log)
    ]
    return {"xaxis": x, "yaxis": y, "shapes": rules}


def _log_ticks(chart: Chart) -> list[float]:
    """Ticks of a logarithmic axis, named by us: plotly writes its own between the powers of ten too small to read."""
    heights = np.concatenate([np.ravel(values) for values in heights_of(chart)]).astype(float)
    positive = heights[np.isfinite(heights) & (heights > 0)]
    low, high = chart.y_range if chart.y_range and min(chart.y_range) > 0 else (positive.min(), positive.max())
    if high < 10 * low:
        step = 10.0 ** math.floor(math.log10((high - low) / 2)) if high > low else low
        step *= max(factor for factor in (1, 2, 5) if factor * step <= max((high - low) / 2, step))
        return [step * k for k in range(max(1, math.floor(low / step)), math.ceil(high / step) + 1)]
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    stride = max(1, -(-(last - first) // 10))
    between = (1, 2, 5) if last - first <= 5 else (1,)
    return [digit * 10.0**power for power in range(first, last + 1, stride) for digit in between]


def _power(value: float) -> str:
    """0.02, 50, 10⁻⁷."""
    power = round(math.log10(value))
    if -4 < power < 5 or value != 10.0**power:
        return f"{value:.6g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _width(chart: Chart) -> float:
    """How much of the x axis is in use."""
    if chart.x_range is not None:
        return abs(chart.x_range[1] - chart.x_range[0])
    places = [np.asarray(m.x, dtype=float) for m in chart.marks if isinstance(m, Line | Band | Points)]
    places = [x[np.isfinite(x)] for x in places]
    places = [x for x in places if x.size]
    return max(x.max() for x in places) - min(x.min() for x in places) if places else 0.0


def _shape(rule: Rule) -> Spec:
    """A rule as a line over the whole of the axes, in the legend when it has a label."""
    line = {"color": rule.color, "width": 1.5, "dash": "dash" if rule.dashed else "solid"}
    here, across = ("x", "y") if rule.vertical else ("y", "x")
    ends = {f"{here}0": rule.at, f"{here}1": rule.at, f"{across}0": 0, f"{across}1": 1}
    spec = {"type": "line", "line": line, **ends, f"{across}ref": "paper"}
    return spec | {"name": _wrapped(rule.label, LEGEND_WIDTH), "showlegend": bool(rule.label)}


def _layout(axes: Spec) -> Spec:
    look = {"gridcolor": GRID, "linecolor": INK, "showline": True, "zeroline": False, "ticks": "outside"}
    look |= {"automargin": True, "hoverformat": ".6~g", "tickfont": {"size": 14}}
    return {
        "template": "none",
        "xaxis": axes["xaxis"] | look,
        "yaxis": axes["yaxis"] | look,
        "shapes": axes["shapes"],
        "font": {**FONT, "color": INK},
        "height": HEIGHT,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 14},
        },
        "hovermode": "closest",
        "hoverlabel": {"font": {"size": 14}, "namelength": -1},
        "barmode": "overlay",
        "bargap": 0,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
    }


def _slider(slides: Slides, traces: Sequence[Sequence[Spec]], layouts: Sequence[Spec]) -> Spec:
    """Each step shows the traces of one chart, with its axes."""
    steps = []
    for number, label in enumerate(slides.labels):
        visible = [chosen == number for chosen, group in enumerate(traces) for _ in group]
        axes = layouts[number]
        layout: Spec = {"shapes": axes["shapes"]}
        for axis in ("xaxis", "yaxis"):
            layout |= {f"{axis}.{key}": axes[axis][key] for key in ("range", "autorange")}
        layout |= {f"yaxis.{key}": axes["yaxis"][key] for key in ("type", "tickmode", "tickvals", "ticktext")}
        steps.append({"method": "update", "label": _escaped(label), "args": [{"visible": visible}, layout]})
    prefix = {"prefix": f"{_escaped(slides.slider)}: ", "font": {"size": 16}, "xanchor": "left"}
    place = {
        "x": 0,
        "len": 1,
        "pad": {"t": 64, "b": 4, "l": 4, "r": 12 + 4 * len(slides.labels[-1])},
        "font": {"size": 14},
    }
    return {"active": len(steps) - 1, "steps": steps, "currentvalue": prefix, **place}


def _outline(band: Band) -> tuple[Floats, Floats]:
    """The outline of each unbroken part of the band, with NaN between them."""
    x, low, high = (np.asarray(values, dtype=float) for values in (band.x, band.low, band.high))
    sound = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    starts = np.flatnonzero(sound & ~np.concatenate([[False], sound[:-1]]))
    ends = np.flatnonzero(sound & ~np.concatenate([sound[1:], [False]])) + 1
    gap = np.array([np.nan])
    xs: list[Floats] = []
    ys: list[Floats] = []
    for start, end in zip(starts, ends, strict=True):
        part = slice(start, end)
        xs += [x[part], x[part][::-1], x[start : start + 1], gap]
        ys += [high[part], low[part][::-1], high[start : start + 1], gap]
    return (np.concatenate(xs)[:-1], np.concatenate(ys)[:-1]) if xs else (np.empty(0), np.empty(0))


def _compact(values: Floats) -> Floats:
    """In single precision, where that is not seen: half the page. Without infinities, which have no place."""
    array = np.asarray(values, dtype=np.float64)
    array = np.where(np.isfinite(array), array, np.nan)
    if not np.isfinite(array).any():
        return array.astype(np.float32)
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    off = np.nanmax(np.abs(single - array))
    return single if off <= 1e-4 * np.nanmax(np.abs(array - np.nanmin(array))) or off == 0 else array


def _transparent(color: str, opacity: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def _escaped(text: str) -> str:
    """The text as plotly shows it letter by letter, on one line."""
    return html.escape(printable(text), quote=False).replace("$", "&#36;")


def _wrapped(text: str, width: int = LABEL_WIDTH) -> str:
    """The same on several lines."""
    return "<br>".join(_escaped(line) for line in textwrap.wrap(printable(text), width))
