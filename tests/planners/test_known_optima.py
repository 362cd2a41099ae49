"""Every planner, with its default budget, against problems whose best plan is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from linear_quadratic import linear_quadratic, riccati, simulated_cost
from torch import Tensor

from bayes_mbrl.planners.base import Planner, search
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.gradient import GradientAscent
from bayes_mbrl.planners.icem import ICEM
from bayes_mbrl.planners.mppi import MPPI
from bayes_mbrl.planners.random_shooting import RandomShooting

LOCAL: dict[str, Callable[..., Planner[Any]]] = {
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "mppi, filtered": lambda **settings: MPPI(smoothing=0.6, **settings),
    "gradient": GradientAscent,
}
"""Those that come as close to an optimum as one wants: all but random shooting."""

local = pytest.mark.parametrize("build", LOCAL.values(), ids=LOCAL.keys())


@local
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["double integrator", "coupled oscillators"])
def test_default_plan_is_within_one_percent_of_the_linear_quadratic_optimum(
    name: str, build: Callable[..., Planner[Any]], seed: int
) -> None:
    system = linear_quadratic(name)
    least, best_plan = riccati(*system, horizon=25)
    assert float(simulated_cost(best_plan[None], *system)) == pytest.approx(least)
    bound = 1.5 * best_plan.abs().amax(dim=0)
    planner = build(low=-1.4 * bound, high=bound)
    generator = torch.Generator().manual_seed(seed)
    state = search(planner, planner.init(), lambda plans: -simulated_cost(plans, *system), generator=generator)
    assert least <= float(simulated_cost(state.plan[None], *system)) < 1.01 * least


LOW, HIGH = torch.tensor([-1.0, 0.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)
HORIZON = 10


def basins(plans: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [C] of plans [C, 10, 2] in the wide basin (1 at most) and in the better but narrower one (1.1 at most)."""
    share = (plans - LOW) / (HIGH - LOW)
    return 1.0 - (share - 0.3).square().mean((1, 2)), 1.1 - 3 * (share - 0.7).square().mean((1, 2))


def _successes(build: Callable[[], Planner[Any]], num_seeds: int) -> tuple[int, list[int]]:
    """How often the search ends in the better basin, and how many plans were scored each time."""
    found, evaluations = 0, []
    for seed in range(num_seeds):
        planner, counts = build(), []

        def score(plans: Tensor, counts: list[int] = counts) -> Tensor:
            counts.append(len(plans))
            return torch.maximum(*basins(plans))

        state = search(planner, planner.init(), score, generator=torch.Generator().manual_seed(seed))
        found += int(basins(state.plan[None])[1] > 1)
        evaluations.append(sum(counts))
    return found, evaluations


@pytest.mark.parametrize(
    "build",
    [
        lambda: CEM(LOW, HIGH, HORIZON, num_candidates=100, num_elites=10, num_iterations=5),
        lambda: ICEM(LOW, HIGH, HORIZON, num_candidates=120, num_elites=10, num_iterations=5),
        lambda: MPPI(LOW, HIGH, HORIZON, num_candidates=100, num_iterations=5, smoothing=0.6),
        lambda: MPPI(LOW, HIGH, HORIZON, num_candidates=100, num_iterations=5),
        lambda: GradientAscent(LOW, HIGH, HORIZON, num_candidates=20, num_iterations=25),
    ],
    ids=["cem", "icem", "mppi, filtered", "mppi", "gradient"],
)
def test_the_better_of_two_basins_is_found_more_often_than_by_random_shooting(
    build: Callable[[], Planner[Any]],
) -> None:
    found, evaluations = _successes(build, 20)
    assert max(evaluations) <= 560
    by_chance, _ = _successes(lambda: RandomShooting(LOW, HIGH, HORIZON, num_candidates=560), 20)
    print(found, by_chance, evaluations[0])
    assert found >= by_chance + 6


def _cem_by_numpy(
    score: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], low: Any, high: Any, horizon: int, seed: int
) -> Any:
    """CEM as in the papers, by NumPy and SciPy's truncated normal."""
    generator = np.random.default_rng(seed)
    mean = np.broadcast_to((low + high) / 2, (horizon, len(low)))
    std = np.broadcast_to((high - low) / 4, mean.shape)
    for _ in range(8):
        draws = scipy.stats.truncnorm.rvs(
            (low - mean) / std, (high - mean) / std, mean, std, (200, *mean.shape), random_state=generator
        )
        elites = draws[np.argsort(-score(draws))[:20]]
        mean = 0.1 * mean + 0.9 * elites.mean(0)
        std = np.sqrt(0.1 * std**2 + 0.9 * elites.var(0))
    return mean, std


def test_cem_goes_the_way_of_an_independent_one() -> None:
    """Means over 20 seeds of the final mean and log std agree within 5 standard errors, on a crooked score."""

    def score(plans: Any) -> Any:
        x, y = plans[..., 0], plans[..., 1]
        return -((x - 2.5) ** 2 + 30 * (y - 0.1 * x**2) ** 2).sum(1) - (x[:, 1:] * x[:, :-1]).sum(1)

    planner = CEM(LOW, HIGH, 3, num_candidates=200, num_elites=20, num_iterations=8, momentum=0.1)
    ours, theirs = [], []
    for seed in range(20):
        state = search(planner, planner.init(), score, generator=torch.Generator().manual_seed(seed))
        ours.append(np.stack([state.mean.numpy(), 0.5 * np.log(state.variance.numpy())]))
        mean, std = _cem_by_numpy(score, LOW.numpy(), HIGH.numpy(), 3, seed)
        theirs.append(np.stack([mean, np.log(std)]))
    difference = np.mean(ours, 0) - np.mean(theirs, 0)
    error = np.sqrt((np.var(ours, 0, ddof=1) + np.var(theirs, 0, ddof=1)) / 20)
    assert (np.abs(difference) < 5 * error).all()
    assert np.std(np.mean(ours, 0)[1]) > 0.05  # the spreads differ, so that one number does not fit all
