"""Matplotlib's home: the picture of a run, and that of what it learned about named parameters.

Everything is drawn on a `Figure` of its own with the Agg canvas, so that no global state of pyplot is read or changed.
Axes: E episodes, V evaluation episodes, K parameter samples, M noise draws, H horizon, S state.
"""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from bayes_mbrl.analysis.atomic import atomic_file
from bayes_mbrl.analysis.charts import BLACK, BLUE, GREEN, GREY, ORANGE, SKY_BLUE, VERMILLION

DPI = 150
MAX_DIMENSIONS = 4
MAX_TRAJECTORIES = 40
ABOVE_LEGEND = 26.0
"""Points between a panel and its title when the legend stands between them."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class LearningCurve:
    """What the episodes of a run returned. Raises ValueError on NaN, inf, or no episode."""

    returns: Floats
    """[E] return of each training episode, in units of the reward; the base policy's come first."""
    base_policy_episodes: int
    """How many of them, 0..E, the base policy played."""
    evaluation_returns: Floats
    """[V] returns of the evaluation episodes after training; V = 0 when there were none."""
    name: str
    """What ran, for the title: "Pendulum-v1 · mean-field · CEM"."""
    learned_label: str = "planned"
    """How the episodes after the base policy's came about."""

    def __post_init__(self) -> None:
        _check("returns", self.returns, "[E]", 1)
        _check("evaluation_returns", self.evaluation_returns, "[V]", 1, minimum=0)
        if not 0 <= self.base_policy_episodes <= len(self.returns):
            raise ValueError(
                f"need 0 <= base_policy_episodes <= {len(self.returns)} episodes, got {self.base_policy_episodes}"
            )


@dataclass(frozen=True)
class Fan:
    """Imagined trajectories from one state, under one plan, against the real one. Raises ValueError on NaN or inf."""

    imagined: Floats
    """[K, M, H+1, S] sampled states, in the environment's units."""
    real: Floats
    """[H+1, S] what happened when the plan's actions were executed."""
    dimension_names: tuple[str, ...]
    """S names, with units: "angular velocity (rad/s)"."""
    time_step_label: str
    """Label of the time axis: "time step (0.05 s each)"."""
    dimension_scale: Floats | None = None
    """[S] typical size of each dimension, such as its std in the data, by which spreads compare; None: all alike."""

    def __post_init__(self) -> None:
        _check("imagined", self.imagined, "[K, M, H+1, S]", 4)
        _check("real", self.real, "[H+1, S]", 2)
        if self.imagined.shape[2:] != self.real.shape:
            raise ValueError(
                f"imagined {list(self.imagined.shape)} and real {list(self.real.shape)} differ in steps or dimensions"
            )
        if len(self.dimension_names) != self.real.shape[1]:
            raise ValueError(f"need {self.real.shape[1]} dimension names, got {len(self.dimension_names)}")
        if self.dimension_scale is not None:
            _check("dimension_scale", self.dimension_scale, "[S]", 1)
            if self.dimension_scale.shape != self.real.shape[1:] or bool((self.dimension_scale <= 0).any()):
                raise ValueError(f"need {self.real.shape[1]} positive dimension scales, got {self.dimension_scale}")


@dataclass(frozen=True)
class Shares:
    """One-step predictive variance along the real trajectory, in parts. Raises ValueError on NaN, inf or negatives."""

    epistemic: Floats
    """[H] summed over standardised dimensions: dimensionless."""
    aleatoric: Floats
    """[H] likewise."""

    def __post_init__(self) -> None:
        for name, values in (("epistemic", self.epistemic), ("aleatoric", self.aleatoric)):
            _check(name, values, "[H]", 1)
            if bool((values < 0).any()):
                raise ValueError(f"{name} is a variance and cannot be negative, got {values.min():g}")
        if self.epistemic.shape != self.aleatoric.shape:
            raise ValueError(f"need as many steps in both parts, got {len(self.epistemic)} and {len(self.aleatoric)}")


