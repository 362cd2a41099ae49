"""A decaying wave: amplitude and decay positive, phase real; two outputs, one input."""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, LogNormal, Normal

from bayes_mbrl.inference.base import log_prior, parameter_shapes, sample_prior
from bayes_mbrl.inference.parametric import ParametricRegression, lognormal_prior

PRIORS = {
    "amplitude": lognormal_prior(2.0, 1.5),
    "phase": Normal(torch.tensor(0.5), torch.tensor(0.2)),
    "decay": LogNormal(torch.tensor(-1.0), torch.tensor(0.3)),
}


def wave(p: Mapping[str, Tensor], x: Tensor, lib: ModuleType) -> Tensor:
    first = p["amplitude"] * lib.exp(-p["decay"] * x[..., 0]) * lib.sin(x[..., 1] + p["phase"])
    return lib.stack([first, -2 * first], -1)


def model(**settings: Any) -> ParametricRegression:
    settings = {"input_dim": 2, "output_dim": 2, "noise_std": [0.1, 0.3], "dtype": torch.float64, **settings}
    return ParametricRegression(wave, PRIORS, **settings)


def test_priors_are_normal_over_real_latents() -> None:
    prior = model(noise_log_std=0.7).prior()
    assert list(prior) == ["log_amplitude", "phase", "log_decay", "log_noise_std"]
    assert parameter_shapes(model()) == {"log_amplitude": (), "phase": (), "log_decay": (), "log_noise_std": (2,)}
    theta = {
        name: torch.full((1, *shape), -0.4, dtype=torch.float64) for name, shape in parameter_shapes(model()).items()
    }
    by_hand = (
        Normal(math.log(2), math.log(1.5)).log_prob(torch.tensor(-0.4))
        + Normal(0.5, 0.2).log_prob(torch.tensor(-0.4))
        + Normal(-1.0, 0.3).log_prob(torch.tensor(-0.4))
        + Normal(torch.tensor([0.1, 0.3]).log(), 0.7).log_prob(torch.tensor(-0.4)).sum()
    )
    torch.testing.assert_close(log_prior(prior, theta), by_hand.double()[None], rtol=1e-6, atol=0)


def test_prediction_for_many_theta_is_that_of_each(generator: torch.Generator) -> None:
    """In units: amplitude exp(log_amplitude), noise min_std + exp(log_noise_std); inputs shared or one set a θ."""
    wavy = model(min_std=0.01)
    theta = wavy.initial(3, generator=generator)
    x = torch.rand(5, 2, generator=generator, dtype=torch.float64)
    own = torch.stack([x, 2 * x, x.flip(0)])
    physical = wavy.physical(theta)
    assert {name: value.shape for name, value in physical.items()} == {
        "amplitude": (3,), "phase": (3,), "decay": (3,), "noise_std": (3, 2),
    }  # fmt: skip
    for inputs in (x, own):
        mean, std = wavy.predict(theta, inputs)
        assert mean.shape == std.shape == (3, 5, 2)
        for k in range(3):
            one = {name: value[k] for name, value in theta.items()}
            single = inputs if inputs.ndim == 2 else inputs[k]
            assert torch.equal(wavy.predict(one, single)[0], mean[k])
            assert torch.equal(wavy.predict(one, single)[1], std[k])
            first = one["log_amplitude"].exp() * (-one["log_decay"].exp() * single[:, 0]).exp()
            first = first * (single[:, 1] + one["phase"]).sin()
            torch.testing.assert_close(mean[k], torch.stack([first, -2 * first], -1))
            torch.testing.assert_close(std[k], (0.01 + one["log_noise_std"].exp()).expand(5, 2))
        assert wavy.log_likelihood(theta, inputs, torch.ones(5, 2).double()).shape == (3, 5)


