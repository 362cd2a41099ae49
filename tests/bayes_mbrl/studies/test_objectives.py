"""Study 7: its data, its scores, signs of the contrasts, and every kind of task once, made small."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from bayes_mbrl.analysis.charts import Line
from bayes_mbrl.config import resolve
from bayes_mbrl.environments.known_truth import three_lanes_noise_std, three_lanes_step
from bayes_mbrl.studies import objectives as study
from bayes_mbrl.studies.objectives import (
    INFORMED,
    LANES,
    NORTHERN,
    SOUTHERN,
    SPARSE,
    STUDY,
    contrasts,
    figure,
    measure,
    objective,
    offline_data,
)
from bayes_mbrl.study import verdict_of


@pytest.mark.parametrize("multiple", [-3.0, -0.5, 0.0, 2.0])
def test_the_objective_is_the_mean_plus_a_multiple_of_the_epistemic_deviation(
    multiple: float, generator: torch.Generator
) -> None:
    centre = torch.tensor([[0.0], [1.0], [5.0]]).double()  # E[R | θ] of three θ
    noise = torch.randn(3, 20_000, 2, generator=generator, dtype=torch.float64)
    score = resolve(objective(multiple), options={"env": LANES}).objective.build()(centre[:, None] + noise)
    expected = 2.0 + multiple * float(centre.std())
    assert score.tolist() == pytest.approx([expected] * 2, abs=0.1)


@pytest.mark.parametrize("southmost", [NORTHERN, SOUTHERN])
def test_data_are_from_the_lanes_that_are_known(southmost: float, generator: torch.Generator) -> None:
    data = offline_data(2000, southmost=southmost, generator=generator)
    y = data.state[:, 1]
    assert southmost <= float(y.min()) < southmost + 0.01
    assert 1.19 < float(y.max()) <= 1.2
    noise = (data.next_state - three_lanes_step(data.state, data.action)) / three_lanes_noise_std(data.state)
    torch.testing.assert_close(noise.std(0), torch.ones(2), rtol=0, atol=5 / (2 * 2000) ** 0.5)


def made_up(**change: float) -> Any:
    """Arm → seed → return: the claim holds, but for what is changed."""
    returns = {
        "half known, pessimistic": 1.5,
        "half known, expected": 0.8,
        "half known, optimistic": 0.5,
        "all known, pessimistic": 1.4,
        "all known, expected": 2.2,
        "all known, optimistic": 1.8,
        "sparse reward, expected": -0.3,
        "sparse reward, optimistic": 60.0,
        INFORMED: 94.0,
    }
    assert returns.keys() == STUDY.arms.keys()
    returns |= change
    return {arm: {seed: {"return": value * (1 + 0.01 * seed)} for seed in range(3)} for arm, value in returns.items()}


def test_what_bears_the_claim_out() -> None:
    found = contrasts(made_up())
    assert verdict_of(found) == "supported"
    first = [contrast.values[0] for contrast in found]
    assert first == pytest.approx([0.7, 1.0, 0.8, 0.4, 50.3, 84.3])


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"half known, expected": 1.7}, 0),
        ({"half known, optimistic": 1.7}, 1),
        ({"all known, pessimistic": 2.5}, 2),
        ({"all known, optimistic": 2.5}, 3),
        ({"sparse reward, optimistic": -0.2}, 4),
        ({INFORMED: 5.0}, 5),
    ],
)
def test_what_refutes_it(change: dict[str, float], number: int) -> None:
    found = contrasts(made_up(**change))
    assert [contrast.verdict for contrast in found].index("refuted") == number
    assert verdict_of(found) == "refuted"


def test_the_figure_is_in_metres_and_hundreds() -> None:
    lines = {mark.label: mark for mark in figure(made_up()).marks if isinstance(mark, Line)}
    np.testing.assert_allclose(lines["half known (m)"].x, [-3, 0, 3])
    np.testing.assert_allclose(lines["half known (m)"].y, np.array([1.5, 0.8, 0.5]) * 1.01)
    np.testing.assert_allclose(lines["sparse reward (hundreds)"].x, [0, 3])
    np.testing.assert_allclose(lines["sparse reward (hundreds)"].y, np.array([-0.003, 0.6]) * 1.01)


def changed(settings: tuple[str, ...], **change: str) -> tuple[str, ...]:
    """The settings with those of these names, without what stands before the point, at other values."""
    kept = [setting for setting in settings if setting.split("=")[0].split(".")[-1] not in change]
    new = (f"{'posterior' if name == 'num_steps' else 'planner'}.{name}={value}" for name, value in change.items())
    return (*kept, *new)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"num_steps": "20", "num_candidates": "12", "num_elites": "4", "num_iterations": "1"}
    monkeypatch.setattr(study, "LANES_SETTINGS", changed(study.LANES_SETTINGS, **small))
    fewer = {"horizon": "50"}
    monkeypatch.setattr(study, "SPARSE_SETTINGS", changed(study.SPARSE_SETTINGS, **small, **fewer))
    monkeypatch.setattr(study, "NUM_EPISODES", {LANES: (1, 1), SPARSE: (1, 1)})


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("task", ["half known", "all known"])
def test_measuring_the_lanes_twice_gives_the_same(task: str, tmp_path: pathlib.Path) -> None:
    arm = STUDY.arms[f"{task}, pessimistic"]
    once, again = (measure(tmp_path, **arm, seed=3, quick=True) for _ in range(2))
    assert once == again
    other = measure(tmp_path, **STUDY.arms[f"{task}, optimistic"], seed=3, quick=True)
    assert once["return"] != other["return"]


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_measuring_the_sparse_reward_twice_gives_the_same(tmp_path: pathlib.Path) -> None:
    once, again = (measure(tmp_path, **STUDY.arms[INFORMED], seed=3, quick=True) for _ in range(2))
    assert once == again
    other = measure(tmp_path, **STUDY.arms["sparse reward, expected"], seed=3, quick=True)
    assert once["farthest"] != other["farthest"]
