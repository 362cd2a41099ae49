"""A regression without reinforcement learning: real chains, a variational fit, and ArviZ on what they export."""

import pathlib

import arviz_plots
import arviz_stats
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor

from bayes_mbrl.analysis.arviz_tree import load_tree, save_tree
from bayes_mbrl.arviz_export import regression_tree
from bayes_mbrl.inference import laplace, nuts, sghmc, svi
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.posterior_diagnosis import Diagnosis, diagnose_posterior


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(correlation: float = 0.9) -> tuple[BayesianNetwork, Tensor, Tensor]:
    """Linear, known noise, inputs correlated: mean field is too narrow."""
    model = BayesianNetwork(3, 1, hidden=(), noise="fixed", noise_std=0.3, dtype=torch.float64)
    common, own = (torch.randn(60, n, generator=seeded(1), dtype=torch.float64) for n in (1, 3))
    x = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
    theta = {name: value.double() for name, value in model.initial(1, generator=seeded(2)).items()}
    return model, x, model.sample(theta, x, generator=seeded(3))[0]


def verdicts(found: Diagnosis) -> dict[str, str]:
    return {verdict.name: verdict.severity for verdict in found.verdicts}


def fitted(correlation: float, num_steps: int, learning_rate: float = 0.05) -> tuple[Diagnosis, Posterior]:
    model, x, y = problem(correlation)
    posterior, info = svi.fit(
        model, x, y, generator=seeded(), num_steps=num_steps, learning_rate=learning_rate, num_particles=4
    )
    return diagnose_posterior(model, posterior, x, y, generator=seeded(), info=info), posterior


def test_mean_field_where_it_is_right_and_where_it_is_not() -> None:
    """Inputs that are independent leave little correlation; inputs that are nearly the same leave nothing else."""
    good, bad = fitted(0.0, 300)[0], fitted(0.97, 300)[0]
    assert verdicts(good)["PSIS k̂ of q"] == "good"
    assert verdicts(good)["trace of the loss"] == "good"
    assert verdicts(bad)["PSIS k̂ of q"] in ("note", "bad")
    values = {verdict.name: verdict.value for verdict in bad.verdicts}
    assert values["PSIS k̂ of q"] > 0.5
    assert set(good.figures) == {"loss", "leave-one-out"}


def test_a_fit_that_was_stopped_early_is_told() -> None:
    found = fitted(0.0, 200, learning_rate=3e-3)[0]
    trace = next(verdict for verdict in found.verdicts if verdict.name == "trace of the loss")
    assert trace.severity == "bad"
    assert trace.text.startswith("still falling")


def test_the_laplace_approximation_of_a_linear_model_is_exact() -> None:
    model, x, y = problem()
    posterior, info = laplace.fit(model, x, y, generator=seeded(), num_steps=1500)
    found = verdicts(diagnose_posterior(model, posterior, x, y, generator=seeded(), info=info))
    assert found["PSIS k̂ of q"] == "good"


def test_what_is_looked_at_is_said() -> None:
    model, x, y = problem()
    posterior, info = sghmc.fit(model, x, y, generator=seeded(), num_steps=200, num_draws=20)
    found = diagnose_posterior(model, posterior, x, y, generator=seeded(), info=info, x_off=x[:3] + 9, datum="row")
    assert found.text[0] == "Looked at: 4 chains, 20 draws of each."
    assert "at 20 of 60 rows, evenly spaced, and at points that were given" in found.text[1]
    assert "temperature" in verdicts(found)
    with pytest.raises(ValueError, match="need x"):
        diagnose_posterior(model, posterior, x[:, :2], y, generator=seeded())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_real_chains_from_the_fit_to_arviz(tmp_path: pathlib.Path) -> None:
    model, x, y = problem()
    posterior, info = nuts.fit(model, x, y, generator=seeded(), num_chains=4, num_warmup=200, num_draws=300)
    found = diagnose_posterior(model, posterior, x, y, generator=seeded(), info=info, max_tree_depth=10)
    for name in ("divergences", "energy (BFMI)", "tree depth", "PSIS-LOO"):
        assert verdicts(found)[name] == "good"
    assert verdicts(found)["R-hat of function values"] != "bad"
    save_tree(regression_tree(model, posterior, x, y, generator=seeded(), info=info), tmp_path / "posterior.nc")
    tree = load_tree(tmp_path / "posterior.nc")
    kept = tree["posterior"]["bias_0"].values[..., 0]
    every = info.draws["bias_0"][..., 0].numpy()
    assert kept.shape == (4, 100)
    assert all(set(kept[chain]) <= set(every[chain]) for chain in range(4))
    where = np.array([np.flatnonzero(every[1] == value)[0] for value in kept[1]])
    np.testing.assert_allclose(tree["sample_stats"]["energy"][1], info.energy[1].numpy()[where])
    assert float(arviz_stats.rhat(tree, var_names=["f"])["f"].max()) < 1.1
    for name in ("plot_energy", "plot_rank", "plot_trace_dist"):
        settings = {} if name == "plot_energy" else {"var_names": ["bias_0"]}
        getattr(arviz_plots, name)(tree, backend="matplotlib", **settings).savefig(tmp_path / f"{name}.png")
    pyplot.close("all")
