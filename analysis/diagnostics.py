"""Did inference converge? Verdicts in words on chains, on a sampler's trajectories and on the trace of a loss.

R-hat and effective sample sizes (ESS) are ArviZ's: rank-normalised, split chains (Vehtari, Gelman, Simpson, Carpenter &
Bürkner, 2021). Give them values of functions, f(x*) and σ(x*), rather than weights: a network's weights have symmetries
that make theirs misleading (Izmailov et al., What Are Bayesian Neural Network Posteriors Really Like?, 2021).
Leave-one-out and importance ratios: see predictive_fit.py. Axes: Q quantities, E members of an ensemble.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from arviz_stats.base.array import array_stats
from numpy.typing import NDArray
from torch import Tensor

from bayes_mbrl.analysis.charts import Table

Array: TypeAlias = Tensor | NDArray[Any]
Floats: TypeAlias = NDArray[np.floating]

RHAT_LIMIT = 1.01
"""Vehtari et al. (2021), section 4."""
RHAT_FAR = 1.05
"""Above, one quantity is enough: the largest of many is above the limit by chance now and then."""
ESS_PER_CHAIN = 100
"""Effective draws that a chain should have. Source: there."""
BFMI_LIMIT = 0.3
"""Betancourt (2016), Diagnosing suboptimal cotangent disintegrations: below, energies are explored too slowly."""

_ARVIZ: Any = array_stats
"""Its functions have no types."""

Severity = Literal["good", "note", "bad"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One judgement."""

    name: str
    """Of what is judged: "R-hat of function values"."""
    value: float
    """The number it rests on; NaN where there is none."""
    text: str
    """In words, with what to do."""
    severity: Severity
    """Whether it is as it should be, something to know, or something to mend."""


def verdict_table(verdicts: Sequence[Verdict], title: str = "Verdicts") -> Table:
    """A row for each verdict."""
    words = {"good": "ok", "note": "note", "bad": "look here"}
    rows = [
        (
            verdict.name,
            "–" if math.isnan(verdict.value) else f"{verdict.value:.4g}",
            words[verdict.severity],
            verdict.text,
        )
        for verdict in verdicts
    ]
    return Table(("what", "value", "", "verdict"), rows, title)


@dataclasses.dataclass(frozen=True)
class ChainSummary:
    """R-hat and ESS of Q quantities. Infinite R-hat: chains that each stand still, at different values."""

    rhat: Floats
    """[Q]; NaN of what never changes, is not finite somewhere, or has under 4 draws a chain."""
    ess_bulk: Floats
    """[Q], of means and medians."""
    ess_tail: Floats
    """[Q], of the 5 % and 95 % quantiles."""
    num_chains: int
    """As they were given: of one, the two halves are compared."""
    num_draws: int
    """Of each chain."""
    num_constant: int
    """Quantities that never change, in no chain."""
    num_not_finite: int
    """Quantities that are NaN or infinite somewhere."""


