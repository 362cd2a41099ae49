"""Weights that are random datum by datum: their moments, their independence, their gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from bayes_mbrl.inference.base import seeded_global_state
from bayes_mbrl.inference.gaussian_weights import FlipoutNormal, LocalNormal
from bayes_mbrl.inference.layers import affine

Kind = type[LocalNormal] | type[FlipoutNormal]


@pytest.fixture(params=[LocalNormal, FlipoutNormal])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


def normals(*shape: int, generator: torch.Generator) -> Normal:
    loc, scale = torch.randn(shape, generator=generator).double(), torch.rand(shape, generator=generator).double()
    return Normal(loc, scale + 0.1)


def test_outputs_have_the_moments_of_sampled_weights(kind: Kind, generator: torch.Generator) -> None:
    """Many particles with 3 data each: mean and covariance over outputs of one datum, no correlation between data."""
    weight, bias = normals(3, 2, generator=generator), normals(2, generator=generator)
    x = torch.tensor([[1.0, -2.0, 0.5], [1.0, -2.0, 0.5], [0.3, 1.0, -1.0]], dtype=torch.float64)
    n = 40_000
    with seeded_global_state(generator):
        out = affine(x.expand(n, 3, 3), kind(weight.loc, weight.scale), kind(bias.loc, bias.scale))
    mean, variance = x @ weight.loc + bias.loc, x**2 @ weight.scale**2 + bias.scale**2
    assert ((out.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((out.var(0) - variance).abs() < 5 * variance * math.sqrt(2 / n)).all()
    correlation = torch.corrcoef(out.flatten(1).T) - torch.eye(6).double()
    assert correlation.abs().max() < 5 / math.sqrt(n), "data and outputs are uncorrelated"


def test_gradients(kind: Kind, generator: torch.Generator) -> None:
    """d E[f²] / d scale_j = 2 x_j² scale_j and d E[f²] / d loc_j = 2 E[f] x_j, for f = x w + b."""
    loc, scale = (torch.tensor(v, dtype=torch.float64).requires_grad_() for v in ([[1.0], [-0.5]], [[0.3], [0.8]]))
    bias = Normal(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.1, dtype=torch.float64))
    row = torch.tensor([1.0, 2.0], dtype=torch.float64)
    with seeded_global_state(generator):
        out = affine(row.expand(200_000, 1, 2), kind(loc, scale), kind(bias.loc, bias.scale))
    (out**2).mean().backward()
    torch.testing.assert_close(scale.grad, 2 * row[:, None] ** 2 * scale.detach(), rtol=0.03, atol=0)
    torch.testing.assert_close(loc.grad, 2 * (row @ loc.detach()) * row[:, None], rtol=0, atol=0.05)


def test_means_of_their_own_for_each_particle(kind: Kind, generator: torch.Generator) -> None:
    """loc [K, D, O] with one scale [D, O]: with a negligible scale, the layer of each particle."""
    loc, bias = torch.randn(4, 3, 2, generator=generator).double(), torch.randn(4, 2, generator=generator).double()
    x = torch.randn(4, 5, 3, generator=generator).double()
    tiny: tuple[Tensor, Tensor] = torch.full((3, 2), 1e-9).double(), torch.full((2,), 1e-9).double()
    with seeded_global_state(generator):
        out = affine(x, kind(loc, tiny[0]), kind(bias, tiny[1]))
    torch.testing.assert_close(out, x @ loc + bias[:, None], rtol=0, atol=1e-6)
