"""Convex quadratics over boxes, against SciPy and against the conditions of an optimum."""

import pytest
import scipy.optimize
import torch
from torch import Tensor

from bayes_mbrl.planners.box_qp import box_qp, solve_free


def problems(
    dim: int, count: int, generator: torch.Generator, spread: float = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(hessian, gradient, low, high, unit of each dimension), of units that differ by many orders of magnitude."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    unit = 10 ** (spread * normal(count, dim))
    root = normal(count, dim, dim)
    hessian = (root @ root.mT + 1e-3 * torch.eye(dim)) / unit[:, :, None] / unit[:, None, :]
    return (
        hessian,
        3 * normal(count, dim) / unit,
        -normal(count, dim).abs() * unit,
        normal(count, dim).abs() * unit,
        unit,
    )


@pytest.mark.parametrize("dim", [1, 2, 3, 6])
def test_the_conditions_of_an_optimum_hold(dim: int, generator: torch.Generator) -> None:
    hessian, gradient, low, high, unit = problems(dim, 300, generator)
    x, free = box_qp(hessian, gradient, low, high)
    assert ((low <= x) & (x <= high)).all()
    slope = (gradient + (hessian @ x[..., None])[..., 0]) * unit
    assert slope[(low < x) & (x < high)].abs().max() < 1e-10
    assert (slope[x == low] > -1e-10).all()
    assert (slope[x == high] < 1e-10).all()
    assert torch.equal(free & (low < x) & (x < high), (low < x) & (x < high))
    assert 0.05 < free.double().mean() < 0.95


def test_scipy_finds_the_same(generator: torch.Generator) -> None:
    hessian, gradient, low, high, _ = problems(4, 40, generator, spread=0.3)
    x, _ = box_qp(hessian, gradient, low, high)
    for i in range(40):
        factor = torch.linalg.cholesky(hessian[i])
        target = -torch.linalg.solve_triangular(factor, gradient[i][:, None], upper=False)[:, 0]
        found = scipy.optimize.lsq_linear(
            factor.T.numpy(), target.numpy(), (low[i].numpy(), high[i].numpy()), method="bvls", tol=1e-14
        )
        assert torch.allclose(x[i], torch.as_tensor(found.x), rtol=1e-6, atol=1e-9)


def test_a_dimension_without_room_stays_at_its_bound() -> None:
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    gradient = torch.tensor([[-4.0, 1.0]], dtype=torch.float64)
    low = torch.tensor([[0.5, -9.0]], dtype=torch.float64)
    x, free = box_qp(hessian, gradient, low, torch.tensor([[0.5, 9.0]], dtype=torch.float64))
    assert torch.allclose(x, torch.tensor([[0.5, -0.5]], dtype=torch.float64))  # 3 x₂ = −1 − 0.5
    assert free.tolist() == [[False, True]]


def test_held_dimensions_are_not_solved_for() -> None:
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 4.0]]], dtype=torch.float64)
    right = torch.tensor([[[3.0], [8.0]]], dtype=torch.float64)
    held = solve_free(hessian, right, torch.tensor([[False, True]]))
    assert held.flatten().tolist() == [0.0, 2.0]
    both = solve_free(hessian, right, torch.tensor([[True, True]]))
    assert torch.allclose(hessian @ both, right)
