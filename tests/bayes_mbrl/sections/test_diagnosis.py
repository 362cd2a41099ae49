"""Verdicts on runs of known quality: an exact posterior, made-up chains that agree or do not, an ensemble."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor
from toy_runs import start

from bayes_mbrl import posterior_diagnosis
from bayes_mbrl.config import Component
from bayes_mbrl.inference.base import Posterior
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.exact_linear import ExactLinearPosterior
from bayes_mbrl.loaded_run import LoadedRun, open_run
from bayes_mbrl.sections.diagnosis import TITLE, diagnose, learned_from, section

CHAINS, DRAWS = 4, 250


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    model = ("dynamics=linear", "dynamics.noise_std=1.0", "posterior=exact-linear")
    start(folder, "LinearGaussian-v0", *model, "num_episodes=3")
    with open_run(folder) as run:
        yield run


def changed(run: LoadedRun, posterior: Posterior, fit: Mapping[str, Tensor] | None = None) -> LoadedRun:
    assert run.final is not None
    final = dataclasses.replace(run.final, posterior=posterior)
    return dataclasses.replace(run, final=final, fit=run.fit if fit is None else fit)


def chains(run: LoadedRun, shift: float = 0.0, **record: Tensor) -> LoadedRun:
    """Draws of the exact posterior as if they were chains; the last one is shifted by so many standard deviations."""
    assert run.final is not None
    posterior = run.final.posterior
    assert isinstance(posterior, ExactLinearPosterior)
    theta = posterior.sample(CHAINS * DRAWS, generator=torch.Generator().manual_seed(1))
    std = {name: values.std(0) for name, values in theta.items()}
    last = torch.arange(CHAINS * DRAWS) >= (CHAINS - 1) * DRAWS
    moved = {
        name: values + shift * std[name] * last.view(-1, *[1] * (values.ndim - 1)) for name, values in theta.items()
    }
    energy = torch.randn(CHAINS, DRAWS, generator=torch.Generator().manual_seed(2))
    fit = {
        "num_chains": torch.tensor(CHAINS), "energy": energy, "diverging": torch.zeros(CHAINS, DRAWS).bool(),
        "tree_depth": torch.full((CHAINS, DRAWS), 3), **record,
    }  # fmt: skip
    settings = {"max_tree_depth": 10}
    config = run.config.model_copy(update={"posterior": Component("posterior", "nuts", settings)})
    return dataclasses.replace(changed(run, DrawsPosterior(moved), fit), config=config)


def verdicts(run: LoadedRun) -> dict[str, tuple[str, str]]:
    return {verdict.name: (verdict.severity, verdict.text) for verdict in diagnose(run).verdicts}


def test_an_exact_posterior(linear: LoadedRun) -> None:
    """Its ratios to p(θ | D) are all alike but for rounding."""
    found = verdicts(linear)
    assert found["PSIS k̂ of q"][0] == "good"
    assert found["PSIS-LOO"][0] == "good"
    assert "says nothing here" in found["R-hat"][1]
    assert diagnose(linear).missing == ()


def test_a_posterior_that_is_far_too_narrow(linear: LoadedRun) -> None:
    assert linear.final is not None
    posterior = linear.final.posterior
    assert isinstance(posterior, ExactLinearPosterior)
    narrow = ExactLinearPosterior(posterior.mean, 0.3 * posterior.factor)
    severity, text = verdicts(changed(linear, narrow))["PSIS k̂ of q"]
    assert severity == "bad"
    assert "q is not close to it" in text


def test_ratios_that_cost_too_much_are_left_out(linear: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior_diagnosis, "_MAX_COST", 1e5)
    severity, text = verdicts(linear)["PSIS k̂ of q"]
    assert severity == "note"
    assert text == "not computed: too costly with 150 data and 18 weights"


def test_the_weight_of_the_kl_is_said(linear: LoadedRun) -> None:
    settings = {"kl_weight": 0.3}
    config = linear.config.model_copy(update={"posterior": Component("posterior", "mean-field", settings)})
    assert "kl_weight 0.3" in verdicts(dataclasses.replace(linear, config=config))["PSIS k̂ of q"][1]


def test_chains_that_agree(linear: LoadedRun) -> None:
    run = chains(linear)
    found = verdicts(run)
    for name in ("R-hat of function values", "ESS of function values", "divergences", "energy (BFMI)", "tree depth"):
        assert found[name][0] != "bad", found[name]
    assert "misleading" in found["R-hat of weights"][1]
    shown = section(run)
    assert shown.title == TITLE
    assert [figure.title for figure in shown.figures] == [
        "Do the chains agree?", "Energy of the sampler", "Leave-one-out: k̂",
    ]  # fmt: skip
    assert len(shown.tables[0].rows) == len(found)
    assert any("off their distribution" in text for text in shown.text)


def test_the_score_is_in_the_environments_units(linear: LoadedRun) -> None:
    """As the K-fold's: standardised targets would shift it by Σ log std a transition."""
    assert linear.final is not None
    assert linear.transitions is not None
    theta = linear.final.posterior.sample(400, generator=torch.Generator().manual_seed(0))
    log_likelihood = linear.final.dynamics.log_likelihood(theta, linear.transitions)
    in_sample = float((torch.logsumexp(log_likelihood, 0) - math.log(400)).sum())
    found = re.search(r"elpd (-?[\d.]+) ±", verdicts(linear)["PSIS-LOO"][1])
    assert found is not None
    assert in_sample - 60 < float(found[1]) < in_sample + 5


