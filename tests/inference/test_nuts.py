"""Chains against exact posteriors, in units of their Monte Carlo error; the NumPyro declarations against the models."""

import dataclasses
import io
import itertools
import math
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import arviz_stats
import jax
import numpy as np
import pyro
import pytest
import torch
from numpyro.infer.util import log_density
from torch import Tensor
from torch.distributions import Distribution, Normal

from bayes_mbrl.inference import exact_linear, numpyro_sampler, nuts
from bayes_mbrl.inference.base import Model, Theta, log_prior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.likelihoods import NORMAL, Likelihood
from bayes_mbrl.inference.network import BINARY_STD, BayesianNetwork
from bayes_mbrl.inference.numpyro_models import numpyro_model
from bayes_mbrl.inference.parameter_vector import ParameterVector
from bayes_mbrl.inference.parametric import ParametricRegression, lognormal_prior
from bayes_mbrl.inference.pyro_elbo import as_pyro_program, pyro_session
from bayes_mbrl.inference.regression import Regression

# The declarations


def standard_normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def numpyro_log_joint(model: Regression, theta: Theta, x: Tensor, y: Tensor) -> list[float]:
    """By NumPyro's own `log_density`, one θ after the other."""
    declared, vector = numpyro_model(model), ParameterVector.of(model)
    prior = vector.join_normal({name: p for name, p in model.prior().items() if isinstance(p, Normal)})
    data = [tensor.numpy() for tensor in (prior.loc, prior.scale, x, y)]
    with jax.enable_x64(x.dtype == torch.float64):
        samples = [{name: value[k].numpy() for name, value in theta.items()} for k in range(3)]
        return [float(log_density(declared, data, {}, sample)[0]) for sample in samples]


def pyro_log_joint(model: Regression, theta: Theta, x: Tensor, y: Tensor) -> list[float]:
    """By Pyro's trace of the model as a Pyro program, one θ after the other."""
    program, values = as_pyro_program(model), []
    with pyro_session(torch.Generator().manual_seed(0)):
        for k in range(3):
            conditioned = pyro.poutine.condition(program, data={name: value[k] for name, value in theta.items()})
            values.append(float(pyro.poutine.trace(conditioned).get_trace(x, y).log_prob_sum()))
    return values


def check_log_joint(model: Regression, x: Tensor, y: Tensor) -> None:
    """At three random θ, twice as wide as the prior."""
    theta = {
        name: p.mean + 2 * p.stddev * standard_normal(3, *p.batch_shape, seed=seed, dtype=x.dtype)
        for seed, (name, p) in enumerate(model.prior().items())
    }
    expected = log_prior(model.prior(), theta) + model.log_likelihood(theta, x, y).sum(-1)
    tolerance = 1e-9 if x.dtype == torch.float64 else 1e-4
    by_numpyro = numpyro_log_joint(model, theta, x, y)
    assert by_numpyro == pytest.approx(expected.tolist(), rel=tolerance)
    assert by_numpyro == pytest.approx(pyro_log_joint(model, theta, x, y), rel=tolerance)


