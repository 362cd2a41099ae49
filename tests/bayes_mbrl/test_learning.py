"""What a run learns within an episode: in which world, what is left where that fails, and what is said of nothing."""

import json
import pathlib
from typing import Any

import pytest
import torch
from toy_runs import Recorder, resume, saved, start

from bayes_mbrl import artefacts, experiment
from bayes_mbrl.algorithms.dyna_style import DynaStyleLearner
from bayes_mbrl.algorithms.gradient_learner import GradientLearner
from bayes_mbrl.build import Builder
from bayes_mbrl.data import Transitions
from bayes_mbrl.errors import UserError
from bayes_mbrl.imagination import World
from bayes_mbrl.inference.base import Posterior

DRIFT = "toy_environments:Drift-v0"  # 6 steps an episode
QUICK = ("algorithm.hidden=[8]", "algorithm.batch_size=8", "algorithm.updates_per_step=1", "num_base_steps=1")


@pytest.fixture(autouse=True)
def _no_artefacts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "write", lambda *_: {})


def test_each_step_is_learned_from_in_the_world_of_the_newest_posterior(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posteriors: list[Posterior] = []
    seen: list[bool] = []
    fit = Builder.fit

    def fitted(*args: Any, **kwargs: Any) -> Any:
        result = fit(*args, **kwargs)
        posteriors.append(result[0])
        return result

    def after_step(self: DynaStyleLearner, step: Transitions, world: World, **_: Any) -> None:
        seen.append(world.posterior is posteriors[-1])

    monkeypatch.setattr(Builder, "fit", fitted)
    monkeypatch.setattr(DynaStyleLearner, "after_step", after_step)
    more = ("algorithm=mve", "algorithm.refit_every=4", "num_evaluation_episodes=0")
    start(tmp_path / "run", DRIFT, *more, *QUICK)
    assert len(posteriors) == 4  # of 6, 8, 12 and 16 steps
    assert seen == [True] * 12


@pytest.mark.parametrize("algorithm", ["sac", "mba"])
def test_where_learning_fails_within_an_episode_its_steps_are_kept_and_the_run_can_go_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    descend, recorder = GradientLearner.descend, Recorder()
    more = (f"algorithm={algorithm}", *QUICK)
    with monkeypatch.context() as broken:
        broken.setattr(GradientLearner, "descend", lambda self, name, loss: descend(self, name, loss * torch.inf))
        with pytest.raises(UserError, match=r"in 3 steps in a row.*the data are kept: .*then bayes-mbrl resume"):
            start(tmp_path / "run", DRIFT, *more, observer=recorder)
    skipped = [text for text in recorder.warnings if "this step of learning is skipped" in text]
    assert len(skipped) == (7 if algorithm == "sac" else 3)  # sac: critics three times, policy and temperature twice
    state = saved(tmp_path / "run")
    assert state.transitions is not None
    assert state.transitions.episode.tolist() == [0] * 6 + [1] * 3
    assert not state.transitions.terminated.any()
    assert [row["num_steps"] for row in state.metrics] == [6, 3]
    state = resume(tmp_path / "run")
    assert state.transitions is not None
    assert state.transitions.episode.tolist() == [0] * 6 + [1] * 3 + [2] * 6
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["num_transitions"] for row in rows] == [6, 9, 15]
    assert all(value.isfinite().all() for value in state.learned.values())


@pytest.mark.parametrize(
    ("more", "is_untrained"),
    [
        (("algorithm=sac", "num_base_steps=100"), True),
        (("algorithm=sac", "num_base_steps=6"), True),
        (("algorithm=mve", "num_base_steps=100"), True),
        (("algorithm=sac", "num_base_steps=6", "num_episodes=2"), False),
        (("algorithm=v2.0", "num_base_steps=100", "algorithm.horizon=2", "algorithm.num_gradient_steps=2"), False),
        (("algorithm=mpc", "num_base_steps=100"), False),
    ],
    ids=str,
)
def test_it_is_said_when_nothing_was_learned(tmp_path: pathlib.Path, more: tuple[str, ...], is_untrained: bool) -> None:
    recorder, later = Recorder(), Recorder()
    start(tmp_path / "run", DRIFT, "num_episodes=1", *more, observer=recorder)
    experiment.evaluate_run(tmp_path / "run", num_episodes=1, seed=None, observer=later)
    for warnings in (recorder.warnings, later.warnings):
        assert len([text for text in warnings if "acts as it was initialised" in text]) == is_untrained
