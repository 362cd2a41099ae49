"""A recalibrated dynamics is one like any other: density, noise, moments and buffers agree; planning sees it."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from bayes_mbrl.analysis.calibration import coverage
from bayes_mbrl.analysis.entropy import split_predictive_entropy
from bayes_mbrl.analysis.mixture import NORMAL, StudentTNoise
from bayes_mbrl.analysis.recalibration import MappedNoise, MonotoneMap, Recalibration, unchanged
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.dynamics.recalibrated import (
    NoRecalibration,
    QuantileRecalibration,
    RecalibratedDynamics,
    RecalibratedLikelihood,
    noise_of,
    outcomes,
    predictive_mixture,
)
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.likelihoods import NORMAL as NORMAL_LIKELIHOOD
from bayes_mbrl.inference.likelihoods import Likelihood, StudentTLikelihood
from bayes_mbrl.inference.scratch import Buffers
from bayes_mbrl.rollout import evaluate_plans

NetworkProblem = Callable[..., tuple[NetworkDynamics, DrawsPosterior]]
LIKELIHOODS = {"normal": NORMAL_LIKELIHOOD, "student-t": StudentTLikelihood(5.0)}
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"learns_reward": True},
        {"learns_reward": True, "learns_termination": True},
        {"likelihood": "student-t", "noise": "homoscedastic"},
    ],
)


def _mapping(num_dims: int) -> MonotoneMap:
    """Skewed, shifted, unlike in every dimension."""
    x = np.linspace(-2, 2, 5)[:, None] * np.ones(num_dims)
    y = np.array([-1.0, -0.7, 0.2, 2.0, 6.0])[:, None] * np.arange(1, num_dims + 1) + 0.3
    return MonotoneMap(x, y)


def _fitted(num_dims: int) -> Recalibration:
    return dataclasses.replace(unchanged(NORMAL, num_dims, num_held_out=0), mapping=_mapping(num_dims))


def _theta(posterior: DrawsPosterior, n: int = 4) -> dict[str, Tensor]:
    return posterior.sample(n, generator=torch.Generator().manual_seed(1))


@SETTINGS
def test_the_identity_changes_nothing(
    network_problem: NetworkProblem, transitions: Transitions, settings: dict[str, object]
) -> None:
    base, posterior = network_problem(**settings)
    noise = noise_of(base.likelihood)
    dynamics = RecalibratedDynamics(base, unchanged(noise, base.continuous_dim, num_held_out=0))  # type: ignore[arg-type]
    theta, states = _theta(posterior), transitions.state.expand(4, -1, -1)
    for got, expected in zip(
        dynamics.predict(theta, states, transitions.action),
        base.predict(theta, states, transitions.action),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(dynamics.log_likelihood(theta, transitions), base.log_likelihood(theta, transitions))
    z = torch.randn(4, 23, base.output_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(dynamics.likelihood.noise(z), base.likelihood.noise(z))
    assert dynamics.model is base.model
    for got, expected in zip(dynamics.regression_data(transitions), base.regression_data(transitions), strict=True):
        torch.testing.assert_close(got, expected)


@every_likelihood
def test_density_and_noise_agree(name: str, generator: torch.Generator) -> None:
    """Change of variables: log p(ε(z)) + log dε/dz = log N(z)."""
    base = LIKELIHOODS[name]
    likelihood = RecalibratedLikelihood(base, MappedNoise(noise_of(base), _mapping(3)))  # type: ignore[arg-type]
    z = 2 * torch.randn(50, 3, dtype=torch.float64, generator=generator)
    mean, std = torch.full_like(z, 7.0), torch.full_like(z, 0.2)
    step = 1e-5
    slope = (likelihood.noise(z + step) - likelihood.noise(z - step)) / (2 * step) * 0.2
    density = likelihood.log_density(mean + std * likelihood.noise(z), mean, std) + slope.log()
    off_knots = ((z[..., None] - _base_scores(base)).abs() > 1e-3).all(-1)
    expected = torch.distributions.Normal(0, 1).log_prob(z)
    torch.testing.assert_close(density[off_knots], expected[off_knots], rtol=1e-5, atol=1e-5)
    assert off_knots.double().mean() > 0.9
    draws = likelihood.noise(torch.randn(200_000, 3, dtype=torch.float64, generator=generator))
    assert (draws.mean(0).abs() < 5 / math.sqrt(200_000)).all()
    torch.testing.assert_close(draws.var(0), torch.ones(3, dtype=torch.float64), rtol=0.05, atol=0)


def _base_scores(base: Likelihood) -> Tensor:
    """Standard normal numbers whose noise lies at the knots."""
    noise = noise_of(base)
    at = np.linspace(-2, 2, 5)
    return torch.from_numpy(NORMAL.quantile(noise.log_cdf(at), noise.log_survival(at)))


def test_the_analysis_has_the_same_noise(generator: torch.Generator) -> None:
    likelihood = RecalibratedLikelihood(NORMAL_LIKELIHOOD, MappedNoise(NORMAL, _mapping(3)))
    z = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    noise = noise_of(likelihood)
    np.testing.assert_allclose(noise.of_scores(z.numpy()), likelihood.noise(z).numpy(), rtol=1e-9)
    np.testing.assert_allclose(
        noise.log_density(z.numpy()), likelihood.log_density(z, torch.zeros_like(z), torch.ones_like(z)).numpy()
    )
    # A prediction without its learned reward, as it is drawn and scored in places.
    torch.testing.assert_close(likelihood.noise(z[:, :2]), likelihood.noise(z)[:, :2])


@SETTINGS
def test_predictions_are_those_of_the_mapped_noise(
    network_problem: NetworkProblem, transitions: Transitions, settings: dict[str, object]
) -> None:
    """mean′ + std′ · ε′ = mean + std · g(ε), and the log-likelihood is the density of that."""
    base, posterior = network_problem(**settings)
    size = base.continuous_dim
    dynamics = RecalibratedDynamics(base, _fitted(size))
    theta, states = _theta(posterior), transitions.state.expand(4, -1, -1)
    z = torch.randn(4, 23, base.output_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mean, std = base.predict(theta, states, transitions.action)
    noise = base.likelihood.noise(z)
    noise = torch.cat([_mapping(size)(noise[..., :size]), noise[..., size:]], -1)  # a termination is left as it is
    expected = mean + std * noise
    got = dynamics.sample(theta, states, transitions.action, dynamics.likelihood.noise(z))
    torch.testing.assert_close(got, expected)
    mixture = predictive_mixture(dynamics, theta, transitions)
    y = outcomes(dynamics, transitions)
    assert y.shape == (23, size)
    each = np.stack([
        dataclasses.replace(mixture, mean=mixture.mean[k : k + 1], std=mixture.std[k : k + 1]).log_density(y)
        for k in range(4)
    ])  # fmt: skip
    expected_density = each.sum(-1)
    if base.learns_termination:
        latent = (mean[..., -1] / std[..., -1]).numpy()
        expected_density += stats.norm.logcdf(np.where(transitions.terminated.numpy(), latent, -latent))
        found, unchanged_probability = (
            one.termination_probability(theta, states, transitions.action) for one in (dynamics, base)
        )
        torch.testing.assert_close(found, unchanged_probability)
    np.testing.assert_allclose(dynamics.log_likelihood(theta, transitions).numpy(), expected_density, rtol=1e-9)
    x, _ = base.regression_data(transitions)
    ratio = dynamics.predict_targets(theta, x)[1] / base.predict_targets(theta, x)[1]
    torch.testing.assert_close(ratio, dynamics.predict(theta, states, transitions.action)[1] / std)


@every_likelihood
@pytest.mark.parametrize("num_dims", [1, 3])
def test_its_entropy_is_the_integral_of_its_density(name: str, num_dims: int) -> None:
    """In every dimension its own; and two far components add log 2 of ignorance to it."""
    plain, base = _mapping(num_dims), LIKELIHOODS[name]
    bent = np.array([0.0, 0.0, 0.0, 3.0, 9.0])[:, None] * np.arange(num_dims) ** 2
    mapping = MonotoneMap(plain.x, plain.y + bent)  # of a shape of its own in each dimension
    noise = StudentTNoise(5.0) if name == "student-t" else NORMAL
    mapped = MappedNoise(noise, mapping)
    likelihood = RecalibratedLikelihood(base, mapped)
    stds = torch.arange(1.0, num_dims + 1, dtype=torch.float64) * torch.tensor([[[1.0]], [[3.0]]])  # [2, 1, S]
    means = torch.tensor([-1e5, 1e5], dtype=torch.float64)[:, None, None].expand_as(stds)
    split = split_predictive_entropy(
        means, stds, likelihood=likelihood, num_draws=5, generator=torch.Generator().manual_seed(0)
    )
    expected = np.empty(num_dims)
    for d in range(num_dims):

        def integrand(e: float, d: int = d) -> float:
            row = torch.zeros(1, num_dims, dtype=torch.float64)
            log_density = float(likelihood.log_density(row + e, row, row + 1)[0, d])
            return -math.exp(log_density) * log_density

        knots = (mapping.y[:, d] - mapped.mean[d]) / mapped.std[d]  # where the density jumps
        edges = np.concatenate([[-300.0, -30.0], knots, [30.0, 300.0]])
        pieces = [integrate.quad(integrand, a, b, limit=200)[0] for a, b in itertools.pairwise(edges)]
        expected[d] = sum(pieces) + float(stds[:, 0, d].log().mean())
    np.testing.assert_allclose(split.per_dimension.conditional[0].numpy(), expected, atol=1.5e-3)
    assert np.ptp(expected - stds[:, 0].log().mean(0).numpy()) > (0.05 if num_dims > 1 else -1)
    assert float(split.joint.conditional) == pytest.approx(expected.sum(), abs=4e-3)
    torch.testing.assert_close(split.joint.mutual_information, torch.full((1,), math.log(2), dtype=torch.float64))


def test_with_buffers_and_in_single_precision(network_problem: NetworkProblem, transitions: Transitions) -> None:
    single = Transitions(*(t.float() if t.is_floating_point() else t for t in transitions.tensors().values()))
    base = NetworkDynamics.from_data(single, hidden=(6, 5), learns_reward=True)
    theta = base.model.initial(4, generator=torch.Generator().manual_seed(3))
    dynamics = RecalibratedDynamics(base, _fitted(4))
    states, scratch = single.state.expand(4, -1, -1), Buffers()
    plain = dynamics.predict(theta, states, single.action)
    assert plain[0].dtype == torch.float32
    with torch.no_grad():
        first = dynamics.predict(theta, states, single.action, scratch=scratch)
        where = [t.data_ptr() for t in first]
        again = dynamics.predict(theta, states, single.action, scratch=scratch)
    assert [t.data_ptr() for t in again] == where
    for got, expected in zip(again, plain, strict=True):
        torch.testing.assert_close(got, expected)
    assert dynamics.likelihood.noise(torch.zeros(2, 4)).dtype == torch.float32


class _Drift(KnownDynamics):
    """s' = s + a: known, with noise of a std that is not the truth's."""

    def __init__(self, noise_std: float) -> None:
        super().__init__(lambda s, a: s + a, noise_std=torch.tensor([noise_std, 2 * noise_std]))


def _drifted(num_data: int, seed: int) -> Transitions:
    """Of noise std 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    state, action, noise = (torch.randn(num_data, 2, generator=generator) for _ in range(3))
    following = state + action + noise * torch.tensor([1.0, 2.0])
    nothing = torch.zeros(num_data)
    return Transitions(state, action, nothing, following, nothing.bool(), nothing.long())


