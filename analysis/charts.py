"""What a picture shows, apart from who draws it: charts as data, for the page (plotly) and for files (matplotlib).

Colours by what they mean, the same in every chart: Okabe & Ito, Color Universal Design (2008); told apart with every
common form of colour blindness. A chart says its axes' names with units; a mark says what it is in the legend.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BLACK, ORANGE, SKY_BLUE, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#6E6E6E"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY_BLUE, BLACK)
"""For things that have no colour of their own: runs, dimensions."""
EPISTEMIC, ALEATORIC, REAL, IMAGINED = VERMILLION, SKY_BLUE, BLACK, BLUE
"""The colours of what recurs."""

Floats: TypeAlias = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Line:
    """y over x [n]; NaN in y is a gap."""

    x: Floats
    y: Floats
    label: str = ""
    """In the legend; "" is left out there."""
    color: str = BLUE
    width: float = 2.0
    dashed: bool = False
    opacity: float = 1.0


@dataclasses.dataclass(frozen=True)
class Band:
    """What lies between low and high [n], over x [n]."""

    x: Floats
    low: Floats
    high: Floats
    label: str = ""
    color: str = SKY_BLUE
    opacity: float = 0.35


@dataclasses.dataclass(frozen=True)
class Points:
    """Dots at (x, y) [n]; with `values` [n] coloured by them, on a scale called `values_label`."""

    x: Floats
    y: Floats
    label: str = ""
    color: str = BLUE
    size: float = 6.0
    """Diameter in points."""
    opacity: float = 0.8
    values: Floats | None = None
    values_label: str = ""
    diverging: bool = False
    """Whether the scale of `values` has a middle at 0."""
    hover: Sequence[str] = ()
    """[n] what the page says of each dot, besides where it is."""


@dataclasses.dataclass(frozen=True)
class Bars:
    """A histogram: heights [n] between edges [n + 1]."""

    edges: Floats
    heights: Floats
    label: str = ""
    color: str = SKY_BLUE
    opacity: float = 0.8


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """values [len(y), len(x)] at the centres x and y; NaN is left empty. One to a chart."""

    x: Floats
    y: Floats
    values: Floats
    label: str
    """Of the colour scale, with its unit."""
    limits: tuple[float, float] | None = None
    """Of the colour scale; None: those of the values."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A straight line over the whole chart: at x ("vertical") or at y."""

    at: float
    vertical: bool = False
    label: str = ""
    color: str = GREY
    dashed: bool = True


Mark: TypeAlias = Line | Band | Points | Bars | Heatmap | Rule


@dataclasses.dataclass(frozen=True)
class Chart:
    """Marks over two axes, later ones above earlier ones.

    Raises ValueError, naming the chart and the mark, where lengths differ or an axis has no name.
    """

    title: str
    x_label: str
    """With its unit: "time step", "angular velocity (rad/s)"."""
    y_label: str
    marks: Sequence[Mark]
    note: str = ""
    """How to read it, in a sentence."""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    log_y: bool = False

    def __post_init__(self) -> None:
        if not self.x_label or not self.y_label:
            raise ValueError(f"chart {self.title!r}: name both axes, got {self.x_label!r} and {self.y_label!r}")
        for mark in self.marks:
            if problem := _problem(mark):
                raise ValueError(
                    f"chart {self.title!r}, {type(mark).__name__} {getattr(mark, 'label', '')!r}: {problem}"
                )


@dataclasses.dataclass(frozen=True)
class Slides:
    """Charts of one kind, of which the page shows one at a time and the slider says which; a file shows the last.

    All have the same axes. Raises ValueError when there is none, or labels and charts differ in number.
    """

    title: str
    slider: str
    """What the slider chooses: "episode"."""
    labels: Sequence[str]
    charts: Sequence[Chart]

    def __post_init__(self) -> None:
        if not self.charts or len(self.charts) != len(self.labels):
            raise ValueError(f"slides {self.title!r}: got {len(self.charts)} charts and {len(self.labels)} labels")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text; numbers are formatted by who makes the table. Raises ValueError where a row has other cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row has {len(row)} cells, the table {len(self.columns)}")


@dataclasses.dataclass(frozen=True)
class Section:
    """One answer of a report: words, charts and tables, in this order."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs, plain text."""
    figures: Sequence[Chart | Slides] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = ()
    """What could not be shown, and why: a sentence each."""


def printable(text: str) -> str:
    """On one line, without control characters and halves of letters, which neither a page nor a font can hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


def is_log(chart: Chart) -> bool:
    """Whether the y axis is drawn logarithmic: asked for, and something positive is there."""
    return chart.log_y and any(bool((np.isfinite(values) & (values > 0)).any()) for values in heights_of(chart))


def has_whole_x(chart: Chart) -> bool:
    """Whether x counts: all x are whole numbers, so that its ticks had better be."""
    places = [np.asarray(m.x, dtype=float) for m in chart.marks if isinstance(m, Line | Band | Points)]
    others = any(isinstance(mark, Bars | Heatmap) for mark in chart.marks)
    return bool(places) and not others and all(bool((x[np.isfinite(x)] % 1 == 0).all()) for x in places)


def cell_edges(centres: Floats) -> Floats:
    """[n + 1] edges half way between the centres [n] of cells; a single cell is 1 wide."""
    centres = np.asarray(centres, dtype=float)
    if len(centres) < 2:
        return np.concatenate([centres - 0.5, centres + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def color_limits(values: Floats, *, diverging: bool = False) -> tuple[float, float]:
    """The ends of a colour scale over what is finite; with `diverging` as far below 0 as above."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if diverging:
        widest = max(abs(low), abs(high)) or 1.0
        return -widest, widest
    margin = 0.0 if high > low else 0.5 * abs(low) or 0.5
    return low - margin, high + margin


def heights_of(chart: Chart) -> list[Floats]:
    """All that the marks show along y."""
    return [values for mark in chart.marks for values in _heights(mark)]


def _heights(mark: Mark) -> list[Floats]:
    """What a mark shows along y."""
    match mark:
        case Line() | Points():
            return [np.asarray(mark.y)]
        case Band():
            return [np.asarray(mark.low), np.asarray(mark.high)]
        case Bars():
            return [np.asarray(mark.heights)]
        case Heatmap():
            return [np.asarray(mark.y)]
        case Rule():
            return []


def _problem(mark: Mark) -> str:
    """What is wrong with a mark's arrays; "" when nothing is."""
    if isinstance(mark, Rule):
        return "" if math.isfinite(mark.at) else f"at is {mark.at}"
    if isinstance(mark, Heatmap):
        expected, got = (len(mark.y), len(mark.x)), np.shape(mark.values)
        return "" if got == expected else f"values have shape {list(got)}, expected [len(y), len(x)] = {list(expected)}"
    if isinstance(mark, Bars):
        n = len(mark.heights)
        return "" if len(mark.edges) == n + 1 else f"{n} heights need {n + 1} edges, got {len(mark.edges)}"
    arrays = {"x": mark.x}
    if isinstance(mark, Band):
        arrays |= {"low": mark.low, "high": mark.high}
    else:
        arrays |= {"y": mark.y}
    if isinstance(mark, Points) and mark.values is not None:
        arrays |= {"values": mark.values}
    lengths = {name: np.shape(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1 or np.ndim(mark.x) != 1:
        return f"need arrays [n] of one length, got {lengths}"
    return ""
