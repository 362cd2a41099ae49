"""Runs with recalibration=quantile: what is held out, that planning and analysis use the map, and that it resumes."""

import pathlib
from typing import Any

import pytest
import torch
from toy_runs import configure, numbers, resume, start

from bayes_mbrl import artefacts, experiment
from bayes_mbrl.algorithms.mpc import MPCAgent
from bayes_mbrl.build import Builder
from bayes_mbrl.config import from_mapping, resolve
from bayes_mbrl.dynamics.physics import PhysicsDynamics
from bayes_mbrl.dynamics.recalibrated import RecalibratedDynamics
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.inference import exact_linear
from bayes_mbrl.loaded_run import open_run
from bayes_mbrl.sections import knowledge

LINEAR = ("dynamics=linear", "posterior=exact-linear", "dynamics.noise_std=1.0")
"""Noise above the truth's, which is about half of this."""
ON = ("recalibration=quantile", "recalibration.held_out_every=2", "recalibration.block_length=5")
ENV = "LinearGaussian-v0"


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "run_figure", lambda **_: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))


def _knots(dynamics: Any) -> bytes:
    assert isinstance(dynamics, RecalibratedDynamics)
    return dynamics.fitted.mapping.y.tobytes()


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("more", [(), pytest.param(("algorithm.refit_every=20",), marks=pytest.mark.slow)])
def test_a_resumed_run_is_one_never_stopped(tmp_path: pathlib.Path, more: tuple[str, ...]) -> None:
    settings = (*LINEAR, *ON, *more)
    start(tmp_path / "long", ENV, "num_episodes=3", *settings)
    start(tmp_path / "short", ENV, "num_episodes=2", *settings)
    resume(tmp_path / "short", 3)
    assert numbers(tmp_path / "short") == numbers(tmp_path / "long")


@pytest.mark.usefixtures("no_picture")
def test_the_run_read_back_has_the_map_that_was_planned_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[MPCAgent] = []
    make = Builder.agent

    def recorded(self: Builder, *args: Any) -> MPCAgent:
        used.append(make(self, *args))
        return used[-1]

    monkeypatch.setattr(Builder, "agent", recorded)
    state = start(tmp_path / "run", ENV, "num_episodes=3", *LINEAR, *ON)
    with open_run(tmp_path / "run") as run:
        assert run.final is not None
        assert run.final.num_fitted == 150 == state.num_fitted
        assert _knots(run.final.dynamics) == _knots(used[-1].dynamics)
        before = run.knowledge_before(2)
        assert before is not None
        assert _knots(before.dynamics) == _knots(used[1].dynamics) != _knots(used[-1].dynamics)
        fitted = run.final.dynamics.fitted  # type: ignore[attr-defined]
        assert fitted.num_held_out == 75
        assert fitted.helps.any()


@pytest.mark.usefixtures("no_picture")
def test_the_report_says_what_the_recalibrated_model_knew(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", ENV, "num_episodes=3", *LINEAR, *ON)
    with open_run(tmp_path / "run") as run:
        assert run.final is not None
        assert isinstance(run.final.dynamics, RecalibratedDynamics)
        found = knowledge.section(run)
    assert not found.missing
    assert len(found.tables[0].rows) >= 2
    assert all(row[-1] not in ("", "–") for row in found.tables[0].rows)  # the mutual information in nats


@pytest.mark.usefixtures("no_picture")
def test_the_map_is_learned_from_rows_that_theta_is_not(tmp_path: pathlib.Path) -> None:
    state = start(tmp_path / "run", ENV, "num_episodes=2", *LINEAR, *ON)
    assert state.transitions is not None
    with Environment(ENV) as environment:
        builder = Builder(configure(ENV, *LINEAR, *ON), environment)
        training, held_out = builder.recalibration.split(state.transitions)
        assert (len(training), len(held_out)) == (50, 50)
        dynamics = builder.dynamics(state.transitions)
        expected, _ = exact_linear.fit(
            dynamics.model, *dynamics.regression_data(training), generator=torch.Generator().manual_seed(0)
        )
    assert state.posterior is not None
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(state.posterior.tensors()[name], tensor)


@pytest.mark.slow
@pytest.mark.usefixtures("no_picture")
def test_the_next_episode_is_foreseen_better(tmp_path: pathlib.Path) -> None:
    """Before it is learned from: noise that was too large costs log-likelihood, and the map gives some of it back."""
    scores = []
    for name, more in (("off", ()), ("on", ON)):
        state = start(tmp_path / name, ENV, "num_episodes=4", *LINEAR, *more)
        scores.append(float(state.metrics[-1]["held_out_log_likelihood"]))
    assert scores[1] > scores[0] + 0.5


@pytest.mark.usefixtures("no_picture")
def test_imagined_returns_spread_less_when_the_noise_was_too_large(tmp_path: pathlib.Path) -> None:
    state = start(tmp_path / "run", ENV, "num_episodes=3", *LINEAR, *ON)
    with Environment(ENV) as environment:
        builder = Builder(configure(ENV, *LINEAR, *ON, "rollout.num_theta=400"), environment)
        agent = builder.agent(*experiment.fitted(state))
        assert isinstance(agent.dynamics, RecalibratedDynamics)
        spreads = []
        for dynamics in (agent.dynamics.base, agent.dynamics):
            returns: list[torch.Tensor] = []
            kept = {
                **vars(agent),
                "dynamics": dynamics,
                "objective": lambda r, to=returns: to.append(r) or r.mean((0, 1)),
            }
            plans = torch.zeros(2, 5, 2)
            MPCAgent(**kept).score(plans, torch.zeros(3), torch.Generator().manual_seed(0))
            spreads.append(float(torch.cat(returns, -1).std()))
    assert spreads[1] < 0.85 * spreads[0]


@pytest.mark.slow
def test_everything_is_written_of_physics_too(tmp_path: pathlib.Path) -> None:
    more = ("dynamics=physics", "dynamics.system=toy_systems:LINEAR", *ON)
    start(tmp_path / "run", ENV, "num_episodes=2", *more)
    for name in ("run.png", "parameters.png", "posterior.nc"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    with open_run(tmp_path / "run") as run:
        assert run.final is not None
        assert isinstance(run.final.dynamics, RecalibratedDynamics)
        assert isinstance(run.final.dynamics.base, PhysicsDynamics)
        theta = run.final.posterior.sample(2, generator=torch.Generator().manual_seed(0))
        assert run.final.dynamics.parameters(theta).keys() == run.final.dynamics.base.parameters(theta).keys()


def test_settings_are_checked_before_any_episode() -> None:
    assert resolve([]).recalibration.name == "none"
    config = resolve(["recalibration=quantile", "recalibration.num_knots=7"])
    assert config.recalibration.settings == {"held_out_every": 5, "block_length": 20, "num_knots": 7}
    assert from_mapping(config.to_mapping()) == config
    with pytest.raises(UserError, match=r"held_out_every.*2"):
        resolve(["recalibration=quantile", "recalibration.held_out_every=1"])
    with pytest.raises(UserError, match="quantile"):
        resolve(["recalibration=quantiles"])
