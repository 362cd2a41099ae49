import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from bayes_mbrl.inference import exact_linear, laplace
from bayes_mbrl.inference.base import Model, log_prior, parameter_shapes
from bayes_mbrl.inference.laplace import LaplacePosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.optimise import DivergedFitError
from bayes_mbrl.inference.parametric import ParametricRegression, lognormal_prior

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


def covariance(posterior: LaplacePosterior) -> Tensor:
    return posterior.factor @ posterior.factor.T


def at(theta: dict[str, Tensor]) -> LaplacePosterior:
    """A warm start at this θ."""
    size = sum(value.numel() for value in theta.values())
    return LaplacePosterior(theta, {}, torch.eye(size, dtype=torch.float64))


def stay(model: Model, x: Tensor, y: Tensor, theta: dict[str, Tensor], **settings: Any) -> Any:
    """The approximation at this θ, wherever the maximum is."""
    return laplace.fit(
        model, x, y, generator=torch.Generator(), warm_start=at(theta), num_steps=1, learning_rate=1e-30, **settings
    )


def split(model: Model, vector: Tensor) -> dict[str, Tensor]:
    """[..., P] → by name, in the model's order."""
    shapes = parameter_shapes(model)
    parts = vector.split([shape.numel() for shape in shapes.values()], -1)  # type: ignore[no-untyped-call]
    return {
        name: part.reshape(*vector.shape[:-1], *shape)
        for part, (name, shape) in zip(parts, shapes.items(), strict=True)
    }


