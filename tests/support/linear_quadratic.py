"""Linear systems with quadratic costs, whose best plan is known."""

import scipy.optimize
import torch
from torch import Tensor


def linear_quadratic(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(A, B, Q, R, x_0) of x' = A·x + B·u with the cost Σ x'ᵀQx' + uᵀRu."""
    if name == "double integrator":
        values = [[1, 0.1], [0, 1]], [[0], [0.1]], [[1, 0], [0, 0.1]], [[0.1]], [1, 0]
    else:  # two coupled, damped oscillators, two inputs
        values = (
            [[1, 0.1, 0, 0], [-0.05, 0.97, 0.03, 0], [0, 0, 1, 0.1], [0.02, 0, -0.1, 0.95]],
            [[0, 0], [0.1, 0.02], [0, 0], [-0.03, 0.2]],
            [[1, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0.05]],
            [[0.1, 0.02], [0.02, 0.3]],
            [1, 0, -0.7, 0.5],
        )
    a, b, q, r, x = (torch.tensor(value, dtype=torch.float64) for value in values)
    return a, b, q, r, x


def riccati(a: Tensor, b: Tensor, q: Tensor, r: Tensor, start: Tensor, horizon: int) -> tuple[float, Tensor]:
    """The least cost over the horizon and the plan [H, A] that attains it, by the backward Riccati recursion."""
    value, gains = q, []
    for _ in range(horizon):
        gain = torch.linalg.solve(r + b.T @ value @ b, b.T @ value @ a)
        value = q + a.T @ value @ (a - b @ gain)
        gains.append(gain)
    state, plan = start, []
    for gain in reversed(gains):
        plan.append(-gain @ state)
        state = a @ state + b @ plan[-1]
    return float(start @ value @ start - start @ q @ start), torch.stack(plan)


def simulated_cost(plans: Tensor, a: Tensor, b: Tensor, q: Tensor, r: Tensor, start: Tensor) -> Tensor:
    """Costs [C] of plans [C, H, A]."""
    state, cost = start.expand(len(plans), -1), plans.new_zeros(len(plans))
    for t in range(plans.shape[1]):
        state = state @ a.T + plans[:, t] @ b.T
        for values, weight in ((state, q), (plans[:, t], r)):
            cost = cost + torch.einsum("ci,ij,cj->c", values, weight, values)
    return cost


def bounded_optimum(system: tuple[Tensor, ...], low: Tensor, high: Tensor, horizon: int) -> tuple[float, Tensor]:
    """The least cost and the plan [H, A] that attains it within low [A] and high [A], by SciPy's bounded least squares.

    All states are linear in the plan u, so that the cost is ½ uᵀPu + qᵀu + c = ½ |Lᵀu + L⁻¹q|² + const, P = LLᵀ.
    """
    num_actions = system[1].shape[1]
    zero = torch.zeros(horizon * num_actions, dtype=torch.float64)

    def cost(flat: Tensor) -> Tensor:
        return simulated_cost(flat.view(1, horizon, num_actions), *system)[0]

    hessian = torch.autograd.functional.hessian(cost, zero)
    slope = torch.autograd.functional.jacobian(cost, zero)
    factor = torch.linalg.cholesky(hessian)
    target = -torch.linalg.solve_triangular(factor, slope[:, None], upper=False)[:, 0]
    bounds = low.repeat(horizon).numpy(), high.repeat(horizon).numpy()
    found = scipy.optimize.lsq_linear(factor.T.numpy(), target.numpy(), bounds, method="bvls", tol=1e-14)
    plan = torch.as_tensor(found.x).view(horizon, num_actions)
    return float(simulated_cost(plan[None], *system)), plan
