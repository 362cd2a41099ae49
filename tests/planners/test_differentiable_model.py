"""Derivatives along plans, against torch.func one point at a time; plans followed, against a loop."""

import pytest
import torch
from torch import Tensor

from bayes_mbrl.planners.differentiable_model import Model

LOW, HIGH = torch.tensor([-1.0, 0.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)


def step(state: Tensor, action: Tensor) -> Tensor:
    x, y, z = state.unbind(-1)
    return torch.stack([torch.sin(x) + action[..., 0] * y, y * z - action[..., 1] ** 2, 0.3 * z.exp() + x], -1)


def reward(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return torch.cos(next_state).prod(-1) - (state * next_state).sum(-1) ** 2 - action[..., 0] ** 3 * state[..., 1]


def ends(state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    return next_state[..., 2] > 1.0


@pytest.fixture
def model() -> Model:
    return Model(step, reward, None, LOW, HIGH)


@pytest.fixture
def points(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(plans [4, 5, 2], start [4, 3])."""
    plans = LOW + (HIGH - LOW) * torch.rand(4, 5, 2, generator=generator, dtype=torch.float64)
    return plans, 0.5 * torch.randn(4, 3, generator=generator, dtype=torch.float64)


def test_derivatives_are_those_of_torch_func(model: Model, points: tuple[Tensor, Tensor]) -> None:
    plans, start = points
    _, states, _ = (x[0] for x in model.follow(start, plans[None]))
    jacobian, gradient, hessian = model.derivatives(plans, states)
    for c in range(4):
        for t in range(5):
            share = (plans[c, t] - (LOW + HIGH) / 2) / model.half
            at = torch.cat([states[c, t], share])

            def next_state(point: Tensor) -> Tensor:
                return step(point[:3], (LOW + HIGH) / 2 + model.half * point[3:])

            def gained(point: Tensor) -> Tensor:
                return reward(point[:3], (LOW + HIGH) / 2 + model.half * point[3:], next_state(point))

            assert torch.allclose(jacobian[c, t], torch.func.jacrev(next_state)(at))
            assert torch.allclose(gradient[c, t], torch.func.grad(gained)(at))
            assert torch.allclose(hessian[c, t], torch.func.jacrev(torch.func.grad(gained))(at))


def test_plans_are_followed_within_bounds_with_feedback(points: tuple[Tensor, Tensor]) -> None:
    """Three trials of each plan: states, actions and returns as a loop has them, with termination and without."""
    plans, start = points
    gains = 3 * torch.ones(4, 5, 2, 3, dtype=torch.float64)
    for termination in (None, ends):
        model = Model(step, reward, termination, LOW, HIGH)
        around = model.follow(start, plans[None])[1][0]
        trials = plans + torch.tensor([0.0, 0.5, 9.0]).double()[:, None, None, None]
        actions, states, returns = model.follow(start, trials, around=around, gains=gains)
        assert ((actions >= LOW) & (actions <= HIGH)).all()
        assert torch.equal(actions[0], plans)
        for trial in range(3):
            for c in range(4):
                now, total, alive = start[c], 0.0, True
                for t in range(5):
                    action = trials[trial, c, t] + model.half * (gains[c, t] @ (now - around[c, t]))
                    action = action.clamp(LOW, HIGH)
                    assert torch.allclose(action, actions[trial, c, t])
                    assert torch.allclose(now, states[trial, c, t])
                    following = step(now, action)
                    total += float(reward(now, action, following)) * alive
                    alive = alive and not (termination is not None and bool(ends(now, action, following)))
                    now = following
                assert float(returns[trial, c]) == pytest.approx(total)


def test_after_a_termination_no_reward_has_a_slope(points: tuple[Tensor, Tensor]) -> None:
    plans, start = points
    model = Model(step, reward, ends, LOW, HIGH)
    states = model.follow(start, plans[None])[1][0]
    ended = ends(states, plans, step(states, plans))
    over = ended.cumsum(1) - ended.long() > 0
    assert 0 < int(over.sum()) < 20
    _, gradient, hessian = model.derivatives(plans, states)
    plain = Model(step, reward, None, LOW, HIGH).derivatives(plans, states)
    assert not gradient[over].any()
    assert not hessian[over].any()
    assert torch.equal(gradient[~over], plain[1][~over])
    assert torch.equal(hessian[~over], plain[2][~over])


def test_what_has_no_derivative_is_refused(points: tuple[Tensor, Tensor]) -> None:
    plans, start = points
    for functions, name in (
        ((lambda s, a: s.detach(), reward), "step"),
        ((step, lambda s, a, n: torch.ones_like(s[..., 0])), "reward"),
    ):
        model = Model(*functions, None, LOW, HIGH)
        with pytest.raises(ValueError, match=f"the {name} function has none by state and action"):
            model.derivatives(plans, start[:, None].expand(4, 5, 3))


def test_a_linear_reward_has_no_curvature_and_a_step_may_ignore_the_action(points: tuple[Tensor, Tensor]) -> None:
    plans, start = points
    model = Model(lambda s, a: 0.5 * s, lambda s, a, n: 2 * s[..., 1], None, LOW, HIGH)
    jacobian, gradient, hessian = model.derivatives(plans, start[:, None].expand(4, 5, 3))
    assert not hessian.any()
    assert hessian.shape == (4, 5, 5, 5)
    assert gradient[0, 0].tolist() == [0, 2, 0, 0, 0]
    assert torch.equal(jacobian[1, 2], 0.5 * torch.eye(3, 5, dtype=torch.float64))