def log_joint(model: Model, vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
    theta = split(model, vector[None])
    return model.log_likelihood(theta, x, y).sum() + log_prior(model.prior(), theta)[0]


def test_linear_regression_with_known_noise_is_exact(linear_problem: Problem, generator: torch.Generator) -> None:
    """Mean, covariance and evidence; three outputs, whose posteriors are independent."""
    model, x, y = linear_problem(40, 5, 3)
    exact, exact_info = exact_linear.fit(model, x, y, generator=generator)
    posterior, info = laplace.fit(
        model, x, y, generator=generator, subset="all", batch_size=40, num_steps=1500, learning_rate=5e-2
    )
    mean = torch.cat([posterior.random["weight_0"], posterior.random["bias_0"][None]])
    torch.testing.assert_close(mean, exact.mean, rtol=1e-3, atol=1e-4)
    assert info.log_evidence == pytest.approx(exact_info.log_evidence, abs=1e-4)
    assert info.final_loss == pytest.approx(-float(log_joint(model, at_vector(model, posterior), x, y)), abs=0.1)
    order = torch.arange(18).reshape(6, 3)  # weight_0 [5, 3], then bias_0 [3]: entry (coefficient, output)
    for output in range(3):
        block = covariance(posterior)[order[:, output]][:, order[:, output]]
        torch.testing.assert_close(block, exact.factor @ exact.factor.T, rtol=1e-9, atol=1e-12)
    assert covariance(posterior)[order[:, 0]][:, order[:, 1]].abs().max() < 1e-12
    only_layer, _ = stay(model, x, y, posterior.random, subset="last-layer")
    assert torch.equal(only_layer.factor, posterior.factor)


def at_vector(model: Model, posterior: LaplacePosterior) -> Tensor:
    theta = {**posterior.random, **posterior.fixed}
    return torch.cat([theta[name].flatten() for name in parameter_shapes(model)])


def test_last_layer_is_the_exact_regression_on_hidden_features(
    network_problem: Problem, generator: torch.Generator
) -> None:
    """Given the hidden layers where the search left them: mean, covariance, evidence."""
    model, x, y = network_problem(noise="fixed", noise_std=0.3, prior_scale=1.3, activation="tanh")
    posterior, info = laplace.fit(model, x, y, generator=generator, batch_size=23, num_steps=1500, learning_rate=3e-2)
    assert list(posterior.random) == ["weight_2", "bias_2"]
    hidden = torch.tanh(x @ posterior.fixed["weight_0"] + posterior.fixed["bias_0"])
    features = torch.tanh(hidden @ posterior.fixed["weight_1"] + posterior.fixed["bias_1"])
    linear = BayesianNetwork(
        4, 2, hidden=(), noise="fixed", noise_std=0.3, prior_scale=1.3, dtype=torch.float64
    )  # as many inputs as the last hidden layer has units, so its prior is that of the last layer
    exact, exact_info = exact_linear.fit(linear, features, y, generator=generator)
    mean = torch.cat([posterior.random["weight_2"], posterior.random["bias_2"][None]])
    std = (exact.factor @ exact.factor.T).diagonal().sqrt()
    assert ((mean - exact.mean).abs() < 0.05 * std[:, None]).all()
    order = torch.arange(10).reshape(5, 2)[:, 1]
    block = covariance(posterior)[order][:, order]
    torch.testing.assert_close(block, exact.factor @ exact.factor.T, rtol=1e-9, atol=1e-12)
    assert info.log_evidence == pytest.approx(exact_info.log_evidence, abs=0.02)


def test_learned_noise_against_the_analytic_hessian(linear_problem: Problem, generator: torch.Generator) -> None:
    """Noise raw = log_noise_std, std(raw): the expected Hessian is 2 N (std' / std)² + 1 / prior_scale², and the mean's
    is ΦᵀΦ / std² + prior, which is the observed one too.
    """
    _, x, y = linear_problem(50, 4, 1)
    model = BayesianNetwork(4, 1, hidden=(), noise="homoscedastic", prior_scale=1.5, dtype=torch.float64)
    posterior, _ = laplace.fit(model, x, y, generator=generator, batch_size=50, num_steps=1000, learning_rate=5e-2)
    raw = posterior.random["log_noise_std"]
    share = torch.sigmoid(raw - math.log(model.max_std))
    std = model.min_std + model.max_std * share
    slope = model.max_std * share * (1 - share)
    design = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    prior_precision = torch.tensor([4 / 1.5**2] * 4 + [1 / 1.5**2], dtype=torch.float64)
    precision = torch.zeros(6, 6, dtype=torch.float64)
    precision[:5, :5] = design.T @ design / std**2 + torch.diag(prior_precision)
    precision[5, 5] = 100 * (slope / std) ** 2 + 1 / 1.5**2
    torch.testing.assert_close(torch.linalg.inv(covariance(posterior)), precision, rtol=1e-8, atol=1e-8)
    hessian = -torch.func.jacrev(torch.func.grad(lambda v: log_joint(model, v, x, y)))(at_vector(model, posterior))
    torch.testing.assert_close(hessian[:5, :5], precision[:5, :5], rtol=1e-6, atol=1e-6)
    assert float(hessian[5, 5] / precision[5, 5]) == pytest.approx(1, abs=0.1)  # the observed information differs


@pytest.mark.parametrize(("likelihood", "num_binary"), [("normal", 0), ("student-t", 0), ("normal", 1)])
@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic"])
def test_the_precision_is_the_expected_hessian(
    network_problem: Problem, generator: torch.Generator, noise: str, likelihood: str, num_binary: int
) -> None:
    """E over y ~ p(y | x, θ) of the Hessian of −log joint is Fisher + prior: by autograd at simulated y."""
    model, x, _ = network_problem(
        hidden=(2,), noise=noise, likelihood=likelihood, degrees_of_freedom=5.0, num_binary=num_binary
    )
    x = x[:3]
    theta = {name: 0.5 * value[0] for name, value in _prior_draw(model, generator).items()}
    vector = torch.cat([value.flatten() for value in theta.values()])
    posterior, _ = stay(model, x, torch.zeros(3, 2, dtype=torch.float64), theta, subset="all")
    precision = torch.linalg.inv(covariance(posterior))
    num_simulated = 4000
    many = {name: value[None].expand(num_simulated, *value.shape) for name, value in theta.items()}
    simulated = model.sample(many, x, generator=generator)  # [4000, 3, 2]
    gradient = torch.func.grad(lambda v, y: -log_joint(model, v, x, y))
    hessian = torch.func.vmap(torch.func.jacrev(gradient), (None, 0), chunk_size=500)
    observed = hessian(vector, simulated)
    error = observed.std(0) / math.sqrt(num_simulated)
    assert ((observed.mean(0) - precision).abs() < 5 * error + 1e-9).all()
    data_part = precision - torch.diag(torch.cat([p.scale.flatten() ** -2 for p in _normals(model).values()]))
    assert (error / data_part.abs().max()).max() < 0.05, "precise enough to tell"


def _normals(model: Model) -> dict[str, Normal]:
    return {name: prior for name, prior in model.prior().items() if isinstance(prior, Normal)}


def _prior_draw(model: Model, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: p.loc + p.scale * torch.empty(1, *p.loc.shape, dtype=torch.float64).normal_(generator=generator)
        for name, p in _normals(model).items()
    }


def test_a_positive_parameter_is_normal_in_its_logarithm(generator: torch.Generator) -> None:
    """y = gain · x with little noise: log gain has the information Σ (gain x)² / std², plus the prior's."""
    model = ParametricRegression(
        lambda p, x, lib: lib.stack([p["gain"] * x[..., 0]], -1),
        {"gain": lognormal_prior(1.0, 3.0)},
        input_dim=1,
        output_dim=1,
        noise_std=0.1,
        dtype=torch.float64,
    )
    x = torch.linspace(-1, 2, 12, dtype=torch.float64)[:, None]
    y = 2.5 * x + 0.1 * torch.randn(12, 1, generator=generator, dtype=torch.float64)
    posterior, _ = laplace.fit(model, x, y, generator=generator, batch_size=12, num_steps=500, learning_rate=3e-2)
    assert set(posterior.random) == {"log_gain", "log_noise_std"}, "without layers, all parameters"
    gain, raw = posterior.random["log_gain"].exp(), posterior.random["log_noise_std"].exp()
    std = model.min_std + raw
    expected = torch.stack(
        [(gain * x).pow(2).sum() / std[0] ** 2 + math.log(3) ** -2, 2 * 12 * (raw[0] / std[0]) ** 2 + 1.0]
    )
    torch.testing.assert_close(torch.linalg.inv(covariance(posterior)), torch.diag(expected), rtol=1e-8, atol=1e-8)


def test_draws_have_the_posteriors_moments(generator: torch.Generator) -> None:
    factor = torch.tensor([[0.5, 0.3, -0.2], [0.0, 2.0, 1.0], [0.0, 0.0, 0.1]], dtype=torch.float64)
    random = {"b": torch.tensor([[1.0, -2.0]]).double(), "a": torch.tensor(30.0).double()}
    posterior = LaplacePosterior(random, {"c": torch.tensor([7.0]).double()}, factor)
    n = 40_000
    theta = posterior.sample(n, generator=generator)
    assert {name: value.shape for name, value in theta.items()} == {"b": (n, 1, 2), "a": (n,), "c": (n, 1)}
    assert (theta["c"] == 7).all()
    drawn = torch.cat([theta["b"].flatten(1), theta["a"][:, None]], 1)
    std = covariance(posterior).diagonal().sqrt()
    assert ((drawn.mean(0) - torch.tensor([1.0, -2.0, 30.0])).abs() < 5 * std / n**0.5).all()
    assert ((torch.cov(drawn.T) - covariance(posterior)).abs() < 5 * (2 / n) ** 0.5 * std[:, None] * std).all()


@pytest.mark.parametrize("subset", ["last-layer", "all"])
def test_chunks_of_data_change_nothing(
    network_problem: Problem, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, subset: str
) -> None:
    model, x, y = network_problem()
    theta = {name: value[0] for name, value in model.initial(1, generator=generator).items()}
    whole, whole_info = stay(model, x, y, theta, subset=subset)
    monkeypatch.setattr(laplace, "_CHUNK", 4 * 7 * len(whole.factor))  # 7 rows of [2 O, P]
    parts, parts_info = stay(model, x, y, theta, subset=subset)
    torch.testing.assert_close(parts.factor, whole.factor, rtol=1e-9, atol=1e-12)
    assert parts_info.log_evidence == pytest.approx(whole_info.log_evidence, rel=1e-10)


def test_single_precision_loses_little(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    theta = {name: value[0] for name, value in model.initial(1, generator=generator).items()}
    double, _ = stay(model, x, y, theta)
    single_model, x, y = network_problem(dtype=torch.float32)
    single, _ = stay(single_model, x, y, {name: value.float() for name, value in theta.items()})
    assert single.factor.dtype == torch.float32
    torch.testing.assert_close(single.factor.double(), double.factor, rtol=1e-4, atol=1e-5)


def test_too_many_parameters_are_refused(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    with pytest.raises(ValueError, match=r"of 64 parameters needs .* 64 x 64 .*max_parameters = 63: take subset="):
        laplace.fit(model, x, y, generator=generator, subset="all", max_parameters=63)
    with pytest.raises(ValueError, match=r"of 20 parameters .*max_parameters = 19: take a narrower last layer"):
        laplace.fit(model, x, y, generator=generator, max_parameters=19)
    laplace.fit(model, x, y, generator=generator, max_parameters=20, num_steps=1)


@pytest.mark.filterwarnings("ignore:column")  # badly scaled on purpose
def test_a_precision_that_rounding_made_indefinite_is_refused(
    linear_problem: Problem, generator: torch.Generator
) -> None:
    model, x, y = linear_problem(20, 3)
    x = 1e10 * x[:, [0, 0, 1]]
    with pytest.raises(
        ValueError, match=r"precision at the maximum is not positive definite .* standardise the inputs"
    ):
        laplace.fit(model, x, y, generator=generator, num_steps=1, learning_rate=1e-30)


def test_other_models_are_refused(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()

    class Other(Model):
        def prior(self) -> dict[str, Distribution]:
            return model.prior()

        def log_likelihood(self, theta: Any, x: Tensor, y: Tensor) -> Tensor:
            return model.log_likelihood(theta, x, y)

        def initial(self, n: int, *, generator: torch.Generator) -> dict[str, Tensor]:
            return model.initial(n, generator=generator)

    with pytest.raises(ValueError, match=r"need a Regression, .* got a Other"):
        laplace.fit(Other(), x, y, generator=generator)


def test_goes_on_from_the_point_that_a_diverged_search_kept(
    network_problem: Problem, generator: torch.Generator
) -> None:
    model, x, y = network_problem()
    with pytest.raises(DivergedFitError) as raised:
        laplace.fit(model, x, y, generator=generator, num_steps=60, learning_rate=1e200)
    kept = raised.value.posterior
    posterior, _ = laplace.fit(model, x, y, generator=generator, warm_start=kept, num_steps=1, learning_rate=1e-30)
    torch.testing.assert_close(posterior.fixed["weight_0"], kept.sample(1, generator=generator)["weight_0"][0])
