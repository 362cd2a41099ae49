"""How well a posterior predicts what it has not seen, and how far it is from p(θ | D), by importance ratios.

Leave-one-out: Vehtari, Gelman & Gabry (2017); smoothed ratios and their k̂: Vehtari, Simpson, Gelman, Yao & Gabry
(2024); k̂ of a variational fit: Yao, Vehtari, Simpson & Gelman (2018). Sums are expected log predictive densities
(elpd) in nats: higher is better. Axes: K draws, or chain and draw; N data.
"""

import dataclasses
import math
import warnings
from typing import Any, TypeAlias

import numpy as np
from arviz_stats.base.array import array_stats
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from torch import Tensor

from bayes_mbrl.analysis.charts import BLUE, VERMILLION, Chart, Points, Rule
from bayes_mbrl.analysis.diagnostics import Verdict

Array: TypeAlias = Tensor | NDArray[Any]
Floats: TypeAlias = NDArray[np.floating]

MIN_DRAWS = 25
"""Different draws below which a tail cannot be fitted."""
K_GOOD, K_BAD = 0.5, 0.7
"""Yao et al. (2018): below the first a variational fit is close, above the second it is not to be believed."""
_ARVIZ: Any = array_stats


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    """log p(y_i | all other data), estimated without a refit."""

    elpd: Floats
    """[N], in nats."""
    pareto_k: Floats
    """[N]: above `good_k` the estimate of that datum cannot be trusted; infinite where there are too few draws."""
    p_loo: float
    """Effective number of parameters: what the fit owes to having seen the data."""
    good_k: float
    """min(1 − 1 / log10 K, 0.7): Vehtari et al. (2024), section 3.2."""

    @property
    def total(self) -> float:
        """Σ_i elpd_i, in nats."""
        return float(self.elpd.sum())

    @property
    def standard_error(self) -> float:
        """√N times the standard deviation of elpd_i, as if data were independent; NaN of one."""
        return sum_error(self.elpd)


def leave_one_out(log_likelihood: Array, *, chains: bool = False) -> LeaveOneOut:
    """PSIS-LOO of log_likelihood [K, N], or with `chains` [chain, draw, N]: log p(y_i | θ_k), in nats.

    It takes the draws as those of p(θ | D): of an approximation it tells what that one would predict. Raises ValueError
    for other shapes and for numbers that are not finite, counting them.
    """
    values = finite("log_likelihood", log_likelihood)
    if values.ndim != 2 + chains or 0 in values.shape:
        raise ValueError(f"need log_likelihood {'[chain, draw, N]' if chains else '[K, N]'}, got {list(values.shape)}")
    efficiency = 1.0
    if chains and values.shape[1] >= 4:
        likelihood = np.exp(values - values.max((0, 1)))
        varies = np.ptp(likelihood, (0, 1)) > 0
        if varies.any():
            relative = _ARVIZ.ess(likelihood[:, :, varies], chain_axis=0, draw_axis=1, method="mean", relative=True)
            efficiency = float(np.clip(np.nanmean(relative), 1e-3, 1.0))
    draws = values.reshape(-1, values.shape[-1])
    num_draws = len(draws)
    enough = num_draws >= MIN_DRAWS and len(np.unique(draws, axis=0)) >= MIN_DRAWS
    elpd, pareto_k = np.empty(draws.shape[1]), np.full(draws.shape[1], np.inf)
    for i, column in enumerate(draws.T):
        log_weights = -column - logsumexp(-column)
        if enough:
            log_weights, pareto_k[i] = _smoothed(-column, efficiency)
        elpd[i] = logsumexp(log_weights + column)
    in_sample = logsumexp(draws, axis=0) - math.log(num_draws)
    good_k = min(1 - 1 / math.log10(num_draws), K_BAD) if num_draws >= MIN_DRAWS else K_BAD
    return LeaveOneOut(elpd, pareto_k, float((in_sample - elpd).sum()), good_k)


def loo_verdict(loo: LeaveOneOut, what: str = "data") -> Verdict:
    """How much of the estimate can be trusted, and where to turn."""
    num, name = len(loo.elpd), "PSIS-LOO"
    if not np.isfinite(loo.pareto_k).any():
        text = f"under {MIN_DRAWS} different draws: too few for PSIS-LOO; use K-fold"
        return Verdict(name, math.nan, text, "note")
    wrong = int((loo.pareto_k > loo.good_k).sum())
    score = f"elpd {loo.total:.1f} ± {loo.standard_error:.1f} nats" if num > 1 else f"elpd {loo.total:.1f} nats"
    if wrong:
        text = f"k̂ above {loo.good_k:.2f} at {wrong} of {num} {what}: {score} is not to be trusted; use K-fold"
        return Verdict(name, float(loo.pareto_k.max()), text, "bad" if wrong > 0.01 * num else "note")
    text = f"{score} over {num} {what}; k̂ at most {loo.pareto_k.max():.2f}, so it can be trusted"
    return Verdict(name, float(loo.pareto_k.max()), text, "good")


