"""Study 2: scores against known answers, and contrasts of made-up results that do and do not bear the claim out."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from bayes_mbrl.build import Builder
from bayes_mbrl.config import from_mapping
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.studies import replanning
from bayes_mbrl.studies.replanning import STUDY, TASKS, Task, measure
from bayes_mbrl.study import verdict_of
from bayes_mbrl.study_parts import episodes


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replanning, "TASKS", {"ThreeLanes-v0": Task(4, 12, 4, (2, 3))})
    monkeypatch.setattr(replanning, "NUM_STEPS", (30, 60))
    monkeypatch.setattr(replanning, "NUM_STEPS_COLLECTING", 20)
    monkeypatch.setattr(replanning, "CEM", ("planner=cem", "planner.num_candidates=20", "planner.num_elites=5"))


def measured(folder: pathlib.Path) -> dict[str, Any]:
    return measure(folder, env="ThreeLanes-v0", seed=3, quick=True)


@pytest.mark.slow  # the run of version 1.0 leaves all that a run leaves
def test_a_measurement_is_a_function_of_its_arguments_and_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
    first = measured(tmp_path / "one")
    assert {way: len(scores) for way, scores in first["scores"].items()} == {
        "true": 3, "cem": 3, "short": 2, "random": 3,
    }  # fmt: skip
    assert first["scores"]["true"][0] == 1, "the unit of the scores"
    assert first["unit"] > 0
    assert measured(tmp_path / "one") == first
    assert measured(tmp_path / "other") == first


def test_nothing_is_lost_to_a_model_that_is_the_truth(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replanning, "knowing", lambda agent, truth: agent)
    monkeypatch.setattr(replanning, "run", collect_at_random)
    scores = measured(tmp_path)["scores"]
    assert scores["cem"] == scores["true"], "the same start states and random numbers"
    assert scores["short"][0] != scores["cem"][0]


def collect_at_random(folder: pathlib.Path, *, config: Mapping[str, Any]) -> None:
    """In place of the run of version 1.0."""
    with Environment(config["env"]) as environment:
        builder = Builder(from_mapping(config), environment)
        found = episodes(builder, builder.base_policy(), 2, seed=config["seed"])
    (folder / "run").mkdir()
    found.save(folder / "run" / "transitions.npz")


def results(**changes: Any) -> dict[str, dict[int, dict[str, Any]]]:
    """Of three seeds that all bear the claim out, but for the changes."""
    scores = {"true": [1.0, 0.9, 0.6], "cem": [0.9, 0.6, 0.1], "short": [0.7, 0.4], "random": [0.8, 0.3, 0.1]}
    scores |= {way: changes.pop(way) for way in list(changes) if way in scores}
    one = {"scores": scores, "unit": 2.0, "error_ratio": 0.5, "shift_less": 0.2, "score_more": 0.3, **changes}

    def of_seed(seed: int) -> dict[str, Any]:
        slightly = {
            way: [x - 1e-3 * seed * number * place for place, x in enumerate(found, 1)]
            for number, (way, found) in enumerate(scores.items(), 1)
        }
        return (
            one
            | {"scores": slightly}
            | {key: one[key] + 1e-3 * seed for key in ("error_ratio", "shift_less", "score_more")}
        )

    return {env: {seed: of_seed(seed) for seed in range(3)} for env in TASKS}


@pytest.mark.parametrize(
    ("changes", "refuted"),
    [
        ({}, []),
        ({"shift_less": -0.1}, ["nearer its data"]),
        ({"error_ratio": -0.1}, ["error where the plans"]),
        ({"score_more": -0.1}, ["version 1.0: score"]),
        ({"true": [1.0, 0.9, 0.2], "cem": [0.8, 0.6, 0.1]}, ["lost to the model's error"]),
        ({"random": [0.05, 0.0, 0.0]}, ["random sampling at each step, less that of", "less 80%"]),
        ({"random": [0.6, 0.3, 0.1]}, ["less 80%"]),
        ({"short": [0.05, 0.0]}, ["half the horizon"]),
        ({"true": [1.0, 0.9, 1.6], "cem": [0.5, 0.6, 0.7], "random": [0.9, 0, 0], "short": [0.9, 0]}, ["one model"]),
    ],
)
def test_each_part_of_the_claim_can_fail(changes: dict[str, Any], refuted: list[str]) -> None:
    contrasts = STUDY.contrasts(results(**changes))
    wrong = [one.statement for one in contrasts if one.verdict == "refuted"]
    assert len(wrong) == len(refuted)
    assert all(part in statement for part, statement in zip(refuted, wrong, strict=True))
    if not changes:
        assert verdict_of(contrasts) == "supported"


def test_a_contrast_is_the_mean_over_tasks() -> None:
    made_up = results()
    for one in made_up["Pendulum-v1"].values():
        one["score_more"] = 3.0
    found = next(one for one in STUDY.contrasts(made_up) if one.statement.startswith("version 1.0: score"))
    assert found.values[0] == pytest.approx((0.3 + 0.3 + 3.0) / 3)


def test_the_figure_shows_each_way() -> None:
    chart = STUDY.figure(results())
    lines = [mark for mark in chart.marks if mark.label]  # type: ignore[union-attr]
    assert [len(line.x) for line in lines] == [3, 3, 2, 3]
    assert lines[1].y[0] == pytest.approx(0.9 - 2e-3)