DTYPES = [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", ["normal", "student-t"])
@pytest.mark.parametrize("noise", ["heteroscedastic", "homoscedastic", "fixed"])
def test_network_log_joint_is_that_of_torch(noise: Any, likelihood: Any, dtype: torch.dtype) -> None:
    for log_std, activation in itertools.product((0.0, 0.7), ("silu", "tanh", "relu")):
        model = BayesianNetwork(
            3, 2, hidden=(5, 4), activation=activation, noise=noise, noise_std=0.3, min_std=0.02, max_std=1.5,  # type: ignore[arg-type]
            prior_scale=1.3, prior_scale_log_std=log_std, likelihood=likelihood, degrees_of_freedom=3.5, dtype=dtype,
        )  # fmt: skip
        check_log_joint(model, standard_normal(7, 3, seed=20, dtype=dtype), standard_normal(7, 2, seed=21, dtype=dtype))


@pytest.mark.parametrize(("noise", "num_binary"), [("heteroscedastic", 1), ("homoscedastic", 2), ("fixed", 1)])
def test_log_joint_with_binary_outputs_is_that_of_torch(noise: Any, num_binary: int) -> None:
    model = BayesianNetwork(
        3, 3, hidden=(4,), noise=noise, likelihood="student-t", prior_scale=3.0, num_binary=num_binary,
        dtype=torch.float64,
    )  # fmt: skip
    y = standard_normal(7, 3, seed=21)
    y[:, 3 - num_binary :] = (y[:, 3 - num_binary :] > 0).double()
    check_log_joint(model, 20 * standard_normal(7, 3, seed=20), y)


def wave(p: Mapping[str, Any], x: Any, lib: ModuleType) -> Any:
    first = p["amplitude"] * lib.sin(x[..., 0] + p["phase"])
    return lib.stack([first, lib.exp(-p["amplitude"]) * x[..., 1]], -1)


def wave_model(dtype: torch.dtype = torch.float64, **settings: Any) -> ParametricRegression:
    priors = {"amplitude": lognormal_prior(2.0, 1.5), "phase": Normal(torch.tensor(0.5), torch.tensor(0.2))}
    settings = {"input_dim": 2, "output_dim": 2, "noise_std": [0.1, 0.3], "min_std": 0.02, **settings}
    return ParametricRegression(wave, priors, dtype=dtype, **settings)


@pytest.mark.parametrize("likelihood", ["normal", "student-t"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parametric_log_joint_is_that_of_torch(dtype: torch.dtype, likelihood: Any) -> None:
    model = wave_model(dtype, likelihood=likelihood, noise_log_std=0.4)
    check_log_joint(model, standard_normal(7, 2, seed=20, dtype=dtype), standard_normal(7, 2, seed=21, dtype=dtype))


class Unknown(Regression):
    """A model that nobody has declared for NumPyro."""

    likelihood: Likelihood = NORMAL

    def prior(self) -> dict[str, Distribution]:
        return {"gain": Normal(torch.zeros(2), torch.ones(2))}

    def predict(self, theta: Any, x: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def initial(self, n: int, *, generator: torch.Generator) -> Theta:
        raise NotImplementedError


def test_what_nuts_does_not_know_is_refused(generator: torch.Generator) -> None:
    x, y = torch.ones(4, 2), torch.ones(4, 2)
    with pytest.raises(ValueError, match="NUTS knows BayesianNetwork and ParametricRegression, got a Unknown"):
        nuts.fit(Unknown(), x, y, generator=generator)
    model = BayesianNetwork(2, 2)
    model.likelihood = type("Laplace", (Likelihood,), dict.fromkeys(Likelihood.__abstractmethods__))()
    with pytest.raises(ValueError, match="NUTS knows normal and Student-t likelihoods, got a Laplace"):
        nuts.fit(model, x, y, generator=generator)
    with pytest.raises(ValueError, match=r"need num_draws > 0, got 0.*need target_acceptance < 1, got 1"):
        nuts.fit(model, x, y, generator=generator, num_draws=0, target_acceptance=1.0)


def test_a_start_without_a_finite_log_joint_is_refused(generator: torch.Generator) -> None:
    model = wave_model()
    theta = model.initial(3, generator=generator)
    far = DrawsPosterior({**theta, "log_noise_std": torch.full((3, 2), torch.inf).double()})
    with pytest.raises(ValueError, match=r"need a finite log joint where the chains start, got \[-inf"):
        nuts.fit(model, torch.ones(4, 2).double(), torch.ones(4, 2).double(), generator=generator, warm_start=far)


def test_a_function_that_is_another_one_under_jax_is_refused(generator: torch.Generator) -> None:
    def two_faced(p: Mapping[str, Any], x: Any, lib: ModuleType) -> Any:
        return wave(p, x, lib) + (0.0 if lib is torch else 0.5)

    model = wave_model()
    model.function = two_faced
    x = standard_normal(6, 2, seed=1)
    with pytest.raises(ValueError, match="as declared for NumPyro: a ParametricRegression's function may use only"):
        nuts.fit(model, x, x, generator=generator, num_variational_steps=0)


# Where chains start


def test_every_chain_starts_from_a_draw_of_its_own(generator: torch.Generator) -> None:
    """And the mass matrix from the draws' variance, no larger than the prior's; a single point has none."""
    model = BayesianNetwork(1, 1, hidden=(), noise="fixed", dtype=torch.float64)
    slopes, offsets = torch.tensor([[-0.25, 0.125, 0.5], [9, -9, 0]]).double()
    draws = {"weight_0": slopes.reshape(3, 1, 1), "bias_0": offsets[:, None]}
    nothing = torch.zeros(1, 1).double()
    start, variance = nuts._start(model, nothing, nothing, DrawsPosterior(draws), 3, 0, generator)
    assert sorted(start.tolist()) == [[-0.25, 9.0], [0.125, -9.0], [0.5, 0.0]]
    assert variance.tolist() == pytest.approx([np.var(slopes.numpy()), 1.0], rel=0.1)
    point = DrawsPosterior({name: value[:1] for name, value in draws.items()})
    start, variance = nuts._start(model, nothing, nothing, point, 2, 0, generator)
    assert start.tolist() == [[-0.25, 9.0]] * 2
    assert variance.tolist() == [1.0, 1.0]


def test_chains_start_from_a_variational_fit(generator: torch.Generator) -> None:
    """y = 3 x with little noise: the mean field finds the slope, the initial values do not."""
    model = BayesianNetwork(1, 1, hidden=(), noise="fixed", noise_std=0.1, prior_scale=5.0, dtype=torch.float64)
    x = torch.linspace(-1, 1, 50).double()[:, None]
    start, variance = nuts._start(model, x, 3 * x, None, 4, 300, generator)
    assert start[:, 0].tolist() == pytest.approx([3] * 4, abs=0.5)
    assert len(start[:, 0].unique()) == 4
    assert bool((variance < 0.1).all())
    start, variance = nuts._start(model, x, 3 * x, None, 4, 0, generator)
    assert start[:, 1].tolist() == [0] * 4
    assert variance.tolist() == pytest.approx([25.0, 25.0])


# A posterior that is known exactly: correlated, unequally scaled


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A linear regression, its chains, and its exact posterior."""

    model: BayesianNetwork
    x: Tensor
    y: Tensor
    posterior: DrawsPosterior
    info: nuts.NutsInfo

    def again(self, seed: int, **changes: Any) -> tuple[DrawsPosterior, nuts.NutsInfo]:
        given: dict[str, Any] = {"model": self.model, "x": self.x, "y": self.y, **SETTINGS, **changes}
        return nuts.fit(**given, generator=torch.Generator().manual_seed(seed))


SETTINGS = {"num_chains": 4, "num_warmup": 200, "num_draws": 300, "num_variational_steps": 0}


@pytest.fixture(scope="module")
def linear() -> Fitted:
    model = BayesianNetwork(3, 2, hidden=(), noise="fixed", noise_std=0.4, prior_scale=1.5, dtype=torch.float64)
    mixing = torch.tensor([[1.0, 0.9, 0.2], [0.0, 0.3, 0.1], [0.0, 0.0, 3.0]]).double()
    x = standard_normal(20, 3, seed=1) @ mixing
    y = x @ standard_normal(3, 2, seed=2) + 0.7 + 0.4 * standard_normal(20, 2, seed=3)
    numpyro_sampler._compiled.cache_clear()
    return Fitted(model, x, y, *nuts.fit(model, x, y, generator=torch.Generator().manual_seed(4), **SETTINGS))  # type: ignore[arg-type]


def check_moment(draws: Tensor, expected: Tensor, what: str) -> None:
    """Mean of draws [chain, draw, n] within 5 standard errors, by the effective sample size."""
    for i in range(draws.shape[-1]):
        values = draws[..., i].numpy()
        error = values.std() / math.sqrt(float(arviz_stats.ess(values, method="mean")))
        assert abs(values.mean() - float(expected[i])) < 5 * error, (what, i)


def test_linear_regression_is_exact(linear: Fitted) -> None:
    """Means, variances and covariances of all weights and biases, one column an output."""
    exact, _ = exact_linear.fit(linear.model, linear.x, linear.y, generator=torch.Generator())
    many = exact.sample(400_000, generator=torch.Generator().manual_seed(1))
    for output in range(2):
        true = torch.cat([many["weight_0"][..., output], many["bias_0"][:, None, output]], -1)
        weight, bias = (linear.info.draws[name][..., output] for name in ("weight_0", "bias_0"))
        draws = torch.cat([weight, bias[..., None]], -1)
        mean, covariance = true.mean(0), torch.cov(true.T)
        check_moment(draws, mean, "mean")
        products = (draws - mean)[..., :, None] * (draws - mean)[..., None, :]
        check_moment(products.flatten(-2), covariance.flatten(), "covariance")
        correlation = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
        assert float(correlation) < -0.8


def test_info(linear: Fitted) -> None:
    info = linear.info
    shapes = {name: value.shape for name, value in info.draws.items()}
    assert shapes == {"weight_0": (4, 300, 3, 2), "bias_0": (4, 300, 2)}
    theta = {name: value.flatten(0, 1) for name, value in info.draws.items()}
    log_joint = log_prior(linear.model.prior(), theta) + linear.model.log_likelihood(theta, linear.x, linear.y).sum(-1)
    torch.testing.assert_close(info.log_joint.flatten(), log_joint)
    assert info.final_loss == pytest.approx(-float(log_joint.mean()))
    assert info.num_divergences == 0
    assert 0.7 < info.acceptance_rate < 0.95
    kinetic = info.energy + info.log_joint  # χ² with 8 degrees of freedom, halved
    assert float(kinetic.mean()) == pytest.approx(4, rel=0.15)
    assert info.step_size.shape == (4,)
    depths = [math.frexp(count)[1] for count in info.num_leapfrog_steps.flatten().tolist()]
    assert info.tree_depth.flatten().tolist() == depths
    for name, value in theta.items():
        assert float(arviz_stats.rhat(info.draws[name].flatten(2)[..., 0].numpy())) < 1.03
        assert torch.equal(linear.posterior.draws[name], value)


def test_draws_are_the_memory_that_jax_wrote(linear: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a fit leaves JAX's own settings alone, whatever they are."""
    written: list[int] = []

    def noting(array: jax.Array) -> Tensor:
        written.append(array.unsafe_buffer_pointer())
        return convert(array)

    convert = numpyro_sampler._to_torch
    monkeypatch.setattr(numpyro_sampler, "_to_torch", noting)
    posterior, info = linear.again(seed=5)
    pointers = {t.untyped_storage().data_ptr() for t in (*posterior.draws.values(), *info.draws.values())}
    assert pointers <= set(written)
    assert len(pointers) == 1
    assert not jax.config.jax_enable_x64
    assert {value.dtype for value in posterior.draws.values()} == {torch.float64}


def test_equal_generators_give_bit_equal_chains_and_others_do_not(linear: Fitted) -> None:
    same, other = linear.again(seed=4)[1], linear.again(seed=5)[1]
    for field in ("log_joint", "energy", "acceptance", "num_leapfrog_steps", "step_size"):
        assert torch.equal(getattr(linear.info, field), getattr(same, field)), field
        assert not torch.equal(getattr(linear.info, field), getattr(other, field)), field
    assert all(torch.equal(linear.info.draws[name], same.draws[name]) for name in same.draws)


def test_other_data_of_the_same_shape_compile_nothing(linear: Fitted) -> None:
    """And are learned from: the compiled sampler knows shapes, no data and no prior."""
    sampler = numpyro_sampler._compiled(numpyro_model(linear.model), numpyro_sampler.Settings(200, 0.8, 10, False))
    before = numpyro_sampler._compiled.cache_info().misses
    model = BayesianNetwork(3, 2, hidden=(), noise="fixed", noise_std=0.4, prior_scale=2.5, dtype=torch.float64)
    y = linear.y.flip(1) + 5
    _, info = linear.again(seed=6, model=model, y=y)
    assert numpyro_sampler._compiled.cache_info().misses == before
    assert sampler.begin._cache_size() == sampler.advance._cache_size() == 1  # type: ignore[attr-defined]
    exact, _ = exact_linear.fit(model, linear.x, y, generator=torch.Generator())
    mean = exact.sample(100_000, generator=torch.Generator().manual_seed(1))["bias_0"].mean(0)
    check_moment(info.draws["bias_0"], mean, "mean")


@pytest.mark.slow
def test_simulation_based_calibration(linear: Fitted) -> None:
    """The rank of the true θ among its posterior draws is uniform (Talts et al. 2018, theorem 1): χ² over 8 bins."""
    generator = torch.Generator().manual_seed(8)
    ranks = []
    for seed in range(120):
        truth = {name: p.mean + p.stddev * torch.randn(1, *p.batch_shape, generator=generator).double()
                 for name, p in linear.model.prior().items()}  # fmt: skip
        y = linear.model.sample(truth, linear.x, generator=generator)[0]
        posterior, _ = linear.again(seed=seed, y=y)
        below = [(posterior.draws[n][::15] < truth[n]).sum(0).flatten() for n in truth]  # 80 draws, rank 0 … 80
        ranks.append(torch.cat(below))
    share = (torch.stack(ranks) + torch.rand(len(ranks), 8, generator=generator)) / 81
    counts = torch.stack([torch.histc(share[:, i].float(), 8, 0, 1) for i in range(8)])
    chi_squared = ((counts - 15) ** 2 / 15).sum(1)
    assert float(chi_squared.max()) < 30  # 7 degrees of freedom: p = 1e-4


# Harder ones


@pytest.mark.slow
def test_a_positive_parameter_by_its_logarithm(generator: torch.Generator) -> None:
    """y_i = scale + ε, scale > 0, against the integral over scale on a grid: a lost Jacobian would shift the mean."""

    def constant(p: Mapping[str, Any], x: Any, lib: ModuleType) -> Any:
        return lib.stack([p["scale"] + 0 * x[..., 0]], -1)

    prior = lognormal_prior(1.0, 3.0)
    model = ParametricRegression(
        constant, {"scale": prior}, input_dim=1, output_dim=1, noise_std=1.0, noise_log_std=1e-4, dtype=torch.float64
    )
    y = torch.tensor([[0.9], [-0.2], [0.4]]).double()
    _, info = nuts.fit(model, torch.zeros(3, 1).double(), y, generator=generator, num_draws=1000)
    grid = torch.linspace(1e-4, 12, 200_001).double()
    density = (prior.log_prob(grid) + Normal(grid[:, None], model.min_std + 1.0).log_prob(y.T).sum(1)).exp()
    mean = (grid * density).sum() / density.sum()
    second = (grid**2 * density).sum() / density.sum()
    draws = info.draws["log_scale"].exp()
    check_moment(torch.stack([draws, draws**2], -1), torch.stack([mean, second]), "scale")
    shifted = (grid * density * grid).sum() / (
        density * grid
    ).sum()  # the density of log scale, taken for that of scale
    assert abs(float(shifted - mean)) > 0.2


@pytest.mark.slow
def test_functions_of_a_network_mix(generator: torch.Generator) -> None:
    """R-hat of f(x*) and log σ(x*); that of the weights says nothing, units can change places."""
    model = BayesianNetwork(1, 1, hidden=(4,), activation="tanh", noise="homoscedastic", dtype=torch.float64)
    x = torch.linspace(-2, 2, 40).double()[:, None]
    y = torch.sin(1.5 * x) + 0.2 * standard_normal(40, 1, seed=1)
    _, info = nuts.fit(model, x, y, generator=generator, num_draws=600, target_acceptance=0.9)
    theta = {name: value.flatten(0, 1) for name, value in info.draws.items()}
    mean, std = model.predict(theta, torch.linspace(-3, 3, 7).double()[:, None])
    for values in (mean, std[:, :1].log()):
        for f in values.reshape(4, 600, -1).unbind(-1):
            assert float(arviz_stats.rhat(f.numpy())) < 1.02
    inside = mean[:, 2:5, 0]
    assert inside.mean(0).tolist() == pytest.approx(torch.sin(1.5 * torch.linspace(-1, 1, 3)).tolist(), abs=0.3)


@pytest.mark.slow
def test_divergences_warn_and_the_draws_are_kept(generator: torch.Generator) -> None:
    """Without a warm-up the steps are as long as the prior is wide, on a posterior a hundred times narrower."""
    model = wave_model(min_std=1e-3, noise_std=0.01, noise_log_std=0.1)
    x = standard_normal(200, 2, seed=3)
    y = wave({"amplitude": 2.0, "phase": 0.5}, x.numpy(), np)
    with pytest.warns(UserWarning, match=r"\d+ of 40 draws diverged .*Raise target_acceptance \(got 0.6\)") as caught:
        posterior, info = nuts.fit(
            model, x, torch.from_numpy(y), generator=generator, num_draws=10, num_warmup=0, num_variational_steps=0,
            target_acceptance=0.6,
        )  # fmt: skip
    assert caught[0].filename == __file__
    assert 0 < info.num_divergences == int(info.diverging.sum())
    assert posterior.num_draws == 40
    assert all(value.isfinite().all() for value in posterior.draws.values())


# The bar


class Terminal(io.StringIO):
    """Believes to be a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, own_stderr: io.StringIO) -> str:
    """What is written to stderr; pytest puts its own in place before every test, not only before fixtures."""
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "__stderr__", own_stderr)
    slices = list(numpyro_sampler._with_progress(60, 43))
    assert [i for first, last in slices for i in range(first, last)] == list(range(103))
    return stderr.getvalue()


def test_a_terminal_sees_a_bar_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file, live_display = Terminal(), io.StringIO(), Terminal()
    text = shown(monkeypatch, terminal, terminal)
    assert all(word in text for word in ("compiling", "warm-up", "draws", "/103"))
    assert shown(monkeypatch, file, file) == ""
    assert shown(monkeypatch, live_display, Terminal()) == ""  # one that has taken the terminal


def test_jax_is_loaded_by_nuts_alone_and_moves_no_global_state() -> None:
    code = """if True:
        import sys, numpy, bayes_mbrl.inference.svi
        before = numpy.random.get_state()[1].copy()
        print(sorted({"jax", "numpyro"} & sys.modules.keys()))
        import bayes_mbrl.inference.nuts
        print(sorted({"jax", "numpyro"} & sys.modules.keys()), (numpy.random.get_state()[1] == before).all())
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n['jax', 'numpyro'] True\n"


# A model of one's own


class Logistic(Model):
    """p(y = 1) = sigmoid(slope · x): neither network nor regression."""

    def prior(self) -> dict[str, Distribution]:
        return {"slope": Normal(torch.zeros((), dtype=torch.float64), torch.full((), 2.0, dtype=torch.float64))}

    def log_likelihood(self, theta: Mapping[str, Any], x: Tensor, y: Tensor) -> Tensor:
        sign = (2 * y - 1)[..., 0]
        return torch.nn.functional.logsigmoid(sign * theta["slope"][..., None] * x[..., 0])

    def initial(self, n: int, *, generator: torch.Generator) -> Theta:
        return {"slope": torch.zeros(n, dtype=torch.float64)}


class LogisticWithJax(Logistic):
    jax_log_likelihood = staticmethod(
        lambda theta, x, y: jax.nn.log_sigmoid((2 * y[:, 0] - 1) * theta["slope"] * x[:, 0])
    )


class WrongInJax(Logistic):
    jax_log_likelihood = staticmethod(lambda theta, x, y: jax.nn.log_sigmoid(theta["slope"] * x[:, 0]))


def logistic_data() -> tuple[Tensor, Tensor]:
    x = standard_normal(40, 1, seed=1)
    share = torch.rand(40, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x, (share < torch.sigmoid(1.5 * x)).double()


@pytest.mark.slow
def test_a_model_of_ones_own_against_a_grid() -> None:
    x, y = logistic_data()
    posterior, _ = nuts.fit(LogisticWithJax(), x, y, generator=torch.Generator().manual_seed(0))
    slope = posterior.draws["slope"]
    grid = torch.linspace(-4, 8, 4001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * (grid / 2) ** 2 + LogisticWithJax().log_likelihood({"slope": grid}, x, y).sum(-1), 0)
    mean = float((weight * grid).sum())
    std = math.sqrt(float((weight * (grid - mean) ** 2).sum()))
    assert abs(float(slope.mean()) - mean) < 5 * std / math.sqrt(400), "at least 400 effective draws of 2,000"
    assert float(slope.std()) == pytest.approx(std, rel=0.1)


@pytest.mark.slow
def test_a_probit_posterior_against_a_grid() -> None:
    """One weight and a bias: means, variances and correlation by numerical integration."""
    x = 1 + standard_normal(30, 1, seed=1)
    y = (x - 0.8 + 0.5 * standard_normal(30, 1, seed=2) > 0).double()
    model = BayesianNetwork(1, 1, hidden=(), noise="fixed", num_binary=1, dtype=torch.float64)
    _, info = nuts.fit(model, x, y, generator=torch.Generator().manual_seed(0), **SETTINGS)  # type: ignore[arg-type]
    weight, bias = torch.meshgrid(*2 * [torch.linspace(-5, 5, 801, dtype=torch.float64)], indexing="ij")
    grid = torch.stack([weight.flatten(), bias.flatten()], 1)
    latent = (grid[:, :1] * x[:, 0] + grid[:, 1:]) / BINARY_STD
    log_joint = torch.special.log_ndtr((2 * y[:, 0] - 1) * latent).sum(1) - 0.5 * grid.square().sum(1)
    mass = torch.softmax(log_joint, 0)[:, None]
    mean = (mass * grid).sum(0)
    draws = torch.stack([info.draws["weight_0"][..., 0, 0], info.draws["bias_0"][..., 0]], -1)
    check_moment(draws, mean, "mean")
    pairs = ((0, 0), (0, 1), (1, 1))
    products = torch.stack([(draws - mean)[..., i] * (draws - mean)[..., j] for i, j in pairs], -1)
    expected = torch.stack([(mass[:, 0] * (grid - mean)[:, i] * (grid - mean)[:, j]).sum() for i, j in pairs])
    check_moment(products, expected, "covariance")
    assert float(expected[1] / (expected[0] * expected[2]).sqrt()) < -0.3


def test_a_model_without_a_declaration_or_with_a_wrong_one_is_refused() -> None:
    x, y = logistic_data()
    with pytest.raises(ValueError, match="got a Logistic: give it a jax_log_likelihood"):
        nuts.fit(Logistic(), x, y, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="log joint"):
        nuts.fit(WrongInJax(), x, y, generator=torch.Generator().manual_seed(0), num_warmup=2, num_draws=2)
