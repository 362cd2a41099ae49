import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayes_mbrl.planners.base import search
from bayes_mbrl.planners.gradient import GradientAscent

LOW = torch.tensor([-1.0, 0.0], dtype=torch.float64)
HIGH = torch.tensor([3.0, 0.5], dtype=torch.float64)


def test_it_takes_the_steps_of_torchs_adam(generator: torch.Generator) -> None:
    """The same restarts, moved by torch.optim.Adam over unbounded numbers with the same cosine."""
    planner = GradientAscent(LOW, HIGH, 3, num_candidates=4, num_iterations=8, learning_rate=0.1)

    def score(plans: Tensor) -> Tensor:
        return -(plans - torch.tensor([0.3, 0.4])).square().sum((1, 2)) + 0.3 * torch.sin(5 * plans).sum((1, 2))

    start = planner.ask(planner.init(), generator=generator).detach()
    share = (start - LOW) / (HIGH - LOW)
    unbounded = torch.logit(share).requires_grad_()
    optimiser = torch.optim.Adam([unbounded], lr=0.1, eps=0.0, maximize=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 8)
    state = planner.init()
    for iteration in range(8):
        plans = start.requires_grad_() if iteration == 0 else planner.ask(state, generator=generator)
        expected = LOW + (HIGH - LOW) * torch.sigmoid(unbounded)
        assert torch.allclose(plans, expected, atol=1e-9)
        state = planner.tell(state, plans, score(plans))
        assert torch.equal(state.plan, plans[score(plans).argmax()])
        optimiser.zero_grad()
        score(expected).sum().backward()
        optimiser.step()
        schedule.step()


def test_scores_without_a_graph_are_refused(generator: torch.Generator) -> None:
    planner = GradientAscent(LOW, HIGH, 3)
    plans = planner.ask(planner.init(), generator=generator)
    with pytest.raises(ValueError, match=r"torch\.enable_grad"):
        planner.tell(planner.init(), plans, plans.detach().sum((1, 2)))


def test_a_restart_with_a_gradient_that_is_not_finite_stays_and_the_others_go_on(generator: torch.Generator) -> None:
    planner = GradientAscent(LOW, HIGH, 3, num_candidates=3)
    plans = planner.ask(planner.init(), generator=generator)
    steep = torch.sqrt(0 * plans[1].abs())  # the slope of √ at 0 is infinite, times 0
    gap = torch.stack([plans[0], steep, plans[2]])
    state = planner.tell(planner.init(), plans, gap.sum((1, 2)))
    moved = (state.plans - plans.detach()).abs().amax((1, 2)) > 1e-6
    assert moved.tolist() == [True, False, True]
    assert torch.isfinite(state.second_moment).all()


def test_it_is_a_search_from_several_starts(generator: torch.Generator) -> None:
    """The warm start lies in the basin of a lesser optimum; another restart finds the better one."""

    def score(plans: Tensor) -> Tensor:
        lesser, better = -plans[..., 0].sub(0.5).square().sum(1), 2 - 3 * plans[..., 0].sub(2.5).square().sum(1)
        return torch.maximum(lesser, better)

    for num_candidates, place in ((1, 0.5), (12, 2.5)):
        planner = GradientAscent(LOW, HIGH, 2, num_candidates=num_candidates)
        state = search(planner, planner.init(), score, generator=generator)
        assert float((state.plan[:, 0] - place).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_candidates": 0}, "need num_candidates >= 1, got 0"),
        ({"num_iterations": 0}, "need num_iterations >= 1, got 0"),
        ({"learning_rate": 0.0}, "need learning_rate finite and > 0, got 0.0"),
        ({"learning_rate": math.inf}, "need learning_rate finite and > 0, got inf"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], problem: str) -> None:
    build: Callable[..., GradientAscent] = GradientAscent
    with pytest.raises(ValueError, match=problem):
        build(**{"low": LOW, "high": HIGH, **settings})
