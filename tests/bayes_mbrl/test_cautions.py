"""Objectives about θ under settings that leave nothing of θ to see."""

import pathlib

import pytest
from toy_runs import Recorder, configure, start

from bayes_mbrl import artefacts
from bayes_mbrl.cautions import cautions
from bayes_mbrl.config import resolve
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
        (
            ("objective=worst-theta", "rollout.num_noise=2", "algorithm.exploration=thompson"),
            "algorithm.exploration thompson plans training episodes with one: there it is the mean",
        ),
        (
            ("objective=entropic", "objective.over=theta", "rollout.num_noise=2", "algorithm.exploration=hallucinated"),
            "objective entropic compares samples of θ, and algorithm.exploration hallucinated plans",
        ),
    ],
)
def test_too_few_samples(overrides: tuple[str, ...], words: str) -> None:
    (found,) = of(*overrides)
    assert words in found


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective=worst-theta", "rollout.num_noise=2", "algorithm.exploration=information-gain"),
        ("objective=entropic", "algorithm.exploration=thompson"),
        ("objective=failure-limit", "planner=mppi"),
        ("planner=gradient",),
        ("algorithm.exploration=hallucinated",),
        ("propagation=expectation", "rollout.bf16=true", "dynamics=network", "algorithm.exploration=thompson"),
    ],
    ids=str,
)
def test_what_means_what_it_says_gets_none(overrides: tuple[str, ...]) -> None:
    assert of(*overrides) == []


def test_a_price_without_a_slope() -> None:
    (found,) = of("objective=failure-limit", "planner=gradient")
    assert "planner gradient does not see the price that objective failure-limit puts on failing" in found


@pytest.mark.parametrize(
    ("overrides", "dropped"),
    [
        (("propagation=expectation",), "propagation expectation will"),
        (("rollout.bf16=true", "dynamics=network"), "rollout.bf16 will"),
        (("rollout.finalists=0.9",), "rollout.finalists will"),
        (("propagation=distribution-sampling", "rollout.num_noise=2", "rollout.finalists=0.9"), "sampling and rollout"),
    ],
)
def test_what_hallucinated_inputs_do_without(overrides: tuple[str, ...], dropped: str) -> None:
    (found,) = of("algorithm.exploration=hallucinated", *overrides)
    assert dropped in found
    assert "evaluation only" in found


def test_a_linear_model_of_an_environment_whose_ends_are_unknown() -> None:
    def of_env(env: str, dynamics: str) -> list[str]:
        return cautions(resolve([f"dynamics={dynamics}"], options={"env": env}))

    (found,) = of_env("BipedalWalker-v3", "linear")
    assert "dynamics linear learns no termination, and that of BipedalWalker-v3 is not known" in found
    assert of_env("BipedalWalker-v3", "network") == []
    assert of_env("LinearGaussian-v0", "linear") == []


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (("algorithm=sac",), None),
        (("algorithm=sac", "algorithm.hidden=[8]", "seed=3", "num_base_steps=7"), None),
        (("algorithm=sac", "posterior=ensemble"), "posterior"),
        (("algorithm=sac", "posterior=exact-linear"), "posterior and dynamics"),
        (("algorithm=sac", "planner.horizon=7", "objective=worst-theta"), "planner and objective"),
        (("algorithm=sac", "propagation=ts-1", "rollout.num_noise=3", "recalibration=quantile"),
         "propagation and recalibration and rollout"),
        (("algorithm=mbpo", "posterior=ensemble", "propagation=ts-1", "rollout.num_theta=3"), None),
        (("algorithm=mbpo", "recalibration=quantile", "dynamics.hidden=[8]"), None),
        (("algorithm=mbpo", "planner=mppi"), "planner"),
        (("algorithm=v2.0", "propagation=distribution-sampling"), None),
        (("algorithm=v2.0", "objective=lower-tail-mean", "objective.tail_mass=0.3"), "objective"),
        (("algorithm=v2.0", "objective=worst-theta"), "objective"),
        (("planner=mppi", "planner.horizon=7"), None),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("env", ["LinearGaussian-v0", "Pendulum-v1"])
def test_what_the_algorithm_does_without(overrides: tuple[str, ...], unused: str | None, env: str) -> None:
    """Environments recommend settings of their own, which nobody is told of."""
    found = cautions(resolve(overrides, options={"env": env}))
    assert [text.partition(" does without ")[2].partition(":")[0] for text in found] == ([unused] if unused else [])


def test_it_is_said_when_a_run_starts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "write", lambda *_: {})
    recorder, settings = Recorder(), ("num_episodes=1", "num_evaluation_episodes=0", "objective=worst-theta")
    start(tmp_path / "a", "LinearGaussian-v0", *settings, "propagation=ts-1", observer=recorder)
    assert [text for text in recorder.warnings if "mixes them between steps" in text]
