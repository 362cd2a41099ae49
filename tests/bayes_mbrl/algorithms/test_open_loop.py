"""Versions 0.5 and 1.0 in the main job: how often they fit and plan, and by what they act."""

import pathlib
from typing import Any

import pytest
import torch
from toy_runs import Recorder, configure, numbers, resume, saved, start

from bayes_mbrl import artefacts
from bayes_mbrl.algorithms import mpc
from bayes_mbrl.algorithms.base import RandomAgent
from bayes_mbrl.algorithms.mpc import MPC, MPCAgent
from bayes_mbrl.algorithms.open_loop import OpenLoop, OpenLoopOnce
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.environments.adapter import Environment
from bayes_mbrl.errors import UserError
from bayes_mbrl.experiment import evaluate_run
from bayes_mbrl.progress import Silent
from bayes_mbrl.registry import ALGORITHMS

DRIFT = "toy_environments:Drift-v0"
ONCE, AGAIN = "algorithm=open-loop-once", "algorithm=open-loop"


class Spy:
    """Counts fits by their number of data, and keeps each plan that a search ended with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fits: list[int] = []
        self.plans: list[torch.Tensor] = []
        fit, replan = Builder.fit, MPCAgent.replan

        def counted(builder: Builder, transitions: Transitions, *args: Any, **kwargs: Any) -> Any:
            self.fits.append(len(transitions))
            return fit(builder, transitions, *args, **kwargs)

        def kept(agent: MPCAgent, *args: Any, **kwargs: Any) -> Any:
            state = replan(agent, *args, **kwargs)
            self.plans.append(state.plan)
            return state

        monkeypatch.setattr(Builder, "fit", counted)
        monkeypatch.setattr(MPCAgent, "replan", kept)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run_figure", "curve_figure"):
        monkeypatch.setattr(artefacts, name, lambda *_, **__: None)
    for name in ("save_figure", "save_tree"):
        monkeypatch.setattr(artefacts, name, lambda _, path: path.write_bytes(b""))


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def test_version_05_fits_once_to_data_of_the_base_policy_and_then_plans(tmp_path: pathlib.Path, spy: Spy) -> None:
    state = start(tmp_path / "run", DRIFT, ONCE, "planner.horizon=3", "num_base_steps=1", "num_episodes=3")
    assert spy.fits == [18]
    assert [row["phase"] for row in state.metrics] == ["base policy"] * 3
    assert state.num_fitted == 18
    evaluation = Transitions.load(tmp_path / "run" / "evaluation.npz")
    torch.testing.assert_close(evaluation.action, torch.cat(spy.plans)[: len(evaluation)])  # 2 episodes of 2 plans

    same = start(tmp_path / "random", DRIFT, "num_base_steps=100", "num_episodes=3", "num_evaluation_episodes=0")
    assert state.transitions is not None
    assert same.transitions is not None
    assert torch.equal(state.transitions.action, same.transitions.action)  # those of π_0, from the same seed


def test_version_10_executes_its_plans_and_learns_from_what_came_of_them(tmp_path: pathlib.Path, spy: Spy) -> None:
    state = start(tmp_path / "run", DRIFT, AGAIN, "planner.horizon=4", "num_episodes=3", "num_evaluation_episodes=0")
    assert spy.fits == [6, 12, 18]
    assert [row["phase"] for row in state.metrics] == ["base policy", "open-loop", "open-loop"]
    assert len(spy.plans) == 2 * 2  # at steps 0 and 4 of two planned episodes of 6
    assert state.transitions is not None
    planned = [plan for first, second in (spy.plans[:2], spy.plans[2:]) for plan in (first, second[:2])]
    torch.testing.assert_close(state.transitions.action[6:], torch.cat(planned))


def test_with_the_horizon_of_an_episode_it_never_looks_again(tmp_path: pathlib.Path, spy: Spy) -> None:
    start(tmp_path / "run", DRIFT, AGAIN, "planner.horizon=6", "num_episodes=3", "num_evaluation_episodes=1")
    assert len(spy.plans) == 3
    with pytest.raises(UserError, match=r"need planner.horizon <= 6"), Environment(DRIFT) as environment:
        Builder(configure(DRIFT, AGAIN, "planner.horizon=7"), environment)


class _Stopping(Recorder):
    def episode(self, metrics: Any) -> None:
        if metrics["episode"] == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["open-loop-once", "open-loop"])
def test_a_run_that_was_stopped_and_resumed_gives_the_same_numbers(name: str, tmp_path: pathlib.Path) -> None:
    start(tmp_path / "whole", DRIFT, f"algorithm={name}")
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "stopped", DRIFT, f"algorithm={name}", observer=_Stopping())
    resume(tmp_path / "stopped")
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")


def test_base_data_that_came_later_are_learned_from_too(tmp_path: pathlib.Path, spy: Spy) -> None:
    settings = ("num_base_steps=100", "num_evaluation_episodes=0")
    start(tmp_path / "run", DRIFT, *settings, "num_episodes=2")
    resume(tmp_path / "run", 3)
    start(tmp_path / "whole", DRIFT, *settings, "num_episodes=3")
    assert spy.fits == [12, 18, 18]
    whole, resumed = saved(tmp_path / "whole").posterior, saved(tmp_path / "run").posterior
    assert whole is not None
    assert resumed is not None
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


def test_what_is_evaluated_plans(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path / "run", DRIFT, ONCE, "num_evaluation_episodes=0")
    spy = Spy(monkeypatch)
    monkeypatch.setattr(RandomAgent, "act", lambda *_, **__: pytest.fail("evaluation by the base policy"))
    evaluate_run(tmp_path / "run", num_episodes=2, seed=None, observer=Silent())
    assert (len(spy.plans), spy.fits) == (2 * 3, [])  # episodes of 6 steps, plans of 2


def test_settings_are_those_of_mpc_that_replans_at_the_end_of_its_plan() -> None:
    assert OpenLoop(tolerance=0.5).as_mpc(7) == MPC(replan_every=7, tolerance=0.5) == OpenLoopOnce(0.5).as_mpc(7)
    assert (OpenLoop.base_data_only, OpenLoopOnce.base_data_only, MPC.base_data_only) == (False, True, False)
    with Environment(DRIFT) as environment:
        for name in ("open-loop-once", "open-loop"):
            assert Builder(configure(DRIFT, f"algorithm={name}", "planner.horizon=5"), environment).replan_every == 5


def test_what_is_of_mpc_alone_is_refused() -> None:
    for key in ("replan_every=2", "refit_every=5", "exploration=thompson"):
        with pytest.raises(UserError, match=rf"algorithm\.{key.partition('=')[0]}.*mpc"):
            configure(DRIFT, AGAIN, f"algorithm.{key}")


def test_a_search_of_another_kind_is_executed_to_its_end_too(tmp_path: pathlib.Path) -> None:
    seen = Recorder()
    state = start(tmp_path / "run", DRIFT, AGAIN, "planner=random-shooting", "num_episodes=2", observer=seen)
    assert state.metrics[1]["phase"] == "open-loop"
    assert seen.warnings == []


def test_every_alias_names_a_row() -> None:
    assert ALGORITHMS.aliases.keys() >= {"v0.5", "v1.0", "v1.5", "v2.0", "v2.5", "v3.0", "pets"}
    assert [alias for alias, name in ALGORITHMS.aliases.items() if name not in ALGORITHMS.rows] == []
    assert configure(DRIFT, "algorithm=v0.5").algorithm.name == "open-loop-once"
    assert configure(DRIFT, "algorithm=v1.0").algorithm.name == "open-loop"
    assert mpc.MPC is ALGORITHMS.rows[ALGORITHMS.aliases["v1.5"]].load()
