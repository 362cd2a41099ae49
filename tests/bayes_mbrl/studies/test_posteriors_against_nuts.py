"""Study 5: distances whose answer is known, signs of the contrasts, and every arm once with few draws."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from bayes_mbrl.studies import posteriors_against_nuts as study
from bayes_mbrl.studies.posteriors_against_nuts import (
    AGAIN,
    EDGE,
    FAMILIES,
    FITS,
    GAP,
    GRID,
    LEVELS,
    POINT,
    REFERENCE,
    STUDY,
    contrasts,
    distance,
    figure,
    measure,
    problem,
)
from bayes_mbrl.study import verdict_of


def normal(loc: float, scale: float, **more: float) -> dict[str, Any]:
    """What `measure` keeps of a normal predictive distribution, alike at all x."""
    levels = torch.tensor(LEVELS)[:, None].expand(-1, len(GRID))
    return {
        "quantiles": (loc + scale * torch.special.ndtri(levels)).tolist(),
        "std": [scale] * len(GRID),
        "epistemic": [0.1] * len(GRID),
        **more,
    }


def test_distance_of_shifted_and_scaled_normals() -> None:
    """W2² of normals is (difference of means)² + (difference of deviations)²."""
    assert distance(normal(0.3, 2.0), normal(0.3, 2.0)) == 0
    assert distance(normal(1.3, 2.0), normal(0.3, 2.0)) == pytest.approx(0.5)
    assert distance(normal(0.0, 2.5), normal(0.0, 2.0)) == pytest.approx(0.25, rel=0.02), "outer quantiles are missing"
    both = distance(normal(1.0, 2.5), normal(0.0, 2.0))
    assert both == pytest.approx(math.hypot(0.5, 0.25), rel=0.02)


def test_there_are_no_data_in_the_gap(generator: torch.Generator) -> None:
    x, y = problem(41, generator=generator)
    assert x.shape == y.shape == (41, 1)
    assert bool(((x.abs() >= GAP) & (x.abs() <= EDGE)).all())
    assert int((x < 0).sum()) == 21
    assert float((y - torch.sin(3 * x)).std()) == pytest.approx(study.NOISE_STD, rel=5 / math.sqrt(80))


def made_up(
    *, shift: float = 0.2, calibration: float = 0.1, epistemic: float = 0.1, again: float = 0.02, nearest: float = 0.2
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """NUTS at 0 ± 1 and `again`, one network at 0.5 ± 1, and every family as said, but the last at `nearest`.

    So for seed 0; the others differ a little, by arm.
    """

    def found(where: float, error: float, deviation: float, number: int) -> Mapping[str, Any]:
        return normal(where, 1.0, calibration_error=error, epistemic_in_gap=deviation, gradients=number)

    said = {
        REFERENCE: (0.0, 0.05, 0.5, 1500),
        AGAIN: (again, 0.05, 0.5, 1500),
        POINT: (0.5, 0.3, 0.0, 10),
        **dict.fromkeys(FAMILIES, (shift, calibration, epistemic, 20)),
        FAMILIES[-1]: (nearest, calibration, epistemic, 20),
    }
    return {
        arm: {seed: found(*(x * (1 + 1e-3 * seed * place) for x in numbers), count) for seed in range(3)}
        for place, (arm, (*numbers, count)) in enumerate(said.items())
    }


def test_what_bears_the_claim_out() -> None:
    found = contrasts(made_up())
    assert len(found) == 3 * len(FAMILIES) + 1
    assert verdict_of(found) == "supported"
    first = [contrast.values[0] for contrast in found]
    assert first[:3] == pytest.approx([math.log(0.5 / 0.2), 0.2, math.log(5)])
    assert first[-1] == pytest.approx(math.log(10))


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"shift": 0.9}, 0),
        ({"calibration": 0.4}, 1),
        ({"epistemic": 0.7}, 2),
        ({"again": 0.3}, -1),
        ({"again": 0.15, "nearest": 0.1}, -1),  # of the others it is nearer
    ],
)
def test_what_refutes_it(change: dict[str, Any], number: int) -> None:
    found = contrasts(made_up(**change))
    assert found[number].verdict == "refuted"
    assert verdict_of(found) == "refuted"


def test_the_figure_says_how_far_each_is() -> None:
    labels = [getattr(mark, "label", "") for mark in figure(made_up()).marks]
    assert {"NUTS", "NUTS again (distance 0.02)", "mean-field (distance 0.20)"} <= set(labels)
    assert "NUTS 1,500, mean-field 20, ensemble 20, mc-dropout 20" in figure(made_up()).note


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = {"num_chains": 2, "num_warmup": 5, "num_draws": 5, "max_tree_depth": 2, "num_variational_steps": 20}
    monkeypatch.setattr(study, "NUTS", (chains, chains))
    monkeypatch.setattr(study, "NUM_STEPS", (30, 30))
    for name, value in {"NUM_DRAWS": 100, "NUM_COMPONENTS": 20, "NUM_FRESH": 20}.items():
        monkeypatch.setattr(study, name, value)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("arm", [POINT, *FAMILIES])
def test_measuring_twice_gives_the_same(arm: str, tmp_path: pathlib.Path) -> None:
    once, again = (measure(tmp_path, **STUDY.arms[arm], seed=3, quick=True) for _ in range(2))
    assert once == again
    assert np.shape(once["quantiles"]) == (len(LEVELS), len(GRID))
    assert (once["epistemic_in_gap"] > 0) == (arm != POINT)
    members = FITS[arm][1].get("num_members", 1)
    assert once["gradients"] == 30 * members


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_nuts_again_is_another_run_on_the_same_data(tmp_path: pathlib.Path) -> None:
    once, again, same = (
        measure(tmp_path, **STUDY.arms[arm], seed=3, quick=True) for arm in (REFERENCE, AGAIN, REFERENCE)
    )
    assert once == same
    assert once != again
    assert 0 < once["gradients"] <= 2 * 5 * 3