def summarise_chains(values: Array) -> ChainSummary:
    """R-hat and ESS of values [chain, draw, ...]; all further axes together are the Q quantities, in C order.

    Raises ValueError for fewer than two axes or no quantity.
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"need values [chain, draw, ...], at least one of each, got {list(array.shape)}")
    num_chains, num_draws = array.shape[:2]
    flat = array.reshape(num_chains, num_draws, -1).astype(np.float64)
    finite = np.isfinite(flat).all((0, 1))
    constant = finite & (flat == flat[:1, :1]).all((0, 1))
    rhat, bulk, tail = (np.full(flat.shape[2], np.nan) for _ in range(3))
    usable = finite & ~constant
    compared = flat
    if num_chains == 1:
        half = num_draws // 2
        compared = np.concatenate([flat[:, :half], flat[:, num_draws - half :]])
    if usable.any() and compared.shape[1] >= 4:
        rhat[usable] = _rhat(compared[:, :, usable])
        axes = {"chain_axis": 0, "draw_axis": 1}
        bulk[usable] = _ARVIZ.ess(flat[:, :, usable], method="bulk", **axes)
        tail[usable] = _ARVIZ.ess(flat[:, :, usable], method="tail", prob=(0.05, 0.95), **axes)
    return ChainSummary(rhat, bulk, tail, num_chains, num_draws, int(constant.sum()), int((~finite).sum()))


def chain_verdicts(summary: ChainSummary, what: str = "function values") -> list[Verdict]:
    """R-hat and ESS in words; what never changes is left out of the counts and counted itself."""
    verdicts = []
    known = np.isfinite(summary.ess_bulk)
    num = len(summary.rhat) - summary.num_constant - summary.num_not_finite
    if summary.num_not_finite:
        text = f"{summary.num_not_finite} of {len(summary.rhat)} {what} are NaN or infinite in some draw"
        verdicts.append(Verdict(f"finite {what}", float(summary.num_not_finite), text, "bad"))
    if summary.num_constant and num == 0:
        text = f"all {len(summary.rhat)} {what} are the same in all draws: chains that do not move, or a point"
        return [*verdicts, Verdict(f"R-hat of {what}", math.nan, text, "bad")]
    if not known.any():
        text = f"{summary.num_chains} chains of {summary.num_draws} draws are too few to judge: take more draws"
        return [*verdicts, Verdict(f"R-hat of {what}", math.nan, text, "note")]
    rhat = summary.rhat[~np.isnan(summary.rhat)]
    wrong = int((rhat > RHAT_LIMIT).sum())
    halves = "; of the one chain there is, its two halves are compared" if summary.num_chains == 1 else ""
    text = f"{wrong} of {num} {what} have R-hat above {RHAT_LIMIT:g}"
    text += ": run longer" if wrong else ": the chains agree"
    severity = _severity(wrong, num, far=float(rhat.max()) > RHAT_FAR)
    verdicts.append(Verdict(f"R-hat of {what}", float(rhat.max()), text + halves, severity))

    need = ESS_PER_CHAIN * summary.num_chains
    least = np.fmin(summary.ess_bulk, summary.ess_tail)[known]
    few = int((least < need).sum())
    taken = summary.num_chains * summary.num_draws
    text = f"{few} of {num} {what} have fewer than {need} effective draws of {taken}"
    text += f" (median {np.median(least):.0f})" + (": run longer" if few else "")
    severity = _severity(few, num, far=float(least.min()) < need / 4)
    if few and taken <= need:
        text += f"; so few draws cannot be worth {need}, whether or not the chains are sound"
        severity = "note"
    verdicts.append(Verdict(f"ESS of {what}", float(least.min()), text, severity))
    return verdicts


def sampler_verdicts(
    *,
    diverging: Array | None = None,
    energy: Array | None = None,
    tree_depth: Array | None = None,
    max_tree_depth: int | None = None,
) -> list[Verdict]:
    """Divergences, energies and lengths of Hamiltonian trajectories, each [chain, draw]; what is None is left out."""
    verdicts = []
    if diverging is not None:
        left = np.asarray(diverging, dtype=bool)
        num = int(left.sum())
        text = f"{num} of {left.size} draws diverged"
        text += ": parts of the posterior are missing; raise target_acceptance or lengthen num_warmup" if num else ""
        verdicts.append(Verdict("divergences", float(num), text, "bad" if num else "good"))
    if energy is not None:
        verdicts.append(_bfmi_verdict(np.asarray(energy, dtype=np.float64)))
    if tree_depth is not None and max_tree_depth is not None:
        depth = np.asarray(tree_depth)
        share = float((depth >= max_tree_depth).mean())
        text = f"{share:.0%} of the trajectories were cut off at max_tree_depth = {max_tree_depth}"
        text += ": mixing is slow; raise it, or dense_mass=true" if share > 0.05 else ""
        verdicts.append(Verdict("tree depth", float(depth.mean()), text, "note" if share > 0.05 else "good"))
    return verdicts


def bfmi(energy: Array) -> Floats:
    """E[(E_n − E_{n−1})²] / Var[E] of each chain: energy [chain, draw] → [chain]; NaN of a constant one.

    Source: Betancourt (2016), eq. 12.
    """
    values = np.asarray(energy, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"need energy [chain, draw], two draws and more, got {list(values.shape)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = (np.diff(values, axis=1) ** 2).mean(1) / values.var(1)
    return ratio


@dataclasses.dataclass(frozen=True)
class LossTrend:
    """How a loss moved over the last part of its trace, by a line through the means of `NUM_BATCHES` batches."""

    slope: Floats
    """[E] nats a step, below 0 while it falls."""
    error: Floats
    """[E] its standard error; means of batches take account of noise that is correlated from step to step."""
    window: int
    """Steps that were looked at."""


NUM_BATCHES = 20
_SIGNIFICANT = 4.0
"""Standard errors; Student's t of 18 degrees of freedom goes beyond once in 2,400."""


