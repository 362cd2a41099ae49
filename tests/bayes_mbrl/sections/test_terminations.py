"""A learned termination is judged by probabilities that are known here, and what cannot be judged is said."""

import pathlib

import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
from toy_runs import start

from bayes_mbrl import artefacts
from bayes_mbrl.analysis.mixture import Mixture
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.network import NetworkDynamics
from bayes_mbrl.dynamics.recalibrated import outcomes, predictive_mixture
from bayes_mbrl.loaded_run import open_run
from bayes_mbrl.sections.calibration import section
from bayes_mbrl.sections.calibration_rows import Rows
from bayes_mbrl.sections.terminations import ends_foreseen


def _transitions(generator: torch.Generator, share: float) -> Transitions:
    state = torch.randn(400, 2, generator=generator)
    ended = torch.rand(400, generator=generator) < share
    return Transitions(state, state[:, :1], state[:, 0], 0.9 * state, ended, torch.arange(400))


def _rows(name: str, transitions: Transitions, mixture: Mixture, y: torch.Tensor) -> Rows:
    return Rows(name, transitions, transitions, 0, mixture, y.numpy(), y.numpy())


def test_probabilities_are_scored_against_the_base_rate(generator: torch.Generator) -> None:
    """All weights 0 but the last bias: two θ that say 0.1 and 0.3 everywhere, of ends of which 20 % are."""
    rows = _transitions(generator, 0.2)
    dynamics = NetworkDynamics.from_data(rows, learns_reward=True, learns_termination=True, hidden=(3,))
    theta = {name: torch.zeros(2, *prior.batch_shape) for name, prior in dynamics.model.prior().items()}
    scale = float(dynamics.model.predict(theta, torch.zeros(1, 3))[1][0, 0, -1])
    theta["bias_1"][:, 3] = torch.special.ndtri(torch.tensor([0.1, 0.3])) * scale
    group = _rows("rows", rows, predictive_mixture(dynamics, theta, rows), outcomes(dynamics, rows))
    assert group.mixture.mean.shape == (2, 400, 3)
    text, charts, tables = ends_foreseen([group], theta, dynamics, rows)
    count = int(rows.terminated.sum())
    assert tables[0].rows[0][:5] == ("rows", f"{count} of 400", "0.200", "0.2000", "0.1000")
    expected = (count * torch.tensor(0.2).log() + (400 - count) * torch.tensor(0.8).log()) / 400
    assert tables[0].rows[0][5].startswith(f"{float(expected):.4f} (")
    assert "no better than that of their share in the data it was learned from" in text[0]
    assert f"({count} of 400 ended)" in text[0]
    assert charts[0].title == "Ends foreseen: rows"

    endless = _transitions(generator, 0.0)
    assert "imagines no end" in ends_foreseen([group], theta, dynamics, endless)[0][0]
    assert ends_foreseen([group], theta, NetworkDynamics.from_data(rows), rows) == ([], [], [])


def test_in_the_report_of_a_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))
    start(tmp_path / "run", "toy_environments:Short-v0", "num_episodes=3", "recalibration=quantile")
    with open_run(tmp_path / "run") as run:
        found = section(run)
    table = found.tables[-1]
    assert table.title == "How well the ends of episodes are foreseen"
    assert [row[0] for row in table.rows] == ["evaluation episodes", "random actions"]
    assert {row[1] for row in found.tables[0].rows} <= {"s[0]", "s[1]", "reward"}
