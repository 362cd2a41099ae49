from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from bayes_mbrl.inference import exact_linear
from bayes_mbrl.inference.network import BayesianNetwork

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def by_conditioning(model: BayesianNetwork, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """(mean [P, O], covariance [P, P], log evidence) from the joint normal of θ and y: no precision, no QR."""
    features = np.concatenate([x.numpy(), np.ones((len(x), 1))], 1)
    prior = np.array([model.prior_scale**2 / x.shape[1]] * x.shape[1] + [model.prior_scale**2])
    of_y = features * prior @ features.T + model.noise_std**2 * np.eye(len(x))
    gain = np.linalg.solve(of_y, features * prior).T
    evidence = sum(multivariate_normal(np.zeros(len(x)), of_y).logpdf(column) for column in y.numpy().T)
    return gain @ y.numpy(), np.diag(prior) - gain @ features * prior, float(evidence)


@pytest.mark.parametrize(("num_data", "input_dim", "output_dim"), [(30, 4, 2), (3, 7, 1), (1, 2, 3), (5, 5, 2)])
def test_against_conditioning_of_the_joint_normal(
    linear_problem: Problem, generator: torch.Generator, num_data: int, input_dim: int, output_dim: int
) -> None:
    model, x, y = linear_problem(num_data, input_dim, output_dim)
    posterior, info = exact_linear.fit(model, x, y, generator=generator)
    mean, covariance, evidence = by_conditioning(model, x, y)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(posterior.factor @ posterior.factor.T, covariance, rtol=1e-9, atol=1e-10)
    assert info.log_evidence == pytest.approx(evidence, rel=1e-10)
    assert info.final_loss == -info.log_evidence


def test_evidence_against_quadrature(generator: torch.Generator) -> None:
    """∫ p(y | θ) p(θ) dθ over a grid: one input, and the bias."""
    model = BayesianNetwork(1, 1, hidden=(), noise="fixed", noise_std=0.6, prior_scale=0.8, dtype=torch.float64)
    x = torch.tensor([[0.3], [-1.2], [2.0]], dtype=torch.float64)
    y = torch.tensor([[0.5], [-0.4], [1.0]], dtype=torch.float64)
    axis = torch.linspace(-5, 5, 401, dtype=torch.float64)
    weight, bias = (grid.reshape(-1) for grid in torch.meshgrid(axis, axis, indexing="ij"))
    theta = {"weight_0": weight.reshape(-1, 1, 1), "bias_0": bias.reshape(-1, 1)}
    log_joint = model.log_likelihood(theta, x, y).sum(1) + exact_linear_prior(model, theta)
    expected = log_joint.logsumexp(0) + 2 * torch.log(axis[1] - axis[0])
    _, info = exact_linear.fit(model, x, y, generator=generator)
    assert info.log_evidence == pytest.approx(float(expected), abs=1e-8)


def exact_linear_prior(model: BayesianNetwork, theta: dict[str, Tensor]) -> Tensor:
    return sum(prior.log_prob(theta[name]).flatten(1).sum(1) for name, prior in model.prior().items())  # type: ignore[return-value]


@pytest.mark.parametrize("scales", [(1e6, 1e-6, 1.0), (1e5, 1e5, 1e-3), (0.0, 1.0, 1e4)])
@pytest.mark.filterwarnings("ignore:column")  # badly scaled on purpose
def test_badly_scaled_and_repeated_data_against_exact_fractions(
    generator: torch.Generator, scales: tuple[float, ...]
) -> None:
    model = BayesianNetwork(3, 1, hidden=(), noise="fixed", noise_std=0.25, prior_scale=0.5, dtype=torch.float64)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64) * torch.tensor(scales, dtype=torch.float64)
    x, y = x.repeat(2, 1), torch.randn(12, 1, generator=generator, dtype=torch.float64)
    posterior, info = exact_linear.fit(model, x, y, generator=generator)
    expected = mean_in_fractions(model, x, y)
    np.testing.assert_allclose(posterior.mean[:, 0], expected, rtol=1e-6, atol=1e-12)
    assert posterior.factor.isfinite().all()
    assert np.isfinite(info.log_evidence)


def mean_in_fractions(model: BayesianNetwork, x: Tensor, y: Tensor) -> list[float]:
    """Bishop's eq. 3.50 by Gauss elimination without rounding; noise and prior variances here have exact inverses."""
    rows = [[*map(Fraction, row), Fraction(1)] for row in x.tolist()]
    targets = [Fraction(row[0]) for row in y.tolist()]
    noise_precision = 1 / Fraction(model.noise_std) ** 2
    prior_precision = [x.shape[1] / Fraction(model.prior_scale) ** 2] * x.shape[1] + [
        1 / Fraction(model.prior_scale) ** 2
    ]
    size = len(prior_precision)
    system = [
        [noise_precision * sum(r[i] * r[j] for r in rows) + (prior_precision[i] if i == j else 0) for j in range(size)]
        + [noise_precision * sum(r[i] * t for r, t in zip(rows, targets, strict=True))]
        for i in range(size)
    ]
    for pivot in range(size):
        for other in range(size):
            if other != pivot:
                share = system[other][pivot] / system[pivot][pivot]
                system[other] = [a - share * b for a, b in zip(system[other], system[pivot], strict=True)]
    return [float(system[i][-1] / system[i][i]) for i in range(size)]


def test_draws_have_the_posteriors_moments(linear_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = linear_problem(12, 3, 2)
    posterior, _ = exact_linear.fit(model, x, y, generator=generator)
    n = 40_000
    theta = posterior.sample(n, generator=generator)
    drawn = torch.cat([theta["weight_0"], theta["bias_0"][:, None]], 1)
    covariance = posterior.factor @ posterior.factor.T
    std = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - posterior.mean).abs() < 5 * std[:, None] / n**0.5).all()
    bound = 5 * (2 / n) ** 0.5 * std[:, None] * std
    for output in range(2):
        assert ((torch.cov(drawn[:, :, output].T) - covariance).abs() < bound).all()
    across = (drawn[:, :, 0] - posterior.mean[:, 0]).T @ (drawn[:, :, 1] - posterior.mean[:, 1]) / n
    assert (across.abs() < bound).all(), "outputs are independent"


def test_single_precision_loses_nothing_on_the_way(linear_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = linear_problem(12, 3, 2, dtype=torch.float32)
    double, _, _ = linear_problem(12, 3, 2)
    posterior, _ = exact_linear.fit(model, x, y, generator=generator)
    expected, _ = exact_linear.fit(double, x.double(), y.double(), generator=generator)
    torch.testing.assert_close(posterior.mean, expected.mean.float(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(posterior.factor, expected.factor.float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": (), "noise": "homoscedastic"},
        {"hidden": (4,), "noise": "fixed"},
        {"hidden": (), "noise": "fixed", "likelihood": "student-t"},
        {"hidden": (), "noise": "fixed", "prior_scale_log_std": 0.5},
        {"hidden": (), "noise": "fixed", "num_binary": 1},
    ],
)
def test_other_models_are_refused(
    network_problem: Problem, generator: torch.Generator, settings: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r'hidden=\(\), noise="fixed"'):
        exact_linear.fit(*network_problem(**settings), generator=generator)