_MUCH = 10.0
"""Nats over the window: less is worth a note, since a learning rate that falls takes that much noise out of a loss."""


def loss_trend(losses: Array, *, share: float = 0.4) -> LossTrend | None:
    """The trend over the last `share` of losses [steps] or [steps, E], in nats; None where a batch had under 2.

    Raises ValueError for losses that are not finite, counting them.
    """
    values = by_member(losses)
    if num_bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"losses are NaN or infinite in {num_bad} of {values.size} steps")
    size = int(share * len(values)) // NUM_BATCHES
    if size < 2:
        return None
    means = values[-size * NUM_BATCHES :].reshape(NUM_BATCHES, size, -1).mean(1)
    time = size * (np.arange(NUM_BATCHES) - (NUM_BATCHES - 1) / 2)
    slope = time @ means / (time @ time)
    residuals = means - means.mean(0) - time[:, None] * slope
    error = np.sqrt((residuals**2).sum(0) / (NUM_BATCHES - 2) / (time @ time))
    return LossTrend(slope, error, size * NUM_BATCHES)


def by_member(losses: Array) -> Floats:
    """losses [steps] or [steps, E] as [steps, E], E = 1 for the former."""
    values = np.asarray(losses.detach().cpu() if isinstance(losses, Tensor) else losses, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values


def loss_verdict(losses: Array, *, share: float = 0.4) -> Verdict:
    """Has a minimised loss (−ELBO, in nats) come to rest? Less than one nat over the last part counts as rest.

    A learning rate that falls to 0 brings any loss to rest in the end: the last `share` of the steps is long enough to
    see what came before, and rest is necessary for convergence, not sufficient.
    """
    trend = loss_trend(losses, share=share)
    name = "trace of the loss"
    if trend is None:
        return Verdict(name, math.nan, f"{len(losses)} steps are too few to judge a trend", "note")
    change = trend.slope * trend.window
    significant = np.abs(trend.slope) > _SIGNIFICANT * trend.error
    falling, rising = significant & (change < -1), significant & (change > 1)
    worst = int(np.argmin(change) if falling.any() else np.argmax(np.abs(change)))
    per_100 = 100 * float(trend.slope[worst])
    many = f" in {int((falling | rising).sum())} of {len(change)} members" if len(change) > 1 else ""
    over = f"over the last {trend.window} of {len(losses)} steps"
    if falling.any():
        text = f"still falling by {-per_100:.3g} nats per 100 steps {over}{many}: more steps"
        return Verdict(name, per_100, text, "bad" if change[worst] < -_MUCH else "note")
    if rising.any():
        text = f"rising by {per_100:.3g} nats per 100 steps {over}{many}: lower learning_rate"
        return Verdict(name, per_100, text, "bad")
    noise = 100 * float(trend.error[worst])
    return Verdict(name, per_100, f"at rest: {per_100:.2g} ± {noise:.2g} nats per 100 steps {over}", "good")


def _severity(wrong: int, num: int, *, far: bool) -> Severity:
    """One in twenty, unless one of them is far off, is worth a note."""
    return "bad" if far or wrong > 0.05 * num else "note" if wrong else "good"


def _bfmi_verdict(energy: Floats) -> Verdict:
    ratios = bfmi(energy) if energy.ndim == 2 and energy.shape[1] > 1 else np.array([np.nan])
    name = "energy (BFMI)"
    if np.isnan(ratios).any():
        return Verdict(name, math.nan, "the energy of a chain is constant or has one draw: BFMI is not defined", "note")
    low = int((ratios < BFMI_LIMIT).sum())
    text = f"{low} of {len(ratios)} chains have a BFMI below {BFMI_LIMIT:g}"
    text += ": tails are explored too slowly; reparametrise, or lengthen num_warmup" if low else ""
    return Verdict(name, float(ratios.min()), text, "bad" if low else "good")


def _rhat(values: Floats) -> Floats:
    """ArviZ's, which divides by zero where all chains stand still: there R-hat is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        rhat: Floats = np.array(_ARVIZ.rhat(values, chain_axis=0, draw_axis=1), dtype=np.float64)
    still = (values == values[:, :1]).all((0, 1))
    return np.where(still, np.inf, rhat)
