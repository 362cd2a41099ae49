"""Objectives about θ under settings that leave nothing of θ to see."""

import pathlib

import pytest
from toy_runs import Recorder, configure, start

from bayes_mbrl import artefacts
from bayes_mbrl.cautions import cautions
from bayes_mbrl.registry import OBJECTIVES, PROPAGATIONS

ABOUT_THETA = ("mean-minus-epistemic-std", "mean-plus-epistemic-std", "worst-theta")


def of(*overrides: str) -> list[str]:
    return cautions(configure("LinearGaussian-v0", *overrides))


@pytest.mark.parametrize("objective", OBJECTIVES.rows)
def test_an_objective_of_its_defaults_gets_no_caution(objective: str) -> None:
    assert of(f"objective={objective}") == []


@pytest.mark.parametrize("objective", OBJECTIVES.rows)
def test_objectives_about_theta_want_theta_kept_apart(objective: str) -> None:
    about_theta = objective in ABOUT_THETA
    for propagation in PROPAGATIONS.rows:
        mixed = propagation in ("ts-1", "expectation", "moment-matching")
        found = of(f"objective={objective}", f"propagation={propagation}", "rollout.num_noise=2")
        assert [f"propagation {propagation} mixes them" in text for text in found] == [True] * (about_theta and mixed)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("objective=worst-theta", "rollout.num_noise=1"), "takes noise for ignorance, since rollout.num_noise is 1"),
        (("objective=worst-theta", "rollout.num_theta=1"), "with rollout.num_theta 1 there is one: it is the mean"),
        (("objective=worst-theta", "posterior=point"), "with posterior point there is one: it is the mean"),
        (("objective=lower-tail-mean", "objective.over=theta"), "objective lower-tail-mean takes noise for ignorance"),
        (("objective=entropic", "objective.over=theta"), "objective entropic takes noise for ignorance"),
        (
            ("posterior=point", "algorithm.exploration=thompson"),
            "posterior point has one only: it will explore nothing",
        ),
    ],
)
def test_too_few_samples(overrides: tuple[str, ...], words: str) -> None:
    (found,) = of(*overrides)
    assert words in found


def test_it_is_said_when_a_run_starts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "write", lambda *_: {})
    recorder, settings = Recorder(), ("num_episodes=1", "num_evaluation_episodes=0", "objective=worst-theta")
    start(tmp_path / "a", "LinearGaussian-v0", *settings, "propagation=ts-1", observer=recorder)
    assert [text for text in recorder.warnings if "mixes them between steps" in text]
