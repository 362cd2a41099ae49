"""Chains, samplers and traces of known quality, and ArviZ as the oracle."""

import math

import arviz_base
import arviz_stats
import numpy as np
import pytest
import torch

from bayes_mbrl.analysis.diagnostic_charts import energy_chart, loss_chart, rhat_chart
from bayes_mbrl.analysis.diagnostics import (
    NUM_BATCHES,
    Verdict,
    bfmi,
    chain_verdicts,
    loss_trend,
    loss_verdict,
    sampler_verdicts,
    summarise_chains,
    verdict_table,
)

RNG = np.random.default_rng(11)
INDEPENDENT = RNG.normal(size=(4, 600, 3)) * [1, 1e6, 1e-6] + [0, 5e6, 3]


def autoregressive(rho: float, chains: int, draws: int, seed: int = 0) -> np.ndarray:
    """ESS = draws (1 − ρ) / (1 + ρ)."""
    noise = np.random.default_rng(seed).normal(size=(chains, draws)) * math.sqrt(1 - rho**2)
    values = np.empty_like(noise)
    values[:, 0] = np.random.default_rng(seed + 1).normal(size=chains)
    for t in range(1, draws):
        values[:, t] = rho * values[:, t - 1] + noise[:, t]
    return values


def test_numbers_are_arviz() -> None:
    summary = summarise_chains(torch.from_numpy(INDEPENDENT))
    tree = arviz_base.from_dict({"posterior": {"f": INDEPENDENT}})
    np.testing.assert_allclose(summary.rhat, arviz_stats.rhat(tree)["f"], rtol=1e-10)
    np.testing.assert_allclose(summary.ess_bulk, arviz_stats.ess(tree)["f"], rtol=1e-10)
    np.testing.assert_allclose(
        summary.ess_tail, arviz_stats.ess(tree, method="tail", prob=(0.05, 0.95))["f"], rtol=1e-10
    )


def test_independent_chains_are_good() -> None:
    verdicts = chain_verdicts(summarise_chains(INDEPENDENT))
    assert [verdict.severity for verdict in verdicts] == ["good", "good"]
    assert verdicts[0].text == "0 of 3 function values have R-hat above 1.01: the chains agree"


def test_effective_draws_of_a_process_that_is_known() -> None:
    rho = 0.8
    summary = summarise_chains(autoregressive(rho, 4, 20_000))
    assert summary.ess_bulk[0] == pytest.approx(80_000 * (1 - rho) / (1 + rho), rel=0.15)
    verdicts = chain_verdicts(summarise_chains(autoregressive(0.99, 4, 500)))
    assert verdicts[1].severity == "bad"
    assert verdicts[1].text.startswith("1 of 1 function values have fewer than 400 effective draws of 2000")


def test_fewer_draws_than_effective_ones_are_wanted_are_a_note() -> None:
    (_, verdict) = chain_verdicts(summarise_chains(INDEPENDENT[:, :100]))
    assert verdict.severity == "note"
    assert "so few draws cannot be worth 400, whether or not the chains are sound" in verdict.text


def test_chains_in_different_places_and_drifting_ones_are_found() -> None:
    apart = INDEPENDENT.copy()
    apart[1, :, 0] += 1.0
    drift = INDEPENDENT.copy()
    drift[..., 2] += 1e-6 * np.linspace(-2, 2, 600)
    for values, which in ((apart, 0), (drift, 2)):
        rhat = summarise_chains(values).rhat
        assert rhat[which] > 1.05
        assert (np.delete(rhat, which) < 1.01).all()
        assert chain_verdicts(summarise_chains(values))[0].text == (
            "1 of 3 function values have R-hat above 1.01: run longer"
        )


def test_one_of_many_a_little_above_is_a_note() -> None:
    values = np.random.default_rng(3).normal(size=(4, 600, 60))
    values[0, :, 7] += 0.45
    summary = summarise_chains(values)
    assert 1.01 < summary.rhat[7] < 1.05
    assert [verdict.severity for verdict in chain_verdicts(summary)] == ["note", "good"]
    values[0, :, 7] += 1
    assert chain_verdicts(summarise_chains(values))[0].severity == "bad"