def test_prior_predictive_has_the_moments_of_the_prior(generator: torch.Generator) -> None:
    """x = (0, π/2 − 0.5): the first output is amplitude · cos(phase − 0.5), its noise lognormal too."""
    wavy, n = model(noise_log_std=0.5, min_std=1e-6), 200_000
    theta = {name: prior.loc + prior.scale * torch.randn(n, *prior.loc.shape, generator=generator).double()  # type: ignore[attr-defined]
             for name, prior in wavy.prior().items()}  # fmt: skip
    y = wavy.sample(theta, torch.tensor([[0.0, math.pi / 2 - 0.5]]).double(), generator=generator)[:, 0]
    mean_amplitude = 2 * math.exp(math.log(1.5) ** 2 / 2)
    expected = mean_amplitude * math.exp(-0.02)
    assert abs(float(y[:, 0].mean()) - expected) < 5 * float(y[:, 0].std()) / math.sqrt(n)
    noise_variance = torch.tensor([0.1, 0.3]).double() ** 2 * math.exp(2 * 0.25)
    signal = (y + y.flip(1) * torch.tensor([0.5, 2.0]).double())[:, 0]  # first + second / 2: the waves cancel
    variance = noise_variance[0] + noise_variance[1] / 4
    assert float(signal.var()) == pytest.approx(float(variance), rel=0.05)


def test_impossible_models() -> None:
    with pytest.raises(ValueError, match=r"need Normal or LogNormal .* priors, not so: gain"):
        ParametricRegression(wave, {"gain": Gamma(1.0, 1.0)}, input_dim=1, output_dim=1)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="need scalar parameters, not so: gain"):
        ParametricRegression(wave, {"gain": Normal(torch.zeros(2), torch.ones(2))}, input_dim=1, output_dim=1)
    with pytest.raises(ValueError, match="need at least one parameter in priors; need noise_std > 0, got -1"):
        ParametricRegression(wave, {}, input_dim=1, output_dim=1, noise_std=-1)
    with pytest.raises(ValueError, match="noise_std is learned as it is"):
        ParametricRegression(wave, {"noise_std": lognormal_prior(1, 2)}, input_dim=1, output_dim=1)
    with pytest.raises(ValueError, match="need median > 0, got -1; need factor > 1, got 1"):
        lognormal_prior(-1, 1)


def test_names_that_would_be_one_are_refused() -> None:
    normal = Normal(torch.tensor(0.0), torch.tensor(1.0))
    sizes = {"input_dim": 1, "output_dim": 1}
    with pytest.raises(ValueError, match=r"latent as log_x, so two would be \['log_x'\]"):
        ParametricRegression(wave, {"x": lognormal_prior(1.0, 2.0), "log_x": normal}, **sizes)
    with pytest.raises(ValueError, match=r"so two would be \['log_noise_std'\]"):
        ParametricRegression(wave, {"log_noise_std": normal}, **sizes)
    with pytest.raises(ValueError, match=r"derived quantities, \['a'\] are parameters"):
        ParametricRegression(wave, {"a": normal}, derived=lambda p: {"a": 7 * p["a"], "b": p["a"]}, **sizes)


def test_a_function_of_the_wrong_shape_says_so(generator: torch.Generator) -> None:
    wrong = ParametricRegression(lambda p, x, lib: p["amplitude"] * x[..., 0], PRIORS, input_dim=1, output_dim=2)
    with pytest.raises(ValueError, match=r"need the function's mean as \[\.\.\., 4, 2\], got \[3, 4\]"):
        wrong.predict(wrong.initial(3, generator=generator), torch.ones(4, 1))


def test_derived_quantities_are_reported_and_no_parameters(generator: torch.Generator) -> None:
    """The wave's function would fail on a derived name it does not know, and no latent belongs to one."""
    plain, wavy = model(), model(derived=lambda p: {"half_life": math.log(2) / p["decay"]})
    theta = sample_prior(wavy, 4, generator=generator)
    assert parameter_shapes(wavy) == parameter_shapes(plain) == {n: v.shape[1:] for n, v in theta.items()}
    assert wavy.physical(theta).keys() - plain.physical(theta).keys() == {"half_life"}
    torch.testing.assert_close(wavy.physical(theta)["half_life"], math.log(2) / theta["log_decay"].exp())
    x = torch.rand(3, 2, generator=generator).double()
    assert torch.equal(wavy.predict(theta, x)[0], plain.predict(theta, x)[0])


def test_draws_of_the_prior_have_its_moments(generator: torch.Generator) -> None:
    n = 100_000
    wavy = model(noise_log_std=0.7)
    theta = sample_prior(wavy, n, generator=generator)
    for name, prior in wavy.prior().items():
        error = 5 * prior.stddev / math.sqrt(n)
        assert bool(((theta[name].mean(0) - prior.mean).abs() < error).all())
        assert bool(((theta[name].std(0) - prior.stddev).abs() < error).all())
