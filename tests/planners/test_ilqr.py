"""iLQR: exact on linear-quadratic problems, with and without active bounds; the laws of planners; what it refuses."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from linear_quadratic import bounded_optimum, linear_quadratic, riccati, simulated_cost
from torch import Tensor

from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.ilqr import ILQR, ILQRInfo, ILQRState
from bayes_mbrl.planners.random_shooting import RandomShooting
from bayes_mbrl.registry import PLANNERS

LOW, HIGH = torch.tensor([-1.0, 0.1, -2e-3]), torch.tensor([3.0, 0.7, -1e-3])  # asymmetric, badly scaled, off zero
HORIZON = 4
SYSTEMS = ("double integrator", "coupled oscillators")


def solved(planner: ILQR, system: tuple[Tensor, ...], seed: int = 0, scale: float = 1.0) -> tuple[ILQRState, ILQRInfo]:
    a, b, q, r, start = system
    return planner.solve(
        planner.init(),
        start,
        step=lambda state, action: state @ a.T + action @ b.T,
        reward=lambda s, u, n: -scale * (((n @ q) * n).sum(-1) + ((u @ r) * u).sum(-1)),
        generator=torch.Generator().manual_seed(seed),
    )


def bend(state: Tensor, action: Tensor) -> Tensor:
    """Of states [..., 2] and three actions, which are brought to one unit."""
    share = (action - LOW.to(action)) / (HIGH - LOW).to(action)
    x, y = state[..., 0], state[..., 1]
    pushes = torch.stack([share[..., 0] - 0.4 * share[..., 1], torch.sin(y) + share[..., 2]], -1)
    return torch.stack([x + 0.3 * y, y - 0.1 * x], -1) + 0.3 * pushes


def gap(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    share = (action - LOW.to(action)) / (HIGH - LOW).to(action)
    return -(next_state - torch.tensor([1.0, -0.5]).to(state)).square().sum(-1) - 0.1 * share.square().sum(-1)


def small(dtype: torch.dtype = torch.float64, **settings: Any) -> ILQR:
    return ILQR(**{"low": LOW.to(dtype), "high": HIGH.to(dtype), "horizon": HORIZON, "num_candidates": 5, **settings})


def solve(planner: ILQR, state: ILQRState, seed: int = 0, **changes: Any) -> tuple[ILQRState, ILQRInfo]:
    functions = {"start": torch.tensor([0.5, 1.0]).to(planner.low), "step": bend, "reward": gap} | changes
    return planner.solve(state, generator=torch.Generator().manual_seed(seed), **functions)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", SYSTEMS)
def test_one_iteration_gives_the_plan_of_riccati(name: str, scale: float) -> None:
    system = linear_quadratic(name)
    least, best = riccati(*system, horizon=25)
    bound = 1.5 * best.abs().amax(dim=0)
    state, info = solved(ILQR(-1.4 * bound, bound, num_candidates=1, num_iterations=1), system, scale=scale)
    assert torch.allclose(state.plan, best, rtol=1e-9, atol=1e-11)
    assert info.plan_return == pytest.approx(-scale * least)
    assert (info.num_iterations, info.converged) == (1, False)


@pytest.mark.parametrize("share", [0.6, 0.2, 0.03])
@pytest.mark.parametrize("name", SYSTEMS)
def test_with_active_bounds_it_finds_the_optimum_of_quadratic_programming(name: str, share: float) -> None:
    system = linear_quadratic(name)
    _, free = riccati(*system, horizon=12)
    bound = share * free.abs().amax(dim=0)
    low, high = -0.7 * bound, bound
    least, best = bounded_optimum(system, low, high, horizon=12)
    assert ((best <= low) | (best >= high)).any()
    state, info = solved(ILQR(low, high, horizon=12, num_candidates=2), system)
    assert ((low <= state.plan) & (state.plan <= high)).all()
    assert info.plan_return == pytest.approx(-least, rel=1e-9)
    assert torch.allclose(state.plan, best, atol=1e-4 * float(bound.max()))
    assert info.converged


@pytest.mark.parametrize("settings", [{}, PLANNERS.rows["ilqr"].settings], ids=["class", "registry"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SYSTEMS)
def test_default_plan_is_within_one_percent_of_the_linear_quadratic_optimum(
    name: str, seed: int, settings: dict[str, Any]
) -> None:
    system = linear_quadratic(name)
    horizon = settings.get("horizon", 25)
    least, best = riccati(*system, horizon=horizon)
    bound = 1.5 * best.abs().amax(dim=0)
    state, _ = solved(ILQR(-1.4 * bound, bound, **settings), system, seed)
    assert float(simulated_cost(state.plan[None], *system)) < 1.01 * least


def test_a_linear_reward_is_climbed_to_the_bounds() -> None:
    """There is no curvature anywhere: the best plan of a linear problem lies in a corner."""
    state, info = solve(
        small(), small().init(), step=lambda s, a: s + a[..., :2], reward=lambda s, a, n: n[..., 0] - n[..., 1]
    )
    assert torch.equal(state.plan[:, :2], torch.tensor([HIGH[0], LOW[1]]).double().expand(HORIZON, 2))
    assert info.converged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_dtype_and_improvement(dtype: torch.dtype) -> None:
    planner = small(dtype)
    state, info = solve(planner, planner.init())
    assert state.plan.dtype == dtype
    assert state.plan.shape == (HORIZON, 3)
    assert ((planner.low <= state.plan) & (state.plan <= planner.high)).all()
    assert info.plan_return > max(info.start_returns) + 0.1
    assert len(info.start_returns) == 5


def test_feedback_through_a_bend_never_leaves_the_bounds(generator: torch.Generator) -> None:
    """In float32, with starts from which large steps are tried."""
    low, high = torch.tensor([-0.3, 0.1]), torch.tensor([0.01, 0.7])
    planner, inside = ILQR(low, high, 12, num_candidates=20, num_iterations=10), []

    def step(state: Tensor, action: Tensor) -> Tensor:
        inside.append(bool(((low <= action) & (action <= high)).all()))
        return 1.3 * torch.sin(2 * state) + action.repeat(1, 2)[:, :3] * torch.tensor([9.0, -5.0, 3.0])

    state, _ = planner.solve(
        planner.init(), torch.ones(3), step=step, reward=lambda s, a, n: torch.cos(3 * n).sum(-1), generator=generator
    )
    assert len(inside) > 50
    assert all(inside)
    assert ((low <= state.plan) & (state.plan <= high)).all()


def test_a_generator_decides_and_the_state_is_not_changed() -> None:
    planner = small(num_iterations=1)
    start, _ = solve(planner, planner.init())
    before = start.plan.clone()
    first, again, other = (solve(planner, start, seed)[1].start_returns for seed in (1, 1, 2))
    assert first == again
    assert first[0] == other[0]
    assert first[1:] != other[1:]
    found, _ = solve(planner, start, 1)
    kept = found.plan.clone()
    planner.shift(start).plan.zero_()
    assert torch.equal(start.plan, before)
    solve(planner, found, 3)
    assert torch.equal(found.plan, kept)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.plan = before  # type: ignore[misc]


def test_warm_start_shift_and_reset() -> None:
    planner = small()
    state, info = solve(planner, planner.init())
    plans = planner.ask(state, generator=torch.Generator().manual_seed(5))
    assert plans.shape == (5, HORIZON, 3)
    assert torch.equal(plans[0], state.plan)
    assert ((planner.low <= plans) & (plans <= planner.high)).all()
    shifted = planner.shift(state)
    assert torch.equal(shifted.plan[:-1], state.plan[1:])
    assert torch.allclose(shifted.plan[-1], (planner.low + planner.high) / 2)
    warm = small(num_candidates=1, num_iterations=1)
    _, after = solve(warm, state)
    assert after.start_returns[0] == pytest.approx(info.plan_return)  # it goes on from where it was
    assert torch.equal(planner.init().plan, small().init().plan)  # and nothing survives a reset
    assert torch.equal(solve(planner, planner.init(), 9)[0].plan, solve(small(), small().init(), 9)[0].plan)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_starts_without_a_finite_return_raise_with_their_count(broken: float) -> None:
    """Three of the five starts meet it; all others are negative, so that no number in its place could lose."""
    planner = small()
    state = planner.init()
    before = state.plan.clone()
    first = planner.ask(state, generator=torch.Generator().manual_seed(0))[:, 0, 0]
    limit = first.sort().values[2:4].mean()

    def reward(s: Tensor, a: Tensor, n: Tensor) -> Tensor:
        return torch.where((a[..., 0] < limit) & (s[..., 1] == 1.0), broken, gap(s, a, n))

    with pytest.raises(ValueError, match="3 of 5 scores are NaN or inf"):
        solve(planner, state, reward=reward)
    assert torch.equal(state.plan, before)


@pytest.mark.parametrize("num_halvings", [0, 8])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_trial_that_diverges_is_not_taken(broken: float, num_halvings: int) -> None:
    """Beyond a wall that the derivative does not announce the return is broken: the plan ends before it."""

    def reward(s: Tensor, a: Tensor, n: Tensor) -> Tensor:
        return torch.where(n[..., 0] > 2.0, broken, n[..., 0] - 0.01 * a[..., 0].square())

    low, high = torch.tensor([-1.0]).double(), torch.tensor([1.0]).double()
    planner = ILQR(low, high, 4, num_candidates=1, num_halvings=num_halvings)
    state, info = planner.solve(
        planner.init(), torch.zeros(1).double(), step=lambda s, a: s + a, reward=reward, generator=torch.Generator()
    )
    assert math.isfinite(info.plan_return)
    assert 0.3 < float(state.plan.sum()) <= 2.0


def test_where_the_reward_is_convex_the_step_is_that_of_the_curvature_without_its_sign() -> None:
    """a + a² has the slope 1 and the curvature 2 at 0: the step is ½, neither −½ nor all the way."""
    low, high = torch.tensor([-1.0]).double(), torch.tensor([1.0]).double()
    planner = ILQR(low, high, 1, num_candidates=1, num_iterations=1)
    state, _ = planner.solve(
        planner.init(), torch.zeros(1).double(), step=lambda s, a: s + a,
        reward=lambda s, a, n: (a + a.square())[..., 0], generator=torch.Generator(),
    )  # fmt: skip
    assert float(state.plan) == pytest.approx(0.5)


def test_a_start_without_finite_derivatives_stays_and_the_others_go_on() -> None:
    """√|y| has no slope at 0, where the first start lies."""
    planner = ILQR(torch.tensor([-1.0]).double(), torch.tensor([1.0]).double(), 3, num_candidates=3)

    def reward(s: Tensor, a: Tensor, n: Tensor) -> Tensor:
        return a[..., 0].abs().sqrt()

    def found(count: int) -> tuple[ILQRState, ILQRInfo]:
        return dataclasses.replace(planner, num_candidates=count).solve(
            planner.init(), torch.ones(1).double(), step=lambda s, a: s + a, reward=reward, generator=torch.Generator()
        )

    alone, info = found(1)
    assert not alone.plan.any()
    assert not info.converged
    assert (found(3)[0].plan.abs() > 0.99).all()


def test_a_predicted_termination_ends_the_sum_of_rewards() -> None:
    """1 a step until x passes 1, and a slope that leads there: the longest life is worth more than the slope."""

    def solution(termination: Callable[..., Tensor] | None) -> tuple[ILQRState, ILQRInfo]:
        planner = ILQR(torch.tensor([-1.0]).double(), torch.tensor([1.0]).double(), 6, num_candidates=9)
        return planner.solve(
            planner.init(), torch.zeros(1).double(), step=lambda s, a: s + a,
            generator=torch.Generator().manual_seed(1), termination=termination,
            reward=lambda s, a, n: 1 + 0.1 * n[..., 0],
        )  # fmt: skip

    (free, long), (bounded, short) = solution(None), solution(lambda s, a, n: n[..., 0] > 1)
    assert torch.allclose(free.plan, torch.ones(6, 1).double())
    assert long.plan_return == pytest.approx(6 + 0.1 * 21)
    assert (bounded.plan[:-1].cumsum(0) <= 1).all()
    assert 6 < short.plan_return <= 6 + 0.1 * (5 + 2)


def test_the_better_of_two_basins_is_found_more_often_than_by_random_shooting() -> None:
    """The state is the plan so far. As many rollouts for both; a linearisation counts as one, as a gradient does."""
    horizon, count = 10, []
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([3.0, 0.5]).double()

    def basins(share: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - (share - 0.3).square().mean(-1), 1.1 - 3 * (share - 0.7).square().mean(-1)

    def step(state: Tensor, action: Tensor) -> Tensor:
        """Writes the action's shares behind the others: a shift to the left."""
        count.append(len(state))
        return torch.cat([state[:, 2:], (action - low) / (high - low)], -1)

    def reward(s: Tensor, a: Tensor, n: Tensor) -> Tensor:
        return torch.where((n >= 0).all(-1), torch.maximum(*basins(n)), 0 * n.sum(-1))  # once the plan is complete

    planner = ILQR(low, high, horizon, num_candidates=120, num_iterations=2, num_halvings=0)
    shooting = RandomShooting(low, high, horizon, num_candidates=600)
    found = by_chance = 0
    for seed in range(6):
        count.clear()
        state, _ = planner.solve(
            planner.init(), torch.full((20,), -1.0).double(), step=step, reward=reward,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        assert sum(count) <= 600 * horizon
        shot = search(
            shooting, shooting.init(), lambda p: torch.maximum(*basins(((p - low) / (high - low)).flatten(1))),
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        for name, plan in (("ilqr", state.plan), ("chance", shot.plan)):
            in_better = float(basins(((plan - low) / (high - low)).flatten())[1]) > 1
            found, by_chance = found + (name == "ilqr") * in_better, by_chance + (name == "chance") * in_better
    assert found >= by_chance + 3


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"low": HIGH, "high": LOW, "horizon": 0}, r"need low < high .*; need horizon >= 1, got 0"),
        ({"high": torch.tensor([1.0, torch.inf, 1.0])}, "need finite action bounds"),
        ({"num_candidates": 0}, "need num_candidates >= 1, got 0"),
        ({"num_iterations": 0}, "need num_iterations >= 1, got 0"),
        ({"num_halvings": -1}, "need 0 <= num_halvings <= 50, got -1"),
        ({"tolerance": math.nan}, "need tolerance finite and >= 0, got nan"),
    ],
)
def test_impossible_settings_are_refused_all_at_once(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        small(torch.float32, **settings)


def test_a_reward_without_a_slope_is_refused() -> None:
    with pytest.raises(ValueError, match="the reward function has none by state and action"):
        solve(small(), small().init(), reward=lambda s, a, n: torch.ones_like(s[..., 0]))
