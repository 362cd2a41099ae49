import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from bayes_mbrl.planners.objectives import (
    Failing,
    FailureObjective,
    Objective,
    entropic,
    expected_return,
    lower_tail_mean,
    mean_minus_epistemic_std,
    mean_minus_total_std,
    mean_plus_epistemic_std,
    mean_with_failure_limit,
    upper_tail_mean,
    worst_theta,
)

OBJECTIVES: dict[str, Objective] = {
    "expected_return": expected_return(),
    "mean_minus_epistemic_std": mean_minus_epistemic_std(1.5),
    "mean_minus_total_std": mean_minus_total_std(1.5),
    "lower_tail_mean": lower_tail_mean(0.3),
    "worst_theta": worst_theta(),
    "lower_tail_mean over theta": lower_tail_mean(0.3, "theta"),
    "upper_tail_mean": upper_tail_mean(0.3),
    "mean_plus_epistemic_std": mean_plus_epistemic_std(0.7),
    "entropic": entropic(0.2),
    "entropic over theta": entropic(0.2, "theta"),
    "mean_with_failure_limit": mean_with_failure_limit(-3.0, 0.1, 50.0),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())

# K = 2 parameter samples, M = 3 noise draws, C = 4 candidates; RETURNS[k, m, c].
RETURNS = torch.tensor(
    [
        [[1.0, 5.0, 0.0, -8.0], [2.0, 5.0, 6.0, -8.0], [3.0, 5.0, 12.0, -2.0]],
        [[7.0, 5.0, 12.0, 4.0], [8.0, 5.0, 0.0, 4.0], [12.0, 5.0, 6.0, 1.0]],
    ],
    dtype=torch.float64,
)


def test_expected_return_is_the_mean_over_theta_and_noise() -> None:
    assert torch.allclose(expected_return()(RETURNS), RETURNS.new_tensor([33 / 6, 5, 6, -9 / 6]))


def test_epistemic_std_by_hand() -> None:
    # Candidate 0: means over noise 2 and 9, variance 24.5; variances over noise 1 and 7, mean 4, over M 4/3.
    # Candidates 1 and 2 have the same mean under both θ. Candidate 3: means −6 and 3, 40.5; variances 12 and 3, 7.5/3.
    expected = [33 / 6 - 2 * math.sqrt(24.5 - 4 / 3), 5, 6, -9 / 6 - 2 * math.sqrt(40.5 - 2.5)]
    assert torch.allclose(mean_minus_epistemic_std(2.0)(RETURNS), RETURNS.new_tensor(expected))


def test_total_std_by_hand() -> None:
    # Candidate 0: squares 1 4 9 49 64 144 sum to 271; 271 − 6·5.5² = 89.5. Candidate 2: 4·36 = 144.
    # Candidate 3: 64 64 4 16 16 1 sum to 165; 165 − 6·1.5² = 151.5.
    expected = [33 / 6 - 3 * math.sqrt(89.5 / 5), 5, 6 - 3 * math.sqrt(144 / 5), -9 / 6 - 3 * math.sqrt(151.5 / 5)]
    assert torch.allclose(mean_minus_total_std(3.0)(RETURNS), RETURNS.new_tensor(expected))


def test_worst_theta_is_the_least_mean_over_noise_not_the_least_outcome() -> None:
    assert torch.allclose(worst_theta()(RETURNS), RETURNS.new_tensor([2, 5, 6, -6]))


@pytest.mark.parametrize(
    ("tail_mass", "expected"),
    [
        (1.0, [33 / 6, 5, 6, -9 / 6]),
        (0.5, [(1 + 2 + 3) / 3, 5, (0 + 0 + 6) / 3, (-8 - 8 - 2) / 3]),
        (0.4, [(1 + 2 + 0.4 * 3) / 2.4, 5, (0 + 0 + 0.4 * 6) / 2.4, (-8 - 8 - 0.4 * 2) / 2.4]),
        (0.2, [(1 + 0.2 * 2) / 1.2, 5, 0, -8]),
        (0.1, [1, 5, 0, -8]),
        (1e-300, [1, 5, 0, -8]),
    ],
)
def test_lower_tail_mean_by_hand_with_a_fractional_boundary(tail_mass: float, expected: list[float]) -> None:
    assert torch.allclose(lower_tail_mean(tail_mass)(RETURNS), RETURNS.new_tensor(expected))


@pytest.mark.parametrize("tail_mass", [0.03, 0.1, 1 / 3, 0.7, 0.999, 1.0])
def test_lower_tail_mean_equals_its_variational_form(tail_mass: float, generator: torch.Generator) -> None:
    """CVaR = max_t t − E[(t − R)₊] / tail_mass, attained at an outcome (Rockafellar & Uryasev 2002, theorem 10)."""
    returns = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64).exp() * 100
    outcomes = returns.reshape(21, 5)
    shortfall = (outcomes[:, None] - outcomes[None]).clamp(min=0).mean(dim=1)
    assert torch.allclose(lower_tail_mean(tail_mass)(returns), (outcomes - shortfall / tail_mass).amax(dim=0))


