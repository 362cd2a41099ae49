"""Scores against closed forms, the definition written out, and the law that the truth scores best."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayes_mbrl.analysis import scores
from bayes_mbrl.analysis.mixture import Mixture, StudentTNoise
from bayes_mbrl.analysis.scores import (
    crps_of_draws,
    crps_of_mixture,
    energy_score,
    interval_score,
    joint_log_loss,
)


def _draws(num_draws: int, seed: int = 0) -> np.ndarray:
    """[R, 6, 3], correlated, unequal."""
    random = np.random.default_rng(seed)
    return random.normal(size=(num_draws, 6, 3)) @ np.array([[1.0, 0.5, 0], [0, 2.0, 0.3], [0, 0, 0.1]])


def test_draws_are_scored_by_the_definition() -> None:
    x, y = _draws(7), _draws(1, seed=1)[0]
    pairs = np.abs(x[:, None] - x[None]).sum((0, 1)) / (7 * 6)
    np.testing.assert_allclose(crps_of_draws(x, y), np.abs(x - y).mean(0) - pairs / 2, rtol=1e-12)
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)).sum((0, 1)) / (7 * 6)
    expected = np.sqrt(((x - y) ** 2).sum(-1)).mean(0) - distances / 2
    np.testing.assert_allclose(energy_score(x, y), expected, rtol=1e-12)
    np.testing.assert_allclose(energy_score(x[..., :1], y[:, :1]), crps_of_draws(x[..., :1], y[:, :1])[:, 0])


@pytest.mark.parametrize("num_draws", [2, 5, 50])
def test_few_draws_are_not_judged_worse(num_draws: int) -> None:
    """Fair: the expectation is that of the normal's closed form, whatever R."""
    random = np.random.default_rng(num_draws)
    x, y = random.normal(size=(num_draws, 20_000, 1)), np.full((20_000, 1), 0.4)
    expected = 0.4 * (2 * stats.norm.cdf(0.4) - 1) + 2 * stats.norm.pdf(0.4) - 1 / math.sqrt(math.pi)
    for score in (crps_of_draws(x, y)[:, 0], energy_score(x, y)):
        assert abs(score.mean() - expected) < 5 * score.std() / math.sqrt(20_000)


