import math

import pytest
import torch
from scipy import stats

from bayes_mbrl.inference.likelihoods import NORMAL, Likelihood, StudentTLikelihood, likelihood_by_name

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
    assert got == pytest.approx(likelihood.fisher_information, rel=5e-3)
    assert float((of_mean * of_std).mean()) == pytest.approx(0, abs=1e-6)


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
