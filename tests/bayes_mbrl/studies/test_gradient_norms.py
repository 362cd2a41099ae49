"""Study 9: gradients through linear dynamics against their closed forms, and verdicts on results that are made up."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bayes_mbrl.analysis.static import save_chart
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.policies import Policy
from bayes_mbrl.studies import gradient_norms
from bayes_mbrl.studies.gradient_norms import EXPLODING, LENGTHS, STUDY, SWINGING, VANISHING, act, log_norms
from bayes_mbrl.study import verdict_of

A = torch.tensor([[0.9, 0.3, 0.0], [-0.2, 1.0, 0.1], [0.0, 0.1, 0.8]])
B = torch.tensor([[0.0, 0.1], [0.5, 0.0], [0.2, -0.3]])


class Linear(Policy):
    """a = K s, within no bounds."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__(-torch.ones(len(gain)), torch.ones(len(gain)))
        self.gain = nn.Parameter(gain)

    def unsquashed(self, states: Tensor) -> tuple[Tensor, None]:
        return states @ self.gain.mT, None

    def mode(self, states: Tensor) -> Tensor:
        return states @ self.gain.mT


def linear(a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda state, action: state @ a.mT + action @ b.mT


def scalar(a: float, b: float, gain: float, starts: list[float]) -> dict[str, Any]:
    """What is found for s' = a s + b u, u = gain · s, r = −s'², from each of the starts."""
    policy = Linear(torch.tensor([[gain]]))
    step = linear(torch.tensor([[a]]), torch.tensor([[b]]))
    return log_norms(act(policy, torch.tensor(starts)[:, None], step, gradient_norms.squared_state), policy)


def test_the_first_action_goes_through_the_product_of_the_jacobians(generator: torch.Generator) -> None:
    """∂s_h / ∂a_0 = (A + B K)^(h − 1) B: what the policy answers on the way is in it."""
    gain = 0.3 * torch.randn(2, 3, generator=generator)
    policy = Linear(gain)
    starts = torch.randn(4, 3, generator=generator)
    found = log_norms(act(policy, starts, linear(A, B), gradient_norms.squared_state), policy)
    expected = [torch.linalg.matrix_power(A + B @ gain, length - 1) @ B for length in LENGTHS]
    logs = [float(jacobian.norm().log()) for jacobian in expected]
    np.testing.assert_allclose(found["log_norms"], logs, atol=1e-4)
    np.testing.assert_allclose(found["rate"], np.polyfit(LENGTHS, logs, 1)[0], atol=1e-5)


@pytest.mark.parametrize(("a", "b", "gain"), [(0.7, 0.5, 0.2), (1.0, 0.5, 0.0), (0.9, 0.8, 0.25)])
def test_the_gradient_of_the_return_and_what_each_action_has_of_it(a: float, b: float, gain: float) -> None:
    """s_t = c^t s_0 with c = a + b k: ∂R/∂k = −Σ 2 t b c^(2t−1) s_0², ∂R/∂a_j = −Σ_{t>j} 2 b s_t c^(t−j−1)."""
    starts = [1.0, -1.0, 3.0]
    found = scalar(a, b, gain, starts)
    c, steps = a + b * gain, np.arange(1.0, 41.0)
    sizes = np.mean(np.log(np.square(starts)))
    by_gain = np.log(np.cumsum(2 * steps * b * c ** (2 * steps - 1))[np.array(LENGTHS) - 1]) + sizes
    np.testing.assert_allclose(found["log_return_norms"], by_gain, atol=1e-4)
    at = dict(zip(LENGTHS, by_gain, strict=True))
    np.testing.assert_allclose(found["exponent"], (at[20] - at[10]) / np.log(2), atol=1e-3)
    np.testing.assert_allclose(found["later_exponent"], (at[40] - at[20]) / np.log(2), atol=1e-3)
    first, middle = (np.mean(c ** (steps[j:] + steps[j:] - j - 1)) for j in (0, 20))
    np.testing.assert_allclose(found["early_share"], np.log(first / middle), atol=1e-3)


def test_what_is_judged_is_0_where_nothing_stretches_and_has_a_sign_where_something_does() -> None:
    neutral, growing, shrinking = (scalar(c, 0.5, 0.0, [1.0, 2.0]) for c in (1.0, 1.1, 0.9))

    def judged(found: dict[str, Any]) -> list[float]:
        return [found["rate"], found["later_exponent"] - found["exponent"], found["early_share"]]

    np.testing.assert_allclose(judged(neutral), 0, atol=0.04)
    np.testing.assert_allclose(neutral["later_exponent"], 2, atol=0.05)
    assert min(judged(growing)[:2]) > 0.09
    assert max(judged(shrinking)[:2]) < -0.09


def test_opposite_starts_do_not_cancel() -> None:
    """r = s' is odd in the start: summed over starts, the gradient by the gain would be 0."""
    policy = Linear(torch.tensor([[0.1]]))
    step = linear(torch.tensor([[0.9]]), torch.tensor([[1.0]]))
    found = [
        log_norms(act(policy, torch.tensor(starts)[:, None], step, lambda s, a, after: after[..., 0]), policy)
        for starts in ([1.0, -1.0], [1.0])
    ]
    np.testing.assert_allclose(found[0]["log_return_norms"], found[1]["log_return_norms"], atol=1e-5)


@pytest.mark.parametrize("env", [EXPLODING, SWINGING, VANISHING])
def test_an_environment_is_measured_twice_alike(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_norms, "LENGTHS", (1, 2))
    monkeypatch.setattr(gradient_norms, "DOUBLED", (1, 2, 2))
    found = gradient_norms.measure(pathlib.Path(), env=env, seed=3, quick=True)
    assert found == gradient_norms.measure(pathlib.Path(), env=env, seed=3, quick=True)
    assert found != gradient_norms.measure(pathlib.Path(), env=env, seed=4, quick=True)
    assert all(-60 < log < 20 for log in found["log_norms"] + found["log_return_norms"])  # −69 is a gradient of 0


def test_the_reward_is_the_environments_own_where_that_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(gradient_norms, "act", lambda policy, starts, step, reward: used.append(reward))
    monkeypatch.setattr(gradient_norms, "log_norms", lambda done, policy: {})
    for arm in STUDY.arms.values():
        gradient_norms.measure(pathlib.Path(), **arm, seed=0, quick=True)
    assert used == [gradient_norms.squared_state, *(ENVIRONMENTS[env].reward for env in (SWINGING, VANISHING))]


def made_up(rates: tuple[float, float], rises: tuple[float, float], shares: tuple[float, float, float]) -> Any:
    """Rates and rises of what explodes and what vanishes, and early shares of all three; seeds differ a little."""
    names = (EXPLODING, SWINGING, VANISHING)
    measured = zip(names, (rates[0], 0.0, rates[1]), (rises[0], 0.0, rises[1]), shares, strict=True)
    return {
        env: {
            1000 + i: {
                "rate": rate + 0.001 * i,
                "exponent": 2.0 + 0.1 * i,
                "later_exponent": 2.0 + rise + 0.13 * i,
                "early_share": share + 0.01 * i,
                "log_norms": np.linspace(0, 1 + i, len(LENGTHS)).tolist(),
                "log_return_norms": np.linspace(0, 3 + i, len(LENGTHS)).tolist(),
            }
            for i in range(4)
        }
        for env, rate, rise, share in measured
    }


S, R, U = "supported", "refuted", "undecided"


@pytest.mark.parametrize(
    ("rates", "rises", "shares", "verdicts"),
    [
        ((0.05, -0.05), (1, -1), (0.5, 0.5, -0.5), [S, S, S, S, S, S, S]),
        ((-0.05, 0.05), (-1, 1), (-0.5, -0.5, 0.5), [R, R, R, R, R, R, R]),
        ((0.05, -0.05), (1, -1), (0.5, -0.5, 0.5), [S, S, S, S, S, R, R]),
        ((0.05, -0.0015), (-0.045, -1), (0.5, -0.015, -0.5), [S, U, U, S, S, U, S]),
    ],
)
def test_contrasts_are_positive_where_the_claim_holds(
    rates: tuple[float, float],
    rises: tuple[float, float],
    shares: tuple[float, float, float],
    verdicts: list[str],
) -> None:
    contrasts = STUDY.contrasts(made_up(rates, rises, shares))
    assert [contrast.verdict for contrast in contrasts] == verdicts
    assert verdict_of(contrasts) == (S if set(verdicts) == {S} else R if R in verdicts else U)
    np.testing.assert_allclose(contrasts[3].values[0], -rises[1])


def test_the_figure_has_both_gradients_of_every_environment(tmp_path: pathlib.Path) -> None:
    chart = STUDY.figure(made_up((0.05, -0.05), (1, -1), (0.5, 0.5, -0.5)))
    lines: list[Any] = list(chart.marks)  # type: ignore[union-attr]
    assert [line.dashed for line in lines] == [False] * 3 + [True] * 3
    np.testing.assert_allclose(lines[0].y[-1], np.exp(4.5), rtol=1e-6)
    np.testing.assert_allclose(lines[3].y[-1], np.exp(2.5), rtol=1e-6)
    save_chart(chart, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