def test_the_closed_form_of_a_mixture_is_the_integral() -> None:
    random = np.random.default_rng(3)
    mean, std = random.normal(size=(4, 2, 1)) * 3, random.uniform(0.3, 2, (4, 2, 1))
    y = np.array([[0.5], [-4.0]])
    for n in range(2):

        def cdf(t: float, n: int = n) -> float:
            return float(stats.norm.cdf((t - mean[:, n, 0]) / std[:, n, 0]).mean())

        below = integrate.quad(lambda t, f=cdf: f(t) ** 2, -40, y[n, 0], limit=200)[0]
        above = integrate.quad(lambda t, f=cdf: (1 - f(t)) ** 2, y[n, 0], 40, limit=200)[0]
        assert crps_of_mixture(Mixture(mean, std), y)[n, 0] == pytest.approx(below + above, rel=1e-6)
    draws = Mixture(mean, std).sample(20_000, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(crps_of_draws(draws, y), crps_of_mixture(Mixture(mean, std), y), rtol=0.03)
    with pytest.raises(ValueError, match=r"need normal noise, .* take crps_of_draws"):
        crps_of_mixture(Mixture(mean, std, StudentTNoise(5.0)), y)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = _draws(7), _draws(1, seed=1)[0]
    mixture = Mixture(x, np.ones_like(x))
    whole = energy_score(x, y), crps_of_mixture(mixture, y)
    monkeypatch.setattr(scores, "_CHUNK", 1)
    np.testing.assert_allclose(whole[0], energy_score(x, y), rtol=1e-13)
    np.testing.assert_allclose(whole[1], crps_of_mixture(mixture, y), rtol=1e-13)


def test_the_energy_score_sees_what_dimensions_share() -> None:
    """Two predictions with equal marginals, of which one knows the correlation."""
    random = np.random.default_rng(4)
    z = random.normal(size=(40, 3000, 1))
    knows, ignores = np.concatenate([z, z], -1), np.concatenate([z, random.permutation(z)], -1)
    y = np.repeat(random.normal(size=(3000, 1)), 2, axis=1)
    difference = energy_score(ignores, y) - energy_score(knows, y)
    assert difference.mean() > 5 * difference.std() / math.sqrt(3000)
    np.testing.assert_allclose(crps_of_draws(ignores, y), crps_of_draws(knows, y))


def test_interval_score_by_hand() -> None:
    low, high = np.array([[0.0], [0.0], [0.0]]), np.array([[2.0], [2.0], [2.0]])
    got = interval_score(low, high, np.array([[1.0], [-0.5], [3.0]]), level=0.8)
    np.testing.assert_allclose(got[:, 0], [2, 2 + 10 * 0.5, 2 + 10 * 1.0])
    with pytest.raises(ValueError, match="3 intervals with low > high"):
        interval_score(high, low, low, level=0.8)
    with pytest.raises(ValueError, match="0 < level < 1"):
        interval_score(low, high, low, level=1.0)


def test_the_true_interval_scores_best() -> None:
    y = np.random.default_rng(5).normal(size=(20_000, 1))
    means = [
        interval_score(np.full_like(y, -w), np.full_like(y, w), y, level=0.9).mean()
        for w in 1.645 * np.array([0.7, 1.0, 1.4])
    ]
    assert np.argmin(means) == 1


def test_joint_log_loss_by_hand() -> None:
    log_likelihood = np.log(np.array([[0.2, 0.5, 0.1], [0.4, 0.1, 0.3]]))
    generator = torch.Generator().manual_seed(0)
    whole = joint_log_loss(log_likelihood, batch_size=3, num_batches=2, generator=generator)
    np.testing.assert_allclose(whole, -math.log(0.5 * (0.2 * 0.5 * 0.1 + 0.4 * 0.1 * 0.3)))
    single = joint_log_loss(log_likelihood, batch_size=1, num_batches=200, generator=generator)
    expected = -np.log([0.3, 0.3, 0.2])
    assert {round(value, 9) for value in single} == {round(value, 9) for value in expected}


def test_joint_log_loss_tells_ignorance_from_noise() -> None:
    """A coin that is always heads or always tails, nobody knows which, against a fair one: alike for single throws."""
    ignorance = np.log(np.array([[1.0] * 8, [1e-9] * 8]))
    noise = np.log(np.full((2, 8), 0.5))

    def loss(log_likelihood: np.ndarray, size: int) -> float:
        generator = torch.Generator().manual_seed(1)
        return float(joint_log_loss(log_likelihood, batch_size=size, num_batches=5, generator=generator).mean())

    assert loss(ignorance, 1) == pytest.approx(loss(noise, 1), abs=1e-6)
    assert loss(ignorance, 8) == pytest.approx(math.log(2), abs=1e-6)
    assert loss(noise, 8) == pytest.approx(8 * math.log(2))


def test_batches_do_not_repeat_rows_and_huge_losses_stay_finite() -> None:
    generator = torch.Generator().manual_seed(2)
    values = -np.array([[1.0, 10.0, 100.0, 1000.0]]) * 1e3
    batches = joint_log_loss(values, batch_size=3, num_batches=50, generator=generator)
    assert set(batches) == {111e3, 1011e3, 1101e3, 1110e3}


@pytest.mark.parametrize("size", [0, 4])
def test_a_batch_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"1 <= batch_size <= N = 3"):
        joint_log_loss(np.zeros((2, 3)), batch_size=size, num_batches=1, generator=torch.Generator())


def test_what_is_wrong_is_said() -> None:
    x, y = _draws(3), _draws(1)[0]
    for score in (crps_of_draws, energy_score):
        with pytest.raises(ValueError, match="R >= 2"):
            score(x[:1], y)
        with pytest.raises(ValueError, match=r"need draws \[R, N, S\]"):
            score(x, y[:4])
        with pytest.raises(ValueError, match="y has NaN or infinity in 18 of 18"):
            score(x, np.full_like(y, np.nan))
        with pytest.raises(ValueError, match="draws has NaN or infinity in 54 of 54"):
            score(np.full_like(x, np.inf), y)
