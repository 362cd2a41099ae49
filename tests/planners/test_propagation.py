import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from bayes_mbrl.planners.propagation import (
    Propagation,
    carry,
    distribution_sampling,
    expectation,
    moment_matching,
    ts_1,
    ts_infinity,
)

PROPAGATIONS: dict[str, Propagation] = {
    "ts_infinity": ts_infinity,
    "ts_1": ts_1,
    "expectation": expectation,
    "distribution_sampling": distribution_sampling,
    "moment_matching": moment_matching,
}
every_propagation = pytest.mark.parametrize("propagate", PROPAGATIONS.values(), ids=PROPAGATIONS.keys())
resampling = pytest.mark.parametrize("propagate", [distribution_sampling, moment_matching])


def skewed_states(
    num_theta: int, num_noise: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Tensor:
    """States [K, M, C=2, S=3], skewed, correlated, on scales 1e-3 to 1e4, with other means for every θ and plan."""
    z = torch.rand(num_theta, num_noise, 2, 3, generator=generator, dtype=dtype).log().neg() - 1  # skewness 2
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, -0.5], [0.0, 0.0, 0.3]], dtype=dtype)
    scale = torch.tensor([1e-3, 1.0, 1e4], dtype=dtype)
    theta = torch.arange(num_theta, dtype=dtype).reshape(-1, 1, 1, 1)
    plan = torch.arange(2, dtype=dtype).reshape(-1, 1)
    return (z @ mix * (1 + plan) + 3 * theta - plan) * scale


def mixing_noise(states: Tensor, *, generator: torch.Generator) -> Tensor:
    num_theta, num_noise, _, num_states = states.shape
    return torch.randn(num_theta, num_noise, 1, num_states, generator=generator, dtype=states.dtype)


def assert_gaussian_with_moments_of(states: Tensor, drawn: Tensor) -> None:
    """The draws [P, S] have mean and covariance of the states [P, S] and no skewness, within 5 standard errors."""
    count = len(states)
    covariance = states.T.cov()
    variance = covariance.diagonal()
    mean_error = (variance / count).sqrt()
    assert ((drawn.mean(dim=0) - states.mean(dim=0)).abs() < 5 * mean_error).all()
    covariance_error = ((variance[:, None] * variance + covariance.square()) / count).sqrt()
    assert ((drawn.T.cov() - covariance).abs() < 5 * covariance_error).all()
    skewness = ((drawn - drawn.mean(dim=0)) / drawn.std(dim=0)).pow(3).mean(dim=0)
    assert (skewness.abs() < 5 * math.sqrt(6 / count)).all()


def test_distribution_sampling_keeps_the_moments_of_every_theta(generator: torch.Generator) -> None:
    states = skewed_states(3, 20_000, generator=generator)
    drawn = distribution_sampling(states, mixing_noise(states, generator=generator))
    for k in range(3):
        for c in range(2):
            assert_gaussian_with_moments_of(states[k, :, c], drawn[k, :, c])


def test_moment_matching_keeps_the_moments_over_theta_and_noise_together(generator: torch.Generator) -> None:
    states = skewed_states(3, 10_000, generator=generator)
    drawn = moment_matching(states, mixing_noise(states, generator=generator))
    for c in range(2):
        assert_gaussian_with_moments_of(states[:, :, c].flatten(0, 1), drawn[:, :, c].flatten(0, 1))
    # θ is forgotten: the K groups, ranges apart before, now have the same mean.
    overall_std = states.flatten(0, 1).std(dim=0)
    assert ((drawn.mean(dim=1) - states.mean(dim=(0, 1))).abs() < 5 * overall_std / math.sqrt(10_000)).all()


def test_two_particles_are_resampled_on_the_line_through_them(generator: torch.Generator) -> None:
    """M = 2 < S: rank one. By hand: mean ± (difference / √2) · z with z standard normal."""
    states = torch.tensor([[1.0, -2.0, 5.0], [3.0, -2.5, 5.0]], dtype=torch.float64).reshape(1, 2, 1, 3)
    noise = mixing_noise(states, generator=generator)
    drawn = distribution_sampling(states, noise)
    step = (states[0, 1, 0] - states[0, 0, 0]).abs() / math.sqrt(2)
    by_hand = states.mean(dim=1, keepdim=True) + noise[..., :1] * step * states.new_tensor([1, -1, 0])
    assert torch.allclose(drawn, by_hand, atol=1e-6, rtol=0)
    assert torch.allclose(moment_matching(states, noise), by_hand, atol=1e-6, rtol=0)


