import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor

from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.cem import CEM, CEMState

LOW = torch.tensor([-1.0, 0.0], dtype=torch.float64)
HIGH = torch.tensor([3.0, 0.5], dtype=torch.float64)


def test_an_optimum_at_the_bounds_is_reached(generator: torch.Generator) -> None:
    planner = CEM(LOW, HIGH, horizon=4)
    state = search(planner, planner.init(), lambda p: p[..., 0].sum(1) - p[..., 1].sum(1), generator=generator)
    assert torch.allclose(state.plan, torch.tensor([3.0, 0.0], dtype=torch.float64).expand(4, 2), atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("mean", "std"),
    [(0.2, 0.3), (-1.0, 0.4), (3.0, 1.0), (2.999, 1e-3), (1.0, 1.0), (0.0, 50.0), (3.0, 1e5), (-1.0, 1e-6)],
)
def test_candidates_follow_the_truncated_normal(
    mean: float, std: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    planner = CEM(LOW[:1].to(dtype), HIGH[:1].to(dtype), horizon=1, num_candidates=20_000)
    state = CEMState(torch.full((1, 1), mean, dtype=dtype), torch.full((1, 1), std**2, dtype=dtype))
    plans = planner.ask(state, generator=generator).flatten().double()
    mean = float(state.mean)  # as rounded to dtype
    expected = scipy.stats.truncnorm((-1 - mean) / std, (3 - mean) / std, loc=mean, scale=std)
    if std == 1e-6 and dtype == torch.float32:  # narrower than float32 is dense there: only the values' grid is left
        assert plans.min() >= -1
        assert plans.max() < -1 + 6e-6
        return
    assert scipy.stats.kstest(plans.numpy(), expected.cdf).pvalue > 1e-4
    assert abs(plans.mean() - expected.mean()) < 5 * expected.std() / math.sqrt(20_000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_uniform_range_give_finite_plans(
    dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """erfinv(±1) is infinite; a draw of 0 must not throw a narrow normal to the far bound."""
    planner = CEM(LOW.to(dtype), HIGH.to(dtype), horizon=3, num_candidates=2, num_elites=1)
    state = CEMState(planner.init().mean, torch.full((3, 2), 1e-8, dtype=dtype))
    for uniform in (0.0, 1 - torch.finfo(dtype).eps / 2):
        monkeypatch.setattr(torch, "rand", lambda shape, u=uniform, **_: torch.full(shape, u, dtype=dtype))
        assert ((planner.ask(state, generator=generator) - state.mean).abs() < 9e-4).all()


def test_no_rounding_error_leaves_the_bounds(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the mean of 50 equal elites is often not that number, nor the last quantile the bound."""
    low = torch.rand(1000, generator=generator) - 0.6
    high = low + 0.01 + torch.rand(1000, generator=generator)
    planner = CEM(low, high, horizon=1)
    for corner in (low, high):
        start = CEMState(corner.expand(1, 1000), torch.zeros(1, 1000))
        state = planner.tell(start, corner.expand(50, 1, 1000), torch.zeros(50))
        assert ((low <= state.plan) & (state.plan <= high)).all()
    for uniform in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda shape, u=uniform, **_: torch.full(shape, u))
        plans = planner.ask(planner.init(), generator=generator)
        assert ((low <= plans) & (plans <= high)).all()


def test_elites_move_mean_and_variance_by_hand() -> None:
    """Worked out by hand: elites are candidates 1 and 3; momentum 0.25."""
    planner = CEM(LOW[:1], HIGH[:1], horizon=2, num_candidates=4, num_elites=2, momentum=0.25)
    state = CEMState(torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[4.0], [2.0]]).double())
    plans = torch.tensor([[9.0, 9.0], [0.0, 1.0], [9.0, 9.0], [2.0, 2.0]]).double()[..., None]
    told = planner.tell(state, plans, torch.tensor([-5.0, 2.0, -3.0, 7.0]).double())
    assert torch.allclose(told.mean, torch.tensor([[0.25 + 0.75 * 1], [0.75 * 1.5]]).double())
    assert torch.allclose(told.variance, torch.tensor([[1 + 0.75 * 1], [0.5 + 0.75 * 0.25]]).double())
    assert told.plan is told.mean


def test_the_variance_of_a_single_elite_is_zero_and_the_search_goes_on(generator: torch.Generator) -> None:
    planner = CEM(LOW, HIGH, horizon=3, num_candidates=8, num_elites=1, momentum=0.0)
    plans = planner.ask(planner.init(), generator=generator)
    state = planner.tell(planner.init(), plans, torch.arange(8.0))
    assert torch.equal(state.variance, torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(planner.ask(state, generator=generator), plans[7].expand(8, 3, 2))
    corner = CEMState(LOW.expand(3, 2), torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(planner.ask(corner, generator=generator), LOW.expand(8, 3, 2))


def test_every_iteration_draws_anew(generator: torch.Generator) -> None:
    """A CEM that reuses its random key draws the same standardised plans in each iteration."""
    planner = CEM(LOW, HIGH, horizon=3, num_candidates=50, num_elites=5, num_iterations=3)
    seen: list[Tensor] = []

    def score(plans: Tensor) -> Tensor:
        seen.append((plans - plans.mean(dim=0)) / plans.std(dim=0))
        return -plans.square().sum(dim=(1, 2))

    search(planner, planner.init(), score, generator=generator)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        correlation = (seen[first] * seen[second]).mean()
        assert abs(correlation) < 5 / math.sqrt(seen[0].numel())


def test_initial_state_and_shift() -> None:
    planner = CEM(LOW, HIGH, horizon=3, initial_std_fraction=0.5)
    start = planner.init()
    assert torch.equal(start.mean, torch.tensor([1.0, 0.25]).double().expand(3, 2))
    assert torch.equal(start.variance, torch.tensor([4.0, 0.0625]).double().expand(3, 2))
    mean = torch.tensor([[0.0, 0.1], [1.0, 0.2], [2.0, 0.3]]).double()
    shifted = planner.shift(CEMState(mean, torch.full((3, 2), 1e-3).double()))
    assert torch.equal(shifted.mean, torch.cat([mean[1:], start.mean[:1]]))
    assert torch.equal(shifted.variance, start.variance)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_elites": 50, "num_candidates": 40}, r"^need 1 <= num_elites <= num_candidates, got 50 and 40$"),
        ({"num_elites": 0}, "need 1 <= num_elites <= num_candidates, got 0 and"),
        ({"horizon": 0}, r"^need horizon >= 1, got 0$"),
        ({"num_iterations": 0}, r"^need num_iterations >= 1, got 0$"),
        ({"momentum": 1.0}, r"^need 0 <= momentum < 1, got 1.0$"),
        ({"momentum": -0.1}, "need 0 <= momentum < 1"),
        ({"momentum": math.nan}, "need 0 <= momentum < 1"),
        ({"initial_std_fraction": 0.0}, "need initial_std_fraction finite and > 0, got 0.0"),
        ({"initial_std_fraction": math.inf}, "need initial_std_fraction finite and > 0, got inf"),
        ({"low": HIGH, "horizon": 0}, "need low < high .*; need horizon >= 1, got 0"),
    ],
)
def test_impossible_settings_are_refused_all_at_once(settings: dict[str, float], problem: str) -> None:
    build: Callable[..., CEM] = CEM
    with pytest.raises(ValueError, match=problem):
        build(**{"low": LOW, "high": HIGH, **settings})


def test_fewer_plans_than_elites_are_refused() -> None:
    planner = CEM(LOW, HIGH, horizon=3, num_candidates=8, num_elites=4)
    with pytest.raises(ValueError, match="need at least num_elites = 4 plans, got 3"):
        planner.tell(planner.init(), torch.zeros(3, 3, 2).double(), torch.zeros(3))
