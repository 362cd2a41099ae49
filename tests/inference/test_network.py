import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor
from torch.distributions import Independent, Normal

from bayes_mbrl.inference import laplace, point, svi
from bayes_mbrl.inference.base import log_prior, parameter_shapes
from bayes_mbrl.inference.network import BINARY_STD, BayesianNetwork
from bayes_mbrl.inference.scratch import Buffers

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]

NOISES = ["heteroscedastic", "homoscedastic", "fixed"]
ACTIVATIONS = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "relu": torch.relu}


def random_theta(model: BayesianNetwork, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    theta = model.initial(n, generator=generator)
    return {name: v + 0.3 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for name, v in theta.items()}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (5, 4)], ids=["linear", "deep"])
def test_batched_prediction_equals_one_network_at_a_time(
    network_problem: Problem, generator: torch.Generator, noise: str, activation: str, hidden: tuple[int, ...]
) -> None:
    """[K, N, O] against a plain loop over k in torch.nn's words, for shared inputs, own inputs, and with buffers."""
    model, x, y = network_problem(noise=noise, activation=activation, hidden=hidden)
    theta = random_theta(model, 3, generator)
    own = torch.stack([x, 2 * x, x.flip(0)])
    for inputs in (x, own):
        mean, std = model.predict(theta, inputs)
        assert mean.shape == std.shape == (3, 23, 2)
        in_buffers = model.predict(theta, inputs, scratch=Buffers())
        torch.testing.assert_close(in_buffers, (mean, std), rtol=1e-12, atol=1e-12)
        for k in range(3):
            one = {name: value[k] for name, value in theta.items()}
            single = inputs[k] if inputs.ndim == 3 else inputs
            torch.testing.assert_close(model.predict(one, single), (mean[k], std[k]))
            torch.testing.assert_close(plain_prediction(model, one, single, activation), (mean[k], std[k]))
            torch.testing.assert_close(
                model.log_likelihood(one, single, y),
                Independent(Normal(mean[k], std[k]), 1).log_prob(y),
            )
    both = model.log_likelihood(theta, own, torch.stack([y, y, 2 * y]))
    assert both.shape == (3, 23)
    torch.testing.assert_close(both[2], Independent(Normal(mean[2], std[2]), 1).log_prob(2 * y))


