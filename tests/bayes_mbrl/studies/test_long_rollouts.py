"""Study 10: exponents of made-up error curves, errors that are known, and verdicts on results that are made up."""

import functools
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.config import Config, resolve
from bayes_mbrl.data import Transitions
from bayes_mbrl.lookahead import Lookahead
from bayes_mbrl.studies import long_rollouts
from bayes_mbrl.studies.long_rollouts import LONG, SHORT, STUDY, exponent_of_sum
from bayes_mbrl.study import verdict_of

STEPS = np.arange(1, LONG + 1)


@pytest.mark.parametrize("b", [0.5, 1.0, 2.0, 3.0])
def test_the_exponent_is_that_of_the_sum(b: float) -> None:
    """Errors t^b − (t − 1)^b add up to T^b; whatever their unit."""
    error = STEPS**b - (STEPS - 1.0) ** b
    assert exponent_of_sum(error) == pytest.approx(b)
    assert exponent_of_sum(0.01 * error) == pytest.approx(b)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> list[Transitions]:
    """The trajectories that a model of known error, 0.02 h standard deviations after h steps, was held against."""
    seen: list[Transitions] = []
    units: list[torch.Tensor] = []

    def learned(builder: Any, data: Transitions, *, seed: int) -> tuple[None, None]:
        seen.append(data)
        units.append(data.state.std(0, correction=0))
        return None, None

    def known(posterior: None, dynamics: None, transitions: Transitions, *, horizon: int, **settings: Any) -> Lookahead:
        seen.append(transitions)
        real = transitions.state[: 4 * (horizon + 1)].reshape(4, horizon + 1, -1)
        error = 0.02 * torch.arange(horizon + 1)[:, None] * units[-1]
        spread = torch.tensor([-3.0, 3.0])[:, None, None, None, None]  # over θ, which the mean takes away
        none = torch.empty(0)
        return Lookahead(real + error + spread * units[-1], real, none, none, none)

    monkeypatch.setattr(long_rollouts, "learned", learned)
    monkeypatch.setattr(long_rollouts, "lookahead", known)
    return seen


def test_errors_are_of_the_mean_in_deviations_of_what_was_learned_from(
    fresh: list[Transitions], tmp_path: pathlib.Path
) -> None:
    found = long_rollouts.measure(tmp_path, env="Pendulum-v1", num_episodes=1, seed=0, quick=True)
    np.testing.assert_allclose(found["error"], 0.02 * STEPS, rtol=1e-4)
    np.testing.assert_allclose([found["error_short"], found["error_long"]], [0.02 * SHORT, 0.02 * LONG], rtol=1e-4)
    assert found["exponent_of_sum"] == pytest.approx(exponent_of_sum(STEPS * 1.0), abs=1e-4)
    assert 1.8 < found["exponent_of_sum"] < 2
    assert found["diverged"] == 0
    data, other = fresh
    assert len(data) == len(other) == 200
    assert not torch.equal(data.state[0], other.state[0])  # episodes that it was not learned from


def test_a_model_is_measured_twice_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def short(settings: list[str], options: dict[str, Any]) -> Config:
        assert settings == ["posterior.num_steps=1000"]
        return resolve(["posterior.num_steps=3"], options=options)

    monkeypatch.setattr(long_rollouts, "resolve", short)
    again = functools.partial(long_rollouts.measure, tmp_path, env="LinearGaussian-v0", num_episodes=2, quick=True)
    found = again(seed=0)
    assert found == again(seed=0)
    assert found["error"] != again(seed=1)["error"]
    assert len(found["error"]) == LONG
    assert (found["error_short"], found["error_long"]) == (found["error"][SHORT - 1], found["error"][LONG - 1])


def made_up(exponent: float, ratio: float) -> Any:
    """Of both environments; seeds differ a little."""
    return {
        env: {
            1000 + i: {
                "exponent_of_sum": exponent + 0.02 * i,
                "error_short": 0.1,
                "error_long": 0.1 * ratio * (1 + 0.1 * i),
                "error": np.linspace(0.02, 0.1 * (i + 1), LONG).tolist(),
            }
            for i in range(4)
        }
        for env in STUDY.arms
    }


S, R, U = "supported", "refuted", "undecided"


@pytest.mark.parametrize(
    ("exponent", "ratio", "verdicts"),
    [
        (1.5, 5.0, [S, S, S]),
        (2.3, 5.0, [S, R, S]),
        (0.8, 5.0, [R, S, S]),
        (1.5, 0.5, [S, S, R]),
        (1.97, 0.87, [S, U, U]),
    ],
)
def test_contrasts_are_positive_where_the_claim_holds(exponent: float, ratio: float, verdicts: list[str]) -> None:
    contrasts = STUDY.contrasts(made_up(exponent, ratio))
    assert [contrast.verdict for contrast in contrasts] == 2 * verdicts
    assert verdict_of(contrasts) == (S if set(verdicts) == {S} else R if R in verdicts else U)
    np.testing.assert_allclose([one.values[0] for one in contrasts[:3]], [exponent - 1, 2 - exponent, np.log(ratio)])
    assert f"{exponent + 0.03:.2f}" in contrasts[0].statement


def test_the_figure_has_a_curve_for_each_environment(tmp_path: pathlib.Path) -> None:
    chart: Any = STUDY.figure(made_up(1.5, 5.0))
    assert [mark.label for mark in chart.marks[:-1]] == list(STUDY.arms)
    geometric = np.exp(np.mean(np.log([0.1, 0.2, 0.3, 0.4])))
    np.testing.assert_allclose(chart.marks[0].y[[0, -1]], [0.02, geometric])
    assert chart.marks[-1].at == SHORT
    save_chart(chart, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
