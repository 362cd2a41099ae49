import math
from collections.abc import Callable

import pytest
import torch

from bayes_mbrl.planners.mppi import MPPI, MPPIState

LOW = torch.tensor([-1.0, 0.0], dtype=torch.float64)
HIGH = torch.tensor([3.0, 0.5], dtype=torch.float64)


def test_the_weighted_mean_by_hand() -> None:
    """Scores 1, 2, 6 have the standard deviation √(14/3); temperature 0.5."""
    planner = MPPI(LOW[:1], HIGH[:1], 2, num_candidates=3, temperature=0.5)
    plans = torch.tensor([[0.0, 1.0], [2.0, 2.0], [1.0, 3.0]], dtype=torch.float64)[..., None]
    told = planner.tell(planner.init(), plans, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    unit = 0.5 * math.sqrt(14 / 3)
    weights = [math.exp(-5 / unit), math.exp(-4 / unit), 1.0]
    expected = [(weights[1] * 2 + weights[2] * 1) / sum(weights), (weights[0] + 2 * weights[1] + 3) / sum(weights)]
    assert torch.allclose(told.plan[:, 0], torch.tensor(expected, dtype=torch.float64))
    assert told.iteration == 1


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_unit_of_the_reward_does_not_matter(scale: float, generator: torch.Generator) -> None:
    planner = MPPI(LOW, HIGH, 3, num_candidates=20)
    plans = planner.ask(planner.init(), generator=generator)
    scores = -plans.square().sum((1, 2))
    plain, scaled = (planner.tell(planner.init(), plans, s).plan for s in (scores, scale * scores - 7 * scale))
    assert torch.allclose(plain, scaled, rtol=1e-6)


def test_equal_scores_weigh_equally(generator: torch.Generator) -> None:
    planner = MPPI(LOW, HIGH, 3, num_candidates=20)
    plans = planner.ask(planner.init(), generator=generator)
    assert torch.allclose(planner.tell(planner.init(), plans, torch.full((20,), -3.0)).plan, plans.mean(0))


@pytest.mark.parametrize("fraction", [0.01, 0.05])
def test_the_noise_has_the_standard_deviation_asked_for(fraction: float, generator: torch.Generator) -> None:
    """In a well-known library it had no effect."""
    for smoothing in (0.0, 0.8):
        planner = MPPI(LOW, HIGH, 5, num_candidates=20_001, noise_std_fraction=fraction, smoothing=smoothing)
        tried = planner.ask(planner.init(), generator=generator)[1:] - planner.init().plan
        expected = (fraction * (HIGH - LOW)).expand(5, 2)
        assert torch.allclose(tried.std(0), expected, rtol=5 / math.sqrt(2 * 20_000))


def test_the_noise_shrinks_by_iterations_and_is_whole_again_after_a_shift(generator: torch.Generator) -> None:
    planner = MPPI(LOW, HIGH, 5, num_candidates=5001, noise_std_fraction=0.05, decay=0.5)
    later = MPPIState(planner.init().plan, 3)
    ratio = planner.ask(later, generator=generator)[1:].sub(later.plan).std() / 0.05
    whole = planner.ask(planner.shift(later), generator=generator)[1:].sub(later.plan).std() / 0.05
    assert float(ratio / whole) == pytest.approx(0.125, rel=0.05)


def test_filtered_noise_follows_the_recursion(generator: torch.Generator) -> None:
    planner = MPPI(LOW, HIGH, 6, num_candidates=20_001, noise_std_fraction=0.05, smoothing=0.6)
    tried = (planner.ask(planner.init(), generator=generator)[1:] - planner.init().plan)[..., 0]
    for lag in (1, 2, 3):
        correlation = (tried[:, lag:] * tried[:, :-lag]).mean() / tried.square().mean()
        assert float(correlation) == pytest.approx(0.6**lag, abs=0.02)


def test_the_plan_so_far_competes(generator: torch.Generator) -> None:
    planner = MPPI(LOW, HIGH, 3, num_candidates=4)
    state = MPPIState(torch.full((3, 2), 0.25, dtype=torch.float64), 2)
    assert torch.equal(planner.ask(state, generator=generator)[0], state.plan)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_candidates": 1}, "need num_candidates >= 2"),
        ({"temperature": 0.0}, "need temperature finite and > 0, got 0.0"),
        ({"temperature": math.nan}, "need temperature finite and > 0, got nan"),
        ({"smoothing": 1.0}, "need 0 <= smoothing < 1, got 1.0"),
        ({"decay": 0.0}, "need 0 < decay <= 1, got 0.0"),
        ({"noise_std_fraction": math.inf}, "need noise_std_fraction finite and > 0, got inf"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], problem: str) -> None:
    build: Callable[..., MPPI] = MPPI
    with pytest.raises(ValueError, match=problem):
        build(**{"low": LOW, "high": HIGH, **settings})
