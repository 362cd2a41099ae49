"""Policies: densities against numerical integration and torch.distributions, bounds, gradients, equal seeds."""

from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution

from bayes_mbrl.policies import PolicyKind, StandardisedPolicy, TanhGaussianPolicy, make_policy

LOW, HIGH = torch.tensor([-2.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 9.0], dtype=torch.float64)


@pytest.fixture
def policy(generator: torch.Generator) -> TanhGaussianPolicy:
    made = make_policy("tanh-gaussian", 3, LOW, HIGH, hidden=(8,), generator=generator).double()
    assert isinstance(made, TanhGaussianPolicy)
    return made


def test_the_density_integrates_to_one(policy: TanhGaussianPolicy, generator: torch.Generator) -> None:
    state = torch.randn(3, dtype=torch.float64, generator=generator)
    # Midpoints of a grid in tanh's argument cover the density evenly, up to its bounds.
    u = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    edges = torch.tanh(u)
    points, widths = 0.5 * (edges[1:] + edges[:-1]), edges[1:] - edges[:-1]
    share = torch.cartesian_prod(points, points)
    actions = 0.5 * (LOW + HIGH) + 0.5 * (HIGH - LOW) * share
    cells = torch.cartesian_prod(widths, widths).prod(-1) * (0.25 * (HIGH - LOW).prod())
    density = policy.log_density(state.expand(len(actions), 3), actions).exp().detach()
    assert float((density * cells).sum()) == pytest.approx(1, abs=1e-4)


def test_the_density_is_that_of_torch(policy: TanhGaussianPolicy, generator: torch.Generator) -> None:
    states = torch.randn(4, 5, 3, dtype=torch.float64, generator=generator)
    noise = torch.randn(4, 5, 2, dtype=torch.float64, generator=generator)
    actions, log_density = policy.sample_with_log_density(states, noise)
    mean, log_std = policy.unsquashed(states)
    squash = [TanhTransform(), AffineTransform(0.5 * (LOW + HIGH), 0.5 * (HIGH - LOW), event_dim=1)]
    expected = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), squash).log_prob(actions)
    torch.testing.assert_close(log_density, expected)
    torch.testing.assert_close(policy.log_density(states, actions), expected)
    torch.testing.assert_close(policy.sample(states, noise), actions)
    assert log_density.shape == (4, 5)


def test_the_density_keeps_its_digits_where_tanh_is_one(policy: TanhGaussianPolicy) -> None:
    states, noise = torch.zeros(1, 3, dtype=torch.float64), torch.full((1, 2), 300.0, dtype=torch.float64)
    mean, log_std = policy.unsquashed(states)
    u = mean + log_std.exp() * noise
    _, log_density = policy.sample_with_log_density(states, noise)
    log_slope = torch.log(0.5 * (HIGH - LOW)) + torch.log(torch.tensor(4.0)) - 2 * u  # 1 − tanh² u → 4 e^(−2u)
    torch.testing.assert_close(log_density, (Normal(mean, log_std.exp()).log_prob(u) - log_slope).sum(-1))
    at_bound = policy.log_density(states, HIGH[None])
    assert bool(at_bound.isfinite().all())


@pytest.mark.parametrize("kind", get_args(PolicyKind))
def test_actions_lie_within_bounds_and_follow_a_gradient(kind: PolicyKind, generator: torch.Generator) -> None:
    policy = make_policy(kind, 3, LOW.float(), HIGH.float(), hidden=(16,), generator=generator)
    states, noise = 100 * torch.randn(50, 3, generator=generator), 5 * torch.randn(50, 2, generator=generator)
    for actions in (policy.sample(states, noise), policy.mode(states)):
        assert actions.shape == (50, 2)
        assert bool(((actions >= LOW) & (actions <= HIGH)).all())
    policy.sample(states / 100, noise).sum().backward()  # type: ignore[no-untyped-call]
    gradients: list[Tensor | None] = [p.grad for p in policy.parameters()]
    assert gradients
    assert all(g is not None and bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


@pytest.mark.parametrize("kind", get_args(PolicyKind))
def test_equal_generators_make_equal_policies(kind: PolicyKind) -> None:
    made = [make_policy(kind, 3, LOW, HIGH, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    values = [torch.cat([p.flatten() for p in policy.parameters()]) for policy in made]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize("kind", get_args(PolicyKind))
def test_a_standardised_policy_sees_features_in_units_of_the_data(kind: PolicyKind, generator: torch.Generator) -> None:
    inner = make_policy(kind, 4, LOW.float(), HIGH.float(), hidden=(6,), generator=generator)
    policy = StandardisedPolicy(inner, 4, lambda s: torch.cat([s, s[..., :1].sin()], -1))
    states = torch.tensor([2.0, 300.0, 0.0]) * torch.randn(50, 3, generator=generator) + torch.tensor([0, 5e3, 7.0])
    raw = torch.cat([states, states[:, :1].sin()], -1)
    noise = torch.randn(50, 2, generator=generator)
    torch.testing.assert_close(policy.sample(states, noise), inner.sample(raw, noise))
    policy.standardise(states)
    seen = policy.inputs(states)
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(policy.sample(states, noise), inner.sample(seen, noise))
    torch.testing.assert_close(policy.mode(states[3]), inner.mode(seen[3]))
    other = StandardisedPolicy(make_policy(kind, 4, LOW.float(), HIGH.float(), hidden=(6,), generator=generator), 4)
    other.load_state_dict(policy.state_dict())
    assert int(other.num_seen) == 50
    torch.testing.assert_close(other.mean, policy.mean)
    assert torch.equal(policy.centre - policy.half_range, LOW.float())


@pytest.mark.parametrize("state_dim", [1, 4, 20])
def test_radial_functions_reach_the_states(state_dim: int, generator: torch.Generator) -> None:
    """Over standardised states an untrained policy varies by as much in 20 dimensions as in one, to an order."""
    low = -torch.ones(1)
    policy = make_policy("rbf", state_dim, low, -low, hidden=(50,), generator=generator)
    with torch.no_grad():
        spread = policy.mode(torch.randn(200, state_dim, generator=generator)).std()
    assert 0.02 < float(spread) < 0.5


def test_an_unknown_kind_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"policy is one of .*, got 'spline'"):
        make_policy("spline", 3, LOW, HIGH, generator=generator)  # type: ignore[arg-type]