def plain_prediction(
    model: BayesianNetwork, theta: dict[str, Tensor], x: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    for layer in range(model.num_layers):
        x = torch.nn.functional.linear(x, theta[f"weight_{layer}"].T, theta[f"bias_{layer}"])
        x = ACTIVATIONS[activation](x) if layer < model.num_layers - 1 else x
    if model.noise == "fixed":
        return x, torch.full_like(x, model.noise_std)
    raw = x[:, 2:] if model.noise == "heteroscedastic" else theta["log_noise_std"].expand_as(x)
    return x[:, :2], 1 / (1 / raw.exp() + 1 / model.max_std) + model.min_std


def test_buffers_are_used_again_and_leave_the_input_alone(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, _ = network_problem()
    theta, scratch, before = random_theta(model, 3, generator), Buffers(), x.clone()
    first = model.predict(theta, x, scratch=scratch)
    kept = [part.clone() for part in first]
    second = model.predict(theta, 2 * x, scratch=scratch)
    assert [part.data_ptr() for part in first] == [part.data_ptr() for part in second]
    again = model.predict(theta, x, scratch=scratch)
    assert all(torch.equal(part, old) for part, old in zip(again, kept, strict=True))
    assert torch.equal(x, before)


def test_soft_bounds_of_the_std() -> None:
    model = BayesianNetwork(1, 1, hidden=(), noise="homoscedastic", min_std=0.01, max_std=3.0, dtype=torch.float64)
    raw = torch.tensor([-1000.0, -8, -2, 0, 1, 4, 1000], dtype=torch.float64)
    theta = {
        "weight_0": torch.zeros(7, 1, 1).double(),
        "bias_0": torch.zeros(7, 1).double(),
        "log_noise_std": raw[:, None],
    }
    std = model.predict(theta, torch.zeros(1, 1).double())[1].flatten()
    assert std[0] == 0.01
    assert std[-1] == pytest.approx(3.01)
    assert (std.diff() > 0).all()
    assert std[1] == pytest.approx(0.01 + math.exp(-8), rel=1e-3), "far inside the bounds it is exp"


@pytest.mark.parametrize("noise", NOISES)
def test_prior_and_initial_values(noise: str, generator: torch.Generator) -> None:
    model = BayesianNetwork(7, 2, hidden=(400, 5), noise=noise, prior_scale=2.0)  # type: ignore[arg-type]
    scales = {name: float(prior.scale.unique()) for name, prior in model.prior().items()}  # type: ignore[attr-defined]
    expected = {
        "weight_0": 2 / 7**0.5,
        "weight_1": 2 / 20,
        "weight_2": 2 / 5**0.5,
        "bias_0": 2,
        "bias_1": 2,
        "bias_2": 2,
    }
    assert scales == pytest.approx(expected | ({"log_noise_std": 2.0} if noise == "homoscedastic" else {}))
    start = model.initial(3, generator=generator)
    assert {name: value.shape[1:] for name, value in start.items()} == parameter_shapes(model)
    assert start["weight_0"].std() == pytest.approx(1 / 7**0.5, rel=0.05)
    assert start["weight_1"].std() == pytest.approx(1 / 20, rel=0.05)
    assert not any(value.any() for name, value in start.items() if not name.startswith("weight"))
    assert parameter_shapes(model)["weight_2"] == (5, 4 if noise == "heteroscedastic" else 2)
    assert model.hidden_weights == {"weight_1", "weight_2"}
    assert model.affine_parameters == {name for name in start if name != "log_noise_std"}
    by_hand = sum(Normal(0, scales[name]).log_prob(value).flatten(1).sum(1) for name, value in start.items())
    torch.testing.assert_close(log_prior(model.prior(), start), by_hand)


@pytest.mark.parametrize("likelihood", ["normal", "student-t"])
@pytest.mark.parametrize("noise", NOISES)
def test_binary_outputs_are_the_last(
    network_problem: Problem, generator: torch.Generator, noise: str, likelihood: str
) -> None:
    """The continuous ones are those of a network without them; a binary one has a known std and no output for it."""
    settings = {"noise": noise, "likelihood": likelihood, "hidden": (4,), "prior_scale_log_std": 0.3}
    model, x, y = network_problem(num_binary=1, **settings)
    theta = random_theta(model, 3, generator)
    mean, std = model.predict(theta, x)
    assert mean.shape == std.shape == (3, 23, 2)
    assert (std[..., 1] == BINARY_STD).all()
    torch.testing.assert_close(model.predict(theta, x, scratch=Buffers()), (mean, std), rtol=1e-12, atol=1e-12)
    one = {name: value[0] for name, value in theta.items()}
    torch.testing.assert_close(model.predict(one, x), (mean[0], std[0]))

    plain = BayesianNetwork(3, 1, dtype=torch.float64, **settings)  # type: ignore[arg-type]
    kept = [0, 2] if noise == "heteroscedastic" else [0]
    less = {name: value[..., kept] if name in ("weight_1", "bias_1") else value for name, value in theta.items()}
    shapes = {name: value.shape[1:] for name, value in less.items()}
    assert shapes == parameter_shapes(plain), "two outputs and one std, where it is learned"
    for got, expected in zip((mean, std), plain.predict(less, x), strict=True):
        torch.testing.assert_close(got[..., :1], expected)
    latent = mean[..., 1] / BINARY_STD
    probability = Normal(0, 1).cdf(latent)
    expected = plain.log_likelihood(less, x, y[:, :1])
    expected = expected + torch.from_numpy(stats.norm.logcdf(torch.where(y[:, 1] == 1, latent, -latent).numpy()))
    torch.testing.assert_close(model.log_likelihood(theta, x, y), expected)

    drawn = model.sample(
        {name: value.repeat_interleave(3000, 0) for name, value in theta.items()}, x[:2], generator=generator
    )
    assert set(drawn[..., 1].unique().tolist()) == {0.0, 1.0}
    share = drawn[..., 1].view(3, 3000, 2).mean(1)
    assert ((share - probability[:, :2]).abs() < 5 * (0.25 / 3000) ** 0.5).all()


@pytest.mark.parametrize("noise", NOISES)
def test_another_device_has_all_that_a_prediction_needs(network_problem: Problem, noise: str) -> None:
    """On torch's device "meta", which refuses to meet a tensor of another."""
    model, x, _ = network_problem(num_binary=1, noise=noise)
    moved = model.to(torch.device("meta"))
    theta = {
        name: torch.empty(3, *shape, dtype=x.dtype, device="meta") for name, shape in parameter_shapes(model).items()
    }
    for part in moved.predict(theta, x.to("meta")):
        assert (part.device.type, part.shape) == ("meta", (3, 23, 2))


def test_targets_that_are_not_binary_are_refused(network_problem: Problem, generator: torch.Generator) -> None:
    """Also as −1 and 1, as which they would be taken for something else in silence; rare ones are no doubt."""
    model, x, y = network_problem(num_binary=1)
    with pytest.raises(
        ValueError, match=r"need 0 or 1 in column 1 of y, which is binary, got -1 and the like in \d+ rows"
    ):
        svi.fit(model, x, torch.stack([y[:, 0], 2 * y[:, 1] - 1], 1), generator=generator)
    many = 30_000
    rare = torch.cat([torch.randn(many, 1, generator=generator), (torch.arange(many) == 5)[:, None]], 1).double()
    assert model.doubts(torch.randn(many, 3, generator=generator).double(), rare) == []
    assert model.faults(rare) == []


def test_a_probit_regression_finds_scipys_maximum(generator: torch.Generator) -> None:
    """The maximum a posteriori of log Φ((2 y − 1) (w x + b) / scale) under the normal priors, written once more."""
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    y = (x @ torch.tensor([[0.5], [-0.2]]).double() + 0.2 + 0.3 * torch.randn(60, 1, generator=generator) > 0).double()
    model = BayesianNetwork(2, 1, hidden=(), noise="fixed", num_binary=1, prior_scale=1.5, dtype=torch.float64)

    def loss(v: np.ndarray) -> float:
        latent = (x.numpy() @ v[:2] + v[2]) / BINARY_STD
        prior = stats.norm.logpdf(v, scale=[1.5 / 2**0.5, 1.5 / 2**0.5, 1.5]).sum()
        return float(-stats.norm.logcdf(np.where(y.numpy()[:, 0] == 1, 1, -1) * latent).sum() - prior)

    best = optimize.minimize(loss, np.zeros(3), tol=1e-10)
    posterior, _ = point.fit(
        model, x, y, generator=generator, prior_weight=1.0, num_steps=800, batch_size=60, learning_rate=0.03
    )
    found = torch.cat([posterior.draws["weight_0"][0, :, 0], posterior.draws["bias_0"][0]])
    assert found.tolist() == pytest.approx(best.x.tolist(), abs=2e-3)
    assert loss(found.numpy()) == pytest.approx(best.fun, abs=1e-3)
    assert np.abs(best.x).min() > 0.1, "not all at the prior's mean"


def test_gradients_reach_every_parameter(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem(noise="homoscedastic")
    theta = {name: value.requires_grad_() for name, value in random_theta(model, 2, generator).items()}
    model.log_likelihood(theta, x, y).sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in theta.values())


def test_columns_must_fit(network_problem: Problem, generator: torch.Generator) -> None:
    model, x, y = network_problem()
    theta = model.initial(1, generator=generator)
    with pytest.raises(ValueError, match=r"need x \[N, 3\] and y \[N, 2\], got \[23, 3\] and \[23, 1\]"):
        model.log_likelihood(theta, x, y[:, :1])
    with pytest.raises(ValueError, match=r"got \[23, 2\] and \[23, 2\]"):
        model.log_likelihood(theta, x[:, :2], y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": (5, 0)}, r"need every hidden width >= 1, got \[5, 0\]"),
        ({"activation": "gelu"}, "activation is one of silu, tanh, relu, got 'gelu'"),
        ({"noise": "student"}, "unknown noise 'student'"),
        ({"min_std": 3.0}, "need 0 < min_std < max_std, got 3.0 and 2.0"),
        ({"likelihood": "cauchy"}, "likelihood is one of normal, student-t, got 'cauchy'"),
        ({"prior_scale_log_std": -1}, "need prior_scale_log_std >= 0, got -1"),
        ({"num_binary": 3}, "need 0 <= num_binary <= output_dim, got 3 and 2"),
        ({"noise_std": -1, "prior_scale": 0}, "need noise_std > 0, got -1; need prior_scale > 0, got 0"),
    ],
)
def test_impossible_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BayesianNetwork(3, 2, **settings)  # type: ignore[arg-type]


def test_student_t_network_spreads_by_its_std(network_problem: Problem, generator: torch.Generator) -> None:
    """predict's std is a standard deviation for this likelihood too, and `sample` scatters by it."""
    model, x, y = network_problem(likelihood="student-t", degrees_of_freedom=6.0)
    theta = random_theta(model, 1, generator)
    mean, std = model.predict(theta, x)
    scale = std * math.sqrt(4 / 6)
    expected = torch.distributions.StudentT(6.0, mean, scale).log_prob(y).sum(-1)
    torch.testing.assert_close(model.log_likelihood(theta, x, y), expected)
    many = {name: value.expand(20_000, *value.shape[1:]) for name, value in theta.items()}
    drawn = (model.sample(many, x, generator=generator) - mean) / std
    assert drawn.var() == pytest.approx(1, rel=0.02)
    assert (drawn**4).mean() > 4, "heavier tails than a normal, 3; 6 degrees of freedom have 6"


def test_hierarchical_scales_multiply_the_weights(network_problem: Problem, generator: torch.Generator) -> None:
    """exp(log_scale) W in each layer is the network with the fixed prior at those weights; the bias is left alone."""
    model, x, _ = network_problem(prior_scale_log_std=0.5, noise="homoscedastic")
    plain, _, _ = network_problem(noise="homoscedastic")
    assert parameter_shapes(model) == parameter_shapes(plain) | {f"log_scale_{layer}": () for layer in range(3)}
    assert {float(model.prior()[f"log_scale_{layer}"].stddev) for layer in range(3)} == {0.5}
    assert model.affine_parameters == plain.affine_parameters
    theta = random_theta(model, 3, generator)
    scaled = {name: value for name, value in theta.items() if not name.startswith("log_scale")}
    for layer in range(3):
        scaled[f"weight_{layer}"] = scaled[f"weight_{layer}"] * theta[f"log_scale_{layer}"].exp()[:, None, None]
    expected = plain.predict(scaled, x)
    torch.testing.assert_close(model.predict(theta, x), expected)
    torch.testing.assert_close(model.predict(theta, x, scratch=Buffers()), expected)
    one = {name: value[1] for name, value in theta.items()}
    torch.testing.assert_close(model.predict(one, x)[0], expected[0][1])


def test_last_layer(network_problem: Problem) -> None:
    def names(**settings: object) -> set[str]:
        return set(network_problem(**settings)[0].last_layer)

    assert names(hidden=(3,) * 11) == {"weight_11", "bias_11"}
    assert names(hidden=(3,)) == {"weight_1", "bias_1"}
    assert names(hidden=(), noise="homoscedastic") == {"weight_0", "bias_0", "log_noise_std"}
    assert names(hidden=(5, 4), prior_scale_log_std=0.5) == {"weight_2", "bias_2", "log_scale_2"}


def test_data_far_from_unit_scale_are_doubted(generator: torch.Generator) -> None:
    """A fit to them would be bad in silence: names the column, what it is like, and the cure."""
    model = BayesianNetwork(3, 1)
    x, y = torch.randn(50, 3, generator=generator), torch.randn(50, 1, generator=generator)
    assert model.doubts(x, y) == []
    x[:, 1] = 7.0
    assert model.doubts(x, torch.full_like(y, 5.0)) == [], "constants of unit size do no harm"
    assert model.doubts(x[:1], y[:1]) == []
    x[:, 0] *= 1e6
    x[:, 2] *= 1e-4
    large, small, target = model.doubts(x, 1e4 + 0 * y)
    assert large.startswith("column 0 of x has mean")
    assert "standardise the data" in large
    assert small.startswith("column 2 of x")
    assert target.startswith("column 0 of y has mean 1e+04 and standard deviation 0,")


def test_a_fit_warns_of_doubtful_data_where_it_was_called(generator: torch.Generator) -> None:
    x = torch.randn(20, 1, generator=generator)
    with pytest.warns(UserWarning, match="column 0 of y has mean") as seen:
        svi.fit(BayesianNetwork(1, 1), x, 1e5 * x, generator=generator, num_steps=1)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="column 0 of y has mean") as seen:
        laplace.fit(BayesianNetwork(1, 1), x, 1e5 * x, generator=generator, num_steps=1)
    assert {(warning.filename, str(warning.message)) for warning in seen} == {(__file__, str(seen[0].message))}
