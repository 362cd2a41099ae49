"""What is miscalibrated by a known factor is mended on fresh data; what is right stays; densities stay densities."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bayes_mbrl.analysis import recalibration
from bayes_mbrl.analysis.calibration import calibration_error, coverage
from bayes_mbrl.analysis.mixture import NORMAL, Mixture, StudentTNoise, SymmetricNoise
from bayes_mbrl.analysis.recalibration import MappedNoise, MonotoneMap, fit_recalibration

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.normal(size=shape)


def _problem(
    num_data: int, *, seed: int, width: float, num_theta: int = 1, spread: float = 0.0, draw: Draw = _normal,
    noise: SymmetricNoise = NORMAL,
) -> tuple[Mixture, np.ndarray]:  # fmt: skip
    """Outcomes about a true mean; K components about it too, by `spread`; std `width` times the truth's. S 2."""
    random = np.random.default_rng(seed)
    scale = np.array([1.0, 30.0])
    mean, std = random.normal(size=(num_data, 2)) * scale, random.uniform(0.5, 2, (num_data, 2)) * scale
    y = mean + std * draw(random, (num_data, 2))
    means = mean + std * spread * random.normal(size=(num_theta, num_data, 2))
    return Mixture(means, np.broadcast_to(std * width, means.shape), noise), y


def _mapped(mixture: Mixture, mapping: MonotoneMap) -> Mixture:
    assert isinstance(mixture.noise, SymmetricNoise)
    noise = MappedNoise(mixture.noise, mapping)
    return Mixture(mixture.mean + mixture.std * noise.mean, mixture.std * noise.std, noise)


def _held(mixture: Mixture, y: np.ndarray, level: float = 0.9) -> np.ndarray:
    return coverage(mixture.pit(y), (level,))[0]


@pytest.mark.parametrize("width", [0.4, 3.0])
@pytest.mark.parametrize(("num_theta", "spread"), [(1, 0.0), (10, 0.3)])
@pytest.mark.parametrize("noise", [NORMAL, StudentTNoise(5.0)])
def test_a_wrong_std_is_mended_on_fresh_data(
    width: float, num_theta: int, spread: float, noise: SymmetricNoise
) -> None:
    problem = {"width": width, "num_theta": num_theta, "spread": spread, "noise": noise}
    if isinstance(noise, StudentTNoise):
        problem["draw"] = lambda random, shape: random.standard_t(5.0, size=shape) * math.sqrt(3 / 5)
    found = fit_recalibration(*_problem(500, seed=1, **problem))  # type: ignore[arg-type]
    before, y = _problem(4000, seed=2, **problem)  # type: ignore[arg-type]
    after = _mapped(before, found.mapping)
    assert found.helps.all()
    assert ((_held(before, y) < 0.7) if width < 1 else (_held(before, y) > 0.98)).all()
    error = math.sqrt(0.09 / 500 + 0.09 / 4000)
    assert (np.abs(_held(after, y) - 0.9) < 4 * error).all()
    assert (calibration_error(after.pit(y)) < 0.25 * calibration_error(before.pit(y))).all()
    assert after.log_density(y).mean() > before.log_density(y).mean() + 0.2


