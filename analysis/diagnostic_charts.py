"""Pictures of diagnostics.py: traces of a loss, agreement of chains, energies of a sampler. Axes: E members."""

from typing import Any

import numpy as np

from bayes_mbrl.analysis.charts import BLUE, CYCLE, VERMILLION, Bars, Chart, Line, Rule
from bayes_mbrl.analysis.diagnostics import RHAT_LIMIT, Array, ChainSummary, Floats, by_member, loss_trend


def loss_chart(losses: Array, *, title: str = "Trace of the loss") -> Chart:
    """Loss over steps, smoothed where there are many; from the highest of the last nine tenths down."""
    values = by_member(losses)
    size = max(1, len(values) // 400)
    length = len(values) // size * size
    means = values[:length].reshape(-1, size, values.shape[1]).mean(1)
    steps = (np.arange(len(means)) + 0.5) * size
    lines: list[Any] = [
        Line(steps, means[:, member], label=f"member {member + 1}" if means.shape[1] > 1 else "loss", color=color)
        for member, color in zip(range(min(means.shape[1], len(CYCLE))), CYCLE, strict=False)
    ]
    trend = loss_trend(losses) if np.isfinite(values).all() else None
    if trend is not None:
        start = float(len(values) - trend.window)
        lines.append(Rule(start, vertical=True, label="judged from here on"))
    shown = means[len(means) // 10 :]
    shown = shown[np.isfinite(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    margin = 0.05 * max(high - low, 1e-9 * max(1.0, abs(high)))
    note = "It should have come to rest: a line that still falls at the right wants more steps."
    note += f" Means of {size} steps." if size > 1 else ""
    return Chart(title, "step", "loss (nats, whole data set)", lines, note=note, y_range=(low - margin, high + margin))


def rhat_chart(functions: ChainSummary, weights: ChainSummary | None = None) -> Chart:
    """Histograms of R-hat over function values and, to compare, over weights."""
    parts = [("function values", functions, VERMILLION)] + ([("weights", weights, BLUE)] if weights else [])
    finite = {name: part.rhat[np.isfinite(part.rhat)] for name, part, _ in parts}
    highest = max([1.05, *(float(np.quantile(values, 0.99)) for values in finite.values() if values.size)])
    edges = np.linspace(0.99, min(highest, 3.0), 31)
    bars: list[Any] = [
        Bars(edges, _shares(np.clip(finite[name], edges[0], edges[-1]), edges), label=name, color=color, opacity=0.55)
        for name, _, color in parts
    ]
    bars.append(Rule(RHAT_LIMIT, vertical=True, label=f"{RHAT_LIMIT:g}"))
    return Chart(
        "Do the chains agree?",
        "R-hat (1: the chains agree)",
        "share",
        bars,
        note="Predictions count: weights may disagree by a symmetry of the network that changes no prediction. "
        "Beyond the right edge counts as the edge.",
    )


def energy_chart(energy: Array) -> Chart:
    """Energies about their mean, and their changes from draw to draw, of all chains [chain, draw] together."""
    values = np.asarray(energy, dtype=np.float64)
    centred = (values - values.mean(1, keepdims=True)).ravel()
    changes = np.diff(values, axis=1).ravel()
    limit = max(float(np.abs(centred).max()), float(np.abs(changes).max()), 1e-9)
    edges = np.linspace(-limit, limit, 41)
    return Chart(
        "Energy of the sampler",
        "energy minus its mean (nats)",
        "share",
        [
            Bars(edges, _shares(centred, edges), label="energies", opacity=0.55),
            Bars(edges, _shares(changes, edges), label="changes from draw to draw", color=VERMILLION, opacity=0.55),
        ],
        note="Both should be as wide: narrower changes mean that the sampler explores the tails slowly (BFMI).",
    )


def _shares(values: Floats, edges: Floats) -> Floats:
    counts = np.histogram(values, edges)[0]
    shares: Floats = counts / max(1, counts.sum())
    return shares
