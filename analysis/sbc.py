"""Simulation-based calibration: is an inference right on average over the prior?

θ* ~ p(θ), y ~ p(y | x, θ*), fit: then θ* is one more draw from p(θ | x, y), so its rank among draws of the fit is
uniform, for every function of θ and of the data. Functions of the data too (their log-likelihood) are needed: a
posterior that is the prior has uniform ranks of every f(x*). Source: Talts, Betancourt, Simpson, Vehtari & Gelman
(2018), algorithm 1; data-dependent quantities: Modrák et al. (2023); band: Säilynoja, Bürkner & Vehtari (2022). VSBC,
the marginals of variational fits: Yao, Vehtari, Simpson & Gelman (2018), algorithm 2.
Axes: R replicates (θ*, y), L draws of each fit, Q quantities.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats

from bayes_mbrl.analysis.calibration import SimultaneousBand, pit_of_draws, simultaneous_band
from bayes_mbrl.analysis.charts import CYCLE, GREY, Band, Bars, Chart, Line, Rule
from bayes_mbrl.analysis.diagnostics import Verdict
from bayes_mbrl.analysis.mixture import Floats

LEVEL = 0.01
"""Probability with which a right inference is called wrong, over all quantities together."""
_NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Ranks of the true values among posterior draws, and what they say of each quantity."""

    names: tuple[str, ...]
    """[Q]"""
    pit: Floats
    """[R, Q] in (0, 1): (rank + v) / (L + 1), ties broken at random, v uniform; uniform if the inference is right."""
    num_draws: int
    """L."""
    num_failed: int
    """Replicates whose fit failed; they are not among the R."""

    @property
    def num_replicates(self) -> int:
        """R."""
        return len(self.pit)

    @property
    def p_values(self) -> Floats:
        """[Q] of uniformity: the smaller of a χ² test over bins and a Kolmogorov-Smirnov test, doubled."""
        return np.array([_uniformity(column) for column in self.pit.T])

    @property
    def bias(self) -> Floats:
        """[Q] mean of Φ⁻¹(pit): 0 if right; above 0 the truth lies above the draws: the posterior is too low."""
        return np.asarray(_scores(self.pit).mean(0))

    @property
    def spread(self) -> Floats:
        """[Q] standard deviation of Φ⁻¹(pit) about 0: 1 if right, 2 where a normal posterior is half as wide as due."""
        return np.asarray(np.sqrt((_scores(self.pit) ** 2).mean(0)))


def calibrate(
    truth: ArrayLike,
    draws: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    num_failed: int = 0,
    generator: torch.Generator,
) -> Calibration:
    """Ranks of truth [R, Q] among draws [R, L, Q] of the fits; `names` [Q] of the quantities.

    The L draws of a replicate should be independent: thin chains first. Raises ValueError for other shapes and for
    truths or draws that are NaN, counting them.
    """
    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if truth.ndim != 2 or draws.ndim != 3 or draws.shape[::2] != truth.shape or 0 in draws.shape:
        raise ValueError(f"need truth [R, Q] and draws [R, L, Q], got {list(truth.shape)} and {list(draws.shape)}")
    labels = tuple(names) if names is not None else tuple(f"quantity {q}" for q in range(truth.shape[1]))
    if len(labels) != truth.shape[1]:
        raise ValueError(f"need a name for each of {truth.shape[1]} quantities, got {len(labels)}")
    pit = pit_of_draws(np.moveaxis(draws, 1, 0), truth, generator=generator)
    return Calibration(labels, pit, draws.shape[1], num_failed)


def calibration_verdicts(result: Calibration) -> list[Verdict]:
    """One for failures, one for all quantities together, and one for each that is wrong (Bonferroni over the Q)."""
    verdicts = []
    if result.num_failed:
        total = result.num_failed + result.num_replicates
        text = f"{result.num_failed} of {total} fits failed and are in no rank: where they fail, nothing is known"
        verdicts.append(Verdict("failed fits", float(result.num_failed), text, "bad"))
    p_values = np.minimum(1.0, result.p_values * len(result.names))
    wrong = np.flatnonzero(p_values < LEVEL)
    text = (
        f"{len(wrong)} of {len(result.names)} quantities have ranks that are not uniform over {result.num_replicates} "
    )
    text += "replicates" + ("" if len(wrong) else ": nothing against this inference")
    if result.num_replicates < 50 and not len(wrong):
        text += ", but that is few: only gross errors would show"
    verdicts.append(Verdict("uniform ranks", float(p_values.min()), text, "bad" if len(wrong) else "good"))
    verdicts += [Verdict(result.names[q], float(p_values[q]), _what_is_wrong(result, int(q)), "bad") for q in wrong]
    return verdicts


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """VSBC: is the mean of a marginal right? p = q(θ < θ*) is then symmetric about ½, even where q is too narrow."""

    names: tuple[str, ...]
    p_values: Floats
    """[Q] of Wilcoxon's signed-rank test of p − ½. Yao et al. compare p with 1 − p as if they were two samples."""
    bias: Floats
    """[Q] mean of p − ½: above 0 the truths lie above, so q is too low."""


