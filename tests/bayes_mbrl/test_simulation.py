"""Inferences whose calibration is known: the exact one, the exact one made wrong, mean field, the prior itself."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayes_mbrl.analysis.sbc import calibration_verdicts, symmetry, symmetry_verdicts
from bayes_mbrl.inference import ensemble, exact_linear, svi
from bayes_mbrl.inference.base import Posterior, sample_prior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.exact_linear import ExactLinearPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.svi import MeanFieldPosterior
from bayes_mbrl.simulation import Fit, SimulationResult, simulate

R = 120
MODEL = BayesianNetwork(2, 1, hidden=(), noise="fixed", noise_std=0.5, dtype=torch.float64)
"""Linear; its inputs below are correlated 0.98."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(num_data: int = 25) -> Tensor:
    x = torch.randn(num_data, 2, generator=seeded(1), dtype=torch.float64)
    return torch.stack([x[:, 0], x[:, 0] + 0.2 * x[:, 1]], 1)


def run(fit: Fit, seed: int = 0, **more: Any) -> SimulationResult:
    return simulate(MODEL, fit, inputs(), generator=seeded(seed), **{"num_replicates": R, **more})


def wrong(scale: float, shift: float) -> Fit:
    """The exact posterior with another width, its weights and bias shifted by so many standard deviations."""

    def fit(*args: Any, **kwargs: Any) -> tuple[Posterior, Any]:
        posterior, info = exact_linear.fit(*args, **kwargs)
        std = (posterior.factor**2).sum(1, keepdim=True).sqrt()
        return ExactLinearPosterior(posterior.mean + shift * std, scale * posterior.factor), info

    return fit


def mean_field(model: Any, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Posterior, Any]:
    """Its closed form: means of the exact posterior, scales Λ_ii^(−1/2)."""
    posterior, info = exact_linear.fit(model, x, y, generator=generator)
    scale = torch.linalg.inv(posterior.factor @ posterior.factor.T).diagonal() ** -0.5
    loc = {"weight_0": posterior.mean[:-1], "bias_0": posterior.mean[-1]}
    return MeanFieldPosterior(loc, {"weight_0": scale[:-1, None], "bias_0": scale[-1:]}), info


def severities(result: SimulationResult) -> dict[str, str]:
    return {name: calibration_verdicts(group)[0].severity for name, group in result.groups.items()}


def test_the_exact_posterior_passes() -> None:
    result = run(exact_linear.fit)
    assert severities(result) == {"f(x*)": "good", "log densities": "good"}  # the noise is known
    assert result.functions.num_replicates == R
    assert result.functions.num_draws == 50
    assert result.functions.names[:2] == ("f(x*_0)", "f(x*_1)")
    assert np.abs(result.functions.spread - 1).max() < 5 / math.sqrt(2 * R)
    assert symmetry_verdicts(symmetry(result.functions))[0].severity == "good"


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.7)])
def test_a_wrong_width_or_place_is_caught(scale: float, shift: float) -> None:
    result = run(wrong(scale, shift))
    verdicts = calibration_verdicts(result.functions)
    assert verdicts[0].severity == "bad"
    words = {0.5: "too narrow", 2.0: "too wide", 1.0: "too high"}[scale]
    assert any(words in verdict.text for verdict in verdicts[1:])
    biased = symmetry_verdicts(symmetry(result.functions))[0].severity
    assert biased == ("bad" if shift else "good")


def test_mean_field_is_too_narrow_where_parameters_are_known_together() -> None:
    """Along c = (1, −1) the exact variance is cᵀ Λ⁻¹ c, the mean field's Σ_i c_i² / Λ_ii: the ranks show the ratio."""
    along = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    result = run(mean_field, x_test=along, num_replicates=200)
    exact = exact_linear.fit(MODEL, inputs(), inputs()[:, :1], generator=seeded())[0]
    covariance = exact.factor @ exact.factor.T
    contrast = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)  # and the bias
    true = float(contrast @ covariance @ contrast)
    narrow = float((contrast**2 / torch.linalg.inv(covariance).diagonal()).sum())
    ratio = math.sqrt(true / narrow)
    assert ratio > 2
    verdicts = calibration_verdicts(result.functions)
    assert verdicts[0].severity == "bad"
    assert "too narrow" in verdicts[1].text
    assert result.functions.spread[0] > 1.5  # of 50 draws the ranks end at Φ⁻¹(1 / 51): it stays below the ratio
    assert symmetry_verdicts(symmetry(result.functions))[0].severity == "good"  # but the mean is right


def test_a_posterior_that_ignores_the_data_is_caught_by_the_likelihood_alone() -> None:
    def prior(model: Any, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Posterior, Any]:
        return DrawsPosterior(sample_prior(model, 50, generator=generator)), None

    result = run(prior)
    assert severities(result) == {"f(x*)": "good", "log densities": "bad"}
    assert [verdict.name for verdict in calibration_verdicts(result.densities)[1:]] == ["log likelihood"]


