"""The tree survives a file and is accepted by ArviZ's own functions, of the 0.x and of the 1.x line."""

import ast
import pathlib
import warnings
from typing import Any

import arviz_plots
import arviz_stats
import numpy as np
import pytest
import torch
import xarray
from matplotlib import pyplot

from bayes_mbrl.analysis import arviz_tree
from bayes_mbrl.analysis.arviz_tree import load_tree, pit_tree, posterior_tree, save_tree

K, N, S, A = 200, 7, 3, 2
STATE_NAMES = ["cos", "sin", "speed"]


def arguments(leading: tuple[int, ...] = (K,)) -> dict[str, Any]:
    """A linear-Gaussian run, so that the log-likelihood belongs to the predictions; every axis has another length."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    states, actions = normal(N, S), normal(N, A)
    next_states = states + torch.tensor([0.1, 0.5, 3.0]) * normal(N, S)
    std = torch.tensor([0.1, 0.5, 3.0]).expand(*leading, N, S)
    mean = states + 0.1 * std * normal(*leading, 1, 1)
    prior = states + 2 * normal(50, 1, 1) * std[(0,) * len(leading)]
    stats = {
        "energy": normal(*leading), "lp": normal(*leading), "diverging": normal(*leading) > 2.3,
        "tree_depth": torch.full(leading, 3), "acceptance_rate": torch.rand(*leading, generator=generator),
        "step_size": torch.full(leading, 0.1),
    }  # fmt: skip
    return {
        "posterior": {"f": mean, "sigma": std, "mass": mean[..., 0, 0], "lengths": mean[..., 0, :2]},
        "posterior_predictive": {"next_state": mean + std * normal(*leading, N, S)},
        "log_likelihood": {"next_state": torch.distributions.Normal(mean, std).log_prob(next_states).sum(dim=-1)},
        "sample_stats": stats,
        "prior": {"f": prior, "mass": prior[..., 0, 0]},
        "prior_predictive": {"next_state": prior + std[(0,) * len(leading)] * normal(50, N, S)},
        "observed_data": {"next_state": next_states},
        "constant_data": {"state": states, "action": actions.numpy()},
        "chains": len(leading) > 1,
        "dims": {
            **{name: ["transition", "state_dim"] for name in ("f", "sigma", "next_state", "state")},
            "action": ["transition", "action_dim"],
        },
        "coords": {"state_dim": STATE_NAMES, "transition": [3, 14, 15, 92, 65, 35, 89]},
        "attributes": {"environment": "Pendulum-v1", "version_torch": torch.__version__},
    }


@pytest.fixture(scope="module")
def tree() -> xarray.DataTree:
    return posterior_tree(**arguments())


@pytest.fixture(scope="module")
def chains() -> xarray.DataTree:
    return posterior_tree(**arguments(leading=(4, 60)))


def test_groups_dimensions_and_values(tree: xarray.DataTree) -> None:
    given = arguments()
    assert dict(tree["posterior"].sizes) == {
        "chain": 1, "draw": K, "transition": N, "state_dim": S, "lengths_dim_0": 2,
    }  # fmt: skip
    assert tree["posterior"]["f"].dims == ("chain", "draw", "transition", "state_dim")
    assert tree["log_likelihood"]["next_state"].dims[:2] == ("chain", "draw")
    assert tree["observed_data"]["next_state"].dims == ("transition", "state_dim")
    assert tree["constant_data"]["action"].dims == ("transition", "action_dim")
    assert tree["posterior"].coords["state_dim"].values.tolist() == STATE_NAMES
    assert tree["log_likelihood"].coords["transition"].values.tolist() == given["coords"]["transition"]
    for group in ("posterior", "posterior_predictive", "log_likelihood", "sample_stats", "prior", "prior_predictive"):
        for name, values in given[group].items():
            np.testing.assert_array_equal(tree[group][name].values[0], values.numpy())
    np.testing.assert_array_equal(tree["constant_data"]["state"].values, given["constant_data"]["state"].numpy())
    np.testing.assert_array_equal(tree["observed_data"]["next_state"].values, given["observed_data"]["next_state"])
    assert tree.attrs["environment"] == "Pendulum-v1"
    assert "not_finite" not in tree.attrs


def test_chains_are_kept_apart(chains: xarray.DataTree) -> None:
    given = arguments(leading=(4, 60))
    assert chains["posterior"]["mass"].shape == chains["sample_stats"]["energy"].shape == (4, 60)
    assert chains["prior"]["mass"].shape == (1, 50)
    np.testing.assert_array_equal(chains["posterior"]["f"].values, given["posterior"]["f"].numpy())
    assert float(arviz_stats.rhat(chains, var_names=["mass"])["mass"]) == pytest.approx(1, abs=0.2)


def test_round_trip(chains: xarray.DataTree, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "posterior.nc"
    path.write_text("an older file")
    save_tree(chains, path)
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]
    loaded = load_tree(path)
    path.unlink()  # the file is closed and the values are in memory
    xarray.testing.assert_identical(loaded, chains)
    assert loaded["sample_stats"]["diverging"].dtype == bool


def test_a_failed_write_leaves_the_old_file(
    tree: xarray.DataTree, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "posterior.nc"
    save_tree(tree, path)
    before = path.read_bytes()

    def disk_full(self: pathlib.Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_tree(tree, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]


def test_damaged_and_missing_files(tree: xarray.DataTree, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "posterior.nc"
    save_tree(tree, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"posterior.nc is not a complete netCDF file"):
        load_tree(path)
    with pytest.raises(FileNotFoundError):
        load_tree(tmp_path / "nothing.nc")


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
def test_arviz_accepts_the_loaded_tree(tree: xarray.DataTree, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "posterior.nc"
    save_tree(tree, path)
    loaded = load_tree(path)
    summary = arviz_stats.summary(loaded, var_names=["mass", "lengths"])
    assert list(summary.index) == ["mass", "lengths[0]", "lengths[1]"]
    result = arviz_stats.loo(loaded, pointwise=True)
    assert result.n_data_points == N
    # Gaussian posterior predictive: leave-one-out cannot exceed the in-sample mixture by much, nor be far below it.
    in_sample = np.log(np.exp(loaded["log_likelihood"]["next_state"].values[0].astype(float)).mean(axis=0)).sum()
    assert in_sample - 3 < result.elpd < in_sample
    pit = arviz_stats.loo_pit(loaded.sel(state_dim="speed"))["next_state"]
    assert pit.dims == ("transition",)
    assert bool(((pit >= 0) & (pit <= 1)).all())


PLOTS: dict[str, dict[str, Any]] = {
    "plot_forest": {"var_names": ["f", "mass"]},
    "plot_rank": {"var_names": ["mass"]},
    "plot_ppc_dist": {"num_samples": 10},
    "plot_ppc_pit": {},
    "plot_loo_pit": {},
    "plot_energy": {},
    "plot_ess": {"var_names": ["mass"]},
    "plot_prior_posterior": {"var_names": ["mass"]},
    "plot_autocorr": {"var_names": ["mass"]},
    "plot_dist": {"var_names": ["lengths"]},
    "plot_trace_dist": {"var_names": ["mass"]},
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", PLOTS)
def test_arviz_plots_the_tree(chains: xarray.DataTree, tmp_path: pathlib.Path, name: str) -> None:
    data = chains.sel(state_dim="speed") if "pit" in name or "ppc" in name else chains
    picture = getattr(arviz_plots, name)(data, backend="matplotlib", **PLOTS[name])
    picture.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1_000
    pyplot.close("all")


def test_arviz_plots_ranks_of_simulation_based_calibration(tmp_path: pathlib.Path) -> None:
    pit = np.random.default_rng(0).random((80, 3))
    tree = pit_tree({"f": pit, "sigma": torch.from_numpy(pit)})
    np.testing.assert_array_equal(tree["prior_sbc"]["f"].values[0], pit)
    state = np.random.get_state()  # noqa: NPY002
    picture = arviz_plots.plot_ecdf_pit(tree, var_names=["f"], backend="matplotlib")
    np.random.set_state(state)  # noqa: NPY002
    picture.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1_000
    pyplot.close("all")
    with pytest.raises(ValueError, match="same number of replicates"):
        pit_tree({"f": pit, "sigma": pit[:5]})


def test_a_drawn_number_is_the_trees(tree: xarray.DataTree) -> None:
    forest = arviz_plots.plot_forest(tree, var_names=["mass"], backend="none")
    drawn = forest.viz["point_estimate"]["mass"].item()["x"]
    np.testing.assert_allclose(np.ravel(drawn), tree["posterior"]["mass"].mean(), rtol=1e-4)


def test_arviz_itself_reads_the_file(tree: xarray.DataTree, tmp_path: pathlib.Path) -> None:
    """A person goes on with `az.*`; what differs between 0.x and 1.x is only the container it puts the file in."""
    path = tmp_path / "posterior.nc"
    save_tree(tree, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arviz 0.x announces 1.x once a day
        import arviz

        read = arviz.from_netcdf(str(path), engine="h5netcdf")
        assert list(arviz.summary(read, var_names=["mass"]).index) == ["mass"]
        elpd = arviz.loo(read)
    assert float(getattr(elpd, "elpd_loo", None) or elpd.elpd) == pytest.approx(arviz_stats.loo(tree).elpd, abs=1e-3)


def test_the_module_does_not_import_arviz_itself() -> None:
    """It warns once a day on Python 3.11, and its two lines differ."""
    tree = ast.parse(pathlib.Path(arviz_tree.__file__).read_text(encoding="utf-8"))
    imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imports += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "arviz_base" in imports
    assert not [name for name in imports if name.split(".")[0] == "arviz"]


@pytest.mark.parametrize(
    ("group", "changed", "message"),
    [
        ("posterior", {"f": torch.ones(K, N, 1)}, rf"prior/f \[50, {N}, {S}\] has {S} along state_dim, .* labels"),
        ("log_likelihood", {"next_state": torch.ones(N, K)}, rf"\[{N}, {K}\] has other draws than posterior/f"),
        ("posterior", {"mass": torch.ones(())}, r"posterior/mass \[\] needs \[K, ...\] and at least one draw"),
        ("prior", {"mass": torch.ones(51)}, r"prior/mass \[51\] has other draws than prior/f"),
        ("constant_data", {"state": torch.ones(N, 1)}, rf"state \[{N}, 1\] has 1 along state_dim"),
        ("posterior", {"f": torch.ones(K, N)}, rf"f \[{K}, {N}\] has 1 axes besides those of the draws, dims name"),
        ("observed_data", {"next_state": torch.full((N, S), torch.nan)}, "next_state is NaN or infinite in 21 of 21"),
    ],
)
def test_what_does_not_fit_is_named(group: str, changed: dict[str, Any], message: str) -> None:
    given = arguments()
    if group == "posterior" and "f" in changed and changed["f"].ndim == 3:
        del given["coords"]["state_dim"]
        message = rf"posterior/sigma \[{K}, {N}, {S}\] has {S} along state_dim, posterior/f"
    with pytest.raises(ValueError, match=message):
        posterior_tree(**given | {group: given[group] | changed})


def test_labels_that_are_too_few_are_named() -> None:
    with pytest.raises(ValueError, match=r"has 3 along state_dim, its labels 1"):
        posterior_tree(**arguments() | {"coords": {"state_dim": ["one"]}})


def test_draws_that_are_not_finite_stay_and_are_counted() -> None:
    given = arguments()
    given["posterior"]["mass"] = given["posterior"]["mass"].clone()
    given["posterior"]["mass"][[3, 9]] = torch.tensor([torch.inf, torch.nan])
    assert posterior_tree(**given).attrs["not_finite"] == f"posterior/mass: 2 of {K}"


def test_the_smallest_tree() -> None:
    tree = posterior_tree(posterior={"theta": np.array([1.5])})
    assert tree["posterior"]["theta"].shape == (1, 1)
    assert set(tree.children) == {"posterior"}