def test_tails_over_theta_and_upper_tails_by_hand() -> None:
    # Means over noise: candidate 0: 2 and 9; 3: −6 and 3. tail_mass 0.75 of two: weights 2/3 and 1/3.
    expected = [2 * 2 / 3 + 9 / 3, 5, 6, -6 * 2 / 3 + 3 / 3]
    assert torch.allclose(lower_tail_mean(0.75, "theta")(RETURNS), RETURNS.new_tensor(expected))
    expected = [9 * 2 / 3 + 2 / 3, 5, 6, 3 * 2 / 3 - 6 / 3]
    assert torch.allclose(upper_tail_mean(0.75, "theta")(RETURNS), RETURNS.new_tensor(expected))
    assert torch.allclose(upper_tail_mean(0.5)(RETURNS), RETURNS.new_tensor([27 / 3, 5, (12 + 12 + 6) / 3, 9 / 3]))
    assert torch.allclose(lower_tail_mean(1e-9, "theta")(RETURNS), worst_theta()(RETURNS))


def test_optimism_is_pessimism_mirrored() -> None:
    mean = expected_return()(RETURNS)
    assert torch.allclose(mean_plus_epistemic_std(2.0)(RETURNS) - mean, mean - mean_minus_epistemic_std(2.0)(RETURNS))


def test_the_entropic_objective_of_normal_returns_is_mean_minus_half_the_variance(generator: torch.Generator) -> None:
    """log E exp(−λ R) = −λ μ + λ² σ² / 2 for R ~ N(μ, σ²)."""
    returns = -40 + 3 * torch.randn(200, 500, 1, generator=generator, dtype=torch.float64)
    # The exponentials exp(−λ (R − μ)) have the variance exp(λ² σ²) (exp(λ² σ²) − 1): 0.2² 3² = 0.36.
    standard_error = math.sqrt(math.expm1(0.36) / 100_000) / 0.2
    assert float(entropic(0.2)(returns)) == pytest.approx(-40 - 0.2 * 9 / 2, abs=5 * standard_error)
    assert torch.allclose(entropic(1e-7)(RETURNS), expected_return()(RETURNS), atol=1e-4)
    assert torch.equal(entropic(0.0)(RETURNS), expected_return()(RETURNS))
    assert torch.allclose(entropic(1e3)(RETURNS), RETURNS.new_tensor([1, 5, 0, -8]), atol=0.01)
    assert torch.isfinite(entropic(5.0)(1e6 * RETURNS.float())).all()


def test_the_entropic_objective_over_theta_by_hand() -> None:
    """Means over noise, candidate 0: 2 and 9; 1 and 2: alike; 3: −6 and 3."""

    def by_hand(first: float, second: float) -> float:
        return -math.log((math.exp(-0.3 * first) + math.exp(-0.3 * second)) / 2) / 0.3

    expected = RETURNS.new_tensor([by_hand(2, 9), 5, 6, by_hand(-6, 3)])
    assert torch.allclose(entropic(0.3, "theta")(RETURNS), expected)
    with pytest.raises(ValueError, match="over is one of outcomes, theta, got 'noise'"):
        entropic(0.3, "noise")  # type: ignore[arg-type]


def test_a_limit_on_failures_by_hand() -> None:
    # Below 1.5: 1 of 6, none, 2 of 6, 4 of 6 outcomes.
    scores = mean_with_failure_limit(1.5, 1 / 6, 12.0)(RETURNS)
    assert torch.allclose(scores, RETURNS.new_tensor([5.5, 5, 6 - 12 / 6, -1.5 - 12 * 3 / 6]))


def test_a_limit_on_failing_states_by_hand() -> None:
    """Candidate 0 fails once in 6, 1 never, 2 always, 3 three times, whatever the returns are."""
    failed = torch.zeros(2, 3, 4, dtype=torch.bool)
    failed[0, 1, 0] = failed[1, :, 3] = True
    failed[:, :, 2] = True
    for kind in get_args(Failing):
        objective = mean_with_failure_limit(1e9, 1 / 6, 12.0, kind)
        assert isinstance(objective, FailureObjective)
        assert objective.failing == kind
        assert torch.allclose(objective(RETURNS, failed), RETURNS.new_tensor([5.5, 5, 6 - 10, -1.5 - 12 * 2 / 6]))
        with pytest.raises(
            ValueError, match=r"need failed of bool \[2, 3, 4\] like the returns, got torch.bool \[3, 4\]"
        ):
            objective(RETURNS, failed[0])
        with pytest.raises(ValueError, match=r"need failed of bool .* got torch.float64 \[2, 3, 4\]"):
            objective(RETURNS, failed.double())
        broken = objective(RETURNS.clone().index_fill_(2, torch.tensor(1), torch.nan), failed)
        assert broken.isnan().tolist() == [False, True, False, False]