def test_skewed_noise_becomes_skewed() -> None:
    def exponential(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return random.exponential(size=shape) - 1

    found = fit_recalibration(*_problem(1000, seed=3, width=1.0, draw=exponential))
    before, y = _problem(4000, seed=4, width=1.0, draw=exponential)
    after = _mapped(before, found.mapping)
    for low, high in ((0.0, 0.05), (0.45, 0.55), (0.95, 1.0)):
        share = [((m.pit(y) > low) & (m.pit(y) <= high)).mean() for m in (before, after)]
        assert abs(share[1] - (high - low)) < 0.02
    assert (before.pit(y) < 0.05).mean() < 0.01  # a normal's lower tail, which an exponential has not
    assert after.log_density(y).mean() > before.log_density(y).mean() + 0.2


def test_what_was_not_seen_is_not_unheard_of() -> None:
    """Noise that was too wide is narrowed where outcomes were, not as far out as none was."""
    found = fit_recalibration(*_problem(400, seed=9, width=5.0))
    before, _ = _problem(200, seed=10, width=5.0)
    after = _mapped(before, found.mapping)
    y = before.mean[0] + 15 * before.std[0]
    assert found.helps.all()
    assert (after.log_density(y) > 1.5 * before.log_density(y)).all()
    near = before.mean[0] + 0.1 * before.std[0]
    assert (after.log_density(near) > before.log_density(near) + 1).all()


@pytest.mark.parametrize("num_data", [40, 60, 400])
def test_what_is_calibrated_stays(num_data: int) -> None:
    """Nearly always as it is; and where chance speaks for a map, it does little harm."""
    kept, losses = 0, []
    for seed in range(25):
        found = fit_recalibration(*_problem(num_data, seed=seed, width=1.0))
        before, y = _problem(2000, seed=100 + seed, width=1.0)
        kept += int((~found.helps).sum())
        losses.append((before.log_density(y) - _mapped(before, found.mapping).log_density(y)).mean())
    assert kept >= 0.9 * 50
    assert np.mean(losses) < 0.02


def test_a_map_helps_where_its_gain_is_above_two_standard_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that widens by 1.2, whatever it is fitted to: what it gains is known in closed form."""
    widths = np.linspace(0.9, 1.4, 40)  # of the outcomes in each dimension, against a model of 1
    y = np.random.default_rng(11).normal(size=(120, 40)) * widths

    def widened(noise: SymmetricNoise, residual: np.ndarray, log_std: np.ndarray, num_knots: int) -> MonotoneMap:
        x = np.linspace(-3, 3, 4)[:, None].repeat(residual.shape[2], axis=1)
        return MonotoneMap(x, 1.2 * x)

    monkeypatch.setattr(recalibration, "_fit_map", widened)
    found = fit_recalibration(Mixture(np.zeros((1, 120, 40)), np.ones((1, 120, 40))), y)
    gains = stats.norm.logpdf(y, scale=1.2) - stats.norm.logpdf(y)
    np.testing.assert_allclose(found.gain, gains.mean(0), atol=1e-12)
    errors_above = gains.mean(0) / (gains.std(0) / math.sqrt(120))
    for low, high in ((-9, 0), (0, 1), (1, 1.8), (2.2, 3), (3, 9)):  # all kinds are there
        assert ((errors_above > low) & (errors_above < high)).any()
    assert found.helps.tolist() == (errors_above > 2).tolist()
    assert np.ptp(found.mapping.y, axis=0) == pytest.approx(np.where(found.helps, 7.2, 6.0))


def test_few_held_out_outcomes() -> None:
    none = fit_recalibration(*_problem(39, seed=5, width=0.3))
    assert not none.helps.any()
    values = torch.linspace(-9, 9, 14, dtype=torch.float64).reshape(7, 2)
    torch.testing.assert_close(none.mapping(values), values)
    some = fit_recalibration(*_problem(40, seed=5, width=0.3))
    before, y = _problem(3000, seed=6, width=0.3)
    assert some.helps.all()
    assert (_held(_mapped(before, some.mapping), y) > 0.8).all()


def test_a_dimension_that_is_right_stays_beside_one_that_is_wrong() -> None:
    mixture, y = _problem(400, seed=7, width=1.0)
    wrong = Mixture(mixture.mean, mixture.std * np.array([1.0, 0.2]))
    found = fit_recalibration(wrong, y)
    assert found.helps.tolist() == [False, True]
    assert np.array_equal(found.mapping.x[:, 0], found.mapping.y[:, 0])


@pytest.mark.parametrize("noise", [NORMAL, StudentTNoise(3.5)])
def test_the_density_is_one(noise: SymmetricNoise) -> None:
    """It integrates to 1, with mean 0 and variance 1, and is the derivative of the CDF; quantiles are its inverse."""
    mapping = _map()
    mapped = MappedNoise(noise, mapping)
    knots = ((mapping.y - mapped.mean) / mapped.std)[:, 1]

    def density(e: float) -> float:
        return float(np.exp(mapped.log_density(np.array([[0.0, e]]))[0, 1]))

    far = 4000.0 if isinstance(noise, StudentTNoise) else 20.0
    edges = [-far, *np.unique(knots), far]
    moments = [
        sum(
            integrate.quad(lambda e, n=power: e**n * density(e), a, b, limit=400)[0]
            for a, b in itertools.pairwise(edges)
        )
        for power in range(3)
    ]
    tail = 0.2 if isinstance(noise, StudentTNoise) else 1e-6  # of its variance, beyond where the integral ends
    assert moments[0] == pytest.approx(1, abs=1e-5)
    assert moments[1] == pytest.approx(0, abs=1e-2 * tail + 1e-5)
    assert moments[2] == pytest.approx(1, abs=tail)
    at = np.array([[0.3, -1.2], [2.0, 0.7]])
    slope = (np.exp(mapped.log_cdf(at + 1e-6)) - np.exp(mapped.log_cdf(at - 1e-6))) / 2e-6
    np.testing.assert_allclose(np.exp(mapped.log_density(at)), slope, rtol=1e-5)
    np.testing.assert_allclose(mapped.quantile(mapped.log_cdf(at), mapped.log_survival(at)), at, rtol=1e-7)


def _map() -> MonotoneMap:
    """Skewed and shifted, two dimensions unlike each other."""
    x = np.array([[-2.0, -1.5], [-1.0, -1.0], [0.1, 0.5], [2.0, 2.0]])
    return MonotoneMap(x, np.array([[-1.0, 3.0], [-0.5, 3.5], [0.0, 4.0], [6.0, 9.0]]))


@pytest.mark.parametrize("noise", [NORMAL, StudentTNoise(6.0)])
def test_moments_are_those_of_draws(noise: SymmetricNoise) -> None:
    z = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    draws = _map()(torch.from_numpy(noise.of_scores(z))).numpy()
    mean, std = _map().moments(noise)
    np.testing.assert_allclose(mean, draws.mean(0), atol=float(5 * (draws.std(0) / math.sqrt(400_000)).max()))
    np.testing.assert_allclose(std, draws.std(0), rtol=0.03)


def test_the_identity_changes_no_moment() -> None:
    x = stats.norm.ppf((np.arange(6) + 0.5) / 6)[:, None]
    np.testing.assert_allclose(np.stack(MonotoneMap(x, x).moments(NORMAL)), [[0.0], [1.0]], atol=1e-12)
    shifted = MonotoneMap(x, 3 * x + 1e6).moments(StudentTNoise(4.0))
    np.testing.assert_allclose(np.stack(shifted), [[1e6], [3.0]], rtol=1e-9)


def test_the_map_and_its_inverse(generator: torch.Generator) -> None:
    mapping = _map()
    values = 5 * torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(mapping.inverse(mapping(values)), values)
    torch.testing.assert_close(mapping(values[..., :1]), mapping(values)[..., :1])
    torch.testing.assert_close(mapping(torch.tensor([[-4.0, 5.0]])), torch.tensor([[-2.0, 19.0]]))  # straight on
    column = values.flatten(0, 1).sort(dim=0).values
    assert (mapping(column).diff(dim=0) > 0).all()
    slope = torch.autograd.functional.jacobian(lambda v: mapping(v).sum(0), torch.tensor([[0.6, 0.7]])).diagonal(
        0, 0, 2
    )
    torch.testing.assert_close(
        mapping.log_slope_at_inverse(mapping(torch.tensor([[0.6, 0.7]]))).exp(), slope, check_dtype=False
    )


@pytest.mark.parametrize("y", [0.0, 1e12])
def test_constants_and_what_is_absurdly_far_off(y: float) -> None:
    mixture = Mixture(np.zeros((3, 50, 1)), np.full((3, 50, 1), 2.0))
    found = fit_recalibration(mixture, np.full((50, 1), y))
    after = _mapped(mixture, found.mapping)
    assert np.isfinite(after.std).all()
    assert (after.std > 0).all()
    assert np.isfinite(after.log_density(np.full((50, 1), y))).all()
    assert found.helps.all()


def test_what_is_wrong_is_said() -> None:
    mixture, y = _problem(50, seed=8, width=1.0)
    with pytest.raises(ValueError, match="the noise of the model itself"):
        fit_recalibration(_mapped(mixture, fit_recalibration(mixture, y).mapping), y)
    with pytest.raises(ValueError, match="num_knots >= 2"):
        fit_recalibration(mixture, y, num_knots=1)
    with pytest.raises(ValueError, match=r"need y \[N, S\] = \(50, 2\)"):
        fit_recalibration(mixture, y[:, :1])
    with pytest.raises(ValueError, match="y has NaN or infinity in 100 of 100"):
        fit_recalibration(mixture, y * np.nan)
