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

from bayes_mbrl.analysis import diagnostics
from bayes_mbrl.analysis.diagnostics import load_tree, posterior_tree, save_tree

K, N, S, A = 200, 7, 3, 2
STATE_NAMES = ["cos", "sin", "speed"]


def arguments(leading: tuple[int, ...] = (K,)) -> dict[str, Any]:
    """A linear-Gaussian run, so that the log-likelihood belongs to the predictions; every axis has another length."""
    generator = torch.Generator().manual_seed(3)
    states, actions = torch.randn(N, S, generator=generator), torch.randn(N, A, generator=generator)
    next_states = states + torch.tensor([0.1, 0.5, 3.0]) * torch.randn(N, S, generator=generator)
    std = torch.tensor([0.1, 0.5, 3.0]).expand(*leading, N, S)
    mean = states + 0.1 * std * torch.randn(*leading, 1, 1, generator=generator)
    return {
        "function_mean": mean,
        "function_std": std,
        "posterior_predictive": mean + std * torch.randn(*leading, N, S, generator=generator),
        "log_likelihood": torch.distributions.Normal(mean, std).log_prob(next_states).sum(dim=-1),
        "states": states,
        "actions": actions.numpy(),
        "next_states": next_states,
        "environment": "Pendulum-v1",
        "posterior_family": "mean-field",
        "parameters": {"mass": mean[..., 0, 0], "lengths": mean[..., 0, :2]},
        "state_names": STATE_NAMES,
        "transition_index": [3, 14, 15, 92, 65, 35, 89],
        "versions": {"torch": torch.__version__},
    }


@pytest.fixture(scope="module")
def tree() -> xarray.DataTree:
    return posterior_tree(**arguments())


def test_groups_dimensions_and_values(tree: xarray.DataTree) -> None:
    given = arguments()
    assert dict(tree["posterior"].sizes) == {
        "chain": 1, "draw": K, "transition": N, "state_dim": S, "lengths_dim_0": 2,
    }  # fmt: skip
    assert tree["posterior"]["f"].dims == ("chain", "draw", "transition", "state_dim")
    assert tree["log_likelihood"]["next_state"].dims == ("chain", "draw", "transition")
    assert tree["observed_data"]["next_state"].dims == ("transition", "state_dim")
    assert tree["constant_data"]["action"].dims == ("transition", "action_dim")
    assert tree["posterior"].coords["state_dim"].values.tolist() == STATE_NAMES
    assert tree["log_likelihood"].coords["transition"].values.tolist() == given["transition_index"]
    for group, variable, argument in (
        ("posterior", "f", "function_mean"),
        ("posterior", "sigma", "function_std"),
        ("posterior_predictive", "next_state", "posterior_predictive"),
        ("log_likelihood", "next_state", "log_likelihood"),
    ):
        np.testing.assert_array_equal(tree[group][variable].values[0], given[argument].numpy())
    np.testing.assert_array_equal(tree["constant_data"]["state"].values, given["states"].numpy())
    np.testing.assert_array_equal(tree["observed_data"]["next_state"].values, given["next_states"].numpy())
    assert tree.attrs["environment"] == "Pendulum-v1"
    assert tree.attrs["posterior_family"] == "mean-field"
    assert tree.attrs["version_torch"] == torch.__version__


def test_chains_are_kept_apart() -> None:
    given = arguments(leading=(2, 40))
    tree = posterior_tree(**given)
    assert tree["posterior"].sizes["chain"] == 2
    assert tree["posterior"]["mass"].shape == (2, 40)
    np.testing.assert_array_equal(tree["posterior"]["f"].values, given["function_mean"].numpy())
    assert float(arviz_stats.rhat(tree, var_names=["mass"])["mass"]) == pytest.approx(1, abs=0.2)


def test_round_trip(tree: xarray.DataTree, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "posterior.nc"
    path.write_text("an older file")
    save_tree(tree, path)
    assert [file.name for file in tmp_path.iterdir()] == ["posterior.nc"]
    loaded = load_tree(path)
    path.unlink()  # the file is closed and the values are in memory
    xarray.testing.assert_identical(loaded, tree)


def test_a_failed_write_leaves_the_old_file(
    tree: xarray.DataTree, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "posterior.nc"
    save_tree(tree, path)
    before = path.read_bytes()

    def disk_full(self: xarray.DataTree, file: pathlib.Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(xarray.DataTree, "to_netcdf", disk_full)
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


def test_arviz_plots_the_tree(tree: xarray.DataTree, tmp_path: pathlib.Path) -> None:
    forest = arviz_plots.plot_forest(tree, var_names=["mass"], backend="none")
    drawn = forest.viz["point_estimate"]["mass"].item()["x"]
    np.testing.assert_allclose(np.ravel(drawn), tree["posterior"]["mass"].mean(), rtol=1e-4)
    picture = arviz_plots.plot_ppc_pit(tree.sel(state_dim="cos"), backend="matplotlib")
    picture.savefig(tmp_path / "pit.png")
    assert (tmp_path / "pit.png").stat().st_size > 1_000
    pyplot.close("all")


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
    tree = ast.parse(pathlib.Path(diagnostics.__file__).read_text(encoding="utf-8"))
    imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imports += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "arviz_base" in imports
    assert not [name for name in imports if name.split(".")[0] == "arviz"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"function_std": torch.ones(K, N, 1)}, rf"sigma has shape \[{K}, {N}, 1\], expected \[{K}, {N}, {S}\]"),
        ({"log_likelihood": torch.ones(N, K)}, rf"log_likelihood has shape \[{N}, {K}\], expected \[{K}, {N}\]"),
        ({"parameters": {"mass": torch.ones(3)}}, rf"mass has shape \[3\], expected \[{K}\] and any further axes"),
        ({"states": torch.ones(N, 1)}, rf"state has shape \[{N}, 1\], expected \[{N}, {S}\]"),
        ({"state_names": ["one"]}, "1 labels for state_dim, expected 3"),
        ({"function_mean": torch.ones(K, N)}, r"function_mean \[K, N, S\] or \[chain, draw, N, S\], got"),
        ({"parameters": {"f": torch.ones(K)}}, "cannot be called f: rename"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        posterior_tree(**arguments() | changed)