def test_failed_fits_are_counted_and_shift_no_other() -> None:
    calls = []

    def fragile(*args: Any, **kwargs: Any) -> tuple[Posterior, Any]:
        calls.append(0)
        if len(calls) % 4 == 0:
            raise (ValueError if len(calls) % 8 else FloatingPointError)("of no use")
        return exact_linear.fit(*args, **kwargs)

    result = run(fragile, num_replicates=20)
    assert result.failures == tuple(f"replicate {number}: of no use" for number in (3, 7, 11, 15, 19))
    assert result.functions.num_failed == 5
    assert calibration_verdicts(result.functions)[0].text.startswith("5 of 20 fits failed")
    with pytest.raises(ValueError, match="all 3 fits failed, the first one: replicate 0: of no use"):
        run(hopeless, num_replicates=3)


def hopeless(*args: Any, **kwargs: Any) -> tuple[Posterior, Any]:
    raise ValueError("of no use")


def test_draws_that_are_not_finite_are_a_failure() -> None:
    def broken(*args: Any, **kwargs: Any) -> tuple[Posterior, Any]:
        posterior, info = exact_linear.fit(*args, **kwargs)
        return ExactLinearPosterior(posterior.mean * math.nan, posterior.factor), info

    with pytest.raises(ValueError, match=r"all 2 fits failed.*NaN or infinite"):
        run(broken, num_replicates=2)


def test_members_of_an_ensemble_and_a_learned_noise() -> None:
    model = BayesianNetwork(2, 2, hidden=(3,))
    x = inputs(12).float()
    result = simulate(
        model, ensemble.fit, x, num_replicates=2, num_draws=9, generator=seeded(), num_members=3, num_steps=2
    )
    assert result.functions.num_draws == 3
    assert result.noise is not None
    assert result.noise.names[:2] == ("σ(x*_0)[0]", "σ(x*_0)[1]")
    assert result.functions.pit.shape == (2, 20)


def by_importance(model: Any, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Posterior, Any]:
    """Draws of the prior, drawn again by their likelihood: of a few data the posterior of any model."""
    theta = sample_prior(model, 8_000, generator=generator)
    weight = torch.softmax(model.log_likelihood(theta, x, y).sum(-1), 0)
    rows = torch.multinomial(weight, 50, replacement=True, generator=generator)
    return DrawsPosterior({name: value[rows] for name, value in theta.items()}), None


def test_a_binary_output() -> None:
    """Its data are 0 or 1, its std is known and none of what is ranked; the exact posterior passes."""
    model = BayesianNetwork(2, 2, hidden=(), num_binary=1, min_std=0.5, dtype=torch.float64)
    seen: list[Tensor] = []

    def fit(model: Any, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Posterior, Any]:
        seen.append(y)
        return by_importance(model, x, y, generator=generator)

    result = simulate(model, fit, inputs(4), num_replicates=R, generator=seeded())
    assert set(torch.cat(seen)[:, 1].tolist()) == {0.0, 1.0}
    assert severities(result)["log densities"] == "good"
    assert severities(result)["f(x*)"] == "good"
    assert result.noise is not None
    assert result.noise.names == tuple(f"σ(x*_{i})[0]" for i in range(8))
    alone = BayesianNetwork(2, 1, hidden=(), noise="fixed", num_binary=1, dtype=torch.float64)
    assert simulate(alone, by_importance, inputs(4), num_replicates=2, generator=seeded()).noise is None


def test_chains_are_thinned() -> None:
    @dataclasses.dataclass
    class Info:
        draws: dict[str, Tensor]
        final_loss: float = 0.0

    def chains(model: Any, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Posterior, Info]:
        theta = exact_linear.fit(model, x, y, generator=generator)[0].sample(400, generator=generator)
        return DrawsPosterior(theta), Info(
            {name: value.view(4, 100, *value.shape[1:]) for name, value in theta.items()}
        )

    result = run(chains, num_replicates=40, num_draws=40)
    assert result.functions.num_draws == 40
    assert severities(result)["f(x*)"] == "good"


def test_one_seed_one_answer_and_progress_is_told() -> None:
    told: list[int] = []
    a = run(exact_linear.fit, num_replicates=5, progress=lambda number, seconds: told.append(number))
    b, c = (run(exact_linear.fit, seed=seed, num_replicates=5) for seed in (0, 1))
    np.testing.assert_array_equal(a.functions.pit, b.functions.pit)
    assert not np.array_equal(a.functions.pit, c.functions.pit)
    assert told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("settings", [{"num_replicates": 0}, {"num_draws": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="got 0"):
        run(exact_linear.fit, **settings)


@pytest.mark.slow
def test_the_real_mean_field_fit_is_too_narrow_too() -> None:
    along = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    result = run(
        svi.fit, x_test=along, num_replicates=25, num_steps=250, learning_rate=0.05, num_particles=4, average_last=0.3
    )
    assert result.failures == ()
    assert "too narrow" in calibration_verdicts(result.functions)[1].text