def pareto_k_chart(loo: LeaveOneOut, positions: ArrayLike | None = None, *, x_label: str = "datum") -> Chart:
    """k̂ of each datum, at positions [N], in the order of the data by default."""
    x = np.arange(len(loo.pareto_k), dtype=np.float64) if positions is None else np.asarray(positions, dtype=np.float64)
    wrong = loo.pareto_k > loo.good_k
    marks: list[Any] = [
        Points(x[~wrong], loo.pareto_k[~wrong], label="can be trusted", color=BLUE),
        Points(x[wrong], loo.pareto_k[wrong], label="cannot", color=VERMILLION),
        Rule(loo.good_k, label=f"{loo.good_k:.2f}"),
    ]
    return Chart(
        "Leave-one-out: k̂",
        x_label,
        "k̂",
        marks,
        note="A datum far up weighs so much that without it the posterior would be another: refit (K-fold) to know.",
    )


def variational_k_hat(log_joint: Array, log_q: Array) -> float:
    """k̂ of the ratios p(θ_k, D) / q(θ_k), both [K] in nats, θ_k ~ q; their constants do not matter.

    Small where q covers p(θ | D). NaN of under `MIN_DRAWS` draws. Raises ValueError for numbers that are not
    finite, counting them, and for different shapes. Source: Yao et al. (2018), algorithm 1.
    """
    joint, density = finite("log_joint", log_joint), finite("log_q", log_q)
    if joint.shape != density.shape or joint.ndim != 1:
        raise ValueError(f"need log_joint and log_q [K], got {list(joint.shape)} and {list(density.shape)}")
    return _smoothed(joint - density, 1.0)[1] if len(joint) >= MIN_DRAWS else math.nan


def k_hat_verdict(k_hat: float, *, num_parameters: int, tempered: float = 1.0) -> Verdict:
    """In words; `tempered` is the weight of the KL that was fitted with: k̂ is against p(θ | D), weight 1, always."""
    name = "PSIS k̂ of q"
    if math.isnan(k_hat):
        return Verdict(name, k_hat, f"under {MIN_DRAWS} draws: too few", "note")
    text = f"against p(θ | D) over {num_parameters} parameters: "
    if k_hat < K_GOOD:
        text, severity = text + "q is close to it", "good"
    elif k_hat <= K_BAD:
        text, severity = text + "q is usable, with corrections by importance weights", "note"
    else:
        text, severity = text + "q is not close to it", "note" if num_parameters > 20 else "bad"
        if num_parameters > 20:
            text += ", as nearly always with a network's weights: judge predictions (calibration, K-fold) instead"
    if tempered != 1:
        text += f"; it was fitted with kl_weight {tempered:g}, to another target"
    return Verdict(name, k_hat, text, severity)  # type: ignore[arg-type]


def _smoothed(log_ratios: Floats, efficiency: float) -> tuple[Floats, float]:
    """(normalised log weights [K], k̂); k̂ is infinite where a tail cannot be fitted, 0 where there is none."""
    plain: Floats = log_ratios - logsumexp(log_ratios)
    if np.ptp(log_ratios) <= 1e-9 * max(1.0, float(np.abs(log_ratios).max())):  # alike, but for rounding
        return plain, 0.0
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            log_weights, k_hat = _ARVIZ.psislw(-log_ratios, r_eff=efficiency)  # it turns the sign of what it is given
    except ValueError:  # all ratios of the tail are alike
        return plain, 0.0
    if not (math.isfinite(k_hat) and np.isfinite(logsumexp(log_weights))):
        return plain, math.inf
    return np.asarray(log_weights), float(k_hat)


def finite(name: str, values: Array) -> Floats:
    """The values in float64. Raises ValueError that counts what is NaN or infinite."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if num_bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} is NaN or infinite in {num_bad} of {array.size} numbers")
    return array


def sum_error(terms: Floats) -> float:
    """Standard error of Σ terms, the terms being independent; NaN of one."""
    return math.sqrt(len(terms) * float(terms.var(ddof=1))) if len(terms) > 1 else math.nan