def test_what_a_recalibration_held_out_was_not_fitted(tmp_path: pathlib.Path) -> None:
    more = ("dynamics=linear", "posterior=exact-linear", "recalibration=quantile", "num_episodes=3")
    start(tmp_path / "run", "LinearGaussian-v0", *more, "num_evaluation_episodes=0")
    with open_run(tmp_path / "run") as run:
        assert run.builder is not None
        assert run.transitions is not None
        assert len(learned_from(run.builder, run.transitions)) < len(run.transitions)
        assert verdicts(run)["PSIS k̂ of q"][0] == "good"  # against the others it would not be


def test_chains_that_do_not_agree(linear: LoadedRun) -> None:
    left = torch.zeros(CHAINS, DRAWS).bool()
    left[2, :7] = True
    found = verdicts(chains(linear, shift=3.0, diverging=left, tree_depth=torch.full((CHAINS, DRAWS), 10)))
    severity, text = found["R-hat of function values"]
    assert severity == "bad"
    assert text.endswith("have R-hat above 1.01: run longer")
    assert found["R-hat of weights"][0] == "note"
    assert found["divergences"][1].startswith("7 of 1000 draws diverged")
    assert "100% of the trajectories were cut off at max_tree_depth = 10" in found["tree depth"][1]


def test_chains_of_a_run_that_goes_on(linear: LoadedRun) -> None:
    """Its fit's record is not written yet: the number of chains is in the configuration."""
    run = chains(linear, shift=3.0)
    settings = {"num_chains": CHAINS}
    config = run.config.model_copy(update={"posterior": Component("posterior", "nuts", settings)})
    found = verdicts(dataclasses.replace(run, fit={}, config=config))
    assert found["R-hat of function values"][0] == "bad"
    assert "divergences" not in found


def test_hot_chains_of_sghmc(linear: LoadedRun) -> None:
    hot = verdicts(chains(linear, temperature=torch.tensor([1.0, 1.02, 1.4, 0.99])))["temperature"]
    assert hot[0] == "bad"
    assert "temperature 1.40" in hot[1]
    assert verdicts(chains(linear, temperature=torch.tensor([1.0, 1.02])))["temperature"][0] == "good"


@pytest.mark.parametrize(("num", "words"), [(5, "members of an ensemble"), (1, "one point")])
def test_a_few_members(linear: LoadedRun, num: int, words: str) -> None:
    assert linear.final is not None
    members = linear.final.posterior.sample(num, generator=torch.Generator().manual_seed(0))
    found = verdicts(changed(linear, DrawsPosterior(members), {"losses": torch.ones(500, num)}))
    assert words in found["R-hat"][1]
    assert "too few" in found["PSIS-LOO"][1]
    assert found["trace of the loss"][0] == "good"
    assert "PSIS k̂ of q" not in found


def test_losses_and_draws_that_are_not_finite(linear: LoadedRun) -> None:
    assert linear.final is not None
    draws = linear.final.posterior.sample(30, generator=torch.Generator().manual_seed(0))
    draws["bias_0"][3] = math.nan
    found = diagnose(changed(linear, DrawsPosterior(draws), {"losses": torch.tensor([1.0, math.nan])}))
    assert any("losses are NaN or infinite in 1 of 2 steps" in text for text in found.missing)
    assert any("No leave-one-out: log_likelihood is NaN or infinite" in text for text in found.missing)
    assert any("function values are NaN or infinite in some draw" in verdict.text for verdict in found.verdicts)


def test_what_is_missing_is_said(linear: LoadedRun) -> None:
    bare = dataclasses.replace(linear, final=None, fit={})
    found = section(bare)
    assert len(found.missing) == 2
    assert not found.tables
    assert "no trace of its loss" in found.missing[0]


@pytest.mark.parametrize(
    "more",
    [
        ("env=toy_environments:Single-v0", "num_episodes=1", "posterior=ensemble"),
        (
            "env=Pendulum-v1",
            "num_episodes=1",
            "num_evaluation_episodes=0",
            "dynamics=physics",
            "dynamics.system=pendulum",
        ),
    ],
)
def test_runs_of_other_kinds(tmp_path: pathlib.Path, more: tuple[str, ...]) -> None:
    start(tmp_path / "run", more[0].removeprefix("env="), *more[1:])
    with open_run(tmp_path / "run") as run:
        found = diagnose(run)
        again = diagnose(run)
    assert found.verdicts
    assert [verdict.text for verdict in found.verdicts] == [verdict.text for verdict in again.verdicts]
