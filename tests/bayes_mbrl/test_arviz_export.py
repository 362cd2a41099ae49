"""The tree of any posterior: what is in it is what the model says, with and without reinforcement learning."""

import pathlib
from typing import Any

import arviz_plots
import arviz_stats
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor
from torch.distributions import LogNormal, Normal

from bayes_mbrl import arviz_export
from bayes_mbrl.analysis.arviz_tree import load_tree, save_tree
from bayes_mbrl.arviz_export import draws_for_diagnosis, off_distribution, regression_tree
from bayes_mbrl.inference import exact_linear, laplace, svi
from bayes_mbrl.inference.base import sample_prior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.parametric import ParametricRegression
from bayes_mbrl.posterior_diagnosis import diagnose_posterior


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_problem(num_data: int = 30, outputs: int = 2) -> tuple[BayesianNetwork, Tensor, Tensor]:
    model = BayesianNetwork(3, outputs, hidden=(), noise="fixed", noise_std=0.3, dtype=torch.float64)
    x = torch.randn(num_data, 3, generator=seeded(1), dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.9, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64
    )
    theta = sample_prior(model, 1, generator=seeded(2))
    return model, x, model.sample(theta, x, generator=seeded(3))[0]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_binary_output_is_predicted_as_0_or_1(outputs: int) -> None:
    """Its axis stays where it is the only one: the likelihood tells outputs by their place."""
    model = BayesianNetwork(3, outputs, hidden=(), noise="fixed", num_binary=1, dtype=torch.float64)
    x = torch.randn(20, 3, generator=seeded(1), dtype=torch.float64)
    y = model.sample(sample_prior(model, 1, generator=seeded(8)), x, generator=seeded(3))[0]
    posterior, info = laplace.fit(model, x, y, generator=seeded(), subset="all", num_steps=50)
    tree = regression_tree(model, posterior, x, y, generator=seeded(5), info=info, num_draws=11)
    theta = {name: torch.from_numpy(tree["posterior"][name].values[0]) for name in ("weight_0", "bias_0")}
    assert tree["posterior_predictive"]["y"].shape == (1, 11, 20, outputs)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], model.log_likelihood(theta, x, y))
    for group in ("posterior_predictive", "prior_predictive", "observed_data"):
        assert set(np.unique(tree[group]["y"].values[..., -1])) == {0.0, 1.0}
    found = diagnose_posterior(model, posterior, x, y, generator=seeded(), info=info)
    assert {"PSIS k̂ of q", "trace of the loss"} <= {verdict.name for verdict in found.verdicts}
    assert not any(verdict.name == "finite function values" for verdict in found.verdicts)


@pytest.mark.parametrize("outputs", [1, 2])
def test_values_are_the_models(outputs: int) -> None:
    model, x, y = linear_problem(outputs=outputs)
    posterior, info = exact_linear.fit(model, x, y, generator=seeded())
    x_off = x[:4] + 9
    tree = regression_tree(model, posterior, x, y, generator=seeded(5), x_off=x_off, info=info, num_draws=11)
    given = tree["posterior"]
    theta = {name: torch.from_numpy(given[name].values[0]) for name in ("weight_0", "bias_0")}
    assert theta["weight_0"].shape == (11, 3, outputs)
    squeeze = (lambda values: values[..., 0]) if outputs == 1 else (lambda values: values)
    for points, f, sigma in ((x, "f", "sigma"), (x_off, "f_off", "sigma_off")):
        mean, std = model.predict(theta, points)
        np.testing.assert_allclose(given[f].values[0], squeeze(mean))
        np.testing.assert_allclose(given[sigma].values[0], squeeze(std))
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], model.log_likelihood(theta, x, y))
    np.testing.assert_array_equal(tree["observed_data"]["y"], squeeze(y))
    np.testing.assert_array_equal(tree["constant_data"]["x_off"], x_off)
    residual = (tree["posterior_predictive"]["y"] - given["f"]).values / 0.3
    assert abs(residual.std() - 1) < 5 / np.sqrt(2 * residual.size)
    prior = {name: torch.from_numpy(tree["prior"][name].values[0]) for name in ("weight_0", "bias_0")}
    np.testing.assert_allclose(tree["prior"]["f"].values[0], squeeze(model.predict(prior, x)[0]))
    assert abs(float(prior["bias_0"].std()) - 1) < 5 / np.sqrt(2 * prior["bias_0"].numel())
    assert tree["prior_predictive"]["y"].shape[:2] == (1, arviz_export.NUM_DRAWS)
    assert tree.attrs["off_distribution"] == "given"
    assert tree.attrs["data"] == "all 30"