def symmetry(result: Calibration) -> Symmetry:
    """VSBC of the same replicates; of many draws `pit` is q(θ < θ*)."""
    p_values = [_symmetry_p_value(column) for column in result.pit.T]
    return Symmetry(result.names, np.array(p_values), np.asarray(result.pit.mean(0) - 0.5))


def symmetry_verdicts(result: Symmetry) -> list[Verdict]:
    """One for all marginals, and one for each that is biased (Bonferroni)."""
    p_values = np.minimum(1.0, result.p_values * len(result.names))
    wrong = np.flatnonzero(p_values < LEVEL)
    text = f"{len(wrong)} of {len(result.names)} marginals are not symmetric about the truth (VSBC)"
    verdicts = [Verdict("bias of marginals", float(p_values.min()), text, "bad" if len(wrong) else "good")]
    for q in wrong:
        side = "low" if result.bias[q] > 0 else "high"
        verdicts.append(Verdict(result.names[q], float(p_values[q]), f"the marginal lies too {side} on average", "bad"))
    return verdicts


def rank_chart(result: Calibration, quantity: int = 0) -> Chart:
    """Histogram of one quantity's ranks with the 95 % interval of a bin."""
    edges = np.linspace(0, 1, _bins(result.num_replicates) + 1)
    heights = np.histogram(result.pit[:, quantity], edges)[0].astype(np.float64)
    low, high = stats.binom.ppf([0.025, 0.975], result.num_replicates, edges[1])
    return Chart(
        f"Ranks: {result.names[quantity]}",
        "rank of the truth among the draws, of 1",
        "replicates",
        [
            Band(edges[[0, -1]], np.full(2, low), np.full(2, high), label="95 % of a bin", color=GREY, opacity=0.3),
            Bars(edges, heights, label="ranks"),
        ],
        note="Flat: right. A valley: the posterior is too narrow. A hill: too wide. A slope: too low or too high.",
    )  # fmt: skip


def ecdf_chart(
    groups: Mapping[str, Calibration], *, generator: torch.Generator, title: str = "Simulation-based calibration"
) -> Chart:
    """ECDF of the ranks less the uniform one: a line for each quantity, a colour for each group {name: result}.

    The band holds a line of a right inference, all points at once, in 95 % of cases; of the fewest replicates.
    """
    fewest = min(result.num_replicates for result in groups.values())
    band = simultaneous_band(fewest, generator=generator)
    points = np.concatenate([[0.0], band.points, [1.0]])
    low, high = (np.concatenate([[0.0], side - band.points, [0.0]]) for side in (band.low, band.high))
    lines = [
        Line(points, _difference(band, column), label=name if q == 0 else "", color=color, width=1.5, opacity=0.6)
        for (name, result), color in zip(groups.items(), _colours(len(groups)), strict=True)
        for q, column in enumerate(result.pit.T)
    ]
    return Chart(
        title,
        "rank of the truth among the draws, of 1",
        "ECDF less the uniform one",
        [Band(points, low, high, label="95 % band", color=GREY, opacity=0.3), Rule(0.0), *lines],
        note="Within the band: nothing against the inference. Above at the left and below at the right: the posterior "
        "is too narrow; the other way round: too wide; above throughout: too high.",
    )


def _uniformity(pit: Floats) -> float:
    """χ² sees bumps, Kolmogorov-Smirnov sees shifts; both are exact enough from five expected in a bin."""
    counts = np.histogram(pit, np.linspace(0, 1, _bins(len(pit)) + 1))[0]
    tests = [stats.kstest(pit, "uniform").pvalue]
    if len(counts) > 1:
        tests.append(stats.chisquare(counts).pvalue)
    return min(1.0, len(tests) * float(min(tests)))


def _symmetry_p_value(p: Floats) -> float:
    return float(stats.wilcoxon(p - 0.5).pvalue) if len(p) > 1 else 1.0


def _what_is_wrong(result: Calibration, q: int) -> str:
    bias, spread = float(result.bias[q]), float(result.spread[q])
    error = 1 / math.sqrt(result.num_replicates)
    words = []
    if spread > 1 + 2 * error:
        words.append("too narrow")
    elif spread < 1 - 2 * error:
        words.append("too wide")
    if abs(bias) > 3 * error:
        words.append("too low" if bias > 0 else "too high")
    words = words or ["of a wrong shape"]
    return f"the posterior is {' and '.join(words)} (spread {spread:.2f}, bias {bias:+.2f}; right: 1, 0)"


def _scores(pit: Floats) -> Floats:
    return np.asarray(stats.norm.ppf(np.clip(pit, 1e-12, 1 - 1e-12)))


def _bins(num_replicates: int) -> int:
    """As many as have five expected each, at most `_NUM_BINS`."""
    return int(np.clip(num_replicates // 5, 1, _NUM_BINS))


def _difference(band: SimultaneousBand, pit: Floats) -> Floats:
    return np.concatenate([[0.0], band.ecdf(pit) - band.points, [0.0]])


def _colours(num: int) -> list[str]:
    return [CYCLE[number % len(CYCLE)] for number in range(num)]
