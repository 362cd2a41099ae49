"""Leave-one-out and k̂ where both are known: linear regression in closed form, and ArviZ as the oracle."""

import math

import arviz_base
import arviz_stats
import numpy as np
import pytest
import torch
from scipy import stats

from bayes_mbrl.analysis.predictive_fit import (
    LeaveOneOut,
    k_hat_verdict,
    leave_one_out,
    loo_verdict,
    pareto_k_chart,
    variational_k_hat,
)

NOISE = 0.7


def linear(num_data: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Asymmetric, correlated features [N, 3] and targets; prior N(0, 1) on each weight."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_data, 3)) @ np.array([[1, 0.8, 0], [0, 0.5, 0], [0, 0, 3.0]])
    return x, x @ [1.0, -0.5, 0.3] + NOISE * rng.normal(size=num_data)


def exact(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    covariance = np.linalg.inv(np.eye(3) + x.T @ x / NOISE**2)
    return covariance @ x.T @ y / NOISE**2, covariance


def drawn(num_draws: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(log-likelihood [K, N] under exact posterior draws, exact leave-one-out elpd [N])."""
    x, y = linear()
    theta = np.random.default_rng(seed).multivariate_normal(*exact(x, y), size=num_draws)
    elpd = []
    for i in range(len(y)):
        mean, covariance = exact(np.delete(x, i, 0), np.delete(y, i))
        elpd.append(stats.norm(x[i] @ mean, math.sqrt(x[i] @ covariance @ x[i] + NOISE**2)).logpdf(y[i]))
    return stats.norm(theta @ x.T, NOISE).logpdf(y), np.array(elpd)


def test_leave_one_out_is_the_closed_form() -> None:
    log_likelihood, elpd = drawn(20_000)
    loo = leave_one_out(torch.from_numpy(log_likelihood))
    np.testing.assert_allclose(loo.elpd, elpd, atol=0.05)
    assert loo.total == pytest.approx(elpd.sum(), abs=0.1)
    assert loo.pareto_k.max() < 0.7
    assert 1 < loo.p_loo < 4  # three weights, known noise
    assert loo.standard_error == pytest.approx(math.sqrt(40 * elpd.var(ddof=1)), rel=0.02)
    verdict = loo_verdict(loo, "transitions")
    assert verdict.severity == "good"
    assert "over 40 transitions; k̂ at most" in verdict.text


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
def test_numbers_are_arviz() -> None:
    log_likelihood = drawn(800)[0].reshape(4, 200, 40)
    loo = leave_one_out(log_likelihood, chains=True)
    groups = {"posterior": {"f": log_likelihood}, "log_likelihood": {"y": log_likelihood}}
    oracle = arviz_stats.loo(arviz_base.from_dict(groups), pointwise=True, reff=1.0)
    flat = leave_one_out(log_likelihood.reshape(800, 40))
    np.testing.assert_allclose(flat.elpd, oracle.elpd_i, atol=1e-9)
    np.testing.assert_allclose(flat.pareto_k, oracle.pareto_k, atol=1e-9)
    assert (flat.p_loo, flat.good_k) == pytest.approx((oracle.p, oracle.good_k))
    np.testing.assert_allclose(loo.elpd, flat.elpd, atol=0.02)  # chains that are independent draws


def test_an_outlier_is_named() -> None:
    log_likelihood = drawn(1000)[0]
    theta = np.random.default_rng(3).normal(size=1000)
    log_likelihood[:, 7] = stats.norm(theta, 0.1).logpdf(4.0)
    loo = leave_one_out(log_likelihood)
    assert loo.pareto_k[7] > 0.7
    assert (np.delete(loo.pareto_k, 7) < loo.good_k).all()
    verdict = loo_verdict(loo)
    assert verdict.severity == "bad"
    assert "at 1 of 40 data" in verdict.text
    assert "use K-fold" in verdict.text
    chart = pareto_k_chart(loo, x_label="transition")
    assert list(chart.marks[1].x) == [7]  # type: ignore[union-attr]


@pytest.mark.parametrize("num_draws", [1, 5, 24])
def test_an_ensemble_has_too_few_draws(num_draws: int) -> None:
    loo = leave_one_out(drawn(num_draws)[0])
    assert np.isinf(loo.pareto_k).all()
    assert np.isfinite(loo.elpd).all()
    assert loo_verdict(loo).severity == "note"
    assert "too few" in loo_verdict(loo).text


def test_draws_that_repeat_a_few_members_do_not_count_as_many() -> None:
    loo = leave_one_out(np.tile(drawn(5)[0], (40, 1)))
    assert np.isinf(loo.pareto_k).all()


def test_one_datum_and_huge_numbers() -> None:
    loo = leave_one_out(1e6 + drawn(200)[0][:, :1])
    assert loo.elpd[0] == pytest.approx(1e6, abs=10)
    assert math.isnan(loo.standard_error)
    assert "±" not in loo_verdict(loo).text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((30, 2), np.nan), "log_likelihood is NaN or infinite in 60 of 60 numbers"),
        (np.ones(5), r"need log_likelihood \[K, N\], got \[5\]"),
        (np.ones((0, 4)), r"got \[0, 4\]"),
    ],
)
def test_bad_arrays_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        leave_one_out(values)


def k_hat_of(scale: float, num_draws: int = 4000, dimensions: int = 3) -> float:
    """q is `scale` times as wide as the target in each dimension."""
    theta = scale * np.random.default_rng(0).normal(size=(num_draws, dimensions))
    log_q = stats.norm(0, scale).logpdf(theta).sum(1)
    return variational_k_hat(torch.from_numpy(stats.norm(0, 1).logpdf(theta).sum(1) - 1234.5), torch.from_numpy(log_q))


def test_k_hat_of_the_target_itself_and_of_worse_ones() -> None:
    """Ratios of an exact q are all alike; a wide q bounds them; a narrow one has k → 1 − scale²."""
    assert k_hat_of(1.0) <= 0.1
    assert k_hat_of(1.2) < 0.2
    assert 0.6 < k_hat_of(0.5) < 1.2
    assert k_hat_of(0.3, dimensions=6) > 0.7


def test_k_hat_of_one_dimension_has_its_closed_form() -> None:
    """log ratio = θ² (1 / s² − 1) / 2 with θ / s normal: a Pareto tail of shape 1 − s²."""
    assert k_hat_of(0.6, num_draws=400_000, dimensions=1) == pytest.approx(1 - 0.6**2, abs=0.12)


def test_k_hat_in_words() -> None:
    assert k_hat_verdict(0.3, num_parameters=4).severity == "good"
    assert k_hat_verdict(0.6, num_parameters=4).severity == "note"
    assert k_hat_verdict(0.8, num_parameters=4).severity == "bad"
    network = k_hat_verdict(3.0, num_parameters=2700, tempered=0.3)
    assert network.severity == "note"
    assert "kl_weight 0.3" in network.text
    assert "judge predictions" in network.text
    assert math.isnan(variational_k_hat(np.ones(5), np.ones(5)))
    assert k_hat_verdict(math.nan, num_parameters=3).severity == "note"


def test_ratios_that_are_not_finite_are_counted() -> None:
    with pytest.raises(ValueError, match="log_q is NaN or infinite in 30 of 30"):
        variational_k_hat(np.ones(30), np.full(30, -np.inf))
    with pytest.raises(ValueError, match=r"got \[30\] and \[31\]"):
        variational_k_hat(np.ones(30), np.ones(31))


def test_the_limit_of_k_depends_on_the_draws() -> None:
    assert leave_one_out(drawn(100)[0]).good_k == pytest.approx(0.5)
    assert leave_one_out(drawn(3000)[0][:, :2]).good_k == 0.7
    assert isinstance(leave_one_out(drawn(30)[0]), LeaveOneOut)