def test_epistemic_variance_does_not_grow_with_the_noise(generator: torch.Generator) -> None:
    num_theta, num_noise = 4000, 3
    theta = torch.randn(num_theta, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_theta, num_noise, 2, generator=generator, dtype=torch.float64)
    returns = 2 * theta + noise * theta.new_tensor([0.1, 6.0])
    std = expected_return()(returns) - mean_minus_epistemic_std(1.0)(returns)
    # The variance over θ of the means, here 4 + σ²/M, has the standard error √(2/K) of itself.
    variance_error = (4 + theta.new_tensor([0.1, 6.0]).square() / num_noise) * math.sqrt(2 / num_theta)
    assert ((std.square() - 4).abs() < 5 * variance_error).all()


def test_with_one_noise_draw_all_spread_counts_as_epistemic() -> None:
    returns = RETURNS[:, :1]
    assert torch.allclose(mean_minus_epistemic_std(2.0)(returns), mean_minus_total_std(2.0)(returns))


def test_a_single_theta_has_no_epistemic_std_and_a_single_outcome_none_at_all() -> None:
    assert torch.equal(mean_minus_epistemic_std(2.0)(RETURNS[:1]), RETURNS[0].mean(dim=0))
    assert torch.equal(mean_minus_total_std(2.0)(RETURNS[:1, :1]), RETURNS[0, 0])


def test_the_large_offset_of_a_return_does_not_hide_its_spread() -> None:
    returns = 1e4 + torch.tensor([[-0.5, 0.25], [0.5, -0.25]]).reshape(2, 1, 2)
    assert torch.allclose(mean_minus_total_std(1.0)(returns), 1e4 - torch.tensor([0.7071, 0.3536]), atol=2e-3, rtol=0)


@every_objective
def test_scores_do_not_depend_on_the_neighbours(objective: Objective) -> None:
    one_by_one = torch.cat([objective(RETURNS[:, :, c : c + 1]) for c in range(4)])
    assert torch.equal(objective(RETURNS), one_by_one)


@every_objective
@pytest.mark.parametrize("broken", [torch.nan, -torch.inf])
def test_a_broken_return_makes_its_own_score_not_finite(objective: Objective, broken: float) -> None:
    """No NaN may hide in the part of the outcomes that the objective ignores, and win."""
    for k, m in [(0, 0), (1, 2)]:
        returns = RETURNS.clone()
        returns[k, m, 2] = broken
        scores = objective(returns)
        assert not torch.isfinite(scores[2])
        assert torch.isfinite(scores[[0, 1, 3]]).all()


@every_objective
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 4), (2, 1, 4), (1, 1, 4)])
def test_gradients_are_finite_even_without_any_spread(objective: Objective, shape: tuple[int, ...]) -> None:
    for returns in (torch.ones(shape), torch.arange(float(math.prod(shape))).reshape(shape)):
        leaf = returns.clone().requires_grad_()
        objective(leaf).sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert torch.allclose(leaf.grad.sum(dim=(0, 1)), torch.ones(4), atol=1e-5)  # all return 1 more: score 1 more


@every_objective
def test_gradients_match_finite_differences(objective: Objective) -> None:
    returns = RETURNS + torch.linspace(0, 1, 24, dtype=torch.float64).reshape(2, 3, 4).square()  # no ties
    kept = returns[:, :, [0, 3]].requires_grad_()  # clear of the clamp at epistemic variance 0
    assert torch.autograd.gradcheck(objective, kept)


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_keep_shape_and_dtype(objective: Objective, dtype: torch.dtype) -> None:
    scores = objective(RETURNS.to(dtype))
    assert scores.shape == (4,)
    assert scores.dtype == dtype


@every_objective
@pytest.mark.parametrize("returns", [torch.zeros(4), torch.zeros(3, 4), torch.zeros(0, 3, 4), torch.zeros(2, 0, 4)])
def test_other_shapes_than_k_m_c_are_refused(objective: Objective, returns: Tensor) -> None:
    with pytest.raises(ValueError, match=r"need returns \[K, M, C\] with K >= 1 and M >= 1, got shape"):
        objective(returns)


def test_impossible_settings_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"^need 0 < tail_mass <= 1, got 0$"):
        lower_tail_mean(0)
    for tail_mass in (-0.1, 1.0001, math.nan):
        with pytest.raises(ValueError, match="need 0 < tail_mass <= 1"):
            lower_tail_mean(tail_mass)
    with pytest.raises(ValueError, match="over is one of outcomes, theta, got 'noise'"):
        upper_tail_mean(0.5, "noise")  # type: ignore[arg-type]
    for settings, problem in (
        ((math.nan, 0.1, 1.0), "need failure_return finite, got nan"),
        ((0.0, 1.0, 1.0), "need 0 <= max_probability < 1, got 1.0"),
        ((0.0, 0.1, 0.0), "need penalty finite and > 0, got 0.0"),
        ((0.0, 0.1, 1.0, "crash"), "failure is one of return, state, termination, got 'crash'"),
    ):
        with pytest.raises(ValueError, match=problem):
            mean_with_failure_limit(*settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need optimism finite and >= 0, got -1"):
        mean_plus_epistemic_std(-1)
    for risk_aversion in (-1.0, math.inf, math.nan):
        for build in (mean_minus_epistemic_std, mean_minus_total_std, entropic):
            with pytest.raises(ValueError, match="need risk_aversion finite and >= 0, got"):
                build(risk_aversion)
