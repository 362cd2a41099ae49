"""Charts as files: matplotlib draws what charts.py describes.

On a `Figure` of its own with the Agg canvas, so that no global state of pyplot is read or changed. Strings are drawn as
they are: a dollar sign begins no formula.
"""

import pathlib
import textwrap
import warnings
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from bayes_mbrl.analysis.atomic import atomic_file
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
    cell_edges,
    color_limits,
    has_whole_x,
    is_log,
    printable,
)

DPI = 150
SIZE = (7.5, 4.8)
"""Inches."""
SEQUENTIAL, DIVERGING, NO_VALUE = "viridis", "RdBu_r", "#BBBBBB"
"""Scales of colours that every common form of colour blindness tells apart, and the colour of NaN."""
TITLE_WIDTH, LABEL_WIDTH, LEGEND_WIDTH = 64, 60, 84
"""Letters that fit on a line."""


def chart_figure(chart: Chart | Slides) -> Figure:
    """The chart as a matplotlib figure of 7.5 × 4.8 inches; of slides the last, which the title names.

    The legend stands below the axes, over no data. What is NaN or infinite is left empty, and so is what is not
    positive on a logarithmic axis; such an axis without any positive value is drawn linear.
    """
    title = chart.title
    if isinstance(chart, Slides):
        title = f"{chart.title} ({chart.slider} {chart.labels[-1]})"
        chart = chart.charts[-1]
    figure = Figure(figsize=SIZE, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    log = is_log(chart)
    if log:
        axis.set_yscale("log")
    handles: dict[str, Any] = {}
    for mark in chart.marks:
        handle = _draw(axis, mark, log)
        if not isinstance(mark, Heatmap) and mark.label and handle is not None:
            handles.setdefault(mark.label, handle)
    _dress(axis, chart, _wrapped(title, TITLE_WIDTH))
    if handles:
        _legend(figure, handles)
    return figure


def save_chart(chart: Chart | Slides, path: pathlib.Path) -> None:
    """Write the chart as PNG at 150 dots per inch, whole or not at all."""
    figure = chart_figure(chart)
    with atomic_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def _draw(axis: Axes, mark: Mark, log: bool) -> Any:
    """Draw one mark; what stands for it in the legend."""
    match mark:
        case Line():
            style = "--" if mark.dashed else "-"
            values = _finite(mark.x), _finite(mark.y)
            return axis.plot(*values, style, color=mark.color, linewidth=mark.width, alpha=mark.opacity)[0]
        case Band():
            low, high = _finite(mark.low), _finite(mark.high)
            return axis.fill_between(
                mark.x, low, high, color=mark.color, alpha=mark.opacity, linewidth=0, interpolate=False
            )
        case Points():
            return _draw_points(axis, mark)
        case Bars():
            heights = np.nan_to_num(_finite(mark.heights))
            return axis.stairs(heights, mark.edges, fill=True, color=mark.color, alpha=mark.opacity)
        case Heatmap():
            return _draw_heatmap(axis, mark)
        case Rule():
            if log and not mark.vertical and mark.at <= 0:
                return None
            draw = axis.axvline if mark.vertical else axis.axhline
            return draw(mark.at, color=mark.color, linewidth=1.4, linestyle="--" if mark.dashed else "-")


def _draw_points(axis: Axes, mark: Points) -> Any:
    if mark.values is None:
        (dots,) = axis.plot(_finite(mark.x), _finite(mark.y), "o", color=mark.color, markersize=mark.size)
        dots.set(alpha=mark.opacity, markeredgewidth=0)
        return dots
    values = _finite(mark.values)
    low, high = color_limits(values, diverging=mark.diverging)
    colored = axis.scatter(
        mark.x,
        mark.y,
        s=mark.size**2,
        c=values,
        cmap=colormaps[DIVERGING if mark.diverging else SEQUENTIAL].with_extremes(bad=NO_VALUE),
        norm=Normalize(low, high),
        plotnonfinite=True,
        alpha=mark.opacity,
        linewidths=0.4,
        edgecolors="#444444",
    )
    _color_bar(axis, colored, mark.values_label)
    return colored


def _draw_heatmap(axis: Axes, mark: Heatmap) -> Any:
    values = np.ma.masked_invalid(np.asarray(mark.values, dtype=float))
    low, high = mark.limits or color_limits(np.asarray(mark.values, dtype=float))
    cells = axis.pcolormesh(
        cell_edges(mark.x), cell_edges(mark.y), values, cmap=SEQUENTIAL, norm=Normalize(low, high), rasterized=True
    )
    _color_bar(axis, cells, mark.label)
    return cells


def _color_bar(axis: Axes, drawn: ScalarMappable, label: str) -> None:
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    bar = figure.colorbar(drawn, ax=axis)
    bar.set_label(_wrapped(label, 40), parse_math=False)


def _dress(axis: Axes, chart: Chart, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=13, parse_math=False)
    axis.set_xlabel(_wrapped(chart.x_label, LABEL_WIDTH), fontsize=11, parse_math=False)
    axis.set_ylabel(_wrapped(chart.y_label, 44), fontsize=11, parse_math=False)
    axis.tick_params(labelsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    if not any(isinstance(mark, Heatmap) for mark in chart.marks):
        axis.grid(visible=True, color="#DDDDDD", linewidth=0.7)
        axis.set_axisbelow(True)
    if has_whole_x(chart):
        axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    if chart.x_range is not None:
        axis.set_xlim(*chart.x_range)
    if chart.y_range is not None and not (is_log(chart) and min(chart.y_range) <= 0):
        axis.set_ylim(*chart.y_range)


def _legend(figure: Figure, handles: dict[str, Any]) -> None:
    """Below the axes, in as many columns as the widest label allows."""
    labels = [_wrapped(label, LEGEND_WIDTH) for label in handles]
    widest = max(len(line) for label in labels for line in label.splitlines()) + 7
    columns = min(len(labels), max(1, LEGEND_WIDTH // widest))
    legend = figure.legend(
        list(handles.values()),
        [f" {label}" for label in labels],  # one that begins with an underscore would be left out
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=10,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(printable(text), width)


def _finite(values: Floats) -> Floats:
    """Gaps where a value is not finite."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)
