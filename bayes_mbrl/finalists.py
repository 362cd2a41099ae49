"""Early elimination: all candidates meet a few θ, and only the best of them the others.

Axes: K parameter samples, M noise draws, C candidate plans, H horizon, S state, A action.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.planners.objectives import FailureObjective, Objective
from bayes_mbrl.planners.propagation import Propagation, distribution_sampling, ts_infinity
from bayes_mbrl.rollout import Draws, check_arguments, draw_noise, evaluate_plans


def evaluate_finalists(
    plans: Tensor,
    state: Tensor,
    *,
    finalists: float,
    posterior: Posterior,
    dynamics: Dynamics,
    objective: Objective | FailureObjective,
    propagation: Propagation = ts_infinity,
    num_theta: int,
    num_noise: int = 1,
    generator: torch.Generator,
    **settings: Any,
) -> Tensor:
    """Scores [C] of the plans [C, H, A] from the state [S], by less work than `evaluate_plans`, whose arguments it has.

    All candidates meet a third of the θ first, and only a share `finalists` of them, the best so far, the others, with
    the same noise. Finalists get the score that `evaluate_plans` would have given them; the rest, which is below the
    last finalist by what was seen, its score so far, all of them lowered alike until none is above a finalist.
    Raises ValueError as `check_finalists` and `evaluate_plans`.
    """
    check_finalists(finalists, propagation)
    check_arguments(plans, state, num_theta, num_noise)
    theta = posterior.sample(num_theta, generator=generator)
    draws = Draws(theta, *draw_noise(plans.shape[1], num_theta, num_noise, dynamics, state, generator=generator))

    def outcomes(plans: Tensor, some: Draws) -> Tensor:
        """Returns and failures [2, K', M, C] with some of the θ."""
        return evaluate_plans(
            plans,
            state,
            posterior=posterior,
            dynamics=dynamics,
            objective=_WithFailures(objective) if isinstance(objective, FailureObjective) else _without_failures,
            propagation=propagation,
            num_theta=num_theta,
            num_noise=num_noise,
            generator=generator,
            draws=some,
            **settings,
        )

    def score(returns: Tensor, failed: Tensor) -> Tensor:
        return objective(returns, failed > 0) if isinstance(objective, FailureObjective) else objective(returns)

    num_finalists, first = math.ceil(finalists * len(plans)), max(1, num_theta // 3)
    if num_finalists >= len(plans) or first == num_theta:
        return score(*outcomes(plans, draws))
    seen = outcomes(plans, draws.of(slice(first)))
    scores = score(*seen)
    best = scores.topk(num_finalists).indices
    rest = outcomes(plans.index_select(0, best), draws.of(slice(first, None)))
    final = score(*torch.cat([seen.index_select(-1, best), rest], dim=1))
    return _below(scores, best, final).index_copy(0, best, final)


def _below(scores: Tensor, best: Tensor, final: Tensor) -> Tensor:
    """The scores [C], those of all but `best` lowered alike, in their order, until none is above one of the `final`.

    One that is not finite stays as it is and counts for no other.
    """
    sound = scores.isfinite()
    lowest = torch.where(final.isfinite(), final, torch.inf).min()
    highest = torch.where(sound, scores, -torch.inf).index_fill(0, best, -torch.inf).max()
    lowered = scores - (highest - lowest).clamp(min=0)
    return torch.where(sound, torch.minimum(lowered, lowest), scores)  # minimum: of rounding


def check_finalists(finalists: float, propagation: Propagation, planner: object = None) -> None:
    """Raise ValueError where some of the θ alone cannot be asked, and where the `planner` has more elites than that."""
    if not 0 < finalists <= 1:
        raise ValueError(f"need 0 < finalists <= 1, a share of the candidates, got {finalists}")
    if finalists < 1 and propagation not in (ts_infinity, distribution_sampling):
        raise ValueError(
            "finalists below 1 is for propagations that keep the θ of a particle, ts-infinity and "
            f"distribution-sampling, got {getattr(propagation, '__name__', propagation)}: write rollout.finalists=1"
        )

    num_elites, num_candidates = (getattr(planner, name, 0) for name in ("num_elites", "num_candidates"))
    if (count := math.ceil(finalists * num_candidates)) < num_elites:
        raise ValueError(
            f"need as many finalists as elites, which would else be chosen by a third of the θ: finalists {finalists} "
            f"of num_candidates {num_candidates} are {count}, and num_elites is {num_elites}: take rollout.finalists "
            f">= {num_elites / num_candidates:.3g} or fewer elites"
        )


class _WithFailures(FailureObjective):
    """No judgement yet: returns and failures [2, K, M, C] as they are."""

    def __init__(self, objective: FailureObjective) -> None:
        self.failing = objective.failing

    def __call__(self, returns: Tensor, failed: Tensor) -> Tensor:
        return torch.stack([returns, failed.to(returns)])


def _without_failures(returns: Tensor) -> Tensor:
    return torch.stack([returns, torch.zeros_like(returns)])
