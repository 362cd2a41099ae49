"""Data and dynamics that the trunk is tried on: correlated, unequally scaled, no two sizes alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.environments.known_truth import linear_gaussian_step
from bayes_mbrl.inference.draws import DrawsPosterior

NetworkProblem = Callable[..., tuple[NetworkDynamics, DrawsPosterior]]


@pytest.fixture
def transitions() -> Transitions:
    """23 float64 transitions (S 3, A 2) of five episodes; the third state is large, the reward needs all of them."""
    generator = torch.Generator().manual_seed(21)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scale = torch.tensor([1.0, 0.1, 50.0], dtype=torch.float64)
    state, action = normal(23, 3), normal(23, 2) - 0.5
    next_state = linear_gaussian_step(state, action) + 0.2 * state.roll(1, dims=1) ** 2 + 0.1 * normal(23, 3)
    return Transitions(
        state * scale,
        action,
        state.square().sum(1) - action[:, 0] + 3,
        next_state * scale,
        torch.arange(23) % 6 == 4,
        torch.arange(23) // 5,
    )


@pytest.fixture
def network_problem(transitions: Transitions) -> NetworkProblem:
    """(untrained dynamics, posterior of seven draws) on `transitions`; keywords go to the dynamics."""

    def problem(**settings: object) -> tuple[NetworkDynamics, DrawsPosterior]:
        dynamics = NetworkDynamics.from_data(transitions, **{"hidden": (6, 5), **settings})
        generator = torch.Generator().manual_seed(22)
        theta = dynamics.model.initial(7, generator=generator)
        theta = {
            name: value + 0.3 * torch.empty_like(value).normal_(generator=generator) for name, value in theta.items()
        }
        return dynamics, DrawsPosterior(theta)

    return problem
