"""Findings that the pages show follow from the numbers that they hold, and judge the claims as they now are."""

import json
import pathlib

import pytest

from bayes_mbrl.study import Contrast, verdict_of
from bayes_mbrl.studying import find_study, study_names

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = ROOT / "docs" / "studies"
CLAIMS = {name: find_study(name).claim for name in study_names()}
"""Loaded here: the first import of a framework may move a global random state."""
FOUND = sorted(path.parent.name for path in STUDIES.glob("*/finding.json"))


@pytest.mark.parametrize("name", FOUND)
def test_a_verdict_is_that_of_its_numbers(name: str) -> None:
    assert name in study_names()
    found = json.loads((STUDIES / name / "finding.json").read_text(encoding="utf-8"))
    assert found["claim"] == CLAIMS[name], "run the study again: its claim has changed"
    contrasts = [Contrast(one["statement"], one["values"]) for one in found["contrasts"]]
    assert [one["verdict"] for one in found["contrasts"]] == [contrast.verdict for contrast in contrasts]
    assert found["verdict"] == verdict_of(contrasts)
    assert all(len(contrast.values) == found["num_seeds"] for contrast in contrasts)
    assert (STUDIES / name / "figure.png").stat().st_size > 10_000


def test_every_study_was_run() -> None:
    assert study_names() == FOUND


@pytest.mark.parametrize("name", FOUND)
def test_the_readme_says_what_was_found(name: str) -> None:
    found = json.loads((STUDIES / name / "finding.json").read_text(encoding="utf-8"))
    (row,) = [line for line in README.splitlines() if line.startswith(f"| [`{name}`]")]
    verdicts = [one["verdict"] for one in found["contrasts"]]
    how = "`--quick`" if found["quick"] else "in full"
    numbers = f"{verdicts.count('supported')} of {len(verdicts)}"
    assert row.endswith(f"| {found['verdict']} | {numbers} | {found['num_seeds']}, {how} |")
