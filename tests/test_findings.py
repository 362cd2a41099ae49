"""Findings that the pages show follow from the numbers that they hold, and judge the claims as they now are."""

import json
import pathlib

import pytest

from bayes_mbrl.study import Contrast, verdict_of
from bayes_mbrl.studying import find_study, study_names

STUDIES = pathlib.Path(__file__).parents[1] / "docs" / "studies"
FOUND = sorted(path.parent.name for path in STUDIES.glob("*/finding.json"))


@pytest.mark.parametrize("name", FOUND)
def test_a_verdict_is_that_of_its_numbers(name: str) -> None:
    assert name in study_names()
    found = json.loads((STUDIES / name / "finding.json").read_text(encoding="utf-8"))
    assert found["claim"] == find_study(name).claim, "run the study again: its claim has changed"
    contrasts = [Contrast(one["statement"], one["values"]) for one in found["contrasts"]]
    assert [one["verdict"] for one in found["contrasts"]] == [contrast.verdict for contrast in contrasts]
    assert found["verdict"] == verdict_of(contrasts)
    assert all(len(contrast.values) == found["num_seeds"] for contrast in contrasts)
    assert (STUDIES / name / "figure.png").stat().st_size > 10_000
