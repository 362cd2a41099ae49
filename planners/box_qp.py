"""Convex quadratics over boxes, many at once: minimise ½ xᵀ Q x + qᵀ x where low <= x <= high.

Source: Tassa, Mansard & Todorov, Control-limited differential dynamic programming (2014), algorithm 1: projected
Newton (Bertsekas 1982). We differ in the line search: all steps 1, ½, ¼, ... are tried side by side and the best is
taken, so that no problem of the batch waits for another; and the scaled gradient is tried too: Newton's direction,
cut off at a bound, may lead uphill while there is a way down.
Axes: B problems, A dimensions.
"""

import torch
from torch import Tensor

MAX_STEPS = 100
_HALVINGS = 20
_TOLERANCE = 1e-15
"""Of a decrease, relative to the terms of what is minimised: less is rounding."""


def box_qp(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(solutions [B, A], whether each dimension is free [B, A]), a dimension that is not being held by its bound.

    hessian [B, A, A] positive definite, gradient, low and high [B, A] with low <= high; float64.
    """
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    x = _clipped(-gradient / diagonal, low, high)  # the answer already where A is 1
    free = _free(x, hessian, gradient, low, high)
    if hessian.shape[-1] == 1:
        return x, free
    steps = 0.5 ** torch.arange(_HALVINGS, dtype=x.dtype, device=x.device)[:, None, None]
    for _ in range(MAX_STEPS):
        slope = gradient + _times(hessian, x)
        newton = -solve_free(hessian, slope[..., None], free)[..., 0]
        directions = torch.cat([steps * newton, steps * (-slope / diagonal)])
        trials = _clipped(x + directions, low, high)
        change = trials - x
        decrease = -(slope * change).sum(-1) - 0.5 * (change * _times(hessian, change)).sum(-1)
        most, best = decrease.max(0)
        moves = most > _TOLERANCE * ((gradient * x).abs() + (x * _times(hessian, x)).abs()).sum(-1)
        x = torch.where(moves[:, None], trials.gather(0, best[None, :, None].expand(1, *x.shape))[0], x)
        previous, free = free, _free(x, hessian, gradient, low, high)
        if not bool((moves | (free != previous).any(-1)).any()):
            break
    return x, free


def solve_free(hessian: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """X [B, A, n] with hessian X = right in the free dimensions, and 0 in the others: right [B, A, n], free [B, A]."""
    both = free[..., None] & free[..., None, :]
    held = torch.diag_embed((~free).to(hessian.dtype))
    solution: Tensor = torch.linalg.solve(torch.where(both, hessian, held), torch.where(free[..., None], right, 0))
    return solution


def _free(x: Tensor, hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    slope = gradient + _times(hessian, x)
    return ~(((x <= low) & (slope > 0)) | ((x >= high) & (slope < 0)))


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix [B, A, A] times x [..., B, A]."""
    return (matrix * x[..., None, :]).sum(-1)


def _clipped(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)
