"""Objectives: whole returns [K, M, C] to scores [C], higher is better.

K parameter samples (what data could teach) and M noise draws (what it could not) stay apart until here. Risk is taken
over whole returns, never per time step and then summed. Every function below builds an objective, so that a table of
them can treat all alike. A NaN among a candidate's returns makes its score NaN, so that it can never win unseen.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from bayes_mbrl.planners.base import require

Objective = Callable[[Tensor], Tensor]
"""Whole returns [K, M, C] → scores [C], higher is better."""
Over = Literal["outcomes", "theta"]
"""What a tail is taken of: all returns, or the expected returns given each θ."""
Failing = Literal["state", "termination"]
"""Which transitions fail: those that the environment calls failures, or those that end the episode."""
Failure = Literal["return", "state", "termination"]
"""What a failure is: a low return, or a failing transition on the way."""


class FailureObjective(ABC):
    """An objective that needs to know which trajectories met a failing transition."""

    failing: Failing
    """Which transitions these are."""

    @abstractmethod
    def __call__(self, returns: Tensor, failed: Tensor) -> Tensor:
        """returns and failed (bool) [K, M, C] → scores [C]."""


def check_failure(objective: object, failure: object) -> None:
    """Raise ValueError unless a `FailureObjective` has a failure function, and another objective has none."""
    counts = isinstance(objective, FailureObjective)
    require((counts or failure is None, "need no failure function where the objective does not count failures"))
    require((not counts or failure is not None, "need a failure function, since the objective counts failures"))


def expected_return() -> Objective:
    """E[R]: the mean over θ and noise. returns [K, M, C] → scores [C]."""

    def objective(returns: Tensor) -> Tensor:
        _check_returns(returns)
        return returns.mean(dim=(0, 1))

    return objective


def mean_minus_epistemic_std(risk_aversion: float) -> Objective:
    """E[R] − risk_aversion · sd_θ(E[R | θ]): averse to what more data could teach, indifferent to noise.

    returns [K, M, C] → scores [C]. The variance over θ of the mean over M noise draws still holds 1/M of the noise's
    own variance, which is subtracted (one-way analysis of variance, clamped at 0; variances are unbiased). With M = 1
    the two cannot be told apart and all spread counts as epistemic; with K = 1 none does.
    Raises ValueError unless risk_aversion is finite and >= 0.  Source: Searle, Casella & McCulloch (1992), ch. 3.
    """
    _check_risk_aversion(risk_aversion)

    def objective(returns: Tensor) -> Tensor:
        _check_returns(returns)
        return returns.mean(dim=(0, 1)) - risk_aversion * _sqrt(_epistemic_variance(returns))

    return objective


def mean_minus_total_std(risk_aversion: float) -> Objective:
    """E[R] − risk_aversion · sd(R): averse to all spread, whether data could remove it or not.

    returns [K, M, C] → scores [C]. The variance over all K·M outcomes is unbiased; a single outcome has none.
    Raises ValueError unless risk_aversion is finite and >= 0.
    """
    _check_risk_aversion(risk_aversion)

    def objective(returns: Tensor) -> Tensor:
        _check_returns(returns)
        outcomes = returns.flatten(0, 1)
        return outcomes.mean(dim=0) - risk_aversion * _sqrt(_variance(outcomes, dim=0))

    return objective


def mean_plus_epistemic_std(optimism: float) -> Objective:
    """E[R] + optimism · sd_θ(E[R | θ]): seeks what more data could teach, is indifferent to noise.

    returns [K, M, C] → scores [C]; the spread as in `mean_minus_epistemic_std`.
    Raises ValueError unless optimism is finite and >= 0.
    """
    require((0 <= optimism < math.inf, f"need optimism finite and >= 0, got {optimism}"))

    def objective(returns: Tensor) -> Tensor:
        _check_returns(returns)
        return returns.mean(dim=(0, 1)) + optimism * _sqrt(_epistemic_variance(returns))

    return objective


def lower_tail_mean(tail_mass: float, over: Over = "outcomes") -> Objective:
    """Mean of the worst `tail_mass` (CVaR): 1 is the mean, → 0 the worst case.

    returns [K, M, C] → scores [C]. The tail is that of all K·M outcomes, or with over="theta" that of the K expected
    returns E[R | θ], averse to ignorance alone. The boundary outcome gets the fractional weight that makes the mass
    exact.
    Raises ValueError unless 0 < tail_mass <= 1.  Source: Rockafellar & Uryasev (2002).
    """
    _check_tail(tail_mass, over)

    def objective(returns: Tensor) -> Tensor:
        return _lower_tail_mean(_outcomes(returns, over), tail_mass)

    return objective


def upper_tail_mean(tail_mass: float, over: Over = "outcomes") -> Objective:
    """Mean of the best `tail_mass`: optimism, for exploring; 1 is the mean, → 0 the best case.

    Otherwise as `lower_tail_mean`.
    """
    _check_tail(tail_mass, over)

    def objective(returns: Tensor) -> Tensor:
        return -_lower_tail_mean(-_outcomes(returns, over), tail_mass)

    return objective


def entropic(risk_aversion: float, over: Over = "outcomes") -> Objective:
    """−log E[exp(−risk_aversion · R)] / risk_aversion: the certainty equivalent of exponential utility.

    returns [K, M, C] → scores [C]; for small risk_aversion about E[R] − risk_aversion · Var(R) / 2. risk_aversion is
    in units of one over the return; 0 is the mean. The expectation is that over all K·M outcomes, or with over="theta"
    over the K expected returns E[R | θ], averse to ignorance alone.
    Raises ValueError unless risk_aversion is finite and >= 0.  Source: Howard & Matheson (1972).
    """
    _check_risk_aversion(risk_aversion)
    _check_over(over)
    if risk_aversion == 0:
        return expected_return()

    def objective(returns: Tensor) -> Tensor:
        outcomes = _outcomes(returns, over)
        mean = outcomes.mean(dim=0)  # taken out, so that large returns keep the digits of their spread
        spread = torch.logsumexp(-risk_aversion * (outcomes - mean), dim=0) - math.log(len(outcomes))
        return mean - spread / risk_aversion

    return objective


def mean_with_failure_limit(
    failure_return: float, max_probability: float, penalty: float, failure: Failure = "return"
) -> Objective | FailureObjective:
    """E[R] − penalty · max(0, P(failure) − max_probability): a limit on the probability of failure.

    returns [K, M, C] → scores [C]. The probability is the share of all K·M outcomes that fail: with failure="return"
    those below failure_return; else those that meet, while the episode lasts, a transition that fails, or that diverge:
    of the environment's own kind ("state") or any that ends the episode ("termination"); then the objective is called
    as (returns, failed). `penalty`, in units of the return, is the price of a plan that fails for certain where it
    never may: above the differences that returns make, no plan beyond the limit wins while another keeps it. The price
    has the gradient 0: planners that follow gradients do not see it.
    Raises ValueError unless 0 <= max_probability < 1, penalty > 0 and both numbers in units of the return are finite.
    """
    require(
        (math.isfinite(failure_return), f"need failure_return finite, got {failure_return}"),
        (0 <= max_probability < 1, f"need 0 <= max_probability < 1, got {max_probability}"),
        (0 < penalty < math.inf, f"need penalty finite and > 0, got {penalty}"),
        (failure in get_args(Failure), f"failure is one of {', '.join(get_args(Failure))}, got {failure!r}"),
    )
    if failure != "return":
        return _StateFailureLimit(failure, max_probability, penalty)

    def objective(returns: Tensor) -> Tensor:
        _check_returns(returns)
        return _limited(returns, returns < failure_return, max_probability, penalty)

    return objective


@dataclass(frozen=True)
class _StateFailureLimit(FailureObjective):
    failing: Failing
    max_probability: float
    penalty: float

    def __call__(self, returns: Tensor, failed: Tensor) -> Tensor:
        _check_returns(returns)
        require(
            (
                failed.shape == returns.shape and failed.dtype == torch.bool,
                f"need failed of bool {list(returns.shape)} like the returns, got {failed.dtype} {list(failed.shape)}",
            )
        )
        return _limited(returns, failed, self.max_probability, self.penalty)


def _limited(returns: Tensor, failed: Tensor, max_probability: float, penalty: float) -> Tensor:
    probability = failed.to(returns.dtype).mean(dim=(0, 1))
    return returns.mean(dim=(0, 1)) - penalty * (probability - max_probability).clamp(min=0)


def worst_theta() -> Objective:
    """min_θ E[R | θ]: the mean over noise under the least favourable of the K parameter samples.

    returns [K, M, C] → scores [C]. The minimum falls as K grows: compare scores of equal K only.
    """

    def objective(returns: Tensor) -> Tensor:
        _check_returns(returns)
        return returns.mean(dim=1).amin(dim=0)

    return objective


def _outcomes(returns: Tensor, over: Over) -> Tensor:
    """All returns [K·M, C], or their means over the noise [K, C]."""
    _check_returns(returns)
    return returns.flatten(0, 1) if over == "outcomes" else returns.mean(dim=1)


def _lower_tail_mean(outcomes: Tensor, tail_mass: float) -> Tensor:
    """Mean [C] of the lowest `tail_mass` of outcomes [n, C]."""
    outcomes = outcomes.sort(dim=0).values
    num_in_tail = tail_mass * len(outcomes)
    rank = torch.arange(len(outcomes), dtype=torch.float64, device=outcomes.device)
    weight = ((num_in_tail - rank).clamp(0, 1) / min(num_in_tail, len(outcomes))).to(outcomes)
    # NaN sorts last, where the weight is 0; the product keeps it (0 · NaN = NaN), slicing the tail would lose it.
    return (weight[:, None] * outcomes).sum(dim=0)


def _epistemic_variance(returns: Tensor) -> Tensor:
    """Var_θ(E[R | θ]) of returns [K, M, C], freed of the noise that a mean over M draws still holds: [C]."""
    between = _variance(returns.mean(dim=1), dim=0)
    within = _variance(returns, dim=1).mean(dim=0)
    return (between - within / returns.shape[1]).clamp(min=0)


def _variance(values: Tensor, dim: int) -> Tensor:
    """Unbiased variance along `dim`; 0, not NaN, of a single value (NaN stays NaN)."""
    if values.shape[dim] == 1:
        return 0 * values.squeeze(dim)
    return values.var(dim=dim)


def _sqrt(variance: Tensor) -> Tensor:
    """√variance with the gradient 0, not infinity, where the variance is 0."""
    zero = variance == 0
    return torch.where(zero, 0, torch.where(zero, 1, variance).sqrt())


def _check_returns(returns: Tensor) -> None:
    require(
        (
            returns.ndim == 3 and 0 not in returns.shape[:2],
            f"need returns [K, M, C] with K >= 1 and M >= 1, got shape {list(returns.shape)}",
        )
    )


def _check_tail(tail_mass: float, over: Over) -> None:
    require((0 < tail_mass <= 1, f"need 0 < tail_mass <= 1, got {tail_mass}"))
    _check_over(over)


def _check_over(over: Over) -> None:
    require((over in get_args(Over), f"over is one of {', '.join(get_args(Over))}, got {over!r}"))


def _check_risk_aversion(risk_aversion: float) -> None:
    require((0 <= risk_aversion < math.inf, f"need risk_aversion finite and >= 0, got {risk_aversion}"))
