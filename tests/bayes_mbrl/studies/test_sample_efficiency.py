"""Study 8: when a level is reached, a run from its start to its end, and verdicts on results that are made up."""

import pathlib
from typing import Any

import numpy as np
import pytest

from bayes_mbrl.studies import sample_efficiency
from bayes_mbrl.studies.sample_efficiency import PLANNER, SAC, STUDY, steps_to_level


@pytest.mark.parametrize(
    ("returns", "steps"), [([20.0, 180.0, 200.0], 20), ([20.0, 179.9, 150.0], 999), ([190.0, 20.0, 20.0], 10)]
)
def test_the_level_is_reached_or_all_steps_count(returns: list[float], steps: int) -> None:
    assert steps_to_level([10, 20, 30], returns, otherwise=999) == steps


def test_it_is_measured_to_the_end_twice_alike(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_efficiency, "MOST_STEPS", (230, 999))
    arm = {**STUDY.arms[SAC], "every": 150}
    found = sample_efficiency.measure(tmp_path, **arm, seed=0, quick=True)
    assert found["steps"][0] < found["steps"][1]
    assert found["steps"][1] >= 230
    assert len(found["steps"]) == 2  # beyond 150, and the end
    assert (found["last"], found["steps_to_level"]) == (found["returns"][-1], 230)
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)  # as a killed process may leave it
    assert sample_efficiency.measure(tmp_path, **arm, seed=0, quick=True) == found
    assert list(tmp_path.iterdir()) == []


def made_up(planner_steps: int, planner: float, sac_then: float, sac_last: float) -> Any:
    """The planner ends after 300 steps; soft actor-critic needs 2,000 to the level; seeds differ a little."""
    return {
        PLANNER: {
            1000 + i: {
                "steps": [100, 300 + i],
                "returns": [50.0, planner - i],
                "last": planner - i,
                "steps_to_level": planner_steps + i,
            }
            for i in range(4)
        },
        SAC: {
            1000 + i: {
                "steps": [200, 400, 4000 + 7 * i],
                "returns": [999.0, sac_then + i, sac_last + 0.1 * i],
                "last": sac_last + 0.1 * i,
                "steps_to_level": 2000,
            }
            for i in range(4)
        },
    }


@pytest.mark.parametrize(
    ("numbers", "verdicts"),
    [
        ((250, 200.0, 40.0, 195.0), ["supported", "supported", "supported"]),
        ((4000, 200.0, 40.0, 195.0), ["refuted", "supported", "supported"]),
        ((250, 190.0, 198.0, 195.0), ["supported", "refuted", "supported"]),
        ((250, 150.0, 40.0, 199.0), ["supported", "supported", "refuted"]),
        ((250, 187.0, 40.0, 195.0), ["supported", "supported", "undecided"]),
    ],
)
def test_contrasts_are_positive_where_the_claim_holds(
    numbers: tuple[int, float, float, float], verdicts: list[str]
) -> None:
    results = made_up(*numbers)
    contrasts = STUDY.contrasts(results)
    assert [contrast.verdict for contrast in contrasts] == verdicts
    np.testing.assert_allclose(contrasts[0].values[0], np.log(2000 / numbers[0]))
    np.testing.assert_allclose(contrasts[1].values[1], (numbers[1] - 1) - (numbers[2] + 1))
    np.testing.assert_allclose(contrasts[2].values[0], numbers[1] - 0.95 * numbers[3])
    assert "after all its real steps (4,000 or more)" in contrasts[2].statement
    assert STUDY.figure(results).title
