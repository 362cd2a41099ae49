"""Study 4: the truth, what is measured of a posterior that is known, and verdicts on results that are made up."""

import functools
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.inference import ensemble, point, svi
from bayes_mbrl.studies import output_entropy
from bayes_mbrl.studies.output_entropy import FITS, NUM_DRAWS, STUDY, truth
from bayes_mbrl.study import verdict_of


def test_the_truth_is_a_sine_whose_noise_differs_from_place_to_place() -> None:
    x = torch.tensor([0.0, np.pi / 4, np.pi / 3])
    mean, std = truth(x)
    np.testing.assert_allclose(mean, [0, 1, np.sqrt(3) / 2], atol=1e-6)
    np.testing.assert_allclose(std, [0.15, 0.1 - 0.05 / np.sqrt(2), 0.05], atol=1e-6)


def test_errors_are_root_mean_squares() -> None:
    assert output_entropy._rms(torch.tensor([3.0, -4.0])) == pytest.approx(np.sqrt(12.5))


class Known:
    """Posterior and model in one: means truth + 0.1 x ± epistemic |x|, all of them with deviation 0.3."""

    def __init__(self, epistemic: float = 0.2, **settings: Any) -> None:
        self.epistemic = epistemic

    def sample(self, num_samples: int, *, generator: torch.Generator) -> Tensor:
        return torch.tensor([-1.0, 1.0]).repeat(num_samples // 2)

    def predict(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        means = truth(x)[0] + 0.1 * x + self.epistemic * theta[:, None, None] * x.abs()
        return means, torch.full_like(means, 0.3)


def measured(monkeypatch: pytest.MonkeyPatch, epistemic: float) -> dict[str, Any]:
    known = Known(epistemic)
    monkeypatch.setattr(output_entropy, "BayesianNetwork", lambda **settings: known)
    monkeypatch.setattr(output_entropy, "FITS", {"point": lambda *args, **settings: (known, None)})
    return output_entropy.measure(pathlib.Path(), posterior="point", seed=0, quick=True)


def test_errors_and_deviations_are_told_apart_on_the_data_and_off_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, 0.2)
    x = np.linspace(-2, 5, 141)
    np.testing.assert_allclose(found["grid"], x, atol=1e-6)
    np.testing.assert_allclose(found["mean"], np.sin(2 * x) + 0.1 * x, atol=1e-5)
    # On the grid of 0.05, {−2 … 2} and {3 … 5}.
    np.testing.assert_allclose(found["error_on"], 0.1 * np.sqrt(np.mean(x[:81] ** 2)), rtol=1e-4)
    np.testing.assert_allclose(found["error_off"], 0.1 * np.sqrt(np.mean(x[100:] ** 2)), rtol=1e-4)
    np.testing.assert_allclose([found["aleatoric_on"], found["aleatoric_off"]], 0.3, rtol=1e-5)
    np.testing.assert_allclose(found["aleatoric"], 0.3, rtol=1e-5)
    unbiased = np.sqrt(NUM_DRAWS / (NUM_DRAWS - 1))
    np.testing.assert_allclose(found["epistemic"], 0.2 * unbiased * np.abs(x), atol=1e-5)
    np.testing.assert_allclose(found["rank_correlation"], 1, atol=2e-3)  # ± x tie but for rounding


def test_what_never_differs_has_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, 0.0)
    assert found["rank_correlation"] == 0
    assert max(found["epistemic"]) == 0


@pytest.mark.parametrize(
    ("posterior", "fit"), [("point", point.fit), ("ensemble", ensemble.fit), ("mean-field", svi.fit)]
)
def test_a_posterior_is_measured_twice_alike(posterior: str, fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FITS[posterior] is fit

    def short(*args: Any, num_steps: int, **settings: Any) -> Any:
        assert num_steps == 1000
        return fit(*args, num_steps=3, **settings)

    monkeypatch.setattr(output_entropy, "FITS", {posterior: short})
    monkeypatch.setattr(output_entropy, "NUM_DRAWS", 5)
    again = functools.partial(output_entropy.measure, pathlib.Path(), posterior=posterior, quick=True)
    found = again(seed=1)
    assert found == again(seed=1)
    assert found["mean"] != again(seed=2)["mean"]
    assert (max(found["epistemic"]) == 0) == (posterior == "point")


def made_up(error: float, output: float, ranks: tuple[float, float]) -> Any:
    """Growth of the point's error and of its deviation, from 0.1 both; rank correlations; seeds differ a little."""
    x = np.linspace(-2, 5, 8).tolist()

    def one(rank: float, i: int) -> dict[str, Any]:
        off = {"error_off": 0.1 * error * (1 + 0.1 * i), "aleatoric_off": 0.1 * output}
        on = {"error_on": 0.1, "aleatoric_on": 0.1}
        curves = {"grid": x, "mean": x, "epistemic": np.abs(x).tolist(), "aleatoric": [0.1] * 8}
        return {**on, **off, **curves, "rank_correlation": rank + 0.01 * i}

    ranked = {"point": 0.0, "ensemble": ranks[0], "mean-field": ranks[1]}
    return {arm: {1000 + i: one(rank, i) for i in range(4)} for arm, rank in ranked.items()}


S, R, U = "supported", "refuted", "undecided"


@pytest.mark.parametrize(
    ("error", "output", "ranks", "verdicts"),
    [
        (10, 2, (0.9, 0.5), [S, S, S, S]),
        (2, 10, (0.9, 0.5), [R, R, S, S]),
        (10, 9.0, (0.9, -0.9), [S, S, S, R]),
        (1, 1.15, (-0.015, 0.5), [U, U, U, S]),
    ],
)
def test_contrasts_are_positive_where_the_claim_holds(
    error: float, output: float, ranks: tuple[float, float], verdicts: list[str]
) -> None:
    contrasts = STUDY.contrasts(made_up(error, output, ranks))
    assert [contrast.verdict for contrast in contrasts] == verdicts
    assert verdict_of(contrasts) == (S if set(verdicts) == {S} else R if R in verdicts else U)
    np.testing.assert_allclose([contrasts[0].values[0], contrasts[1].values[0]], np.log(error / output))


def test_deviations_on_the_data_count_in_how_they_grow() -> None:
    results = made_up(10, 2, (0.9, 0.5))
    for measured in results["point"].values():
        measured["error_on"], measured["aleatoric_on"] = 0.5, 0.02
    growth, level, *_ = STUDY.contrasts(results)
    np.testing.assert_allclose(growth.values[0], np.log((1 / 0.5) / (0.2 / 0.02)))
    np.testing.assert_allclose(level.values[0], np.log(1 / 0.2))


def test_the_figure_shows_both_deviations(tmp_path: pathlib.Path) -> None:
    chart: Any = STUDY.figure(made_up(10, 2, (0.9, 0.5)))
    total, aleatoric, *_ = chart.marks
    np.testing.assert_allclose(total.high - total.low, 4 * np.sqrt(np.square(total.x) + 0.01))
    np.testing.assert_allclose(aleatoric.high - aleatoric.low, 0.4)
    save_chart(chart, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