def test_the_halves_of_a_single_chain_are_compared() -> None:
    good, drifting = INDEPENDENT[:1], INDEPENDENT[:1] + np.linspace(0, 3, 600)[None, :, None] * [1, 1e6, 1e-6]
    assert (summarise_chains(good).rhat < 1.02).all()
    assert (summarise_chains(drifting).rhat > 1.1).all()
    assert "its two halves are compared" in chain_verdicts(summarise_chains(good))[0].text
    odd = summarise_chains(INDEPENDENT[:1, :33])
    assert np.isfinite(odd.rhat).all()


def test_chains_that_stand_still() -> None:
    stuck = np.broadcast_to(np.array([1.0, 2.0, 1.0])[:, None, None], (3, 50, 1))
    values = np.concatenate([stuck, np.full((3, 50, 1), 7.0), INDEPENDENT[:3, :50, :1]], 2)
    summary = summarise_chains(values)
    assert summary.rhat[0] == math.inf
    assert np.isnan(summary.rhat[1])
    assert summary.num_constant == 1
    verdicts = chain_verdicts(summary)
    assert verdicts[0].severity == "bad"
    assert "of 2 function values have R-hat above" in verdicts[0].text
    assert "the same in all draws" in chain_verdicts(summarise_chains(values[..., 1:2]))[0].text


def test_what_is_not_finite_is_counted() -> None:
    values = INDEPENDENT.copy()
    values[2, 17, 1] = np.nan
    values[0, 3, 2] = np.inf
    summary = summarise_chains(values)
    assert summary.num_not_finite == 2
    assert np.isfinite(summary.rhat).tolist() == [True, False, False]
    verdicts = chain_verdicts(summary, "weights")
    assert verdicts[0].text == "2 of 3 weights are NaN or infinite in some draw"
    assert "0 of 1 weights have R-hat" in verdicts[1].text


@pytest.mark.parametrize("draws", [1, 3])
def test_too_few_draws_are_no_verdict(draws: int) -> None:
    verdicts = chain_verdicts(summarise_chains(INDEPENDENT[:, :draws]))
    assert [verdict.severity for verdict in verdicts] == ["note"]
    assert "too few to judge" in verdicts[0].text


def test_chains_without_axes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[chain, draw, ...\].*got \[5\]"):
        summarise_chains(np.ones(5))


def test_bfmi_is_arviz_and_its_closed_form() -> None:
    """Of independent energies E[(E' − E)²] = 2 Var[E]."""
    energy = np.random.default_rng(0).normal(size=(3, 100_000))
    np.testing.assert_allclose(bfmi(energy), 2, rtol=0.02)
    tree = arviz_base.from_dict({"sample_stats": {"energy": energy[:, :1000]}})
    np.testing.assert_allclose(bfmi(energy[:, :1000]), arviz_stats.bfmi(tree)["energy"], rtol=5e-3)


def test_verdicts_on_a_sampler() -> None:
    slow = autoregressive(0.95, 2, 400)
    verdicts = {
        verdict.name: verdict
        for verdict in sampler_verdicts(
            diverging=torch.tensor([[True, False, True, False]]),
            energy=torch.from_numpy(slow),
            tree_depth=torch.tensor([[10, 10, 3, 10]]),
            max_tree_depth=10,
        )
    }
    assert verdicts["divergences"].text.startswith("2 of 4 draws diverged: parts of the posterior are missing")
    assert verdicts["energy (BFMI)"].text.startswith("2 of 2 chains have a BFMI below 0.3")
    assert verdicts["tree depth"].text.startswith("75% of the trajectories were cut off at max_tree_depth = 10")
    good = sampler_verdicts(
        diverging=np.zeros((2, 5)), energy=INDEPENDENT[..., 0], tree_depth=np.ones((2, 5)), max_tree_depth=10
    )
    assert [verdict.severity for verdict in good] == ["good"] * 3
    assert sampler_verdicts() == []
    assert sampler_verdicts(energy=np.ones((2, 9)))[0].severity == "note"


