"""K-fold against brute force in closed form, and families compared on equal terms."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from toy_runs import configure

from bayes_mbrl.analysis.model_comparison import contiguous_folds
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference import exact_linear
from bayes_mbrl.inference.base import sample_prior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.refits import KFold, compare_families, family_config, k_fold_of_run, k_fold_regression

NOISE = 0.4
MODEL = BayesianNetwork(2, 1, hidden=(), noise="fixed", noise_std=NOISE, dtype=torch.float64)


def data(num: int = 14) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(num, 2, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 4.0])
    return x, MODEL.sample(sample_prior(MODEL, 1, generator=generator), x, generator=generator)[0]


def brute_force(x: np.ndarray, y: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """log p(y_i | all rows but the fold) by the normal equations."""
    rest = np.setdiff1d(np.arange(len(x)), held_out)
    features = np.c_[x, np.ones(len(x))]
    prior = np.diag([2.0, 2.0, 1.0])  # precision: weights N(0, 1/2), bias N(0, 1)
    covariance = np.linalg.inv(prior + features[rest].T @ features[rest] / NOISE**2)
    mean = covariance @ features[rest].T @ y[rest] / NOISE**2
    std = np.sqrt(np.einsum("nd,de,ne->n", features, covariance, features) + NOISE**2)
    return np.asarray(stats.norm(features @ mean, std).logpdf(y)[held_out])


def test_k_fold_is_brute_force() -> None:
    x, y = data()
    folds = contiguous_folds(len(x), 4)
    result = k_fold_regression(MODEL, exact_linear.fit, x, y, folds, num_draws=40_000)
    expected = np.concatenate([brute_force(x.numpy(), y[:, 0].numpy(), rows) for rows in folds])
    np.testing.assert_allclose(result.elpd, expected, atol=0.03)
    assert result.failures == ()


def test_every_refit_is_cold_and_sees_no_row_of_its_fold() -> None:
    x, y = data()
    folds = contiguous_folds(len(x), 3)
    seen: list[tuple[set[float], Any]] = []

    def spy(model: Any, x: Tensor, y: Tensor, **settings: Any) -> Any:
        seen.append((set(x[:, 0].tolist()), settings.get("warm_start")))
        return exact_linear.fit(model, x, y, **settings)

    k_fold_regression(MODEL, spy, x, y, folds)
    for (inputs, warm_start), rows in zip(seen, folds, strict=True):
        assert warm_start is None
        assert inputs == set(x[:, 0].tolist()) - set(x[rows, 0].tolist())


def test_failed_folds_are_counted() -> None:
    x, y = data()
    calls: list[int] = []

    def fragile(*args: Any, **settings: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:
            raise FloatingPointError("diverged")
        return exact_linear.fit(*args, **settings)

    folds = contiguous_folds(len(x), 3)
    result = k_fold_regression(MODEL, fragile, x, y, folds)
    assert result.failures == ("fold 2: diverged",)
    assert np.isnan(result.elpd[folds[1]]).all()
    assert np.isfinite(np.delete(result.elpd, folds[1])).all()

    comparison, notes = compare_families(
        {"a": result, "b": k_fold_regression(MODEL, exact_linear.fit, x, y, folds)}, None
    )
    assert comparison is not None
    assert comparison.num_data == len(x) - len(folds[1])
    assert notes == (
        "a: 1 of the refits failed (fold 2: diverged)",
        f"compared on the {comparison.num_data} of 14 rows that all of them predicted",
    )


def test_nothing_in_common_is_said() -> None:
    left, right = np.array([1.0, np.nan]), np.array([np.nan, 1.0])
    comparison, notes = compare_families({"a": KFold(left, (), 0), "b": KFold(right, (), 0)}, None)
    assert comparison is None
    assert notes == ("no row was predicted by all families",)
    assert compare_families({"a": KFold(np.full(2, np.nan), ("fold 1: no",), 0)}, None)[0] is None


def test_one_seed_one_answer() -> None:
    x, y = data()
    folds = contiguous_folds(len(x), 3)
    a, b, c = (k_fold_regression(MODEL, exact_linear.fit, x, y, folds, seed=seed).elpd for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_run_is_refitted_with_its_own_standardisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The densities are in the environment's units, so that families with other scales compare."""
    generator = torch.Generator().manual_seed(0)
    with Environment("LinearGaussian-v0") as environment:
        builder = Builder(configure("LinearGaussian-v0", "dynamics=linear", "posterior=exact-linear"), environment)
        width, actions = environment.state_dim, environment.action_dim
        state, action = torch.randn(40, width, generator=generator), torch.randn(40, actions, generator=generator)
        following = 0.9 * state + 0.01 * torch.randn(40, width, generator=generator)
        transitions = Transitions(
            state, action, torch.zeros(40), following, torch.zeros(40).bool(), torch.arange(40) // 10
        )
        folds = contiguous_folds(40, 4, transitions.episode.numpy())
        lengths: list[int] = []
        original = Builder.dynamics

        def spy(self: Builder, rows: Transitions) -> Any:
            lengths.append(len(rows))
            return original(self, rows)

        monkeypatch.setattr(Builder, "dynamics", spy)
        said: list[str] = []
        result = k_fold_of_run(builder, transitions, folds, seed=1, progress=said.append)
        milli = dataclasses.replace(transitions, state=1000 * state, next_state=1000 * following)
        other = k_fold_of_run(builder, milli, folds, seed=1, progress=lambda text: None)
    assert set(lengths) == {30}
    assert len(said) == 4
    assert said[-1].endswith("0 s to go")
    np.testing.assert_allclose(other.elpd, result.elpd - width * math.log(1000), atol=1e-3)


def test_a_family_keeps_the_runs_dynamics_but_for_its_own_recommendation() -> None:
    config = configure(
        "Pendulum-v1", "posterior=mean-field", "dynamics.hidden=[50,50]", "dynamics.likelihood=student-t"
    )
    other = family_config(config, "ensemble")
    assert other.posterior.name == "ensemble"
    assert other.dynamics.settings["hidden"] == (100, 100)  # the run had what mean-field recommends
    assert other.dynamics.settings["likelihood"] == "student-t"
    chosen = configure("Pendulum-v1", "posterior=mean-field", "dynamics.hidden=[7]")
    assert family_config(chosen, "ensemble").dynamics.settings["hidden"] == (7,)
    assert family_config(config, "exact-linear").dynamics.name == "linear"
    assert family_config(config, "mean-field") is config


def test_an_unknown_family_is_a_mistake_of_the_users() -> None:
    with pytest.raises(UserError, match="did you mean mean-field"):
        family_config(configure("Pendulum-v1"), "meanfield")
