"""Calibration of a run: a known truth is found right, a wrong one wrong, and a sentence says all that is missing."""

import dataclasses
import pathlib
from collections.abc import Iterator

import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
from toy_runs import start

from bayes_mbrl import artefacts
from bayes_mbrl.analysis.charts import Chart, Section
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.dynamics.recalibrated import QuantileRecalibration
from bayes_mbrl.environments.adapter import EnvironmentFault
from bayes_mbrl.environments.known_truth import linear_gaussian_step
from bayes_mbrl.environments.linear_gaussian import NOISE_STD
from bayes_mbrl.loaded_run import Knowledge, LoadedRun, open_run
from bayes_mbrl.sections import calibration, calibration_rows
from bayes_mbrl.sections.calibration import section

EXACT = ("dynamics=linear", "posterior=exact-linear")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    with pytest.MonkeyPatch.context() as patch:
        _no_picture(patch)
        start(folder, "LinearGaussian-v0", *EXACT, "num_episodes=2", "num_evaluation_episodes=5")
    with open_run(folder) as run:
        yield run


def _no_picture(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        patch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))


class _Linear(KnownDynamics):
    """The truth, but for the size of its noise and a bias."""

    def __init__(self, factor: float, bias: float = 0.0) -> None:
        noise_std = torch.from_numpy(NOISE_STD).float()
        super().__init__(lambda s, a: linear_gaussian_step(s, a) + bias * noise_std, noise_std=factor * noise_std)

    def log_likelihood(self, theta: object, transitions: Transitions) -> torch.Tensor:
        return super().log_likelihood({}, transitions)


def _knowing(run: LoadedRun, dynamics: KnownDynamics) -> LoadedRun:
    return dataclasses.replace(run, final=Knowledge(Nothing(), dynamics, 100))


def _texts(found: Section) -> str:
    return " ".join([*found.text, *found.missing])


def test_a_whole_run(whole: LoadedRun) -> None:
    found = section(whole)
    assert list(found.missing) == []
    assert "evaluation episodes (250 transitions) and random actions (100 transitions)" in found.text[0]
    assert [figure.title for figure in found.figures] == [
        "Coverage, one step ahead", "PIT, one step: evaluation episodes", "Coverage by horizon", "CRPS by horizon",
        "Energy score by horizon",
    ]  # fmt: skip
    assert all(isinstance(figure, Chart) and figure.note for figure in found.figures)
    assert [len(table.rows) for table in found.tables] == [6, 2]
    assert "one and the same value" not in _texts(found)
    assert section(whole).tables == found.tables


@pytest.mark.parametrize(("factor", "verdict"), [(0.4, "too narrow"), (1.0, "about right"), (3.0, "too wide")])
def test_the_truth_is_found_right_and_others_are_not(whole: LoadedRun, factor: float, verdict: str) -> None:
    """One step and two steps ahead, where the policy goes and under random actions."""
    found = section(_knowing(whole, _Linear(factor)))
    held = [sentence for sentence in found.text if "90 % intervals hold" in sentence]
    assert len(held) == 4
    assert all(verdict in sentence for sentence in held)
    # Of one dimension there are only 100 outcomes under random actions: too few to tell that it is right.
    verdicts = [row[-1] for row in found.tables[0].rows]
    assert sorted(verdicts) == sorted([verdict] * 3 + [verdict if factor != 1 else "too few outcomes to tell"] * 3)
    leaves = "in no dimension" if factor == 1 else "in 3 of 3 dimensions"
    assert f"leaves the 95 % band {leaves}" in _texts(found)


def test_the_band_holds_all_dimensions_at_once(whole: LoadedRun) -> None:
    """Of uniform PITs of 5 dimensions one leaves a band for a single one in 20 % of cases."""
    band = calibration._band(100, 5, whole)
    assert band.probability == 0.95  # as the picture says
    uniform = torch.rand(400, 100, 5, generator=torch.Generator().manual_seed(2)).double().numpy()
    held = [all(band.holds(pit[:, d]) for d in range(5)) for pit in uniform]
    assert 0.95 - 5 * (0.05 * 0.95 / 400) ** 0.5 < sum(held) / 400 < 0.995
    widths = [float((b.high - b.low).mean()) for b in (calibration._band(100, s, whole) for s in (1, 5, 20))]
    assert widths == sorted(set(widths))
    found = section(whole)
    assert "all 3 dimensions at once, each with probability 1 − 0.05/3" in _texts(found)
    (chart,) = (figure for figure in found.figures if figure.title.startswith("PIT"))
    assert isinstance(chart, Chart)
    assert "each with probability 1 − 0.05/3" in chart.note


