"""Study 12: arms that differ in what is imagined and in nothing else, and verdicts on results that are made up."""

import pathlib
from typing import Any

import numpy as np
import pytest

from bayes_mbrl.config import Config
from bayes_mbrl.studies import imagined_data
from bayes_mbrl.studies.imagined_data import MBA, MBPO, MVE, NAF, POOR, SAC, STUDY, grid

STEPS, RETURNS = [100, 150, 250, 450], [999.0, 0.0, 100.0, 200.0]


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Of the runs whose learning curves are asked for; the curve is made up."""
    asked: list[Config] = []

    def made_up(
        folder: pathlib.Path, config: Config, *, every: int, num_episodes: int
    ) -> tuple[list[int], list[float]]:
        asked.append(config)
        return STEPS, RETURNS

    monkeypatch.setattr(imagined_data, "learning_curve", made_up)
    return asked


def test_policies_are_compared_at_the_same_real_steps(configs: list[Config], tmp_path: pathlib.Path) -> None:
    """Between two evaluations along the straight line: 200 lies half way, 300 and 400 a quarter and three."""
    assert grid(400) == [200, 300, 400]
    found = imagined_data.measure(tmp_path, **STUDY.arms[SAC], seed=0, quick=True)
    assert found["returns"] == [50.0, 125.0, 175.0]
    assert found["mean_return"] == pytest.approx(350 / 3)


def test_arms_differ_in_what_is_imagined_alone(configs: list[Config], tmp_path: pathlib.Path) -> None:
    for arm in STUDY.arms.values():
        imagined_data.measure(tmp_path, **arm, seed=7, quick=False)
    algorithms = {arm: config.algorithm for arm, config in zip(STUDY.arms, configs, strict=True)}
    names = {SAC: "sac", MVE: "mve", MBPO: "mbpo", NAF: "mba", MBA: "mba", POOR: "mbpo"}
    assert {arm: algorithm.name for arm, algorithm in algorithms.items()} == names
    for key in ("updates_per_step", "batch_size", "learning_rate", "discount", "target_rate", "hidden"):
        assert len({str(algorithm.settings[key]) for algorithm in algorithms.values()}) == 1, key
    assert {(config.num_steps, config.num_base_steps, config.seed) for config in configs} == {(800, 100, 7)}
    assert [algorithms[arm].settings["real_ratio"] for arm in (MBPO, NAF, MBA, POOR)] == [0.05, 1, 0.5, 0.05]
    models = {arm: config.posterior.name for arm, config in zip(STUDY.arms, configs, strict=True)}
    assert {models[arm] for arm in (MVE, MBPO, NAF, MBA)} == {"exact-linear"}
    assert models[POOR] == "point"


@pytest.mark.slow
def test_a_run_is_measured_twice_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(imagined_data, "NUM_STEPS", (120, 999))
    monkeypatch.setattr(imagined_data, "EVERY", 60)
    arm = {**STUDY.arms[MBA], "seed": 1, "quick": True}
    found = imagined_data.measure(tmp_path, **arm)
    assert found == imagined_data.measure(tmp_path, **arm)
    assert len(found["returns"]) == 1
    assert 1 < found["mean_return"] <= 200


def made_up(**mean: float) -> Any:
    """100 for each arm that is not named, by arguments like SAC=90; seeds differ a little."""
    arms = {"SAC": SAC, "MVE": MVE, "MBPO": MBPO, "NAF": NAF, "MBA": MBA, "POOR": POOR}
    return {
        arm: {
            1000 + i: {"mean_return": mean.get(name, 100.0) + (i * number) % 4, "returns": [20.0, 40.0, 60.0 + i]}
            for i in range(4)
        }
        for number, (name, arm) in enumerate(arms.items())
    }


S, R, U = "supported", "refuted", "undecided"


@pytest.mark.parametrize(
    ("mean", "verdicts"),
    [
        ({"SAC": 80, "NAF": 60, "POOR": 30}, [S, S, S, S, S]),
        ({"SAC": 80, "NAF": 60, "POOR": 99}, [S, S, S, U, R]),
        ({"SAC": 130, "NAF": 100, "POOR": 30}, [R, R, U, S, S]),
        ({"SAC": 80, "NAF": 130, "MVE": 60, "POOR": 30}, [R, S, R, S, S]),
        ({"POOR": 140}, [U, U, U, R, R]),
    ],
)
def test_contrasts_are_positive_where_the_claim_holds(mean: dict[str, float], verdicts: list[str]) -> None:
    results = made_up(**mean)
    contrasts = STUDY.contrasts(results)
    assert [contrast.verdict for contrast in contrasts] == verdicts
    values = contrasts[1].values
    np.testing.assert_allclose(values[0], mean.get("MBPO", 100.0) - mean.get("SAC", 100.0))
    chart = STUDY.figure(results)
    curves = {mark.label: mark for mark in chart.marks if getattr(mark, "label", "")}  # type: ignore[union-attr]
    assert list(curves) == list(STUDY.arms)
    np.testing.assert_allclose(curves[SAC].x, [200, 300, 400])  # type: ignore[union-attr]
    np.testing.assert_allclose(curves[SAC].y, [20, 40, 61.5])  # type: ignore[union-attr]