@dataclass(frozen=True)
class ParameterDraws:
    """What is believed about one parameter, before and after the data. Raises ValueError on NaN, inf, or no draw."""

    name: str
    unit: str
    """"kg"; "" where it has none."""
    posterior: Floats
    """[K] draws of p(θ | D), in that unit."""
    prior: Floats
    """[K'] draws of p(θ)."""
    truth: float | None = None
    """Where it is known."""

    def __post_init__(self) -> None:
        _check(f"posterior of {self.name}", self.posterior, "[K]", 1)
        _check(f"prior of {self.name}", self.prior, "[K']", 1)


def parameters_figure(parameters: Sequence[ParameterDraws], *, name: str) -> Figure:
    """A panel for each parameter: the posterior's histogram, the prior's as a thin line, the truth as a vertical one.

    A panel is as wide as the posterior and the truth; the title over it says how far the prior goes. Three panels to
    a row, 12 inches wide. Raises ValueError when there is no parameter.
    """
    if not parameters:
        raise ValueError("need at least one parameter to draw")
    num_columns = min(3, len(parameters))
    num_rows = -(-len(parameters) // num_columns)
    figure = Figure(figsize=(4 * num_columns, 0.9 + 3.1 * num_rows), dpi=DPI)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    figure.suptitle(name, fontsize=16, fontweight="bold", parse_math=False)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for panel, parameter in zip(panels, parameters, strict=False):
        _draw_parameter(panel, parameter)
    for panel in panels[len(parameters) :]:
        panel.set_axis_off()
    handles = {str(handle.get_label()): handle for panel in panels for handle in panel.get_legend_handles_labels()[0]}
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11
    )
    return figure


