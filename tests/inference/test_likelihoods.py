import math

import pytest
import torch
from scipy import stats

from bayes_mbrl.inference.likelihoods import NORMAL, Likelihood, StudentTLikelihood, WithBinary, likelihood_by_name

CASES: dict[str, tuple[Likelihood, stats.rv_continuous]] = {
    "normal": (NORMAL, stats.norm()),
    "student-t": (StudentTLikelihood(3.7), stats.t(3.7, scale=math.sqrt(1.7 / 3.7))),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Likelihood, stats.rv_continuous]:
    return CASES[request.param]


def test_log_density_is_scipys_with_variance_std_squared(case: tuple[Likelihood, stats.rv_continuous]) -> None:
    likelihood, unit = case
    assert unit.var() == pytest.approx(1)
    y, mean, std = (
        torch.tensor(v, dtype=torch.float64) for v in ([0.3, -40.0, 2.0], [0.1, 2.0, 2.0], [0.5, 3.0, 0.01])
    )
    expected = unit.logpdf(((y - mean) / std).numpy()) - std.log().numpy()
    torch.testing.assert_close(likelihood.log_density(y, mean, std), torch.from_numpy(expected))


def test_noise_is_the_quantile_of_the_normal_one(case: tuple[Likelihood, stats.rv_continuous]) -> None:
    """From the far tails to the middle, in both precisions, symmetric and strictly increasing."""
    likelihood, unit = case
    z = torch.tensor([-6.0, -2.0, -0.3, 0.0, 1e-4, 1.0, 5.0], dtype=torch.float64)
    expected = torch.from_numpy(unit.isf(stats.norm.sf(z.abs().numpy()))).copysign(z)
    torch.testing.assert_close(likelihood.noise(z), expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(likelihood.noise(z.float()), expected.float(), rtol=1e-5, atol=1e-6)
    assert (likelihood.noise(z).diff() > 0).all()


def test_fisher_information_is_the_variance_of_the_score(case: tuple[Likelihood, stats.rv_continuous]) -> None:
    """∫ (d log p)² p over y, by quadrature, for the mean and for the std, and nothing between them."""
    likelihood, unit = case
    # quantiles reach further into a heavy tail than a grid of y would
    share = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    y = torch.from_numpy(unit.ppf(share.numpy()))
    mean, std = torch.zeros_like(y).requires_grad_(), torch.ones_like(y).requires_grad_()
    of_mean, of_std = torch.autograd.grad(likelihood.log_density(y, mean, std).sum(), (mean, std))
    got = float((of_mean**2).mean()), float((of_std**2).mean())
    one = torch.ones(1, dtype=torch.float64)
    assert got == pytest.approx([float(part) for part in likelihood.fisher_information(7 * one, one)], rel=5e-3)
    assert float((of_mean * of_std).mean()) == pytest.approx(0, abs=1e-6)
    for unit_information, wider in zip(
        likelihood.fisher_information(one, one), likelihood.fisher_information(one, 3 * one), strict=True
    ):
        torch.testing.assert_close(wider, unit_information / 9)


MIXED = WithBinary(StudentTLikelihood(3.7), 2)
"""Two continuous dimensions and two binary ones."""


def test_a_binary_dimension_has_the_probability_of_its_sign() -> None:
    """Against scipy, from the middle to the far tails, where 1 − Φ has no digits left; the others are as they were."""
    z = torch.tensor([-300.0, -20.5, -19.5, -4.0, 2.0, 12.0], dtype=torch.float64)
    mean, std = 0.3 * z[:, None].expand(6, 4), torch.tensor([0.5, 2.0, 0.3, 0.3], dtype=torch.float64).expand(6, 4)
    y = torch.stack([z, -z, torch.ones_like(z), torch.zeros_like(z)], 1)
    density = MIXED.log_density(y, mean, std)
    assert density.shape == (6, 4)
    torch.testing.assert_close(density[:, :2], MIXED.base.log_density(y[:, :2], mean[:, :2], std[:, :2]))
    torch.testing.assert_close(density[:, 2], torch.from_numpy(stats.norm.logcdf(z.numpy())))
    torch.testing.assert_close(density[:, 3], torch.from_numpy(stats.norm.logsf(z.numpy())))
    torch.testing.assert_close(density[:, 2:].exp().sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(MIXED.log_density(y[:, :3], mean[:, :3], std[:, :3]), density[:, :3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_a_binary_dimension_is_finite_however_wrong_it_is(dtype: torch.dtype) -> None:
    """d log Φ(z) / dz → −z for z → −∞: who is grossly wrong is told by how much."""
    likelihood = WithBinary(NORMAL, 0)
    mean = torch.tensor([[-1e9], [-1e5], [-300], [-40], [-20.001], [-19.999], [40], [1e9]], dtype=dtype)
    mean.requires_grad_()
    ones = torch.ones_like(mean)
    (slope,) = torch.autograd.grad(likelihood.log_density(ones, mean, ones).sum(), mean)
    expected = [1e9, 1e5, 300.00333, 40.024969, 20.050752, 20.048760, 0, 0]
    assert slope.flatten().tolist() == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 1e-6)
    assert slope.isfinite().all()


def test_what_is_drawn_of_a_binary_dimension_has_its_probability(generator: torch.Generator) -> None:
    mean = torch.tensor([0.3, -2.0, 0.4, -0.1], dtype=torch.float64)
    std = torch.tensor([0.5, 2.0, 0.3, 0.3], dtype=torch.float64)
    standard_normal = torch.randn(40_000, 4, dtype=torch.float64, generator=generator)
    latent = mean + std * MIXED.noise(standard_normal)
    drawn = MIXED.observed(latent)
    assert torch.equal(drawn[:, :2], latent[:, :2])
    torch.testing.assert_close(latent[:, :2], mean[:2] + std[:2] * MIXED.base.noise(standard_normal[:, :2]))
    assert set(drawn[:, 2:].unique().tolist()) == {0.0, 1.0}
    expected = MIXED.log_density(torch.ones(4).double(), mean, std)[2:].exp()
    error = (expected * (1 - expected) / 40_000).sqrt()
    assert ((drawn[:, 2:].mean(0) - expected).abs() < 5 * error).all()
    assert torch.equal(NORMAL.observed(latent), latent)


def test_fisher_information_of_a_binary_dimension_is_the_variance_of_its_score() -> None:
    """Σ over y = 0, 1 of P (d log P / d mean)², and nothing about the std, which is known."""
    mean = torch.tensor([[-9.0], [-1.0], [0.0], [0.4], [3.0]], dtype=torch.float64)
    std = torch.full_like(mean, 0.7)
    likelihood, expected = WithBinary(NORMAL, 0), torch.zeros_like(mean)
    for y in (0.0, 1.0):
        leaf = mean.clone().requires_grad_()
        log_probability = likelihood.log_density(torch.full_like(mean, y), leaf, std)
        (score,) = torch.autograd.grad(log_probability.sum(), leaf)
        expected += log_probability.detach().exp() * score**2
    about_mean, about_std = likelihood.fisher_information(mean, std)
    torch.testing.assert_close(about_mean, expected)
    assert not about_std.any()
    assert float(about_mean[2]) == pytest.approx(2 / math.pi / 0.49)
    about_mean, about_std = MIXED.fisher_information(torch.zeros(5, 4), torch.ones(5, 4))
    base_mean, base_std = MIXED.base.fisher_information(torch.zeros(5, 2), torch.ones(5, 2))
    torch.testing.assert_close(about_mean, torch.cat([base_mean, torch.full((5, 2), 2 / math.pi)], 1))
    torch.testing.assert_close(about_std, torch.cat([base_std, torch.zeros(5, 2)], 1))


def test_many_degrees_of_freedom_are_normal() -> None:
    y = torch.linspace(-3, 3, 7, dtype=torch.float64)
    almost = likelihood_by_name("student-t", 1e7).log_density(y, torch.zeros_like(y), torch.ones_like(y))
    torch.testing.assert_close(
        almost, NORMAL.log_density(y, torch.zeros_like(y), torch.ones_like(y)), rtol=1e-5, atol=0
    )


def test_impossible_likelihoods() -> None:
    with pytest.raises(ValueError, match="need degrees_of_freedom > 2 for a finite variance, got 2"):
        likelihood_by_name("student-t", 2)
    with pytest.raises(ValueError, match="likelihood is one of normal, student-t, got 'cauchy'"):
        likelihood_by_name("cauchy", 4)  # type: ignore[arg-type]
