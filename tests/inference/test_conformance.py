"""The laws of `Posterior` and of every `fit`, from one table. What is missing from the table is a failure."""

import dataclasses
import gc
import importlib
import inspect
import math
import pathlib
import pkgutil
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

import bayes_mbrl.inference
from bayes_mbrl.inference import (
    concrete_dropout,
    dropout,
    ensemble,
    exact_linear,
    laplace,
    low_rank,
    nuts,
    point,
    sghmc,
    svi,
)
from bayes_mbrl.inference.base import Model, Posterior, Theta, load_posterior, parameter_shapes, save_posterior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.dropout import DropoutPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.optimise import DivergedFitError

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to fit: the module of the `fit`, its settings, and what the model must be like."""

    module: ModuleType
    settings: dict[str, Any]
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_random: bool = True

    def fit(self, model: Model, x: Tensor, y: Tensor, seed: int, **more: Any) -> tuple[Posterior, Any]:
        generator = torch.Generator().manual_seed(seed)
        fitted: tuple[Posterior, Any] = self.module.fit(model, x, y, generator=generator, **self.settings, **more)
        return fitted


SHORT = {"num_steps": 6, "batch_size": 10}
SHORT_CHAINS = {"num_chains": 2, "num_warmup": 8, "num_draws": 4, "max_tree_depth": 5, "num_variational_steps": 6}
CASES = {
    "point": Case(point, SHORT, {"noise": "homoscedastic"}, is_random=False),
    "ensemble": Case(ensemble, {**SHORT, "num_members": 3}),
    "mean-field": Case(svi, {**SHORT, "num_particles": 2}, {"noise": "homoscedastic"}),
    "mc-dropout": Case(dropout, {**SHORT, "rate": 0.3}, {"noise": "homoscedastic"}),
    "ensemble-randomised": Case(ensemble, {**SHORT, "num_members": 3, "randomised_prior": True}),
    "flipout": Case(svi, {**SHORT, "gradient": "flipout"}, {"prior_scale_log_std": 0.5}),
    "low-rank": Case(low_rank, {**SHORT, "rank": 3}, {"noise": "homoscedastic"}),
    "concrete-dropout": Case(concrete_dropout, SHORT, {"likelihood": "student-t"}),
    "laplace": Case(laplace, SHORT),
    "laplace-all": Case(laplace, {**SHORT, "subset": "all"}, {"noise": "homoscedastic"}),
    "sghmc": Case(sghmc, {"num_steps": 8, "batch_size": 10, "num_chains": 3, "num_draws": 2}),
    "exact-linear": Case(exact_linear, {}, {"hidden": (), "noise": "fixed"}),
    "nuts": Case(nuts, SHORT_CHAINS, {"noise": "homoscedastic"}),
}
SLOW = {
    "nuts": (pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*draws diverged"))
}  # seconds for each compilation


@pytest.fixture(scope="module", params=[pytest.param(name, marks=SLOW.get(name, ())) for name in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def problem(
    request: pytest.FixtureRequest, case: Case, network_problem: Problem
) -> tuple[BayesianNetwork, Tensor, Tensor]:
    return network_problem(dtype=request.param, **case.model)


@pytest.fixture(scope="module")
def posterior(case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor]) -> Posterior:
    return case.fit(*problem, seed=3)[0]


def draw(posterior: Posterior, n: int = 7, seed: int = 5) -> Theta:
    return posterior.sample(n, generator=torch.Generator().manual_seed(seed))


def same(first: Theta, second: Theta) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_same_generator_state_gives_same_draws(case: Case, posterior: Posterior) -> None:
    assert same(draw(posterior), draw(posterior))
    assert same(draw(posterior), draw(posterior, seed=6)) != case.is_random


def test_successive_draws_differ(case: Case, posterior: Posterior) -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = (posterior.sample(7, generator=generator) for _ in range(2))
    assert same(first, second) != case.is_random


@pytest.mark.parametrize("n", [1, 2, 7])
def test_draws_are_shaped_like_the_parameters(
    posterior: Posterior, problem: tuple[BayesianNetwork, Tensor, Tensor], n: int
) -> None:
    model, x, y = problem
    theta = draw(posterior, n)
    assert {name: value.shape for name, value in theta.items()} == {
        name: (n, *shape) for name, shape in parameter_shapes(model).items()
    }
    assert {value.dtype for value in theta.values()} == {model.dtype}
    assert {value.device for value in theta.values()} == {model.device}
    assert not any(value.requires_grad for value in theta.values())
    assert model.log_likelihood(theta, x, y).isfinite().all()


def test_draws_belong_to_the_caller(posterior: Posterior) -> None:
    before = draw(posterior)
    for value in draw(posterior).values():
        value.zero_()
    assert same(before, draw(posterior))


def test_saved_and_loaded_draws_are_bit_equal(posterior: Posterior, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "posterior.safetensors"
    save_posterior(posterior, path)
    loaded = load_posterior(path, {posterior.kind: type(posterior)})
    assert type(loaded) is type(posterior)
    assert same(draw(posterior), draw(loaded))


def test_the_density_is_that_of_the_draws(posterior: Posterior) -> None:
    """log q's gradient has mean 0 under q, and so has Σ_i θ_i ∂_i log q + P: together they fix location and scale."""
    theta = draw(posterior, 4000)
    log_density = posterior.log_density(theta)
    if isinstance(posterior, DrawsPosterior | DropoutPosterior):
        assert log_density is None
        return
    assert log_density is not None
    assert log_density.shape == (4000,)
    assert log_density.dtype == torch.float64
    random = {name: value for name, value in theta.items() if bool((value != value[0]).any())}
    leaves = {name: value.double().requires_grad_() for name, value in random.items()}
    again = posterior.log_density({**theta, **leaves})
    assert again is not None
    gradients = torch.autograd.grad(again.sum(), list(leaves.values()))
    scores = torch.cat([gradient.reshape(4000, -1) for gradient in gradients], 1)
    values = torch.cat([leaf.detach().reshape(4000, -1) for leaf in leaves.values()], 1)
    virial = (scores * (values - values.mean(0))).sum(1) + scores.shape[1]
    for statistic in (scores, virial[:, None]):
        error = statistic.std(0) / math.sqrt(4000)
        assert bool((statistic.mean(0).abs() < 5.5 * error).all())
    entropy = posterior.log_density(draw(posterior, 4000, seed=9))
    assert entropy is not None
    error = float(log_density.std()) * math.sqrt(2 / 4000)
    assert abs(float(log_density.mean() - entropy.mean())) < 5 * error
    covariance = torch.cov(values.T)
    if torch.linalg.matrix_rank(covariance) == len(covariance):  # the normal's own entropy
        expected = -0.5 * (len(covariance) * (1 + math.log(2 * math.pi)) + float(torch.logdet(covariance)))
        slack = len(covariance) ** 2 / 4000 + 5 * float(log_density.std()) / math.sqrt(4000)
        assert abs(float(log_density.mean()) - expected) < slack


