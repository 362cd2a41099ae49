"""The laws of `Planner`, for every planner from one table. A planner that is missing from the table is a failure."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bayes_mbrl.planners
from bayes_mbrl.planners.base import Planner, search
from bayes_mbrl.planners.cem import CEM
from bayes_mbrl.planners.gradient import GradientAscent
from bayes_mbrl.planners.icem import ICEM
from bayes_mbrl.planners.mppi import MPPI
from bayes_mbrl.planners.random_shooting import RandomShooting

Factory = Callable[[Tensor, Tensor, int], Planner[Any]]

PLANNERS: dict[str, Factory] = {
    "cem": lambda low, high, horizon: CEM(
        low, high, horizon, num_candidates=60, num_elites=6, num_iterations=6, momentum=0.2
    ),
    "icem": lambda low, high, horizon: ICEM(low, high, horizon, num_candidates=60, num_elites=6, num_iterations=6),
    "mppi": lambda low, high, horizon: MPPI(low, high, horizon, num_candidates=60, num_iterations=6, smoothing=0.5),
    "gradient": lambda low, high, horizon: GradientAscent(
        low, high, horizon, num_candidates=60, num_iterations=15, learning_rate=0.02
    ),
    "random_shooting": lambda low, high, horizon: RandomShooting(
        low, high, horizon, num_candidates=60, num_iterations=3
    ),
}

HORIZON = 4
LOW, HIGH = torch.tensor([-1.0, 0.1, -2e-3]), torch.tensor([3.0, 0.7, -1e-3])  # asymmetric, badly scaled, off zero

every_planner = pytest.mark.parametrize("factory", PLANNERS.values(), ids=PLANNERS.keys())
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def build(factory: Factory, dtype: torch.dtype = torch.float64) -> Planner[Any]:
    return factory(LOW.to(dtype), HIGH.to(dtype), HORIZON)


def score_near_low(plans: Tensor) -> Tensor:
    """Scores [C], best for a plan a fifth of the way from `low` to `high`; negative throughout."""
    low, high = LOW.to(plans), HIGH.to(plans)
    return -((plans - low) / (high - low) - 0.2).square().sum(dim=(1, 2)) - 100


def tensors_of(state: object) -> dict[str, Tensor]:
    assert dataclasses.is_dataclass(state)
    return {field.name: torch.as_tensor(getattr(state, field.name)) for field in dataclasses.fields(state)}


def assert_same_state(first: object, second: object) -> None:
    one, other = tensors_of(first), tensors_of(second)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def snapshot(state: object) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors_of(state).items()}


def assert_unchanged(state: object, before: dict[str, Tensor]) -> None:
    for name, value in tensors_of(state).items():
        assert torch.equal(value, before[name]), name


def test_every_planner_is_in_the_table() -> None:
    found: set[type] = set()
    for module_info in pkgutil.iter_modules(bayes_mbrl.planners.__path__):
        if module_info.name == "discrete":  # plans of another kind, with a table of their own in test_discrete.py
            continue
        module = importlib.import_module(f"bayes_mbrl.planners.{module_info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Planner) and value.__module__ == module.__name__:
                found.add(value)
    assert found - {Planner} == {type(build(factory)) for factory in PLANNERS.values()}


@every_planner
@both_dtypes
def test_shapes_dtype_and_bounds(factory: Factory, dtype: torch.dtype, generator: torch.Generator) -> None:
    planner = build(factory, dtype)
    state = planner.init()
    for _ in range(3):
        for _ in range(planner.num_iterations):
            plans = planner.ask(state, generator=generator)
            assert plans.shape == (len(plans), HORIZON, 3)
            assert plans.dtype == dtype
            assert ((planner.low <= plans) & (plans <= planner.high)).all()
            state = planner.tell(state, plans, score_near_low(plans))
            assert state.plan.shape == (HORIZON, 3)
            assert state.plan.dtype == dtype
            assert ((planner.low <= state.plan) & (state.plan <= planner.high)).all()
        state = planner.shift(state)
        assert state.plan.shape == (HORIZON, 3)


@every_planner
@both_dtypes
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_bounds_hold_when_the_best_plan_lies_at_them(
    factory: Factory, dtype: torch.dtype, sign: float, generator: torch.Generator
) -> None:
    planner = build(factory, dtype)
    range_ = planner.high - planner.low

    def score(plans: Tensor) -> Tensor:
        assert ((planner.low <= plans) & (plans <= planner.high)).all()
        return (sign * plans / range_).sum(dim=(1, 2))

    state = planner.init()
    corner = planner.high if sign > 0 else planner.low
    plans = corner.repeat(60, HORIZON, 1).requires_grad_(planner.needs_gradient)
    state = planner.tell(state, plans, 0 * plans.sum((1, 2)))
    for _ in range(5):
        state = search(planner, state, score, generator=generator)
        assert ((planner.low <= state.plan) & (state.plan <= planner.high)).all()
    assert score(state.plan[None]) > score(planner.init().plan[None])


@every_planner
def test_the_same_generator_state_gives_the_same_plans_and_another_gives_others(factory: Factory) -> None:
    planner = build(factory)

    def run(seed: int) -> Any:
        return search(planner, planner.init(), score_near_low, generator=torch.Generator().manual_seed(seed))

    assert_same_state(run(3), run(3))
    assert not torch.equal(run(3).plan, run(4).plan)


@every_planner
def test_every_ask_draws_anew(factory: Factory, generator: torch.Generator) -> None:
    planner = build(factory)
    state = planner.init()
    first, second = (planner.ask(state, generator=generator)[1:] for _ in range(2))
    assert not (first == second).all(dim=(1, 2)).any()


@every_planner
def test_the_state_handed_in_is_never_changed(factory: Factory, generator: torch.Generator) -> None:
    planner = build(factory)
    first = search(planner, planner.init(), score_near_low, generator=generator)
    before = snapshot(first)
    plans = planner.ask(first, generator=generator)
    assert_unchanged(first, before)
    told = planner.tell(first, plans, score_near_low(plans) + 50)
    assert_unchanged(first, before)
    after_tell = snapshot(told)
    plans.detach().zero_()  # the caller may reuse its buffer
    assert_unchanged(told, after_tell)
    planner.shift(first)
    assert_unchanged(first, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.plan = plans[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        planner.horizon = 9


@every_planner
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_raise_with_their_count(
    factory: Factory, broken: float, generator: torch.Generator
) -> None:
    """Neither NaN nor a number put in its place may win, although all other scores are below −100."""
    planner = build(factory)
    state = planner.init()
    before = snapshot(state)
    plans = planner.ask(state, generator=generator)
    scores = score_near_low(plans)
    scores[[0, 5, 7]] = broken
    with pytest.raises(ValueError, match=f"3 of {len(plans)} scores are NaN or inf"):
        planner.tell(state, plans, scores)
    assert_unchanged(state, before)


@every_planner
def test_wrong_shapes_raise(factory: Factory, generator: torch.Generator) -> None:
    planner = build(factory)
    plans = planner.ask(planner.init(), generator=generator)
    with pytest.raises(ValueError, match="need one score a plan"):
        planner.tell(planner.init(), plans, score_near_low(plans)[:, None])
    with pytest.raises(ValueError, match="need one score a plan"):
        planner.tell(planner.init(), plans, score_near_low(plans)[1:])
    with pytest.raises(ValueError, match=r"need plans \[C, 4, 3\]"):
        planner.tell(planner.init(), plans[:, 1:], score_near_low(plans))


@every_planner
def test_shift_moves_the_plan_by_one_step_and_fills_up_with_mid_range(
    factory: Factory, generator: torch.Generator
) -> None:
    planner = build(factory)
    state = search(planner, planner.init(), score_near_low, generator=generator)
    shifted = planner.shift(state)
    assert torch.equal(shifted.plan[:-1], state.plan[1:])
    assert torch.allclose(shifted.plan[-1], (planner.low + planner.high) / 2)


@every_planner
def test_nothing_survives_a_reset(factory: Factory, generator: torch.Generator) -> None:
    """After a whole episode, `init` and all that follows from it are as they were for a planner never used."""
    used, fresh = build(factory), build(factory)
    state = used.init()
    for _ in range(3):
        state = used.shift(search(used, state, score_near_low, generator=generator))
    assert_same_state(used.init(), fresh.init())
    second_episode, first_episode = (
        search(planner, planner.init(), score_near_low, generator=torch.Generator().manual_seed(1))
        for planner in (used, fresh)
    )
    assert_same_state(second_episode, first_episode)


@every_planner
def test_higher_scores_are_sought_and_the_warm_start_helps(factory: Factory, generator: torch.Generator) -> None:
    planner = build(factory)
    start = planner.init()
    state = search(planner, start, score_near_low, generator=generator)
    assert score_near_low(state.plan[None]) > score_near_low(start.plan[None])
    assert score_near_low(planner.shift(state).plan[None]) > score_near_low(start.plan[None])


@every_planner
def test_impossible_bounds_and_horizon_are_reported_together(factory: Factory) -> None:
    with pytest.raises(ValueError, match=r"need low < high .*; need horizon >= 1, got 0"):
        factory(HIGH, LOW, 0)


@every_planner
@pytest.mark.parametrize(
    ("dimension", "low", "high", "problem"),
    [
        (1, 0.7, 0.1, "need low < high in every action dimension"),
        (2, -1e-3, -1e-3, "need low < high in every action dimension"),
        (0, -math.inf, 3.0, "need finite action bounds"),
        (1, 0.1, math.inf, "need finite action bounds"),
        (2, math.nan, -1e-3, "need finite action bounds"),
    ],
)
def test_bounds_that_are_wrong_in_one_dimension_are_refused(
    factory: Factory, dimension: int, low: float, high: float, problem: str
) -> None:
    lowest, highest = LOW.clone(), HIGH.clone()
    lowest[dimension], highest[dimension] = low, high
    with pytest.raises(ValueError, match=problem):
        factory(lowest, highest, HORIZON)
    with pytest.raises(ValueError, match=r"need bounds low \[A\] and high \[A\]"):
        factory(LOW[:2], HIGH, HORIZON)


@every_planner
def test_a_search_over_one_action_and_one_step(factory: Factory, generator: torch.Generator) -> None:
    planner = factory(LOW[:1], HIGH[:1], 1)
    state = search(planner, planner.init(), lambda p: -(p - 2.0).square().sum((1, 2)), generator=generator)
    assert state.plan.shape == (1, 1)
    assert abs(float(state.plan) - 2.0) < 0.5
    assert torch.allclose(planner.shift(state).plan, 0.5 * (LOW[:1] + HIGH[:1]))


@every_planner
def test_equal_scores_leave_a_plan_within_bounds(factory: Factory, generator: torch.Generator) -> None:
    """A reward that is constant: no weight, variance or gradient may become NaN."""
    planner = build(factory)
    state = planner.init()
    for _ in range(3):
        state = search(planner, state, lambda p: 0 * p.sum((1, 2)) - 7, generator=generator)
        assert ((planner.low <= state.plan) & (state.plan <= planner.high)).all()
        assert all(value.isfinite().all() for value in tensors_of(state).values())
        state = planner.shift(state)
