from collections.abc import Callable

import pytest
import scipy.stats
import torch

from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.random_shooting import RandomShooting, RandomShootingState

LOW = torch.tensor([-1.0, 0.0], dtype=torch.float64)
HIGH = torch.tensor([3.0, 0.5], dtype=torch.float64)


def test_candidates_are_uniform_within_the_bounds(generator: torch.Generator) -> None:
    planner = RandomShooting(LOW, HIGH, horizon=1, num_candidates=20_000)
    plans = planner.ask(planner.init(), generator=generator)[1:, 0]
    for action in range(2):
        expected = scipy.stats.uniform(float(LOW[action]), float(HIGH[action] - LOW[action]))
        assert scipy.stats.kstest(plans[:, action].numpy(), expected.cdf).pvalue > 1e-4


def test_the_best_of_all_iterations_is_kept(generator: torch.Generator) -> None:
    planner = RandomShooting(LOW, HIGH, horizon=3, num_candidates=20, num_iterations=5)
    seen = []

    def score(plans: torch.Tensor) -> torch.Tensor:
        seen.append(plans)
        return -(plans - 0.3).square().sum(dim=(1, 2))

    state = search(planner, planner.init(), score, generator=generator)
    everything = torch.cat(seen)
    best = score(everything).argmax()
    assert torch.equal(state.plan, everything[best])


def test_a_lucky_score_of_another_iteration_does_not_keep_a_plan() -> None:
    """Every iteration meets other noise: the plan so far has to win again, and here it does not."""
    planner = RandomShooting(LOW, HIGH, horizon=1, num_candidates=2)
    lucky, better = torch.tensor([[2.0, 0.1]]).double(), torch.tensor([[1.0, 0.2]]).double()
    state = planner.tell(planner.init(), torch.stack([better, lucky]), torch.tensor([-4.0, 3.0]))
    assert torch.equal(state.plan, lucky)
    state = planner.tell(state, torch.stack([lucky, better]), torch.tensor([-5.0, -2.0]))
    assert torch.equal(state.plan, better)


def test_the_shifted_plan_competes_again(generator: torch.Generator) -> None:
    planner = RandomShooting(LOW, HIGH, horizon=3, num_candidates=20)
    plan = torch.tensor([[0.0, 0.1], [1.0, 0.2], [2.0, 0.3]]).double()
    shifted = planner.shift(RandomShootingState(plan))
    assert torch.equal(shifted.plan, torch.cat([plan[1:], torch.tensor([[1.0, 0.25]]).double()]))
    plans = planner.ask(shifted, generator=generator)
    assert torch.equal(plans[0], shifted.plan)
    others = planner.tell(shifted, plans, torch.tensor([-1e9] + [-1e10] * 19))
    assert torch.equal(others.plan, shifted.plan)


def test_nothing_is_known_at_first() -> None:
    state = RandomShooting(LOW, HIGH, horizon=2).init()
    assert torch.equal(state.plan, torch.tensor([1.0, 0.25]).double().expand(2, 2))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_candidates": 1}, r"^need num_candidates >= 2 \(one of them is the plan so far\), got 1$"),
        ({"horizon": 0}, r"^need horizon >= 1, got 0$"),
        ({"num_iterations": 0}, r"^need num_iterations >= 1, got 0$"),
        ({"low": HIGH, "horizon": 0}, "need low < high .*; need horizon >= 1, got 0"),
    ],
)
def test_impossible_settings_are_refused_all_at_once(settings: dict[str, int], problem: str) -> None:
    build: Callable[..., RandomShooting] = RandomShooting
    with pytest.raises(ValueError, match=problem):
        build(**{"low": LOW, "high": HIGH, **settings})
