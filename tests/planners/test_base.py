from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bayes_mbrl.planners.base import (
    Planner,
    check_bounds,
    check_scores,
    check_told,
    mid_range_plan,
    require,
    search,
    shift_plan,
)

LOW, HIGH = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.5])


@dataclass(frozen=True)
class CountingState:
    plan: Tensor
    heard: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Counting(Planner[CountingState]):
    """Asks for one plan that says how often it was told, and remembers the scores."""

    low: Tensor
    high: Tensor
    horizon: int = 1
    num_iterations: int = 3

    def init(self) -> CountingState:
        return CountingState(torch.zeros(1, 1))

    def ask(self, state: CountingState, *, generator: torch.Generator) -> Tensor:
        return torch.full((1, 1, 1), float(len(state.heard)))

    def tell(self, state: CountingState, plans: Tensor, scores: Tensor) -> CountingState:
        return CountingState(plans[0], (*state.heard, float(scores)))

    def shift(self, state: CountingState) -> CountingState:
        return state


def test_search_tells_every_plans_own_score_in_turn(generator: torch.Generator) -> None:
    planner = Counting(LOW, HIGH)
    state = search(planner, planner.init(), lambda plans: 10 + plans[:, 0, 0], generator=generator)
    assert state.heard == (10.0, 11.0, 12.0)
    assert state.plan.item() == 2


class Nearing(Counting):
    """Its plan halves the distance to 1 in each iteration; actions are within [-1, 3] and [0, 0.5]."""

    def init(self) -> CountingState:
        return CountingState(torch.zeros(1, 2))

    def tell(self, state: CountingState, plans: Tensor, scores: Tensor) -> CountingState:
        return CountingState(state.plan + (1 - state.plan) / 2, (*state.heard, float(scores)))


@pytest.mark.parametrize(("tolerance", "num_iterations"), [(0.0, 9), (0.3, 3), (0.2, 4), (0.99, 2)])
def test_search_ends_when_the_first_action_hardly_moves(
    generator: torch.Generator, tolerance: float, num_iterations: int
) -> None:
    """Moves are 1/2, 1/4, 1/8, ...: shares of the ranges 4 and 0.5, so that the second one decides: 1, 1/2, 1/4, ..."""
    planner = Nearing(LOW, HIGH, num_iterations=9)
    state = search(planner, planner.init(), lambda p: p[:, 0, 0], generator=generator, tolerance=tolerance)
    assert len(state.heard) == num_iterations


@pytest.mark.parametrize(("num_executed", "num_iterations"), [(1, 1), (2, 3)])
def test_all_actions_that_will_be_executed_have_to_rest(
    num_executed: int, num_iterations: int, generator: torch.Generator
) -> None:
    """The first action rests from the start; the second moves by 1, 1/2, 1/4, ... of the narrower range."""

    class SecondMoves(Nearing):
        def init(self) -> CountingState:
            return CountingState(torch.zeros(2, 2))

        def tell(self, state: CountingState, plans: Tensor, scores: Tensor) -> CountingState:
            plan = torch.stack([state.plan[0], state.plan[1] + (1 - state.plan[1]) / 2])
            return CountingState(plan, (*state.heard, float(scores)))

    planner = SecondMoves(LOW, HIGH, num_iterations=9)
    state = search(
        planner,
        planner.init(),
        lambda p: p[:, 0, 0],
        generator=generator,
        tolerance=0.3,
        num_executed=num_executed,
    )
    assert len(state.heard) == num_iterations


@pytest.mark.parametrize("tolerance", [-1.0, 1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_share(generator: torch.Generator, tolerance: float) -> None:
    planner = Counting(LOW, HIGH)
    with pytest.raises(ValueError, match=rf"need 0 <= tolerance < 1, a share of the actions' range, got {tolerance}"):
        search(planner, planner.init(), lambda p: p[:, 0, 0], generator=generator, tolerance=tolerance)


def test_require_names_every_problem_in_one_error() -> None:
    with pytest.raises(ValueError, match=r"^need a; need c$"):
        require((False, "need a"), (True, "need b"), (False, "need c"))
    require((True, "need b"))


def test_mid_range_plan_is_half_way_between_the_bounds_without_overflow() -> None:
    assert mid_range_plan(LOW, HIGH, 3).tolist() == [[1.0, 0.25]] * 3
    huge = torch.tensor([3e38])
    assert mid_range_plan(-0.5 * huge, huge, 1).item() == pytest.approx(0.75e38)


def test_shift_plan_drops_the_first_action_and_appends_a_mid_range_one() -> None:
    plan = torch.tensor([[0.0, 0.1], [1.0, 0.2], [2.0, 0.3]])
    assert torch.equal(shift_plan(plan, LOW, HIGH), torch.tensor([[1.0, 0.2], [2.0, 0.3], [1.0, 0.25]]))
    assert torch.equal(shift_plan(plan[:1], LOW, HIGH), torch.tensor([[1.0, 0.25]]))


def test_check_scores_counts_what_is_not_finite() -> None:
    check_scores(torch.tensor([0.0, -1e30]))
    with pytest.raises(ValueError, match="3 of 4 scores are NaN or inf"):
        check_scores(torch.tensor([torch.nan, 1.0, torch.inf, -torch.inf]))


def test_check_told_names_wrong_shapes() -> None:
    check_told(torch.zeros(5, 3, 2), torch.zeros(5), 3, 2)
    with pytest.raises(
        ValueError, match=r"need plans \[C, 3, 2\] with C >= 1, got shape \[5, 2, 3\]; need one score a"
    ):
        check_told(torch.zeros(5, 2, 3), torch.zeros(5, 1), 3, 2)
    with pytest.raises(ValueError, match="C >= 1"):
        check_told(torch.zeros(0, 3, 2), torch.zeros(0), 3, 2)


@pytest.mark.parametrize(
    ("low", "high", "problem"),
    [
        (torch.zeros(2), torch.ones(3), r"got shapes \[2\] and \[3\]"),
        (torch.zeros(1, 1), torch.ones(1, 1), r"got shapes \[1, 1\]"),
        (torch.zeros(0), torch.ones(0), r"got shapes \[0\]"),
        (torch.zeros(2), torch.tensor([1.0, torch.inf]), "need finite action bounds"),
        (torch.tensor([torch.nan]), torch.ones(1), "need finite action bounds"),
        (torch.zeros(2), torch.tensor([1.0, 0.0]), "need low < high"),
        (torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64), "floating-point bounds"),
        (torch.zeros(1), torch.ones(1, dtype=torch.float64), "one dtype and device"),
    ],
)
def test_check_bounds_says_what_is_wrong(low: Tensor, high: Tensor, problem: str) -> None:
    (found,) = check_bounds(low, high)
    with pytest.raises(ValueError, match=problem):
        raise ValueError(found)


def test_check_bounds_accepts_asymmetric_bounds() -> None:
    assert check_bounds(LOW, HIGH) == []