def noise(steps: int, seed: int = 0, scale: float = 5.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_t(3, size=steps)


def test_a_trace_at_rest() -> None:
    steps = np.arange(3000)
    verdict = loss_verdict(torch.from_numpy(1e5 * np.exp(-steps / 100) + 40 + noise(3000)))
    assert verdict.severity == "good"
    assert verdict.text.startswith("at rest")
    fell_before = np.maximum(1500 - steps, 0) + noise(3000)
    assert loss_verdict(fell_before).severity == "good"
    assert loss_verdict(fell_before[:1500]).severity == "bad"


def test_a_trace_that_still_falls() -> None:
    """0.02 nats a step under a noise of 8: from step to step nothing is seen."""
    verdict = loss_verdict(1000 - 0.02 * np.arange(3000) + noise(3000))
    assert verdict.severity == "bad"
    assert verdict.value == pytest.approx(-2, abs=0.4)
    assert "nats per 100 steps over the last 1200 of 3000 steps: more steps" in verdict.text


def test_a_trace_that_rises_and_one_of_a_member() -> None:
    rising = loss_verdict(0.05 * np.arange(2000) + noise(2000))
    assert rising.severity == "bad"
    assert "rising" in rising.text
    members = np.stack([noise(2000, seed) for seed in range(4)], 1)
    assert loss_verdict(members).severity == "good"
    members[:, 2] -= 0.05 * np.arange(2000)
    assert "in 1 of 4 members: more steps" in loss_verdict(members).text


def test_false_alarms_are_rare_even_if_noise_is_correlated() -> None:
    traces = [30 * autoregressive(0.9, 1, 2000, seed=2 * seed)[0] for seed in range(100)]
    assert sum(loss_verdict(trace).severity != "good" for trace in traces) <= 2


def test_a_few_nats_are_worth_a_note() -> None:
    verdict = loss_verdict(7 - 5e-3 * np.arange(2000) + noise(2000, scale=1e-3))
    assert verdict.severity == "note"
    assert verdict.text.startswith("still falling by 0.5 nats per 100 steps")


def test_less_than_a_nat_is_rest() -> None:
    assert loss_verdict(7 - 5e-4 * np.arange(2000) + noise(2000, scale=1e-3)).severity == "good"
    assert loss_verdict(np.full(2000, -3.0)).severity == "good"


def test_the_trend_is_the_lines() -> None:
    trend = loss_trend(3 - 0.25 * np.arange(1000.0))
    assert trend is not None
    assert trend.slope == pytest.approx([-0.25])
    assert trend.error == pytest.approx([0], abs=1e-9)
    assert trend.window == 400


@pytest.mark.parametrize("steps", [0, 1, 2 * NUM_BATCHES])
def test_short_traces_are_no_verdict(steps: int) -> None:
    assert loss_verdict(np.ones(steps)).severity == "note"


def test_losses_that_are_not_finite_are_counted() -> None:
    losses = np.ones((100, 2))
    losses[3:5, 1] = np.nan
    with pytest.raises(ValueError, match="losses are NaN or infinite in 2 of 200 steps"):
        loss_verdict(losses)


def test_charts_show_the_numbers() -> None:
    chart = loss_chart(torch.from_numpy(1000 - np.arange(1000.0)))
    line, rule = chart.marks
    assert line.y[-1] == pytest.approx(1.5)  # type: ignore[union-attr]
    assert rule.at == 600  # type: ignore[union-attr]
    assert chart.y_range is not None
    assert chart.y_range[1] < 960  # not the fall at the beginning
    loss_chart(np.ones((3, 2)))
    bars = rhat_chart(summarise_chains(INDEPENDENT), summarise_chains(INDEPENDENT[:, :, :1])).marks
    assert sum(bars[0].heights) == pytest.approx(1)  # type: ignore[union-attr]
    energies = energy_chart(INDEPENDENT[..., 0]).marks
    assert [sum(mark.heights) for mark in energies] == pytest.approx([1, 1])  # type: ignore[union-attr]


def test_a_table_of_verdicts() -> None:
    table = verdict_table([Verdict("R-hat", 1.2345678, "run longer", "bad"), Verdict("k̂", math.nan, "too few", "note")])
    assert table.rows == [("R-hat", "1.235", "look here", "run longer"), ("k̂", "–", "note", "too few")]