def test_a_bias_is_seen_although_intervals_hold_enough(whole: LoadedRun) -> None:
    found = section(_knowing(whole, _Linear(1.2, bias=0.6)))
    assert "in 3 of 3 dimensions" in _texts(found)


def test_proper_scores_prefer_the_truth(whole: LoadedRun) -> None:
    tables = {factor: section(_knowing(whole, _Linear(factor))).tables for factor in (0.4, 1.0, 3.0)}
    for column, best in ((1, max), (2, max), (3, min)):
        values = {factor: float(t[1].rows[0][column].split()[0]) for factor, t in tables.items()}
        assert best(values, key=lambda factor, v=values: v[factor]) == 1.0
    for column in (6, 7):
        for row in range(3):
            values = {factor: float(t[0].rows[row][column]) for factor, t in tables.items()}
            assert min(values, key=lambda factor, v=values: v[factor]) == 1.0


def test_recalibration_is_shown_before_and_after(whole: LoadedRun) -> None:
    assert whole.transitions is not None
    dynamics = QuantileRecalibration().apply(
        _Linear(0.3), Nothing(), whole.transitions, generator=torch.Generator().manual_seed(0)
    )
    found = section(dataclasses.replace(whole, final=Knowledge(Nothing(), dynamics, 100)))
    assert "fitted to 100 held-out transitions and is used in 3 of 3 dimensions" in _texts(found)
    assert [figure.title for figure in found.figures][-2:] == [
        "Recalibration: evaluation episodes", "Recalibration: random actions"
    ]  # fmt: skip
    assert "evaluation episodes: 90 % intervals held 3" in _texts(found)  # 2 Φ(0.3 · 1.645) - 1 = 38 %
    assert "about right" in found.text[1]


def test_random_actions_start_where_no_other_episode_does(whole: LoadedRun) -> None:
    fresh = calibration_rows.random_episodes(whole, [])
    assert fresh is not None
    assert whole.transitions is not None
    assert whole.evaluation is not None
    assert len(fresh) == 100
    for start_state in (fresh.state[0], fresh.state[50]):
        for others in (whole.transitions, whole.evaluation):
            assert not bool((others.state == start_state).all(1).any())


def test_many_rows_are_thinned_and_it_is_said(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_rows, "MAX_ROWS", 40)
    found = section(whole)
    assert "evaluation episodes (40 of 250 transitions, evenly spaced)" in found.text[0]


def test_what_diverges_is_counted(whole: LoadedRun) -> None:
    class Diverging(_Linear):
        def predict(self, theta: object, states: torch.Tensor, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            mean, std = super().predict({}, states, *args, **kwargs)  # type: ignore[arg-type]
            return torch.where(states[..., 2:3] > 0.5, torch.inf, mean), std

    found = section(_knowing(whole, Diverging(1.0)))
    assert whole.evaluation is not None
    count = int((whole.evaluation.state[:, 2] > 0.5).sum())
    assert f"evaluation episodes: the prediction is not finite in {count} of 250 rows" in _texts(found)
    assert any("imagined trajectories diverge after" in sentence for sentence in found.missing)


def test_a_learned_reward_and_one_step_episodes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_picture(monkeypatch)
    start(tmp_path / "run", "toy_environments:Drift-v0", "num_episodes=2")
    with open_run(tmp_path / "run") as run:
        found = section(run)
    assert {row[1] for row in found.tables[0].rows} == {"s[0]", "s[1]", "reward"}
    start(tmp_path / "single", "toy_environments:Single-v0", "num_episodes=2")
    with open_run(tmp_path / "single") as run:
        found = section(run)
    assert "no episode is longer than a step" in _texts(found)
    assert "one and the same value came of s[0], s[1], reward" in _texts(found)


def test_what_is_missing_is_said(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for without in ({"final": None}, {"builder": None}, {"transitions": None}):
        assert section(dataclasses.replace(whole, **without)).missing  # type: ignore[arg-type]
    alone = section(dataclasses.replace(whole, evaluation=None))
    assert "no episodes by the last policy" in _texts(alone)
    assert {row[0] for row in alone.tables[0].rows} == {"random actions"}

    def fails(*_: object, **__: object) -> None:
        raise EnvironmentFault("Broken-v0 raised")

    monkeypatch.setattr(calibration_rows, "run_episode", fails)
    assert "Broken-v0 raised: this episode of random actions is left out" in _texts(section(whole))
    nothing = section(dataclasses.replace(whole, evaluation=None))
    assert "no transitions that nothing was learned from" in _texts(nothing)


def test_training_rows_that_are_newer_than_the_posterior_are_unseen(whole: LoadedRun) -> None:
    assert whole.final is not None
    early = dataclasses.replace(whole, evaluation=None, final=dataclasses.replace(whole.final, num_fitted=50))
    assert "newest episodes (50 transitions)" in section(early).text[0]