def run_figure(*, curve: LearningCurve, fan: Fan, shares: Shares) -> Figure:
    """The picture of a run: learning curve, what the model imagined, and what kind of uncertainty it had.

    12 x 8 inches. Of more than four state dimensions, the four with the widest imagined spread are drawn, and the
    title says so.
    """
    figure = Figure(figsize=(12, 8), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    figure.suptitle(curve.name, fontsize=16, fontweight="bold", parse_math=False)
    left, right = figure.subfigures(1, 2, wspace=0.03)
    top, bottom = left.subplots(2, 1)
    _draw_curve(top, curve)
    _draw_shares(bottom, shares, fan.time_step_label)
    shown = _widest_dimensions(fan)
    panels = right.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for panel, dimension in zip(panels, shown, strict=True):
        _draw_fan(panel, fan, dimension)
    right.align_ylabels(panels)
    panels[-1].set_xlabel(fan.time_step_label, parse_math=False)
    num_dimensions = fan.real.shape[1]
    which = "" if len(shown) == num_dimensions else f"\n{len(shown)} of {num_dimensions} dimensions, the widest spread"
    panels[0].set_title("Imagined under the actions taken, and real" + which, loc="left", pad=ABOVE_LEGEND)
    _legend_above(panels[0])
    return figure


def curve_figure(curve: LearningCurve) -> Figure:
    """The picture of a run without a model: its learning curve, 6 x 4 inches."""
    figure = Figure(figsize=(6, 4), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    figure.suptitle(curve.name, fontsize=12, fontweight="bold", parse_math=False)
    _draw_curve(figure.subplots(), curve)
    return figure


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Write the figure as PNG at 150 dots per inch, whole or not at all."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _draw_curve(axis: Axes, curve: LearningCurve) -> None:
    """Return per episode, and behind the last one the evaluation."""
    num_episodes, first = len(curve.returns), curve.base_policy_episodes
    episodes = np.arange(1, num_episodes + 1)
    axis.plot(episodes, curve.returns, color=GREY, linewidth=1.2, zorder=1)
    size = 7.0 if num_episodes <= 30 else 4.0
    for part, color, fill, label in (
        (slice(None, first), ORANGE, "white", "base policy"),
        (slice(first, None), BLUE, BLUE, curve.learned_label),
    ):
        x, y = episodes[part], curve.returns[part]
        if len(x) > 0:
            (dots,) = axis.plot(x, y, "o", color=color, markersize=size, label=label)
            dots.set(markerfacecolor=fill, markeredgewidth=0.28 * size)
    candidates = MaxNLocator(8, steps=(1, 2, 5, 10), integer=True).tick_values(1, num_episodes)
    ticks = [float(tick) for tick in candidates if 1 <= tick <= num_episodes]
    labels = [f"{tick:.0f}" for tick in ticks]
    if len(curve.evaluation_returns) > 0:
        ticks.append(_draw_evaluation(axis, curve.evaluation_returns, num_episodes))
        labels.append("\nevaluation")
    axis.set_xticks(ticks, labels)
    margin = 0.5 * _evaluation_gap(num_episodes)
    axis.set_xlim(1 - margin, max(ticks[-1], num_episodes) + margin)
    axis.margins(y=0.12)
    axis.set_title("Learning curve", loc="left", pad=ABOVE_LEGEND)
    axis.set_xlabel("episode")
    axis.set_ylabel("return (sum of rewards)")
    _finish(axis)
    _legend_above(axis)


def _draw_evaluation(axis: Axes, returns: Floats, num_episodes: int) -> float:
    """Each evaluation episode as a faint dot, their mean and standard deviation as a bar; the bar's place on x."""
    gap = _evaluation_gap(num_episodes)
    place = num_episodes + gap
    axis.axvline(num_episodes + 0.5 * gap, color=GREY, linewidth=0.8, linestyle=":")
    axis.plot(np.full(len(returns), place), returns, "o", color=GREEN, alpha=0.35, markersize=5, markeredgewidth=0)
    mean, std = float(returns.mean()), float(returns.std(ddof=1)) if len(returns) > 1 else None
    label = f"evaluation: {mean:.4g}" + (" (1 episode)" if std is None else f" ± {std:.3g} (sd of {len(returns)})")
    bar = axis.errorbar(place, mean, yerr=std, fmt="D", color=GREEN, markersize=8, capsize=6, linewidth=2)
    bar.set_label(label.replace("-", "−"))
    return place


def _evaluation_gap(num_episodes: int) -> float:
    """How far behind the last episode the evaluation stands, in episodes."""
    return max(1.0, 0.12 * num_episodes)


def _draw_shares(axis: Axes, shares: Shares, time_step_label: str) -> None:
    """Epistemic and aleatoric share of the variance of each step, stacked, and the size of the whole as a line."""
    total = shares.epistemic + shares.aleatoric
    share = np.divide(shares.epistemic, total, out=np.zeros_like(total), where=total > 0)
    edges = np.arange(len(total) + 1)  # the prediction made at step t is about the interval from t to t + 1
    epistemic = np.append(share, share[-1])
    axis.stackplot(
        edges,
        epistemic,
        1 - epistemic,
        colors=(VERMILLION, SKY_BLUE),
        labels=("epistemic (ignorance)", "aleatoric (noise)"),
        alpha=0.75,
        step="post",
        linewidth=0,
    )
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axis.set_title("One-step uncertainty along the real trajectory", loc="left", pad=ABOVE_LEGEND)
    axis.set_xlabel(time_step_label, parse_math=False)
    axis.set_ylabel("share of predictive variance")
    axis.set_xlim(0, len(total))
    axis.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10), integer=True))
    size = axis.twinx()
    std = np.sqrt(total)
    (line,) = size.step(edges, np.append(std, std[-1]), where="post", color=BLACK, linewidth=2)
    line.set_label("predictive std (right)")
    size.set_ylim(0, 1.15 * std.max() or 1.0)
    size.set_ylabel("predictive std (standardised)")
    size.spines["top"].set_visible(False)
    _finish(axis)
    axis.grid(visible=False)
    _legend_above(axis, size)


def _draw_fan(axis: Axes, fan: Fan, dimension: int) -> None:
    """Imagined trajectories of one dimension as thin lines and central bands, the real one as a thick line."""
    real = fan.real[:, dimension]
    steps = np.arange(len(real))
    imagined = fan.imagined[..., dimension].reshape(-1, len(real))
    for probability, alpha in ((90, 0.30), (50, 0.55)):
        tail = (100 - probability) / 2
        low, high = np.percentile(imagined, (tail, 100 - tail), axis=0)
        label = f"imagined, {probability} %"
        axis.fill_between(steps, low, high, color=SKY_BLUE, alpha=alpha, linewidth=0, label=label)
    chosen = np.unique(np.linspace(0, len(imagined) - 1, MAX_TRAJECTORIES).round().astype(int))
    lines = axis.plot(steps, imagined[chosen].T, color=BLUE, linewidth=0.5, alpha=0.45)
    lines[0].set_label("imagined")
    axis.plot(steps, real, color=BLACK, linewidth=2.5, label="real")
    axis.set_xlim(0, max(len(real) - 1, 1))
    axis.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10), integer=True))
    axis.set_ylabel(fan.dimension_names[dimension], parse_math=False)
    _finish(axis)


