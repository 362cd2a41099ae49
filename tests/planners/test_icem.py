import math
from collections.abc import Callable

import pytest
import torch

from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.icem import ICEM, ICEMState

LOW = torch.tensor([-1.0, 0.0], dtype=torch.float64)
HIGH = torch.tensor([3.0, 0.5], dtype=torch.float64)


def test_the_population_decays_and_never_falls_below_twice_the_elites(generator: torch.Generator) -> None:
    planner = ICEM(LOW, HIGH, 3, num_candidates=64, num_elites=5, num_iterations=6, decay=2.0, kept_share=0.4)
    state, sizes = planner.init(), []
    for _ in range(6):
        plans = planner.ask(state, generator=generator)
        sizes.append(len(plans))
        state = planner.tell(state, plans, -plans.square().sum((1, 2)))
    # 64, 32, 16, then 10; two kept elites from the second on, the mean in the last.
    assert sizes == [64, 34, 18, 12, 12, 13]


def test_elites_mean_variance_and_plan_by_hand() -> None:
    planner = ICEM(LOW[:1], HIGH[:1], 2, num_candidates=6, num_elites=3, momentum=0.25, kept_share=0.5)
    column = torch.tensor([[9.0, 9.0], [0.0, 1.0], [9.0, 9.0], [2.0, 2.0], [1.0, 3.0]], dtype=torch.float64)
    start = planner.init()
    told = planner.tell(start, column[..., None], torch.tensor([-5.0, 2.0, -3.0, 7.0, 4.0]).double())
    assert torch.allclose(told.mean, torch.tensor([[0.25 * 1 + 0.75 * 1.0], [0.25 * 1 + 0.75 * 2.0]]).double())
    assert torch.allclose(told.variance, torch.tensor([[0.25 * 1 + 0.75 * 2 / 3]] * 2).double())
    assert torch.equal(told.plan, column[3, :, None])
    assert torch.equal(told.elites, column[[3, 4], :, None])  # the better half of three, rounded up
    assert told.iteration == 1


def test_shifted_elites_compete_at_the_next_step(generator: torch.Generator) -> None:
    planner = ICEM(LOW, HIGH, 4, num_candidates=20, num_elites=4, num_iterations=2, kept_share=0.5)
    state = search(planner, planner.init(), lambda plans: plans.sum((1, 2)), generator=generator)
    shifted = planner.shift(state)
    plans = planner.ask(shifted, generator=generator)
    assert torch.equal(plans[:2, :-1], state.elites[:, 1:])
    assert torch.equal(plans[:2, -1], ((LOW + HIGH) / 2).expand(2, 2))
    assert torch.equal(shifted.variance, planner.init().variance)
    assert len(plans) == 2 + 20


def test_the_mean_competes_in_the_last_iteration_only(generator: torch.Generator) -> None:
    planner = ICEM(LOW, HIGH, 3, num_candidates=20, num_elites=4, num_iterations=2)
    state = planner.init()
    for last in (False, True):
        plans = planner.ask(state, generator=generator)
        assert bool((plans == state.mean).flatten(1).all(1).any()) == last
        state = planner.tell(state, plans, -(plans - 0.1).square().sum((1, 2)))


def test_the_plan_is_the_best_of_all_that_were_scored_last(generator: torch.Generator) -> None:
    planner = ICEM(LOW, HIGH, 3, num_candidates=30, num_elites=4, num_iterations=5)
    state = planner.init()
    for _ in range(5):
        plans = planner.ask(state, generator=generator)
        scores = torch.rand(len(plans), generator=generator)
        state = planner.tell(state, plans, scores)
        assert torch.equal(state.plan, plans[scores.argmax()])


def test_higher_colours_push_longer(generator: torch.Generator) -> None:
    """Lag-one correlation of what is tried, far from the bounds."""
    correlations = []
    for colour in (0.0, 1.0, 3.0):
        planner = ICEM(LOW, HIGH, 20, num_candidates=2000, num_elites=4, colour=colour, initial_std_fraction=0.05)
        tried = (planner.ask(planner.init(), generator=generator) - planner.init().mean)[..., 0]
        correlations.append(float((tried[:, 1:] * tried[:, :-1]).mean() / tried.square().mean()))
    assert abs(correlations[0]) < 0.03
    assert 0.3 < correlations[1] < 0.7 < 0.9 < correlations[2]


def test_a_single_elite(generator: torch.Generator) -> None:
    planner = ICEM(LOW, HIGH, 3, num_candidates=8, num_elites=1, momentum=0.0)
    plans = planner.ask(planner.init(), generator=generator)
    state = planner.tell(planner.init(), plans, torch.arange(8.0))
    assert torch.equal(state.variance, torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(planner.ask(state, generator=generator)[-1], plans[7])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_elites": 30, "num_candidates": 40}, r"^need 1 <= num_elites <= num_candidates / 2, got 30 and 40$"),
        ({"num_elites": 0}, "got 0 and"),
        ({"colour": -0.1}, "need colour finite and >= 0, got -0.1"),
        ({"colour": math.inf}, "need colour finite and >= 0, got inf"),
        ({"decay": 0.9}, "need decay finite and >= 1, got 0.9"),
        ({"kept_share": 1.1}, "need 0 <= kept_share <= 1, got 1.1"),
        ({"momentum": 1.0}, "need 0 <= momentum < 1, got 1.0"),
        ({"initial_std_fraction": math.nan}, "need initial_std_fraction finite and > 0, got nan"),
        ({"num_iterations": 0, "horizon": 0}, "need horizon >= 1, got 0; need num_iterations >= 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], problem: str) -> None:
    build: Callable[..., ICEM] = ICEM
    with pytest.raises(ValueError, match=problem):
        build(**{"low": LOW, "high": HIGH, **settings})


def test_fewer_plans_than_elites_are_refused() -> None:
    planner = ICEM(LOW, HIGH, 3, num_candidates=8, num_elites=4)
    with pytest.raises(ValueError, match="need at least num_elites = 4 plans, got 3"):
        planner.tell(planner.init(), torch.zeros(3, 3, 2).double(), torch.zeros(3))


def test_nothing_of_the_last_episode_is_in_a_new_one(generator: torch.Generator) -> None:
    planner = ICEM(LOW, HIGH, 3, num_candidates=8, num_elites=2)
    search(planner, planner.init(), lambda plans: plans.sum((1, 2)), generator=generator)
    assert isinstance(planner.init(), ICEMState)
    assert len(planner.init().elites) == 0
