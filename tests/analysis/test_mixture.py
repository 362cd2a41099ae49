"""Probabilities of mixtures against scipy's distributions, far into the tails."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayes_mbrl.analysis.mixture import NORMAL, Mixture, Noise, StudentTNoise

NOISES: dict[str, tuple[Noise, object]] = {
    "normal": (NORMAL, stats.norm()),
    "student-t 4": (StudentTNoise(4.0), stats.t(4.0, scale=math.sqrt(0.5))),
    "student-t 60": (StudentTNoise(60.0), stats.t(60.0, scale=math.sqrt(58 / 60))),
}
every_noise = pytest.mark.parametrize("name", NOISES)


def _mixture(noise: Noise = NORMAL, seed: int = 1) -> Mixture:
    """K 3, N 5, S 2, of unequal scales."""
    random = np.random.default_rng(seed)
    scale = np.array([1.0, 40.0])
    return Mixture(random.normal(size=(3, 5, 2)) * scale, random.uniform(0.2, 2.0, (3, 5, 2)) * scale, noise)


@every_noise
def test_a_noise_is_scipys_distribution_of_variance_one(name: str) -> None:
    noise, truth = NOISES[name]
    x = np.array([-1e6, -40.0, -9.0, -2.0, -0.3, 0.0, 0.7, 3.0, 12.0, 1e5])
    moderate = np.abs(x) < 30
    np.testing.assert_allclose(noise.log_cdf(x)[moderate], truth.logcdf(x)[moderate], rtol=1e-9)
    np.testing.assert_allclose(noise.log_survival(x)[moderate], truth.logsf(x)[moderate], rtol=1e-9)
    np.testing.assert_allclose(noise.log_density(x), truth.logpdf(x), rtol=1e-9)
    assert abs(truth.var() - 1) < 1e-9
    back = noise.quantile(noise.log_cdf(x[moderate]), noise.log_survival(x[moderate]))
    np.testing.assert_allclose(back, x[moderate], rtol=1e-7, atol=1e-12)
    scores = np.linspace(-6, 6, 7)
    np.testing.assert_allclose(noise.of_scores(scores), truth.ppf(stats.norm.cdf(scores)), rtol=1e-7, atol=1e-12)


@every_noise
def test_the_tails_go_on_where_the_probability_underflows(name: str) -> None:
    noise, _ = NOISES[name]
    x = -np.geomspace(20, 1e7, 40)
    log_cdf = noise.log_cdf(x)
    assert np.isfinite(log_cdf).all()
    assert (np.diff(log_cdf) < 0).all()
    slope = np.diff(log_cdf) / np.diff(np.log(-x))
    if isinstance(noise, StudentTNoise):
        np.testing.assert_allclose(slope[-5:], -noise.degrees_of_freedom, rtol=1e-2)


@every_noise
def test_partial_moments(name: str) -> None:
    noise, truth = NOISES[name]
    for at in (-2.5, -0.4, 0.0, 1.7, np.inf):
        got = noise.partial_moments(np.array([at]))  # type: ignore[attr-defined]
        for power, value in enumerate(got):
            expected = integrate.quad(lambda t, n=power: t**n * truth.pdf(t), -np.inf, at)[0]
            assert float(value[0]) == pytest.approx(expected, abs=1e-6)
    assert [float(m[0]) for m in noise.partial_moments(np.array([-np.inf]))] == [0, 0, 0]  # type: ignore[attr-defined]


@every_noise
def test_a_mixture_is_the_mean_of_its_components(name: str) -> None:
    noise, truth = NOISES[name]
    mixture = _mixture(noise)
    y = np.random.default_rng(2).normal(size=(5, 2)) * [1.0, 40.0]
    u = (y - mixture.mean) / mixture.std
    np.testing.assert_allclose(mixture.pit(y), truth.cdf(u).mean(0), rtol=1e-9)
    np.testing.assert_allclose(mixture.normal_scores(y), stats.norm.ppf(truth.cdf(u).mean(0)), rtol=1e-7)
    np.testing.assert_allclose(mixture.log_density(y), np.log((truth.pdf(u) / mixture.std).mean(0)), rtol=1e-9)


@every_noise
@pytest.mark.parametrize("probability", [1e-9, 0.05, 0.5, 0.95, 1 - 1e-9])
def test_quantiles_are_the_inverse(name: str, probability: float) -> None:
    mixture = _mixture(NOISES[name][0])
    below, above = mixture.log_cdf(mixture.quantile(probability))
    np.testing.assert_allclose(np.exp(np.minimum(below, above)), min(probability, 1 - probability), rtol=1e-6)
    single = Mixture(mixture.mean[:1], mixture.std[:1], mixture.noise)
    expected = single.mean[0] + single.std[0] * NOISES[name][1].ppf(probability)  # type: ignore[attr-defined]
    np.testing.assert_allclose(single.quantile(probability), expected, rtol=1e-6)


def test_scores_are_exact_far_out_on_both_sides() -> None:
    mixture = Mixture(np.zeros((1, 4, 1)), np.ones((1, 4, 1)))
    y = np.array([[-37.0], [-12.0], [12.0], [37.0]])
    np.testing.assert_allclose(mixture.normal_scores(y), y, rtol=1e-9)
    assert mixture.pit(y)[3, 0] == 1.0  # what the scores are for


def test_draws_have_the_moments_and_the_joint_components() -> None:
    generator = torch.Generator().manual_seed(3)
    mean = np.array([[[0.0, 0.0]], [[10.0, 100.0]]])  # K 2, N 1, S 2: the dimensions go together
    draws = Mixture(mean, np.ones_like(mean)).sample(4000, generator=generator)[:, 0]
    assert abs(((draws[:, 0] > 5) == (draws[:, 1] > 50)).mean() - 1) < 1e-9
    assert abs((draws[:, 0] > 5).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)
    two = Mixture(mean.repeat(2, axis=1), np.ones((2, 2, 2))).sample(4000, generator=generator)[..., 0] > 5
    assert abs((two[:, 0] == two[:, 1]).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)  # each datum its own component
    total = Mixture(mean, np.ones_like(mean)).total_std()[0]
    np.testing.assert_allclose(total, np.sqrt([26.0, 2501.0]))
    np.testing.assert_allclose(draws.std(0), total, rtol=0.05)


@every_noise
def test_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, y = _mixture(NOISES[name][0]), np.random.default_rng(4).normal(size=(5, 2))
    whole, densities = mixture.log_cdf(y), mixture.log_density(y)
    rows: list[int] = []
    density = type(mixture.noise).log_density
    monkeypatch.setattr(type(mixture.noise), "log_density", lambda n, e: rows.append(e.shape[1]) or density(n, e))
    for chunk, expected in ((1, [1] * 5), (2 * 3 * 2, [2, 2, 1])):
        monkeypatch.setattr("bayes_mbrl.analysis.mixture._CHUNK", chunk)
        rows.clear()
        np.testing.assert_allclose(mixture.log_density(y), densities, rtol=1e-14)
        assert rows == expected
        np.testing.assert_allclose(np.stack(mixture.log_cdf(y)), np.stack(whole), rtol=1e-14)


def test_gradients_are_left_behind() -> None:
    reference = _mixture()
    mean, std = (torch.tensor(a).requires_grad_() for a in (reference.mean, reference.std))
    y = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
    np.testing.assert_array_equal(Mixture(mean, std).log_density(y), reference.log_density(np.zeros((5, 2))))  # type: ignore[arg-type]


def test_tensors_of_any_layout_and_precision() -> None:
    reference = _mixture()
    mean, std = (torch.tensor(a, dtype=torch.float32) for a in (reference.mean, reference.std))
    turned = Mixture(mean.mT.contiguous().mT, std.mT.contiguous().mT)  # type: ignore[arg-type]
    assert turned.mean.dtype == np.float64
    np.testing.assert_allclose(turned.pit(torch.zeros(5, 2)), reference.pit(np.zeros((5, 2))), rtol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (np.zeros((2, 3)), np.ones((2, 3)), r"need mean \[K, N, S\], got shape \(2, 3\)"),
        (np.zeros((2, 3, 1)), np.ones((2, 3, 2)), r"of one shape"),
        (np.zeros((0, 3, 1)), np.ones((0, 3, 1)), r"not empty"),
        (np.full((2, 3, 1), np.nan), np.ones((2, 3, 1)), r"mean has NaN or infinity in 6 of 6 numbers"),
        (np.zeros((2, 3, 1)), np.full((2, 3, 1), np.inf), r"std has NaN or infinity"),
        (np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), r"need std > 0, got 6 that are not"),
    ],
)
def test_what_is_wrong_is_said(mean: np.ndarray, std: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(mean, std)


def test_outcomes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"y has NaN or infinity in 1 of 10"):
        _mixture().pit(np.where(np.arange(10).reshape(5, 2) == 3, np.nan, 0.0))
    with pytest.raises(ValueError, match=r"need y \[N, S\] = \(5, 2\)"):
        _mixture().pit(np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"0 < probability < 1"):
        _mixture().quantile(1.0)
    with pytest.raises(ValueError, match=r"degrees_of_freedom > 2"):
        StudentTNoise(2.0)