def test_frozen(posterior: Posterior) -> None:
    field = dataclasses.fields(posterior)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(posterior, field, None)


def test_same_generator_gives_bit_equal_fit(case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor]) -> None:
    first, second, other = (case.fit(*problem, seed=seed)[0].tensors() for seed in (3, 3, 4))
    assert same(first, second)
    assert same(first, other) == (case.module is exact_linear)


def test_data_are_not_kept(case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor]) -> None:
    model, x, y = problem
    x, y = x.clone(), y.clone()
    kept = case.fit(model, x, y, seed=3)
    alive = weakref.ref(x), weakref.ref(y)
    del x, y
    gc.collect()
    assert [reference() for reference in alive] == [None, None]
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in kept[0].tensors().values())


def test_warm_start(case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor]) -> None:
    """A step of no length from the last fit is the last fit, and the last fit itself stays as it was."""
    last, _ = case.fit(*problem, seed=3)
    before = {name: value.clone() for name, value in last.tensors().items()}
    still = {} if case.module in (exact_linear, nuts) else {"learning_rate": 1e-30}
    again, _ = case.fit(*problem, seed=4, warm_start=last, **still)
    for name, value in before.items():
        assert torch.equal(value, last.tensors()[name])
        if case.module not in (nuts, sghmc):  # chains move on
            torch.testing.assert_close(again.tensors()[name], value)


