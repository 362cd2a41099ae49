"""MC errors come from the chains themselves: the spread of their means, each chain with its own start and noise."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bayes_mbrl.inference import exact_linear, sghmc, svi
from bayes_mbrl.inference.base import Theta, log_prior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.optimise import DivergedFitError
from bayes_mbrl.inference.parametric import ParametricRegression, lognormal_prior
from bayes_mbrl.inference.sghmc import ChainsInfo

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def flat(draws: Theta) -> Tensor:
    """[K, draws, P] of a linear model, the bias last."""
    return torch.cat([draws["weight_0"].flatten(2), draws["bias_0"]], -1)


def exact(model: BayesianNetwork, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [P], covariance [P, P]) of a linear model with one output."""
    posterior, _ = exact_linear.fit(model, x, y, generator=torch.Generator())
    return posterior.mean[:, 0], posterior.factor @ posterior.factor.T


def badly_scaled(problem: tuple[BayesianNetwork, Tensor, Tensor]) -> tuple[BayesianNetwork, Tensor, Tensor]:
    """Inputs in units from 0.02 to 50: posterior stds that differ a thousandfold, beside the prior's."""
    model, x, y = problem
    return model, x * torch.logspace(-1.7, 1.7, x.shape[1], dtype=x.dtype), y


def standardised(draws: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Draws [..., P] in coordinates in which the exact posterior is N(0, I)."""
    factor = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(factor, (draws - mean).mT, upper=False).mT


def check_normal(chains: Tensor, *, tolerance: float) -> None:
    """Standardised draws [K, draws, P]: means within 5 errors by the chains' spread, covariance within tolerance."""
    means = chains.mean(1)
    error = means.std(0) / math.sqrt(len(chains))
    assert error.max() < tolerance, "chains long enough to tell"
    assert (means.mean(0).abs() < 5 * error + 0.02).all(), means.mean(0) / error
    variance = chains.flatten(0, 1).var(0)
    assert abs(float(variance.mean()) - 1) < tolerance, variance
    assert ((variance - 1).abs() < 4 * tolerance).all(), variance
    correlation = torch.corrcoef(chains.flatten(0, 1).T) - torch.eye(chains.shape[-1])
    assert correlation.abs().max() < 4 * tolerance


@pytest.mark.parametrize(("batch_size", "num_steps"), [(60, 2000), pytest.param(20, 12_000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:column")  # badly scaled on purpose
def test_linear_regression_against_the_exact_posterior(
    linear_problem: Problem, batch_size: int, num_steps: int
) -> None:
    model, x, y = badly_scaled(linear_problem(60, 4))
    mean, covariance = exact(model, x, y)
    assert covariance.diagonal().sqrt().max() > 100 * covariance.diagonal().sqrt().min()
    posterior, info = sghmc.fit(
        model,
        x,
        y,
        generator=torch.Generator().manual_seed(1),
        num_chains=16,
        num_steps=num_steps,
        batch_size=batch_size,
        step_size=0.5,
        num_draws=100,
        learning_rate=3e-2,
    )
    assert flat(info.draws).shape == (16, 100, 5)
    assert torch.equal(flat(info.draws).flatten(0, 1), flat({n: v[None] for n, v in posterior.draws.items()})[0])
    check_normal(standardised(flat(info.draws), mean, covariance), tolerance=0.1)
    assert abs(float(info.temperature.mean()) - 1) < 0.1
    expected = float(-log_joint_mean(model, mean, covariance, x, y))
    assert info.final_loss == pytest.approx(expected, abs=1.0)


def log_joint_mean(model: BayesianNetwork, mean: Tensor, covariance: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """E[log joint] under the exact posterior: its value at the mean less P / 2."""
    theta = {"weight_0": mean[:-1, None], "bias_0": mean[-1:]}
    prior = sum(p.log_prob(theta[name]).sum() for name, p in model.prior().items())
    return model.log_likelihood(theta, x, y).sum() + prior - len(mean) / 2


@pytest.mark.slow
def test_at_the_defaults(linear_problem: Problem) -> None:
    """Ten correlated inputs, four chains: covariance within 10 % on average."""
    model, x, y = linear_problem()
    mean, covariance = exact(model, x, y)
    _, info = sghmc.fit(model, x, y, generator=torch.Generator().manual_seed(2))
    chains = standardised(flat(info.draws), mean, covariance).flatten(0, 1)
    assert (chains.mean(0).abs() < 0.35).all()
    assert abs(float(chains.var(0).mean()) - 1) < 0.1


def test_minibatches_of_an_epoch_make_the_gradient_of_all_data(
    network_problem: Problem, generator: torch.Generator
) -> None:
    """The prior once, the likelihood N/n times: the mean over the three minibatches of an epoch is the whole."""
    model, x, y = network_problem()
    x, y = x[:21], y[:21]
    position = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    whole = sghmc._Target(model, x, y, 2, 21, generator).gradient(position)
    parts = sghmc._Target(model, x, y, 2, 7, generator)
    for got, expected in zip(zip(*(parts.gradient(position) for _ in range(3)), strict=True), whole, strict=True):
        torch.testing.assert_close(torch.stack(got).mean(0), expected)
    theta = parts.layout.split(position)
    log_joint = model.log_likelihood(theta, x, y).sum(1) + log_prior(model.prior(), theta)
    torch.testing.assert_close(whole[0], -log_joint)


class Normals:
    """A stand-in for the target: −log N(0, diag(std²)), exact gradients and curvature."""

    def __init__(self, std: Tensor) -> None:
        self.std = std
        self.is_exact = True

    def gradient(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return (0.5 * (position / self.std) ** 2).sum(1), position / self.std**2

    def curvature(self, position: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda vector: vector / self.std**2


@pytest.mark.parametrize(("step_size", "friction"), [(0.3, 0.3), (1.0, 0.05), (1.5, 0.5), (1.0, 1.0)])
def test_no_error_of_discretisation_on_a_normal(generator: torch.Generator, step_size: float, friction: float) -> None:
    """3,000 chains that start in N(0, diag(std²)) stay in it; a leapfrog's variance is 1 / (1 − step_size² / 4)."""
    std = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
    start = std * torch.randn(3000, 3, generator=generator, dtype=torch.float64)
    chains = sghmc._Chains(Normals(std), start, step_size, friction, generator)  # type: ignore[arg-type]
    assert (chains._step / std).mean(0).tolist() == pytest.approx([step_size] * 3, rel=0.1)
    chains.run(100)
    variance = (chains._position / std).var(0)
    assert ((variance - 1).abs() < 5 * math.sqrt(2 / 3000)).all(), variance


def test_the_preconditioner_makes_a_step_as_long_as_the_target_is_wide(generator: torch.Generator) -> None:
    """Units of the parameters do not matter: with 30 times the std, 30 times the step."""
    start = torch.zeros(500, 1, dtype=torch.float64)
    steps = [
        sghmc._Chains(Normals(torch.full((1,), std).double()), start, 0.5, 0.1, generator)._step.mean()  # type: ignore[arg-type]
        for std in (0.1, 3.0)
    ]
    assert [float(step) for step in steps] == pytest.approx([0.05, 1.5], rel=1e-6)


def test_a_positive_parameter_against_numerical_integration(generator: torch.Generator) -> None:
    """y = gain + noise with log-normal prior and few data: a lost Jacobian would shift log gain by its variance."""
    model = ParametricRegression(
        lambda p, x, lib: lib.stack([p["gain"] + 0 * x[..., 0]], -1),
        {"gain": lognormal_prior(1.0, 2.0)},
        input_dim=1,
        output_dim=1,
        noise_std=0.8,
        noise_log_std=0.02,
        dtype=torch.float64,
    )
    x, y = torch.zeros(3, 1, dtype=torch.float64), torch.tensor([[0.1], [1.0], [0.5]], dtype=torch.float64)
    _, info = sghmc.fit(model, x, y, generator=generator, num_chains=16, num_steps=3000, num_draws=200)
    log_gain = torch.linspace(-6, 4, 4001, dtype=torch.float64)
    noise = torch.full((4001, 1), math.log(0.8), dtype=torch.float64)
    log_density = model.log_likelihood({"log_gain": log_gain, "log_noise_std": noise}, x, y).sum(1)
    log_density = log_density - 0.5 * (log_gain / math.log(2)) ** 2
    weight = torch.softmax(log_density, 0)
    mean = float(weight @ log_gain)
    std = math.sqrt(float(weight @ (log_gain - mean) ** 2))
    chains = info.draws["log_gain"]
    error = float(chains.mean(1).std()) / 4
    assert error < 0.05 * std
    assert float(chains.mean()) == pytest.approx(mean, abs=5 * error)
    assert float(chains.std()) == pytest.approx(std, rel=0.06)
    assert std**2 > 20 * error, "the Jacobian's shift is far outside the error"


def test_chains_with_different_starts_agree(linear_problem: Problem, generator: torch.Generator) -> None:
    """Without a search and 300 exact stds apart: after burn-in no chain remembers its start."""
    model, x, y = linear_problem(60, 4)
    mean, covariance = exact(model, x, y)
    std = covariance.diagonal().sqrt()
    away = mean + torch.tensor([-300.0, -100.0, 100.0, 300.0], dtype=torch.float64)[:, None] * std
    start = DrawsPosterior({"weight_0": away[:, :-1, None], "bias_0": away[:, -1:]})
    _, info = sghmc.fit(
        model, x, y, generator=generator, warm_start=start, optimisation=0, burn_in=0.5, num_steps=2000, num_draws=150
    )
    chains = standardised(flat(info.draws), mean, covariance)
    assert (chains.mean(1).abs() < 0.6).all(), chains.mean(1)
    assert info.losses[0].min() > info.losses[-1].max() + 1000
    assert info.losses.shape == (2000, 4)


def test_any_posterior_of_the_model_is_a_warm_start(network_problem: Problem, generator: torch.Generator) -> None:
    """Chains of no length stay at draws of the mean field; a chain more than stored draws takes one twice."""
    model, x, y = network_problem()
    still: dict[str, Any] = {"num_steps": 3, "optimisation": 0, "burn_in": 0, "step_size": 1e-30, "num_draws": 1}
    mean_field, _ = svi.fit(model, x, y, generator=generator, num_steps=5)
    _, info = sghmc.fit(model, x, y, generator=torch.Generator().manual_seed(5), warm_start=mean_field, **still)
    expected = mean_field.sample(4, generator=torch.Generator().manual_seed(5))
    for name, value in expected.items():
        torch.testing.assert_close(info.draws[name][:, 0], value)
    stored = DrawsPosterior(model.initial(3, generator=generator))
    posterior, _ = sghmc.fit(model, x, y, generator=generator, warm_start=stored, **still)
    same = (posterior.draws["weight_0"][:, None] - stored.draws["weight_0"]).abs().amax((-2, -1)) < 1e-9
    assert same.sum(1).tolist() == [1, 1, 1, 1]
    assert sorted(same.sum(0).tolist()) == [1, 1, 2]


def test_draws_are_spaced_evenly(linear_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = linear_problem(60, 4)
    settings: dict[str, Any] = {"num_steps": 103, "optimisation": 0.0, "burn_in": 0.2}  # 21 to burn, 82 to sample

    def draws(num_draws: int) -> Tensor:
        seeded = torch.Generator().manual_seed(3)
        return sghmc.fit(model, x, y, generator=seeded, num_draws=num_draws, **settings)[1].draws["weight_0"]

    every, some = draws(1000), draws(8)
    assert every.shape[1] == 82
    assert torch.equal(some, every[:, 10::11]), "at most 8 are 7"


def test_a_shorter_step_where_minibatches_are_noisy(linear_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = linear_problem(600, 4)
    steps = [
        sghmc.fit(model, x, y, generator=generator, batch_size=size, num_steps=100)[1].time_step.mean()
        for size in (600, 200, 10)
    ]
    assert steps[0] == 0.2 > steps[1] > steps[2]


def test_a_diverging_chain_says_when_and_what_to_lower(
    linear_problem: Problem, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws until then are kept, and finite."""
    model, x, y = linear_problem(60, 4)
    settings: dict[str, Any] = {"num_steps": 200, "optimisation": 0.1, "burn_in": 0.1, "num_draws": 160}
    original = sghmc._Target.gradient
    calls = 0

    def explode(self: Any, position: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        loss, gradient = original(self, position)
        return loss, torch.where(torch.tensor([[calls > 100], [False], [False], [False]]), 1e9 * gradient, gradient)

    monkeypatch.setattr(sghmc._Target, "gradient", explode)
    with pytest.raises(
        DivergedFitError, match=r"chain 0 diverged at step \d+ of 180: lower step_size, got 0.2"
    ) as caught:
        sghmc.fit(model, x, y, generator=generator, **settings)
    info = caught.value.info
    assert isinstance(info, ChainsInfo)
    num_kept = info.draws["bias_0"].shape[1]
    assert num_kept == len(info.losses) - 20 > 30
    assert all(value.isfinite().all() for value in info.draws.values())
    assert len(caught.value.posterior.tensors()["bias_0"]) == 4 * num_kept


def test_shares_that_leave_no_steps_are_refused(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    with pytest.raises(ValueError, match=r"need optimisation \+ burn_in < 1, got 0.5 \+ 0.5"):
        sghmc.fit(model, x, y, generator=generator, optimisation=0.5, burn_in=0.5)
