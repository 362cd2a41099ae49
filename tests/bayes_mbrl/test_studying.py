"""A study from the first task to the page; and what holds for every study there is."""

import dataclasses
import json
import math
import pathlib
import types

import pytest
import toy_studies
import toy_tasks

from bayes_mbrl import studying
from bayes_mbrl.errors import UserError
from bayes_mbrl.registry import load_attribute
from bayes_mbrl.study import Contrast, log_ratio, per_seed
from bayes_mbrl.studying import find_study, run_study, study_names
from bayes_mbrl.sweep import engine


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """`find_study` finds the toy study, whose tasks are done in this process."""
    monkeypatch.setattr(studying, "find_study", lambda name: toy_studies.STUDY)

    monkeypatch.setattr(engine, "do_in_processes", toy_tasks.in_turn)


@pytest.mark.usefixtures("toy")
def test_a_study_is_judged_by_its_numbers_and_leaves_them(tmp_path: pathlib.Path) -> None:
    finding = run_study("toy", tmp_path, quick=True)
    assert (finding.verdict, finding.num_seeds, finding.errors) == ("supported", 3, [])
    found = json.loads((tmp_path / "finding.json").read_text())
    assert found["verdict"] == "supported"
    assert found["contrasts"][0]["values"] == [10.0, 11.0, 12.0]
    assert found["note"] == "It is large."
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    page = (tmp_path / "study.html").read_text()
    for text in ("A toy is large.", "supported, by 3 seeds", "large minus small"):
        assert text in page
    assert toy_studies.num_measured(tmp_path) == 6
    run_study("toy", tmp_path, quick=True)
    assert toy_studies.num_measured(tmp_path) == 6, "what is done is not done again"


@pytest.mark.usefixtures("toy")
def test_a_failing_arm_is_told_and_its_seed_left_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_studies, "FAILING", {("large", 1001)})
    finding = run_study("toy", tmp_path, quick=True)
    assert finding.num_seeds == 2
    assert finding.errors == ["toy, large, seed 1001: RuntimeError: no luck"]
    assert "no luck" in (tmp_path / "study.html").read_text()
    monkeypatch.setattr(toy_studies, "FAILING", set())
    assert run_study("toy", tmp_path, quick=True).num_seeds == 3
    assert toy_studies.num_measured(tmp_path) == 6


@pytest.mark.usefixtures("toy")
def test_what_is_no_number_leaves_a_claim_undecided(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [Contrast("sound", [1.0, 1.1, 1.2]), Contrast("broken", [1.0, math.nan, math.inf])]
    monkeypatch.setattr(
        studying, "find_study", lambda name: dataclasses.replace(toy_studies.STUDY, contrasts=lambda _: broken)
    )
    finding = run_study("toy", tmp_path, quick=True)
    assert (finding.verdict, finding.num_seeds) == ("undecided", 3)
    assert finding.errors == ["broken: not a finite number for every seed, got [1.0, nan, inf]"]
    found = json.loads((tmp_path / "finding.json").read_text(), parse_constant=pytest.fail)
    assert found["contrasts"][1]["values"] == [1.0, None, None]
    assert found["contrasts"][1]["low"] is None


@pytest.mark.usefixtures("toy")
def test_no_claim_is_supported_of_which_a_run_failed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_studies, "FAILING", {("large", 1001)})
    finding = run_study("toy", tmp_path, quick=True, num_seeds=9)
    assert finding.contrasts[0].verdict == "supported"
    assert finding.verdict == "undecided"


@pytest.mark.usefixtures("toy")
def test_an_arm_that_always_fails_leaves_a_finding_that_says_so(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study("toy", tmp_path, quick=True)
    monkeypatch.setattr(toy_studies, "FAILING", {("large", seed) for seed in range(1000, 1020)})
    for task in (tmp_path / "tasks").glob("toy-large-*"):
        (task / "result.json").unlink()
    finding = run_study("toy", tmp_path, quick=True)
    assert (finding.verdict, finding.num_seeds, list(finding.contrasts)) == ("undecided", 0, [])
    assert len(finding.errors) == 4
    assert "0 seeds have all arms, and a claim is judged by 2 or more" in finding.errors[-1]
    assert json.loads((tmp_path / "finding.json").read_text())["verdict"] == "undecided"
    assert "no luck" in (tmp_path / "study.html").read_text()
    assert not (tmp_path / "figure.png").exists(), "that of an earlier finding"


@pytest.mark.usefixtures("toy")
def test_numbers_that_cannot_be_compared_are_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = dataclasses.replace(
        toy_studies.STUDY,
        contrasts=lambda results: [
            Contrast("ratio", log_ratio(per_seed(results, "large", "y"), per_seed(results, "small", "y")))
        ],
    )
    monkeypatch.setattr(studying, "find_study", lambda name: ratios)
    finding = run_study("toy", tmp_path, quick=True)
    assert finding.errors == ["what was measured could not be compared: float division by zero"]
    assert (tmp_path / "finding.json").exists()


@pytest.mark.usefixtures("toy")
def test_a_folder_is_of_one_study_and_says_when_its_file_was_changed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    run_study("toy", tmp_path, quick=True, warn=warnings.append)
    run_study("toy", tmp_path, quick=True, warn=warnings.append)
    assert warnings == []
    (tmp_path / "measured_by.txt").write_text("0123456789ab\n")
    run_study("toy", tmp_path, quick=True, num_seeds=4, warn=warnings.append)
    assert len(warnings) == 1
    assert "file was changed after some of the results" in warnings[0]
    with pytest.raises(UserError, match="holds the study toy: take another folder by --out"):
        run_study("other", tmp_path, quick=True)


@pytest.mark.usefixtures("toy")
def test_one_seed_is_no_study(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="judged by 2 seeds or more, got 1"):
        run_study("toy", tmp_path, quick=True, num_seeds=1)


def test_an_unknown_study() -> None:
    with pytest.raises(UserError, match=r"unknown study 'output-entropie'; did you mean output-entropy\? known: "):
        find_study("output-entropie")


STUDIES = {name: find_study(name) for name in study_names()}
"""Loaded before any test, since importing rich, which some do, draws a random number."""


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_what_it_does(name: str) -> None:
    study = STUDIES[name]
    assert len(study.arms) >= 1
    assert "“" in study.claim, "the lecture's words"
    assert study.claim.endswith(".")
    assert isinstance(load_attribute(study.measure), types.FunctionType)
    assert 0 < study.minutes[0] <= 6, "--quick has to end within 3 minutes on two processors"
    assert study.minutes[0] <= study.minutes[1]
    assert 2 <= study.num_seeds[0] <= study.num_seeds[1]
    keys = [task.key for task in study.tasks(name, quick=True)]
    assert len(set(keys)) == len(keys)
