"""Whether predictions hold what they promise: coverage, PIT with a simultaneous band, calibration error, sharpness.

Everything begins with the PIT u = F(y) of each outcome under its prediction, uniform on (0, 1) where the prediction is
right: `Mixture.pit` for components, `pit_of_draws` for trajectories. A central interval of level p holds y when
|2u - 1| <= p. Sources: Gneiting, Balabdaoui & Raftery (2007); Kuleshov, Fenner & Ermon (2018); Säilynoja, Bürkner &
Vehtari (2022).
Axes: R draws, N data, S dimensions, L levels. Arrays in: NumPy's, or torch's on the CPU; out: float64.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import special, stats

from bayes_mbrl.analysis.arrays import as_array
from bayes_mbrl.analysis.charts import CYCLE, GREY, Band, Chart, Line, Rule
from bayes_mbrl.analysis.mixture import Floats, checked

LEVELS = tuple(round(0.01 * percent, 2) for percent in range(1, 100))
"""1 %, 2 %, ..., 99 %."""
TOLERANCE = 0.05
"""Coverage that is off by less is called right."""


def pit_of_draws(draws: ArrayLike, y: ArrayLike, *, generator: torch.Generator) -> Floats:
    """u = (#{x < y} + v (1 + #{x = y})) / (R + 1), v uniform on (0, 1): [N, S].

    The randomised rank: exactly uniform for every R, ties included, when y is distributed as the draws are. The plain
    rank over R is not: 10 draws hold no more than 82 % between their extremes.
    draws [R, N, S], y [N, S]; an infinite draw counts as far out. Raises ValueError where a draw is NaN, there is none,
    or an outcome is not finite. Source: Czado, Gneiting & Held (2009).
    """
    draws, y = as_array(draws), checked("y", y, "[N, S]")
    if bad := int(np.isnan(draws).sum()):
        raise ValueError(f"draws has NaN in {bad} of {draws.size} numbers: leave these out, and say how many they are")
    if draws.shape[1:] != y.shape or len(draws) == 0:
        raise ValueError(f"need draws [R, N, S] with R >= 1 and y [N, S], got {draws.shape} and {y.shape}")
    v = torch.rand(y.shape, generator=generator, dtype=torch.float64).numpy()
    return np.asarray(((draws < y).sum(0) + v * (1 + (draws == y).sum(0))) / (len(draws) + 1), dtype=np.float64)


def coverage(pit: ArrayLike, levels: Sequence[float] = LEVELS) -> Floats:
    """Share of outcomes that the central intervals of these levels hold: pit [N, S] → [L, S]. Calibrated: = levels.

    The ends 0 (the median alone) and 1 (everything) are levels too, for whole curves. Raises ValueError for a level
    outside [0, 1], or when there is none.
    """
    wrong = [level for level in levels if not 0 <= level <= 1]
    if wrong or len(levels) == 0:
        raise ValueError(f"need levels within [0, 1], at least one, got {wrong or 'none'}: 90 % is 0.9")
    outward = np.abs(2 * _checked_pit(pit) - 1)
    return np.stack([(outward <= level).mean(0) for level in levels])


def calibration_error(pit: ArrayLike, levels: Sequence[float] = LEVELS) -> Floats:
    """(1/L) Σ_p |coverage(p) - p| [S]: 0 is calibrated, 0.5 never right.

    The mean of N independent outcomes that are calibrated is not 0 but `calibration_error_by_chance(N)`.
    Source: Kuleshov et al. (2018), eq. 9, with absolute instead of squared differences (so that it reads as points of
    coverage) and of central intervals instead of one-sided ones (so that a shift and a width do not cancel).
    """
    return np.asarray(np.abs(coverage(pit, levels) - np.asarray(levels)[:, None]).mean(0), dtype=np.float64)


def calibration_error_by_chance(num_data: int) -> float:
    """Mean `calibration_error` of so many independent outcomes of a calibrated prediction: (π/8) √(2 / (π N))."""
    return math.pi / 8 * math.sqrt(2 / (math.pi * num_data))


def sharpness(std: ArrayLike) -> Floats:
    """Root of the mean predictive variance [S], in the unit of y: std [N, S], as of `Mixture.total_std`.

    Of predictions that are calibrated the sharper is the better. Source: Kuleshov et al. (2018), eq. 10.
    """
    return np.asarray(np.sqrt((checked("std", std, "[N, S]") ** 2).mean(0)), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class SimultaneousBand:
    """Where the whole ECDF of N independent uniform numbers lies, at all points at once, in `probability` of cases."""

    points: Floats
    """[J] in (0, 1), at which the ECDF is looked at."""
    low: Floats
    """[J]: the least share of numbers up to there."""
    high: Floats
    """[J]"""
    probability: float

    def holds(self, pit: ArrayLike) -> bool:
        """Whether the ECDF of pit [N] stays within everywhere: if not, the prediction is not calibrated."""
        ecdf = self.ecdf(pit)
        return bool(((self.low - 1e-12 <= ecdf) & (ecdf <= self.high + 1e-12)).all())

    def ecdf(self, pit: ArrayLike) -> Floats:
        """Share of pit [N] up to each of the points [J]."""
        values = np.sort(checked("pit", pit, "[N]"))
        return np.searchsorted(values, self.points, side="right") / len(values)


def simultaneous_band(
    num_data: int,
    *,
    probability: float = 0.95,
    num_points: int = 50,
    num_simulations: int = 4000,
    generator: torch.Generator,
) -> SimultaneousBand:
    """The band of Säilynoja et al. (2022), algorithm 1: pointwise binomial intervals of the one level at which so many
    simulated ECDFs stay within all of them. Counts are whole, so it holds a little more than `probability`.

    The rows are taken as independent. Raises ValueError unless num_data >= 1 and 0 < probability < 1.
    """
    if num_data < 1 or not 0 < probability < 1 or num_points < 2:
        raise ValueError(
            f"need num_data >= 1, 0 < probability < 1 and num_points >= 2, got {num_data}, {probability}, {num_points}"
        )
    points = np.arange(1, num_points) / num_points
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    inside = np.full(num_points, 1 / num_points)
    counts = random.multinomial(num_data, inside, size=num_simulations).cumsum(1)[:, :-1]
    smaller = np.minimum(
        special.bdtr(counts, num_data, points), special.bdtrc(np.maximum(counts - 1, 0), num_data, points)
    )
    smaller = np.where(counts == 0, special.bdtr(counts, num_data, points), smaller)  # P(X >= 0) = 1
    gamma = float(np.quantile(2 * smaller.min(1), 1 - probability, method="inverted_cdf"))
    low = stats.binom.ppf(gamma / 2 * (1 - 1e-9), num_data, points)
    high = num_data - stats.binom.ppf(gamma / 2 * (1 - 1e-9), num_data, 1 - points)
    return SimultaneousBand(points, low / num_data, high / num_data, probability)


def coverage_verdict(level: float, held: float, num_data: int) -> str:
    """ "90 % intervals hold 71 % of 1,000 outcomes: too narrow".

    Off by more than `TOLERANCE`, and by more than chance makes so many independent outcomes: too narrow or too wide.
    Off by less, where chance would not hide more: about right. Otherwise there are too few outcomes to tell. Chance is
    two standard errors, and half an outcome more for a fault to be found, as counts are whole.
    Raises ValueError unless level and held are within [0, 1] and num_data >= 1.
    """
    if not (0 <= level <= 1 and 0 <= held <= 1 and num_data >= 1):
        raise ValueError(f"need level and held within [0, 1] and num_data >= 1, got {level}, {held} and {num_data}")
    off, chance = abs(held - level), 2 * math.sqrt(level * (1 - level) / num_data)
    if off > max(TOLERANCE, chance + 0.5 / num_data) + 1e-9:
        verdict = "too narrow" if held < level else "too wide"
    else:
        verdict = "about right" if max(off, chance) <= TOLERANCE + 1e-9 else "too few outcomes to tell"
    return f"{100 * level:.0f} % intervals hold {100 * held:.0f} % of {num_data:,} outcomes: {verdict}"


def pit_chart(pits: Mapping[str, ArrayLike], band: SimultaneousBand, *, title: str) -> Chart:
    """ECDF of the PIT less the uniform one, a line for each name, in the band: pits {name: [N]}.

    Raises ValueError where a PIT is not finite.
    """
    points = np.concatenate([[0.0], band.points, [1.0]])
    low, high = (np.concatenate([[0.0], side - band.points, [0.0]]) for side in (band.low, band.high))
    lines = [
        Line(points, np.concatenate([[0.0], band.ecdf(pit) - band.points, [0.0]]), label=name, color=_color(number))
        for number, (name, pit) in enumerate(pits.items())
    ]
    within = f"{100 * band.probability:.0f} % band, all points at once"
    return Chart(
        title,
        "PIT: predicted probability of an outcome this low or lower",
        "ECDF of the PIT less the uniform one",
        [Band(points, low, high, label=within, color=GREY, opacity=0.25), Rule(0.0, color=GREY), *lines],
        note="Within the band: nothing against the prediction. Above on the left and below on the right: intervals "
        "are too narrow; the other way round: too wide; above throughout: outcomes are lower than predicted. The band "
        "takes rows as independent; rows of one episode are not, and leave it more easily.",
    )


def coverage_chart(pits: Mapping[str, ArrayLike], *, title: str) -> Chart:
    """Share of outcomes held against the level of the interval, a line for each name: pits {name: [N] or [N, S]}."""
    levels = np.array([0.0, *LEVELS, 1.0])
    lines = [
        Line(levels, coverage(as_array(pit).reshape(-1, 1), levels.tolist())[:, 0], name, _color(number))
        for number, (name, pit) in enumerate(pits.items())
    ]
    return Chart(
        title,
        "level of the central interval",
        "share of outcomes held",
        [Line(levels, levels, label="calibrated", color=GREY, dashed=True), *lines],
        note="On the dashed line the model is as right as it claims. Below: its intervals are too narrow, it is too "
        "sure of itself. Above: too wide.",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )


def horizon_chart(
    curves: Mapping[str, ArrayLike],
    *,
    y_label: str,
    title: str,
    note: str,
    levels: Sequence[float] = (),
    together: int = 1,
) -> Chart:
    """A number for each step ahead, a line for each name: {name: [H]} for steps 1..H; rules at `levels`.

    So many neighbouring curves as `together` says share a colour; all but the last of them are dashed.
    """
    lines = []
    for number, (name, curve) in enumerate(curves.items()):
        values = as_array(curve)
        dashed = number % together < together - 1
        lines.append(Line(np.arange(1.0, len(values) + 1), values, name, _color(number // together), dashed=dashed))
    return Chart(title, "time steps ahead", y_label, [*(Rule(level) for level in levels), *lines], note=note)


def _color(number: int) -> str:
    return CYCLE[number % len(CYCLE)]


def _checked_pit(pit: ArrayLike) -> Floats:
    values = checked("pit", pit, "[N, S]")
    if not len(values) or bool(((values < 0) | (values > 1)).any()):
        raise ValueError(f"need pit [N, S] within [0, 1], N >= 1, got {values.shape}, {values.min(initial=1)} to "
                         f"{values.max(initial=0)}")  # fmt: skip
    return values