def _applied(dynamics: Dynamics, held_out: Transitions, seed: int = 0) -> RecalibratedDynamics:
    generator = torch.Generator().manual_seed(seed)
    return QuantileRecalibration().apply(dynamics, Nothing(), held_out, generator=generator)


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5])
def test_intervals_hold_their_share_afterwards(factor: float) -> None:
    dynamics = _applied(_Drift(factor), _drifted(400, 4))
    fresh = _drifted(3000, 5)
    assert dynamics.fitted.helps.tolist() == [factor != 1.0] * 2
    held = coverage(predictive_mixture(dynamics, {}, fresh).pit(outcomes(dynamics, fresh)), (0.9,))
    np.testing.assert_allclose(held, 0.9, atol=0.05)
    assert dynamics.fitted.num_held_out == 400


def test_planning_sees_it() -> None:
    """The spread of imagined returns grows to that of the truth; all ways of calling the rollout agree."""
    narrow, plans = _Drift(0.3), torch.zeros(2, 3, 2)
    dynamics = _applied(narrow, _drifted(400, 4))
    spreads = []
    for model in (narrow, dynamics, _Drift(1.0)):
        spread, means = (_objectives(model, plans, returns) for returns in ("std", "mean"))
        spreads.append(float(spread[0]))
        torch.testing.assert_close(spread[0], spread[1])  # common random numbers
        assert means.abs().max() < 0.2 * spread.max()
    assert spreads[0] < 0.4 * spreads[2]
    assert spreads[1] == pytest.approx(spreads[2], rel=0.1)