def test_warm_start_of_another_model_is_refused(
    case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor], network_problem: Problem
) -> None:
    if case.module is exact_linear:
        return  # nothing to start: the warm start is not used
    model, x, y = problem
    last, _ = case.fit(*network_problem(dtype=model.dtype, **{**case.model, "hidden": (5, 6)}), seed=3)
    with pytest.raises(ValueError, match=r"warm_start and model differ in the shapes of bias_1, weight_1, weight_2"):
        case.fit(model, x, y, seed=3, warm_start=last)
    other = exact_linear.ExactLinearPosterior(torch.zeros(2, 1), torch.eye(2))
    of_another_kind = (
        "differ in the shapes" if case.module in (nuts, sghmc) else "as warm_start, got a ExactLinearPosterior"
    )
    with pytest.raises(ValueError, match=of_another_kind):
        case.fit(model, x, y, seed=3, warm_start=other)


def test_bad_data_are_refused(case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor]) -> None:
    model, x, y = problem
    bad = y.clone()
    bad[[4, 9], 1] = torch.nan
    with pytest.raises(ValueError, match="y has NaN or inf in 2 rows, first in row 4"):
        case.fit(model, x, bad, seed=3)
    with pytest.raises(ValueError, match=r"need x \[N, 3\] and y \[N, 2\], got .* 1\]"):
        case.fit(model, x, y[:, :1], seed=3)


def test_a_diverging_fit_keeps_the_last_finite_state(
    case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor]
) -> None:
    """Every fit that follows a gradient; one with a learning rate that overflows."""
    if "num_steps" not in case.settings:
        return  # NUTS and the exact posterior have no learning rate
    model, x, y = problem
    steps = {"num_steps": 60, "learning_rate": 1e200 if model.dtype == torch.float64 else 1e30}
    replaced = dataclasses.replace(case, settings={**case.settings, **steps})
    with pytest.raises(DivergedFitError, match=r"diverged at step \d+ of \d+: lower ") as raised:
        replaced.fit(model, x, y, seed=3)
    kept = draw(raised.value.posterior)
    assert all(value.isfinite().all() for value in kept.values())
    assert model.log_likelihood(kept, x, y).shape == (7, len(x))


def test_a_binary_output(case: Case, network_problem: Problem) -> None:
    """Beside a continuous one; also of data in which it never varies, as where no episode has ended yet."""
    model, x, y = network_problem(num_binary=1, **case.model)
    if case.module is exact_linear:
        with pytest.raises(ValueError, match=r"num_binary=0 \(a learned termination is a binary output\)"):
            case.fit(model, x, y, seed=3)
        return
    assert 0 < float(y[:, 1].mean()) < 1
    for targets in (y, torch.stack([y[:, 0], torch.zeros(23).double()], 1)):
        posterior, _ = case.fit(model, x, targets, seed=3)
        theta = draw(posterior)
        assert {name: value.shape[1:] for name, value in theta.items()} == parameter_shapes(model)
        assert model.log_likelihood(theta, x, targets).isfinite().all()


@pytest.mark.parametrize("num_data", [1, 2])
def test_few_and_constant_data(case: Case, problem: tuple[BayesianNetwork, Tensor, Tensor], num_data: int) -> None:
    """One datum, two equal ones, a constant target: fewer data than inputs and nothing to standardise by."""
    model, x, y = problem
    posterior, _ = case.fit(model, x[:1].repeat(num_data, 1), torch.ones_like(y[:num_data]), seed=3)
    assert all(value.isfinite().all() for value in draw(posterior).values())


def _modules() -> dict[str, ModuleType]:
    path = bayes_mbrl.inference.__path__
    return {m.name: importlib.import_module(f"bayes_mbrl.inference.{m.name}") for m in pkgutil.iter_modules(path)}


def test_every_fit_and_every_posterior_is_in_the_table() -> None:
    modules = _modules()
    fits = {name for name, module in modules.items() if hasattr(module, "fit")}
    assert fits == {case.module.__name__.rsplit(".", 1)[1] for case in CASES.values()}
    posteriors = {
        value
        for module in modules.values()
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Posterior) and not inspect.isabstract(value)
    }
    returned = {get_type_hints(case.module.fit)["return"].__args__[0] for case in CASES.values()}
    assert posteriors == returned
    assert len({posterior.kind for posterior in posteriors}) == len(posteriors)


@pytest.mark.parametrize("name", CASES)
def test_every_fit_has_the_same_leading_arguments(name: str) -> None:
    parameters = inspect.signature(CASES[name].module.fit).parameters
    assert list(parameters)[:5] == ["model", "x", "y", "generator", "warm_start"]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3:])
    assert all(p.default is not p.empty for p in list(parameters.values())[4:])
