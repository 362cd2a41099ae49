"""Problems that inference is tried on: correlated, unequally scaled, no two sizes alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


@pytest.fixture(scope="session")
def linear_problem() -> Problem:
    """(model, x [N, D], y [N, O]) of a linear regression with known noise, whose posterior is known exactly."""

    def problem(
        num_data: int = 60, input_dim: int = 10, output_dim: int = 1, *, dtype: torch.dtype = torch.float64
    ) -> tuple[BayesianNetwork, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(11)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        model = BayesianNetwork(
            input_dim, output_dim, hidden=(), noise="fixed", noise_std=0.5, prior_scale=1.5, dtype=dtype
        )
        mixing = torch.eye(input_dim, dtype=torch.float64) + 0.25 * normal(input_dim, input_dim)
        x = normal(num_data, input_dim) @ mixing * torch.logspace(-0.2, 0.2, input_dim, dtype=torch.float64)
        y = x @ normal(input_dim, output_dim) + 0.7 + model.noise_std * normal(num_data, output_dim)
        return model, x.to(dtype), y.to(dtype)

    return problem


@pytest.fixture(scope="session")
def network_problem() -> Problem:
    """(model, x [23, 3], y [23, 2]) of a small network; keywords go to the network."""

    def problem(*, dtype: torch.dtype = torch.float64, **settings: object) -> tuple[BayesianNetwork, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(12)
        settings = {"hidden": (5, 4), **settings}
        model = BayesianNetwork(3, 2, dtype=dtype, **settings)  # type: ignore[arg-type]
        x = torch.randn(23, 3, generator=generator, dtype=torch.float64)
        noise = torch.randn(23, 2, generator=generator, dtype=torch.float64)
        y = torch.stack([torch.sin(2 * x[:, 0]) + x[:, 1], 0.3 * x[:, 2] ** 2], 1) + 0.1 * noise
        binary = y[:, 2 - model.num_binary :]
        binary.copy_(binary > 0.5)
        return model, x.to(dtype), y.to(dtype)

    return problem