def _objectives(model: Dynamics, plans: Tensor, which: str) -> Tensor:
    settings = {
        "posterior": Nothing(), "dynamics": model, "num_theta": 1, "num_noise": 2000,
        "reward": lambda state, action, following: following.sum(-1),
        "objective": (lambda r: r.std((0, 1))) if which == "std" else (lambda r: r.mean((0, 1))),
    }  # fmt: skip
    graded = evaluate_plans(plans, torch.zeros(2), generator=torch.Generator().manual_seed(6), **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        buffered = evaluate_plans(plans, torch.zeros(2), generator=torch.Generator().manual_seed(6), **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(buffered, graded)
    return buffered


def test_one_seed_one_map(network_problem: NetworkProblem, transitions: Transitions) -> None:
    base, posterior = network_problem()
    many = Transitions.concatenate([transitions] * 3)

    def knots(seed: int) -> bytes:
        generator = torch.Generator().manual_seed(seed)
        return QuantileRecalibration().apply(base, posterior, many, generator=generator).fitted.gain.tobytes()

    assert knots(0) == knots(0) != knots(1)


@pytest.mark.parametrize("num_data", [0, 1, 39])
def test_few_held_out_rows_leave_it_as_it_is(num_data: int) -> None:
    dynamics = _applied(_Drift(0.3), _drifted(39, 4)[:num_data])
    assert dynamics.fitted.num_held_out == num_data
    torch.testing.assert_close(dynamics.likelihood.noise(torch.tensor([[1.7, -0.2]])), torch.tensor([[1.7, -0.2]]))


def test_what_is_predicted_as_infinite_teaches_nothing() -> None:
    class Diverging(_Drift):
        def predict(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
            mean, std = super().predict(*args, **kwargs)  # type: ignore[arg-type]
            return torch.where(torch.arange(mean.shape[1])[:, None] < 385, torch.inf, mean), std

    assert _applied(Diverging(0.3), _drifted(400, 4)).fitted.num_held_out == 15


def test_blocks_are_held_out_or_nothing_is() -> None:
    rows = _drifted(100, 7)
    training, held_out = QuantileRecalibration(held_out_every=3, block_length=10).split(rows)
    assert (len(training), len(held_out)) == (70, 30)
    assert torch.equal(held_out.state[:10], rows.state[20:30])
    everything, none = NoRecalibration().split(rows)
    assert everything is rows
    assert len(none) == 0


def test_what_cannot_be_is_refused() -> None:
    dynamics = _applied(_Drift(0.3), _drifted(100, 4))
    with pytest.raises(ValueError, match="recalibrated already"):
        _applied(dynamics, _drifted(100, 4))
    with pytest.raises(TypeError, match="has no Fisher information"):
        dynamics.likelihood.fisher_information(torch.zeros(1), torch.ones(1))
    assert noise_of(StudentTLikelihood(7.0)) == StudentTNoise(7.0)
    with pytest.raises(TypeError, match="got object"):
        noise_of(object())  # type: ignore[arg-type]