@resampling
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_states", [1, 3, 20, 60])
def test_singular_covariances_give_numbers_and_finite_gradients(
    propagate: Propagation, dtype: torch.dtype, num_states: int, generator: torch.Generator
) -> None:
    """Fewer particles than dimensions, collinear, constant and badly scaled dimensions."""
    states = torch.randn(2, 3, 40, num_states, generator=generator, dtype=dtype)
    states[..., num_states // 2] = 0.1  # constant, and not exact in binary
    states[:, :, :20, -1] = states[:, :, :20, 0] * 1e-20  # collinear, and its variance is below float32's range
    states[:, :, 20:, -1] *= 1e20  # its variance is above float32's range
    states[:, :, 0] = states[:1, :1, 0].clone()  # no spread at all
    noise = mixing_noise(states, generator=generator)
    states.requires_grad_()
    drawn = propagate(states, noise)
    assert torch.isfinite(drawn).all()
    assert torch.allclose(drawn[:, :, 0], states[:, :, 0], rtol=1e-5, atol=0)
    if num_states > 1:
        assert torch.allclose(drawn[:, :, 1:, num_states // 2], states.new_tensor(0.1), rtol=1e-6, atol=0)
        assert (drawn[:, :, 1:, -1].std(dim=1) > 0).all()
    (drawn / states.detach().abs().clamp(min=1e-30)).mean().backward()
    assert states.grad is not None
    assert torch.isfinite(states.grad).all()


@resampling
def test_resampling_gradients_match_finite_differences(propagate: Propagation, generator: torch.Generator) -> None:
    states = torch.randn(2, 5, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    noise = mixing_noise(states, generator=generator)
    assert torch.autograd.gradcheck(lambda s: propagate(s, noise), states)


def test_ts_1_permutes_theta_for_each_noise_draw_alike_for_all_plans(generator: torch.Generator) -> None:
    num_theta, num_noise, num_plans = 4, 50, 3
    k, m, c = torch.meshgrid(*(torch.arange(float(n)) for n in (num_theta, num_noise, num_plans)), indexing="ij")
    states = torch.stack([k, m, c], dim=-1)
    noise = mixing_noise(states, generator=generator)
    moved = ts_1(states, noise)
    assert torch.equal(moved[..., 1:], states[..., 1:])  # m and c stay
    assert torch.equal(moved[..., 0].sort(dim=0).values, states[..., 0])  # nobody is lost or doubled
    assert torch.equal(moved[:, :, 0, 0], moved[:, :, 2, 0])
    assert len({tuple(order) for order in moved[:, :, 0, 0].T.tolist()}) > 12  # of 24, another for each m


@every_propagation
def test_carry_moves_a_particles_values_with_it(propagate: Propagation, generator: torch.Generator) -> None:
    states = torch.randn(4, 6, 3, 2, generator=generator)
    noise = mixing_noise(states, generator=generator)
    values = states[..., 1] > 0
    carried = carry(propagate, values, noise)
    assert carried.dtype == torch.bool
    if propagate is ts_1:
        assert torch.equal(carried, ts_1(states, noise)[..., 1] > 0)
        assert not torch.equal(carried, values)
    else:
        assert torch.equal(carried, values)


def test_ts_1_draws_every_permutation_equally_often(generator: torch.Generator) -> None:
    num_noise = 6000
    states = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, num_noise, 1, 1)
    orders = ts_1(states, mixing_noise(states, generator=generator))[:, :, 0, 0].T
    standard_error = math.sqrt(num_noise * (1 / 6) * (5 / 6))
    for order in permutations([0.0, 1.0, 2.0]):
        count = int((orders == torch.tensor(order)).all(dim=1).sum())
        assert abs(count - num_noise / 6) < 5 * standard_error


def test_expectation_replaces_all_particles_by_their_mean(generator: torch.Generator) -> None:
    states = skewed_states(3, 4, generator=generator)
    result = expectation(states, mixing_noise(states, generator=generator))
    for c in range(2):
        by_hand = torch.stack([states[k, m, c] for k in range(3) for m in range(4)]).sum(dim=0) / 12
        assert torch.allclose(result[:, :, c], by_hand.expand(3, 4, 3))


def test_ts_infinity_does_nothing(generator: torch.Generator) -> None:
    states = skewed_states(3, 4, generator=generator)
    assert torch.equal(ts_infinity(states, mixing_noise(states, generator=generator)), states)


@every_propagation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_stay_and_the_input_is_not_changed(
    propagate: Propagation, dtype: torch.dtype, generator: torch.Generator
) -> None:
    states = skewed_states(3, 4, generator=generator, dtype=dtype)
    noise = mixing_noise(states, generator=generator)
    before = states.clone(), noise.clone()
    result = propagate(states, noise)
    assert result.shape == states.shape
    assert result.dtype == dtype
    assert torch.equal(states, before[0])
    assert torch.equal(noise, before[1])


@every_propagation
def test_a_plans_states_do_not_depend_on_its_neighbours(propagate: Propagation, generator: torch.Generator) -> None:
    states = skewed_states(3, 4, generator=generator)
    noise = mixing_noise(states, generator=generator)
    together = propagate(states, noise)
    broken = states.clone()
    broken[1, 2, 1, 0] = torch.nan
    assert torch.allclose(together[:, :, :1], propagate(states[:, :, :1], noise), rtol=1e-12, atol=0)
    assert torch.equal(together[:, :, 0], propagate(broken, noise)[:, :, 0])


@resampling
def test_a_broken_particle_makes_its_plan_nan(propagate: Propagation, generator: torch.Generator) -> None:
    states = skewed_states(1, 4, generator=generator)
    for broken in (torch.nan, torch.inf):
        states[0, 2, 1, -1] = broken
        result = propagate(states, mixing_noise(states, generator=generator))
        assert result[:, :, 1].isnan().all()
        assert torch.isfinite(result[:, :, 0]).all()


def test_too_few_particles_are_refused() -> None:
    with pytest.raises(ValueError, match=r"distribution sampling needs M >= 2 noise draws, got 1: raise M"):
        distribution_sampling(torch.zeros(5, 1, 2, 3), torch.zeros(5, 1, 1, 3))
    with pytest.raises(ValueError, match=r"moment matching needs K·M >= 2 particles, got 1: raise K .* or M"):
        moment_matching(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 3))
    moment_matching(torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 1, 3))
