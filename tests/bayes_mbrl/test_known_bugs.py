"""Bugs of well-known code that need the whole way from environment to plan to be seen; docs/planning.md lists all."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pendulum_oracle import pendulum_oracle
from torch import Tensor

from bayes_mbrl.config import resolve
from bayes_mbrl.dynamics.known import KnownDynamics
from bayes_mbrl.environments.known_truth import pendulum_step
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.planners.discrete import CategoricalCEM, DiscreteShooting, ExhaustiveSearch
from bayes_mbrl.planners.objectives import expected_return, mean_minus_total_std
from bayes_mbrl.planners.propagation import ts_infinity
from bayes_mbrl.registry import PLANNERS
from bayes_mbrl.rollout import evaluate_plans

LOW, HIGH = torch.tensor([-2.0]), torch.tensor([2.0])
SMALL = {"horizon": 4, "num_candidates": 20, "num_elites": 4, "num_iterations": 2}
CONTINUOUS = [name for name, row in PLANNERS.rows.items() if row.target != row.discrete]


def small_planner(name: str) -> Any:
    """By its row in the registry, with its own defaults but for the budget."""
    component = resolve([f"planner={name}"]).planner
    settings = component.settings | {key: value for key, value in SMALL.items() if key in component.settings}
    return dataclasses.replace(component, settings=settings).build(low=LOW, high=HIGH)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_no_planner_brings_anything_from_one_episode_into_the_next(name: str) -> None:
    """Elites, a nominal plan or a mean that survive a reset."""
    acting = pendulum_oracle(small_planner(name))

    def episode(seed: int, state: Tensor) -> list[float]:
        generator, memory, actions = torch.Generator().manual_seed(seed), None, []
        for _ in range(3):
            action, memory = acting.act(state, memory, generator=generator)
            actions.append(float(action))
            state = pendulum_step(state, action)
        return actions

    hanging, leaning = torch.tensor([-1.0, 0.1, 0.0]), torch.tensor([0.5, -0.8, 1.0])
    first = episode(0, hanging)
    other = episode(1, leaning)
    assert episode(0, hanging) == first
    assert first != other


@pytest.mark.parametrize(
    "planner",
    [
        CategoricalCEM((3, 2), 3, num_candidates=30, num_elites=4, num_iterations=2),
        DiscreteShooting((3, 2), 3, num_candidates=30),
        ExhaustiveSearch((3, 2), 2),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_nor_does_one_for_choices(planner: Any) -> None:
    step = KnownDynamics(lambda s, a: s + a[..., :3] - a[..., 3:4], noise_std=torch.zeros(3))
    acting = pendulum_oracle(planner, dynamics=step, reward=lambda s, a, n: -(n - 0.5).square().sum(-1))

    def actions(seed: int, state: Tensor) -> Tensor:
        generator, memory, taken = torch.Generator().manual_seed(seed), None, []
        for _ in range(3):
            action, memory = acting.act(state, memory, generator=generator)
            taken.append(action)
        return torch.stack(taken)

    first = actions(0, torch.zeros(3))
    actions(1, torch.full((3,), -4.0))
    assert torch.equal(actions(0, torch.zeros(3)), first)


def test_risk_is_of_whole_returns_and_not_of_steps() -> None:
    """What is lost in one step comes back in the next: the return is certain, though every reward is not.

    θ is the sign of a first reward of ±1 under the first plan. Per step and summed, the risk would be 2; it is 0.
    """
    posterior = DrawsPosterior({"sign": torch.tensor([-1.0, 1.0])})

    class Swing(KnownDynamics):
        """s' = (sign · a, t + 1)."""

        def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            sign = theta["sign"].view(-1, 1, 1).expand(states.shape[:-1])
            mean = torch.stack([sign * actions[..., 0], states[..., 1] + 1], -1)
            return mean, torch.zeros_like(mean)

    swing = Swing(lambda s, a: s, noise_std=torch.zeros(2))
    plans = torch.tensor([[[1.0], [-1.0]], [[0.4], [0.4]]])  # comes back; is half as risky in each step
    scores = evaluate_plans(
        plans, torch.zeros(2), posterior=posterior, dynamics=swing, reward=lambda s, a, n: n[..., 0],
        objective=mean_minus_total_std(1.0), propagation=ts_infinity, num_theta=2, generator=torch.Generator(),
    )  # fmt: skip
    spread = 0.8 * 2**0.5  # of ±0.8, unbiased
    assert scores.tolist() == pytest.approx([0.0, -spread])


@pytest.mark.parametrize("count", [2, 7, 13])
def test_a_number_of_plans_that_the_models_do_not_divide(count: int) -> None:
    """Every plan meets every θ; in PETS' code the plans were dealt out to the models."""
    shifts = torch.tensor([-1.0, 0.0, 4.0])

    class Shifted(KnownDynamics):
        def predict(self, theta: Any, states: Tensor, actions: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            mean = actions + theta["shift"].view(-1, 1, 1, 1) + 0 * states
            return mean, torch.zeros_like(mean)

    plans = torch.linspace(-1, 1, count)[:, None, None]
    scores = evaluate_plans(
        plans, torch.zeros(1), posterior=DrawsPosterior({"shift": shifts}),
        dynamics=Shifted(lambda s, a: s, noise_std=torch.zeros(1)), reward=lambda s, a, n: n[..., 0],
        objective=expected_return(), num_theta=3, generator=torch.Generator(), max_particles=6,
    )  # fmt: skip
    assert torch.allclose(scores, plans[:, 0, 0] + 1.0)


Reward = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_broken_model_never_makes_the_best_plan(name: str) -> None:
    """Beyond a = 0.5 the dynamics is NaN. All other rewards are far below 0 and lure to the brink."""

    def step(state: Tensor, action: Tensor) -> Tensor:
        return state + torch.where(action > 0.5, torch.nan, action)

    acting = pendulum_oracle(
        small_planner(name),
        dynamics=KnownDynamics(step, noise_std=torch.zeros(3)),
        reward=lambda s, a, n: a[..., 0] - 1000.0 - 1e-3 * n.square().sum(-1),
    )
    memory, generator = None, torch.Generator().manual_seed(0)
    for _ in range(4):
        action, memory = acting.act(torch.zeros(3), memory, generator=generator)
        assert float(action) <= 0.5