def _draw_parameter(axis: Axes, parameter: ParameterDraws) -> None:
    """Densities over the range that the posterior and the truth take up."""
    low, high = np.percentile(parameter.posterior, (0.2, 99.8))
    if parameter.truth is not None:
        low, high = min(low, parameter.truth), max(high, parameter.truth)
    margin = 0.12 * (high - low) or 0.05 * abs(low) or 1.0
    # Draws of an ensemble or a chain come again and again: bins as suit the different ones (Rice's rule).
    num_bins = int(np.clip(2 * len(np.unique(parameter.posterior)) ** (1 / 3), 8, 48))
    edges = np.linspace(low - margin, high + margin, num_bins + 1)
    for draws, histtype, color, label in (
        (parameter.posterior, "stepfilled", SKY_BLUE, "posterior"),
        (parameter.prior, "step", GREY, "prior"),
    ):
        share = 1 / (len(draws) * np.diff(edges))  # of all draws, those outside the panel included
        heights = np.histogram(draws, edges)[0] * share
        filled = histtype == "stepfilled"
        axis.stairs(heights, edges, fill=filled, color=color, linewidth=1.2, alpha=0.8 if filled else 1.0, label=label)
    if parameter.truth is not None:
        axis.axvline(parameter.truth, color=VERMILLION, linewidth=2, label="truth")
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(bottom=0)
    axis.set_yticks([])
    axis.xaxis.set_major_locator(MaxNLocator(5))
    _finish(axis)
    axis.spines["left"].set_visible(False)
    axis.set_title(f"{parameter.name}: {_interval(parameter.posterior)}", loc="left", pad=20, parse_math=False)
    axis.text(0, 1.03, f"prior {_interval(parameter.prior)}", transform=axis.transAxes, color=GREY, fontsize=10)
    axis.set_xlabel(parameter.unit, parse_math=False)


def _interval(draws: Floats) -> str:
    """The central 90 %, to as many digits as its width makes sense of."""
    low, high = np.percentile(draws, (5, 95))
    digits = 1 - int(np.floor(np.log10((high - low) / 2))) if high > low else 3
    return f"{low:.{max(0, digits)}f} … {high:.{max(0, digits)}f}".replace("-", "−")


def _widest_dimensions(fan: Fan) -> list[int]:
    """Up to MAX_DIMENSIONS dimensions, those whose imagined trajectories spread widest, in their own order."""
    spread = fan.imagined.std(axis=(0, 1)).mean(axis=0)
    if fan.dimension_scale is not None:
        spread = spread / fan.dimension_scale
    return sorted(int(index) for index in np.argsort(-spread, kind="stable")[:MAX_DIMENSIONS])


def _legend_above(*axes: Axes) -> None:
    """One row of legend between the first axes and its title, for all the axes given."""
    handles = [handle for axis in axes for handle in axis.get_legend_handles_labels()[0]]
    legend = axes[0].legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        columnspacing=1.2,
        handlelength=1.5,
    )
    legend.set_in_layout(False)  # else a long row would shrink its panel


def _finish(axis: Axes) -> None:
    """The look that all panels share."""
    axis.grid(visible=True, color="#DDDDDD", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=10)
    axis.title.set_fontsize(13)
    axis.xaxis.label.set_fontsize(11)
    axis.yaxis.label.set_fontsize(11)


def _check(name: str, values: Floats, axes: str, num_axes: int, minimum: int = 1) -> None:
    """Raise ValueError unless `values` has as many axes as named, enough entries, and all of them are finite."""
    if values.ndim != num_axes or values.size < minimum:
        raise ValueError(f"need {name} {axes} with at least {minimum} entries, got shape {list(values.shape)}")
    if num_bad := int((~np.isfinite(values)).sum()):
        first = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"{name} {axes} has {num_bad} NaN or inf of {values.size} entries, first at {first}")
