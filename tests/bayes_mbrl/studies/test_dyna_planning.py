"""Study 11: what is counted as solved, a maze that closes, and verdicts on results that are made up."""

import pathlib
from typing import Any

import numpy as np
import pytest

from bayes_mbrl.studies import dyna_planning
from bayes_mbrl.studies.dyna_planning import BEST, STUDY, episodes_to_solve
from bayes_mbrl.study import verdict_of


@pytest.mark.parametrize(
    ("lengths", "solved"),
    [
        ([900, 28, 14, 28, 900], 2),
        ([900, 28, 14, 29, 28, 28, 28], 5),
        ([14, 14, 14], 1),
        ([900, 900, 14, 14], 4),  # not three in a row: counted as if the last one had been the first
        ([900, 900], 2),
    ],
)
def test_solved_is_three_short_ways_in_a_row(lengths: list[int], solved: int) -> None:
    assert episodes_to_solve(lengths) == solved


def measure(arm: str, *, seed: int = 0, **other: Any) -> dict[str, Any]:
    return dyna_planning.measure(pathlib.Path(), **{**STUDY.arms[arm], **other}, seed=seed, quick=True)


def test_lengths_are_those_of_ways_through_the_maze_and_a_seed_decides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dyna_planning, "NUM_EPISODES", 12)
    found = measure("50 planning steps")
    assert len(found["lengths"]) == 12
    assert min(found["lengths"]) >= BEST
    assert found["episodes_to_solve"] < 8
    assert measure("50 planning steps") == found
    assert measure("50 planning steps", seed=1) != found
    without = measure("0 planning steps", seed=0)
    assert sum(without["lengths"]) > 2 * sum(found["lengths"])


def test_goals_are_counted_apart_before_and_after_the_way_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dyna_planning, "BLOCKING_MAZE", (("S.G",), ("S#G",)))
    monkeypatch.setattr(dyna_planning, "BLOCKED_AFTER", 40)
    monkeypatch.setattr(dyna_planning, "NUM_STEPS", 100)
    found = measure("Dyna-Q, way blocked")
    assert 5 < found["goals_before"] <= 20
    assert found["goals_after"] == 0
    assert measure("Dyna-Q, way blocked") == found


def made_up(five: float, fifty: float, plus: float) -> Any:
    """Episodes to solve are 40 without planning, goals after the change 20 without the bonus; seeds differ a little."""
    lengths = [100] * dyna_planning.NUM_EPISODES

    def by_seed(key: str, value: float) -> dict[int, Any]:
        return {1000 + i: {key: value + 0.1 * i, "lengths": lengths} for i in range(4)}

    return {
        "0 planning steps": by_seed("episodes_to_solve", 40),
        "5 planning steps": by_seed("episodes_to_solve", five),
        "50 planning steps": by_seed("episodes_to_solve", fifty),
        "Dyna-Q, way blocked": by_seed("goals_after", 20),
        "Dyna-Q+, way blocked": {seed: {"goals_after": plus + (seed % 3)} for seed in range(1000, 1004)},
    }


@pytest.mark.parametrize(
    ("five", "fifty", "plus", "verdicts"),
    [
        (8, 4, 70, ["supported", "supported", "supported"]),
        (80, 4, 70, ["refuted", "supported", "supported"]),
        (8, 16, 70, ["supported", "refuted", "supported"]),
        (8, 4, 10, ["supported", "supported", "refuted"]),
        (8, 4, 19.2, ["supported", "supported", "undecided"]),
    ],
)
def test_contrasts_are_positive_where_the_claim_holds(
    five: float, fifty: float, plus: float, verdicts: list[str]
) -> None:
    results = made_up(five, fifty, plus)
    contrasts = STUDY.contrasts(results)
    assert [contrast.verdict for contrast in contrasts] == verdicts
    np.testing.assert_allclose(contrasts[0].values[0], np.log(40 / five))
    expected = "supported" if set(verdicts) == {"supported"} else "refuted" if "refuted" in verdicts else "undecided"
    assert verdict_of(contrasts) == expected
    assert f"goal 20 times on average and Dyna-Q+ {plus + 1:.0f} times" in STUDY.figure(results).note  # type: ignore[union-attr]
