"""Study 1: measures against known answers, and contrasts of made-up results that do and do not bear the claim out."""

import dataclasses
import pathlib
from typing import Any

import pytest
import torch

from bayes_mbrl.algorithms.base import Agent, RandomAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.studies import distribution_shift
from bayes_mbrl.studies.distribution_shift import EXPRESSIVE, MODELS, SIMPLE, STUDY, arm_name, measure
from bayes_mbrl.study import verdict_of


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("planner.num_candidates=40", "planner.num_elites=5", "planner.num_iterations=3")
    monkeypatch.setattr(distribution_shift, "SETTINGS", dict.fromkeys(distribution_shift.SETTINGS, settings))
    monkeypatch.setattr(distribution_shift, "DATA", dict.fromkeys(distribution_shift.DATA, 4))
    monkeypatch.setattr(distribution_shift, "NUM_STEPS", (100, 200))
    monkeypatch.setattr(distribution_shift, "NUM_EPISODES", (6, 12))


def measured(tmp_path: pathlib.Path, model: str = "10 units", seed: int = 3) -> dict[str, Any]:
    return measure(tmp_path, env="ThreeLanes-v0", model=model, seed=seed, quick=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Acting(Agent):
    """Takes the place of an agent that plans: pushes forward and south, or acts at random."""

    random: RandomAgent | None
    posterior: Any = None
    dynamics: Any = None

    def act(self, observation: torch.Tensor, memory: Any, *, generator: torch.Generator) -> Any:
        if self.random is not None:
            return self.random.act(observation, memory, generator=generator)
        return torch.tensor([1.0, -1.0]), None


@pytest.mark.parametrize("at_random", [True, False])
def test_random_actions_lead_nowhere_else_and_others_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, at_random: bool
) -> None:
    monkeypatch.setattr(Builder, "agent", lambda self, *_: Acting(self.base_policy() if at_random else None))
    found = measured(tmp_path)
    assert found["return"] == found["ideal_return"]
    if at_random:
        assert found["energy_distance"] == pytest.approx(0, abs=0.5)
        assert found["error_own"] == found["error_base"], "the very same episodes"
    else:
        assert found["energy_distance"] > 1
        assert found["above_chance"] > 0.1
        assert found["p_value"] < 0.05
        assert found["error_own"] > 1.5 * found["error_base"], "in the swamp"


def test_all_models_of_a_seed_meet_the_same_task(tmp_path: pathlib.Path) -> None:
    one, other = (measured(tmp_path, model) for model in (SIMPLE, "10 units"))
    assert one["ideal_return"] == other["ideal_return"]
    assert one["error_base"] != other["error_base"]


def test_a_measurement_is_a_function_of_its_arguments(tmp_path: pathlib.Path) -> None:
    first = measured(tmp_path)
    assert measured(tmp_path) == first
    assert measured(tmp_path, seed=4) != first


def results(**changes: float) -> dict[str, dict[int, dict[str, float]]]:
    """Of three seeds that all bear the claim out, but for the changes."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for env in distribution_shift.SETTINGS:
        for place, model in enumerate(MODELS):
            one = {"above_chance": 0.5, "error_base": 0.1, "error_own": 0.2 + 0.1 * place, "return": 1.0}
            one |= {"ideal_return": 2.0, **changes}
            found[arm_name(env, model)] = {seed: {k: v + 1e-3 * seed for k, v in one.items()} for seed in range(3)}
    return found


@pytest.mark.parametrize(
    ("changes", "refuted"),
    [
        ({}, []),
        ({"above_chance": -0.1}, ["energy distance"]),
        ({"error_own": 0.05}, ["error where the plans lead"]),
        ({"ideal_return": 0.5}, ["return of such plans"]),
    ],
)
def test_each_part_of_the_claim_can_fail(changes: dict[str, float], refuted: list[str]) -> None:
    contrasts = STUDY.contrasts(results(**changes))
    assert len(contrasts) == 5 * len(distribution_shift.SETTINGS)
    wrong = [one.statement for one in contrasts if one.verdict == "refuted"]
    assert len(wrong) == len(refuted) * len(distribution_shift.SETTINGS)
    assert all(part in statement for part, statement in zip(refuted * len(wrong), wrong, strict=False))
    if not changes:
        assert verdict_of(contrasts) == "supported"


@pytest.mark.parametrize(
    ("base", "own", "refuted"),
    [
        (0.1, 0.15, ["that log ratio with", "error where the plans of"]),
        (0.4, 0.5, ["that log ratio with"]),  # wrong everywhere, and so a greater error
        (0.01, 0.1, ["error where the plans of"]),  # right in the data: the error grows, and is less
    ],
)
def test_more_expressive_models_have_to_be_worse_in_both_ways(base: float, own: float, refuted: list[str]) -> None:
    made_up = results()
    for env in distribution_shift.SETTINGS:
        for seed, one in made_up[arm_name(env, EXPRESSIVE)].items():
            one |= {"error_base": base + 1e-3 * seed, "error_own": own + 1e-3 * seed}
    contrasts = STUDY.contrasts(made_up)
    wrong = [one.statement for one in contrasts if one.verdict == "refuted"]
    assert len(wrong) == len(refuted) * len(distribution_shift.SETTINGS)
    assert all(part in statement for part, statement in zip(refuted * 2, wrong, strict=True))
    assert verdict_of(contrasts) == "refuted"


def test_the_figure_names_all_models_and_lines() -> None:
    chart = STUDY.figure(results())
    assert all(model in chart.x_label for model in MODELS)  # type: ignore[union-attr]
    assert len([mark for mark in chart.marks if mark.label]) == 4  # type: ignore[union-attr]
