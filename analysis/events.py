"""Probabilities of an event that happens or not, judged: proper scores beside those of its base rate, and reliability.

Source: Gneiting & Raftery (2007), section 3 (both scores are proper); Murphy & Winkler (1977), the reliability diagram.
Axes: N data. Arrays in: NumPy's, or torch's on the CPU; out: float64.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayes_mbrl.analysis.arrays import as_array
from bayes_mbrl.analysis.charts import BLUE, GREY, Chart, Line, Points
from bayes_mbrl.analysis.mixture import Floats

NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class EventScores:
    """How well an event was foreseen. Of the log score more is better, of the Brier score less."""

    num_data: int
    num_events: int
    log_score: float
    """Mean log P of what came, in nats; −inf where what came was thought impossible."""
    base_log_score: float
    """Of a forecaster who says the base rate each time."""
    brier: float
    """Mean of (P − 1)² where it happened and P² elsewhere."""
    base_brier: float
    mean_at_events: float
    """Mean P where it happened; NaN where it never did."""
    mean_elsewhere: float


def event_scores(probability: ArrayLike, happened: ArrayLike, *, base_rate: float) -> EventScores:
    """probability [N] in [0, 1], happened [N] true or false, base_rate in (0, 1) from data before these.

    Raises ValueError for others.
    """
    p, event = _checked(probability, happened)
    if not 0 < base_rate < 1:
        raise ValueError(f"need 0 < base_rate < 1, got {base_rate}: of e events in n data take (e + 1) / (n + 2)")
    base = np.full_like(p, base_rate)
    return EventScores(
        len(p), int(event.sum()), _log_score(p, event), _log_score(base, event), float(((p - event) ** 2).mean()),
        float(((base - event) ** 2).mean()), _mean(p[event]), _mean(p[~event]),
    )  # fmt: skip


def reliability_chart(probability: ArrayLike, happened: ArrayLike, *, title: str) -> Chart:
    """How often the event came when it was foreseen with about this probability, in bins of equal width.

    Whiskers are ± one standard error of a share of so many independent data.
    """
    p, event = _checked(probability, happened)
    bins = np.minimum((p * NUM_BINS).astype(int), NUM_BINS - 1)
    kept = np.unique(bins)
    said = np.array([p[bins == b].mean() for b in kept])
    count = np.array([(bins == b).sum() for b in kept])
    share = np.array([event[bins == b].mean() for b in kept])
    error = np.sqrt(said * (1 - said) / count)
    whiskers = [
        Line(np.array([x, x]), np.array([max(0.0, y - e), min(1.0, y + e)]), color=BLUE, width=1.0)
        for x, y, e in zip(said, share, error, strict=True)
    ]
    hover = [f"{n:,} data" for n in count]
    return Chart(
        title,
        "probability foreseen",
        "share in which it came",
        [
            Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "reliable", GREY, dashed=True),
            *whiskers,
            Points(said, share, "in bins", hover=hover),
        ],
        note="On the dashed line what is foreseen with 30 % comes in 30 %. Above it comes more often than foreseen. "
        "Whiskers: one standard error, were the data independent.",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def _log_score(p: Floats, event: NDArray[np.bool_]) -> float:
    with np.errstate(divide="ignore"):
        return float((special.xlogy(event, p) + special.xlog1py(~event, -p)).mean())


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _checked(probability: ArrayLike, happened: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    p, event = np.asarray(as_array(probability), dtype=np.float64), np.asarray(as_array(happened)).astype(bool)
    if p.ndim != 1 or p.shape != event.shape or not len(p):
        raise ValueError(f"need probability and happened of one length [N], N >= 1, got {p.shape} and {event.shape}")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"need probabilities within [0, 1], got {p.min()} to {p.max()}")
    return p, event