def test_draws_of_chains_stay_in_their_chains_with_their_statistics() -> None:
    """The posterior stores chain after chain."""
    model, x, y = linear_problem()
    chains, length = 3, 500
    draws = sample_prior(model, chains * length, generator=seeded(4))
    draws["bias_0"][:, 0] = torch.arange(chains * length)
    numbers = torch.arange(chains * length).reshape(chains, length)
    record = {
        "num_chains": torch.tensor(chains), "energy": numbers + 0.5, "diverging": numbers % 7 == 0,
        "acceptance": 1 / (1 + numbers), "step_size": torch.tensor([0.1, 0.2, 0.3]), "tree_depth": numbers,
        "losses": torch.ones(chains * length),
    }  # fmt: skip
    tree = regression_tree(model, DrawsPosterior(draws), x, y, generator=seeded(), info=record)
    kept = tree["posterior"]["bias_0"].values[..., 0]
    assert kept.shape == (3, arviz_export.MAX_STORED // 3)
    assert (kept // length == np.arange(3)[:, None]).all()
    assert kept[0, 0] == 0
    assert kept[-1, -1] == 1499
    stats = tree["sample_stats"]
    assert set(stats.data_vars) == {"energy", "diverging", "acceptance_rate", "step_size", "tree_depth"}
    np.testing.assert_array_equal(stats["energy"], kept + 0.5)
    np.testing.assert_array_equal(stats["diverging"], kept % 7 == 0)
    np.testing.assert_allclose(stats["step_size"], np.repeat([[0.1], [0.2], [0.3]], kept.shape[1], 1), rtol=1e-6)
    assert tree.attrs["draws"] == "3 chains, 133 of 500 draws of each, evenly spaced"


def test_members_of_an_ensemble_appear_once_each() -> None:
    model, x, y = linear_problem()
    posterior = DrawsPosterior(sample_prior(model, 5, generator=seeded(4)))
    draws = draws_for_diagnosis(posterior, {}, generator=seeded())
    assert (draws.num_chains, draws.words) == (1, "5 members of an ensemble")
    assert torch.equal(draws.theta["weight_0"], posterior.draws["weight_0"])
    point = DrawsPosterior(sample_prior(model, 1, generator=seeded(4)))
    assert draws_for_diagnosis(point, {}, generator=seeded()).words == "one point"
    assert regression_tree(model, posterior, x, y, generator=seeded())["posterior"]["f"].shape == (1, 5, 30, 2)


def test_many_weights_and_data_are_thinned_and_it_is_said() -> None:
    model = BayesianNetwork(3, 1, hidden=(60, 60))
    x = torch.randn(1000, 3, generator=seeded(1))
    posterior, info = svi.fit(model, x, x[:, :1], generator=seeded(), num_steps=3)
    tree = regression_tree(model, posterior, x, x[:, :1], generator=seeded(7), info=info)
    theta = posterior.sample(arviz_export.NUM_DRAWS, generator=_after_off(x, seeded(7)))
    total = 3 * 60 + 60 + 60 * 60 + 60 + 120 + 2
    kept = sum(tree["posterior"][name][0, 0].size for name in theta)
    assert kept <= arviz_export.MAX_WEIGHTS
    assert tree.attrs["weights"].startswith(f"{kept} of {total} entries of θ")
    entries = tree["posterior"]["weight_1_entry"].values
    np.testing.assert_array_equal(tree["posterior"]["weight_1"][0], theta["weight_1"].flatten(1).numpy()[:, entries])
    assert tree.attrs["data"] == f"{arviz_export.MAX_POINTS} of 1000, evenly spaced"
    np.testing.assert_array_equal(tree["constant_data"]["x"], x.numpy()[tree["constant_data"]["datum"].values])


def _after_off(x: Tensor, generator: torch.Generator) -> torch.Generator:
    off_distribution(x, arviz_export.NUM_OFF, generator=generator)
    return generator


def test_parameters_have_their_names_and_units() -> None:
    priors = {"mass": LogNormal(torch.tensor(0.0), torch.tensor(0.5)), "offset": Normal(0.0, 1.0)}
    model = ParametricRegression(
        lambda p, x, lib: lib.stack([p["mass"] * x[..., 0] + p["offset"]], -1), priors, input_dim=1, output_dim=1
    )  # fmt: skip
    x = torch.linspace(-1, 1, 20)[:, None]
    posterior, info = svi.fit(model, x, 2 * x, generator=seeded(), num_steps=5)
    tree = regression_tree(model, posterior, x, 2 * x, generator=seeded(), info=info)
    np.testing.assert_allclose(tree["posterior"]["mass"], np.exp(tree["posterior"]["log_mass"]), rtol=1e-5)
    np.testing.assert_allclose(tree["prior"]["mass"], np.exp(tree["prior"]["log_mass"]), rtol=1e-5)
    assert {"offset", "noise_std"} <= set(tree["posterior"].data_vars)


def test_points_off_the_distribution_lie_outside_of_the_data() -> None:
    x = torch.randn(40, 2, generator=seeded()) * torch.tensor([1.0, 100.0]) + torch.tensor([5.0, -300.0])
    off = off_distribution(x, 500, generator=seeded(1))
    low, high = x.amin(0), x.amax(0)
    outside = (off < low) | (off > high)
    assert bool(outside.any(1).all())
    centre, half = (low + high) / 2, (high - low) / 2
    assert float(((off - centre) / half).abs().max()) <= 3 + 1e-4
    stretched = torch.ones(2000, 1) * torch.tensor([[-1.0], [1.0]]).repeat(1000, 1)
    assert bool((off_distribution(stretched, 300, generator=seeded(2)).abs() > 1).all())


@pytest.mark.parametrize("x", [torch.ones(1, 3), torch.full((9, 2), 4.0)])
def test_points_off_data_that_never_vary(x: Tensor) -> None:
    off = off_distribution(x, 50, generator=seeded())
    assert bool(((off - x[0]).abs() > 1).any(1).all())
    assert float((off - x[0]).abs().max()) <= 3 + 1e-5


def test_a_constant_coordinate_stays() -> None:
    x = torch.cat([torch.full((9, 1), 4.0), torch.randn(9, 1, generator=seeded())], 1)
    assert bool((off_distribution(x, 50, generator=seeded())[:, 0] == 4).all())


@pytest.mark.parametrize("num_data", [1, 2])
def test_a_single_datum_and_a_single_draw(num_data: int, tmp_path: pathlib.Path) -> None:
    model, x, y = linear_problem(num_data)
    point = DrawsPosterior(sample_prior(model, 1, generator=seeded()))
    tree = regression_tree(model, point, x, y, generator=seeded())
    save_tree(tree, tmp_path / "posterior.nc")
    assert load_tree(tmp_path / "posterior.nc")["posterior"]["f"].shape == (1, 1, num_data, 2)


def test_other_widths_are_refused() -> None:
    model, x, y = linear_problem()
    posterior = exact_linear.fit(model, x, y, generator=seeded())[0]
    with pytest.raises(ValueError, match="need x"):
        regression_tree(model, posterior, x, y[:, :1], generator=seeded())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_arviz_goes_on_from_the_file_of_a_plain_regression(tmp_path: pathlib.Path) -> None:
    model, x, y = linear_problem(outputs=1)
    posterior, info = exact_linear.fit(model, x, y, generator=seeded())
    save_tree(regression_tree(model, posterior, x, y, generator=seeded(), info=info), tmp_path / "posterior.nc")
    tree = load_tree(tmp_path / "posterior.nc")
    loo = arviz_stats.loo(tree, pointwise=True)
    pictures: dict[str, tuple[Any, dict[str, Any]]] = {
        "plot_ppc_pit": (tree, {}),
        "plot_loo_pit": (tree, {}),
        "plot_khat": (loo, {}),
        "plot_prior_posterior": (tree, {"var_names": ["bias_0"]}),
        "plot_compare": (arviz_stats.compare({"a": tree, "b": tree.isel(draw=slice(0, 50))}), {}),
    }
    for name, (data, settings) in pictures.items():
        getattr(arviz_plots, name)(data, backend="matplotlib", **settings).savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 1_000
    pyplot.close("all")
